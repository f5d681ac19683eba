import { int } from './parameter.ts'
import { msSince, perSchema, planned, quoted } from './statement.ts'

/** By which migrations take turns. */
export const migrationKey = (s: string): string => `hashtextextended('twinbox migrate ${s}'::text, 0::bigint)`

/** A session that is in the way. */
export type BlockerRow = Readonly<
  { pid: number } & Record<'application' | 'user' | 'state', string | null> &
    Record<'queryMs' | 'transactionMs', number | null>
>

const blockers = (
  pids: string,
): string => `select b.pid, nullif(a.application_name, '') as application, a.usename::text as "user", a.state,
        ${msSince('a.query_start')} as "queryMs",
        ${msSince('a.xact_start')} as "transactionMs"
      from (${pids}) as b
      left join pg_stat_activity as a using (pid)
      order by a.xact_start nulls last, b.pid limit 5`

export const migrationSql = perSchema('migration', (s) => ({
  // Two processes that start together: the second waits here, then finds nothing left to do.
  lock: `select pg_advisory_xact_lock(${migrationKey(s)})`,
  // The same where nobody can be waited for: a statement that has waited in vain would abort the user's transaction.
  tryLock: `select pg_try_advisory_xact_lock(${migrationKey(s)}) as ours`,
  exists: `select to_regclass('${s}.migration') is not null as found`,
  // By the row as a whole, since the tables may be of a time when there was no such column. Null then.
  applied: `select version, name, (to_jsonb(m) ->> 'oldest_worker')::int as "oldestWorker"
    from ${s}.migration as m order by version`,

  /** The statements that follow in this transaction wait for a lock no longer than this. */
  lockTimeout: (time: number | string): string =>
    `set local lock_timeout = '${typeof time === 'number' ? Math.round(time) : time}'`,
  /** What the statements that follow in this transaction name is looked up here, whatever the user has in the way. */
  searchPath: `set local search_path = pg_catalog, pg_temp`,
  searchPathNow: `select pg_catalog.current_setting('search_path') as "searchPath"`,
  /** The same around a file that somebody else runs, in a transaction or without one: nothing of ours stays set. */
  printed: (file: string): string => `do $$ begin
  perform pg_catalog.set_config('migration.search_path', pg_catalog.current_setting('search_path'), false),
    pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', false);
end $$;

${file.trimEnd()}

do $$ begin
  perform pg_catalog.set_config('search_path', pg_catalog.current_setting('migration.search_path'), false);
end $$;
`,
  searchPathBack: (path: string): string => `select set_config('search_path'::text, ${quoted(path)}, true)`,
  /** As it is now, to be put back. */
  lockTimeoutNow: `select current_setting('lock_timeout') as "lockTimeout"`,
  backend: planned({}, `select pg_backend_pid() as pid`).gives<{ readonly pid: number }>(),
  // Who keeps the backend `$pid` waiting. A prepared transaction has no process, and the number 0. Of sessions of other
  // roles only members of pg_read_all_stats may see more than the pid, the user and the application.
  blockers: planned(
    { pid: int },
    blockers('select distinct pid from unnest(pg_blocking_pids($pid)) as pid'),
  ).gives<BlockerRow>(),
  // Who has the lock by which migrations take turns.
  migrating: blockers(`select lock.pid from pg_locks as lock
        where lock.locktype = 'advisory' and lock.objsubid = 1 and lock.granted and lock.pid <> pg_backend_pid()
          and lock.database = (select b.oid from pg_database as b where b.datname = current_database())
          and (lock.classid::bigint << 32) | lock.objid::bigint = ${migrationKey(s)}`),
}))
