import type { Parameters } from '../database/sql/parameter.ts'
import type { Given, Statement } from '../database/sql/statement.ts'

/** One picture of the tables. */
export interface Snapshot {
  readonly schema: string
  readonly rows: <Takes extends Parameters, Row>(
    statement: Statement<Takes, Row>,
    ...given: Given<Takes>
  ) => Promise<Row[]>
}
