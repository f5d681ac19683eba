import { perSchema } from './statement.ts'

export const migrationSql = perSchema((s) => ({
  // Two processes that start together: the second waits here, then finds nothing left to do.
  lock: `select pg_advisory_xact_lock(hashtextextended('twinbox migrate ${s}', 0))`,
  exists: `select to_regclass('${s}.migration') is not null as found`,
  applied: `select version from ${s}.migration order by version`,
}))
