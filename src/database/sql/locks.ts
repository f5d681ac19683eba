import { migrationKey } from './migration.ts'
import { perSchema, planned } from './statement.ts'

/** Somebody who holds advisory locks of ours and has no business with them. */
export interface ForeignLockRow {
  readonly pid: number
  readonly user: string | null
  readonly application: string | null
  /** The table after which the locks are named; `migrate` for that by which migrations take turns. */
  readonly lock: string
  readonly count: number
  /** Since when the session is there. Of other roles' sessions only members of pg_read_all_stats may see it. */
  readonly connected_ms: number | null
}

/** Advisory locks belong to nobody: whoever may log in can take each, and none can be taken from them but by ending the session. */
export const locksSql = perSchema('locks', (s) => {
  const bare = s.slice(1, -1)
  return {
    // Locks that a user without any right here holds; and those by which a worker shows that it lives or sleeps, if the
    // session is none of a worker's.
    foreign: planned(
      {},
      `select a.pid, a.usename::text as "user", nullif(a.application_name, '') as application, held.lock, held.count,
        extract(epoch from clock_timestamp() - a.backend_start)::float8 * 1000 as connected_ms
      from (
        select l.pid, coalesce(c.relname::text, 'migrate') as lock, count(*)::int as count,
          bool_or(c.relname = 'worker' or c.relname = 'migration' and l.mode = 'ExclusiveLock') is true as worker
        from pg_locks as l
        left join pg_class as c
          on l.objsubid = 2 and c.oid = l.classid and c.relnamespace = to_regnamespace('${bare}')
        where l.locktype = 'advisory' and l.granted
          and l.database = (select d.oid from pg_database as d where d.datname = current_database())
          and (c.oid is not null or l.objsubid = 1 and (l.classid::bigint << 32) | l.objid::bigint = ${migrationKey(s)})
        group by l.pid, 2
      ) as held
      join pg_stat_activity as a on a.pid = held.pid
      where not has_schema_privilege(a.usesysid, '${bare}', 'usage')
        or held.worker and a.application_name !~ '(^| )twinbox [0-9a-f]{8}$'
      order by a.backend_start nulls last, a.pid, held.lock limit 20`,
    ).gives<ForeignLockRow>(),
  }
})
