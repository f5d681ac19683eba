import {
  DefaultQueryExecutor,
  PostgresAdapter,
  PostgresDialect,
  PostgresQueryCompiler,
  Transaction,
  type DatabaseConnection,
  type Driver,
} from 'kysely'
import type pg from 'pg'

const adapter = new PostgresAdapter()
const compiler = new PostgresQueryCompiler()
const refuse = (): never => {
  throw new Error(
    'The transaction belongs to Twinbox: it commits when the handler returns and rolls back when it throws.',
  )
}

/**
 * A Kysely transaction over a client on which BEGIN has been run. Whoever ran it also ends it: the transaction itself
 * can neither commit nor roll back.
 */
export function kyselyTransaction<Tables>(client: pg.ClientBase): Transaction<Tables> {
  const connection: DatabaseConnection = {
    async executeQuery<Row>({
      sql,
      parameters,
    }: {
      readonly sql: string
      readonly parameters: readonly unknown[]
    }) {
      const { command, rowCount, rows } = await client.query(sql, parameters as unknown[])
      const counts = ['INSERT', 'UPDATE', 'DELETE', 'MERGE'].includes(command)
      return { rows: rows as Row[], ...(counts ? { numAffectedRows: BigInt(rowCount ?? 0) } : {}) }
    },
    streamQuery: () => {
      throw new Error('Streaming is not available in a handler; use the pg client with a cursor.')
    },
  }
  const driver: Driver = {
    init: async () => {},
    acquireConnection: async () => connection,
    releaseConnection: async () => {},
    beginTransaction: refuse,
    commitTransaction: refuse,
    rollbackTransaction: refuse,
    destroy: async () => {},
  }
  const executor = new DefaultQueryExecutor(compiler, adapter, {
    provideConnection: (consumer) => consumer(connection),
  })
  return new Transaction<Tables>({
    config: { dialect: new PostgresDialect({ pool: null as never }) },
    driver,
    executor,
    dialect: new PostgresDialect({ pool: null as never }),
  })
}
