import type { Database } from '../database/database.ts'
import { dashboardSql } from '../database/sql/dashboard.ts'
import { statusSql } from '../database/sql/status.ts'
import type { Snapshot } from '../status/snapshot.ts'

/** Runs the statements of a page on one picture of the tables, read-only, each for three seconds at most. */
export const readPage = <Result>(
  database: Database,
  work: (snapshot: Snapshot) => Promise<Result>,
): Promise<Result> =>
  database.transaction(async (client) => {
    await client.query(statusSql(database.schema).begin)
    await client.query(dashboardSql(database.schema).limit)
    return work({
      schema: database.schema,
      rows: (statement, ...given) => database.run(client, statement, ...given),
    })
  })
