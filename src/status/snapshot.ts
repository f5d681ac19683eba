import type pg from 'pg'
import type { Database } from '../database/database.ts'
import type { Parameters } from '../database/sql/parameter.ts'
import type { Given, Statement } from '../database/sql/statement.ts'

/** One picture of the tables. */
export interface Snapshot {
  readonly schema: string
  readonly rows: <Takes extends Parameters, Row>(
    statement: Statement<Takes, Row>,
    ...given: Given<Takes>
  ) => Promise<Row[]>
  /** For what reads the same picture by itself. */
  readonly paused: { readonly database: Database; readonly client: pg.ClientBase }
}
