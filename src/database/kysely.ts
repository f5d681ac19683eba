import type * as kysely from 'kysely'
import type pg from 'pg'

async function load() {
  const { DefaultQueryExecutor, PostgresAdapter, PostgresDialect, PostgresQueryCompiler, Transaction } =
    await import('kysely')
  const [adapter, compiler] = [new PostgresAdapter(), new PostgresQueryCompiler()]
  const dialect = new PostgresDialect({ pool: null as never })
  return { DefaultQueryExecutor, Transaction, adapter, compiler, dialect }
}

/** Its 280 modules take longer to load than all of ours and `pg`: only who handles messages waits for them. */
let loaded: Awaited<ReturnType<typeof load>> | null = null

/** To be called before the first `kyselyTransaction`. */
export async function loadKysely(): Promise<void> {
  loaded ??= await load()
}

const refuse = (): never => {
  throw new Error(
    'The transaction belongs to Twinbox: it commits when the handler returns and rolls back when it throws.',
  )
}

/**
 * A Kysely transaction over a client on which BEGIN has been run. Whoever ran it also ends it: the transaction itself
 * can neither commit nor roll back.
 */
export function kyselyTransaction<Tables>(client: pg.ClientBase): kysely.Transaction<Tables> {
  const connection: kysely.DatabaseConnection = {
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
  const driver: kysely.Driver = {
    init: async () => {},
    acquireConnection: async () => connection,
    releaseConnection: async () => {},
    beginTransaction: refuse,
    commitTransaction: refuse,
    rollbackTransaction: refuse,
    destroy: async () => {},
  }
  if (loaded === null) throw new Error('Kysely has not been loaded.')
  const { DefaultQueryExecutor, Transaction, adapter, compiler, dialect } = loaded
  const executor = new DefaultQueryExecutor(compiler, adapter, {
    provideConnection: (consumer) => consumer(connection),
  })
  return new Transaction<Tables>({ config: { dialect }, driver, executor, dialect })
}
