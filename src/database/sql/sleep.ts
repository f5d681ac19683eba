import { text } from './parameter.ts'
import { lockSpace } from './qualified.ts'
import { perSchema, planned, prepared } from './statement.ts'

/** Of the first of our tables: a publisher may be newer than the database that it publishes to. */
const key = (schema: string, consumer: string): string =>
  `${lockSpace(schema, 'migration')}, pg_catalog.hashtext(${consumer}::pg_catalog.text)`
const channel = (schema: string): string => `'${schema.slice(1, -1)}'`

/**
 * Wakes the workers of a consumer ('' for the relays) if they sleep; for a statement that writes what they work on.
 *
 * Whoever notifies waits at its commit for all others that do, so no one does while the workers look by themselves. The
 * shared lock says so: it is granted unless a sleeper holds it alone, and is kept to the end of the transaction, so no
 * one falls asleep between this and what it tells of.
 */
export const waking = (schema: string, consumer: string): string =>
  `case when not pg_catalog.pg_try_advisory_xact_lock_shared(${key(schema, consumer)})
    then pg_catalog.pg_notify(${channel(schema)}, ${consumer}::pg_catalog.text) end`

/** What those who sleep are told when whoever has watched for them got up. No consumer has such a name. */
export const gotUp = (consumer: string): string => `${consumer}!`

/** Workers that have nothing to do. */
export const sleepSql = perSchema('sleep', (s) => ({
  listen: planned({}, `listen ${s}`),

  // Somebody else may watch over all of them: one that holds it alone, and not a publisher, who shares it.
  fallAsleep: prepared(
    { consumer: text },
    `select pg_try_advisory_lock(${key(s, '$consumer')}) as ours, exists (
      select from pg_locks
      where locktype = 'advisory' and objsubid = 2 and mode = 'ExclusiveLock' and granted and pid <> pg_backend_pid()
        and database = (select oid from pg_database where datname = current_database())
        and classid = '${s}.migration'::regclass and objid = (hashtext($consumer)::bigint & 4294967295)::oid
    ) as watched`,
  ).gives<{ readonly ours: boolean; readonly watched: boolean }>(),

  // The others hear `$news` of it, since nobody watches for them any more.
  getUp: prepared(
    { consumer: text, news: text },
    `select pg_advisory_unlock(${key(s, '$consumer')}), pg_notify(${channel(s)}, $news)`,
  ),
}))
