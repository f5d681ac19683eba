import { text } from './parameter.ts'
import { lockSpace, op } from './qualified.ts'
import { perSchema, planned, prepared } from './statement.ts'

/** Of the first of our tables: a publisher may be newer than the database that it publishes to. */
const key = (schema: string, consumer: string): string =>
  `${lockSpace(schema, 'migration')}, pg_catalog.hashtext(${consumer}::pg_catalog.text)`
/**
 * Tells those who listen, while there is room to tell. The queue of notifications is one for the whole server, and does not
 * shrink while any session that listens stays in a transaction: full, it fails the commit of everybody who notifies. From
 * half of it on sleepers look by themselves.
 */
const telling = (schema: string, news: string): string =>
  `case when pg_catalog.pg_notification_queue_usage() ${op('<')} ${crowded}
    then pg_catalog.pg_notify('${schema.slice(1, -1)}', ${news}::pg_catalog.text) end`

/** The share of the queue of notifications from which on nobody of ours adds to it. The SQL function `publish` has it too. */
export const crowded = 0.5

/**
 * Wakes the workers of a consumer ('' for the relays) if they sleep; for a statement that writes what they work on.
 *
 * Whoever notifies waits at its commit for all others that do, so no one does while the workers look by themselves. The
 * shared lock says so: it is granted unless a sleeper holds it alone, and is kept to the end of the transaction, so no
 * one falls asleep between this and what it tells of.
 */
export const waking = (schema: string, consumer: string): string =>
  `case when not pg_catalog.pg_try_advisory_xact_lock_shared(${key(schema, consumer)})
    then ${telling(schema, consumer)} end`

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
    `select pg_advisory_unlock(${key(s, '$consumer')}), ${telling(s, '$news')}`,
  ),
}))
