import type * as kysely from 'kysely'
import type pg from 'pg'
import { ownedText, TransactionError } from '../base/errors.ts'
import { commit, namedSavepoint, rollback } from './sql/server.ts'

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
  throw new TransactionError('TRANSACTION_OWNED', ownedText)
}

/** Runs all on one client, on which BEGIN has been run. A text that begins or ends a transaction goes there as any other. */
function driverOver(client: pg.ClientBase): Required<kysely.Driver> {
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
  const run = async (text: string): Promise<void> => void (await client.query(text))
  return {
    init: async () => {},
    acquireConnection: async () => connection,
    releaseConnection: async () => {},
    beginTransaction: async () => {},
    commitTransaction: async () => run(commit),
    rollbackTransaction: async () => run(rollback),
    savepoint: async (_, name) => run(namedSavepoint.set(name)),
    releaseSavepoint: async (_, name) => run(namedSavepoint.release(name)),
    rollbackToSavepoint: async (_, name) => run(namedSavepoint.rollBackTo(name)),
    destroy: async () => {},
  }
}

/**
 * A Kysely transaction over a client on which BEGIN has been run. Whoever ran it also ends it: the transaction itself
 * can neither commit nor roll back.
 */
export function kyselyTransaction<Tables>(client: pg.ClientBase): kysely.Transaction<Tables> {
  const driver = { ...driverOver(client), commitTransaction: refuse, rollbackTransaction: refuse }
  if (loaded === null) throw new Error('Kysely has not been loaded.')
  const { DefaultQueryExecutor, Transaction, adapter, compiler, dialect } = loaded
  const executor = new DefaultQueryExecutor(compiler, adapter, {
    provideConnection: async (consumer) => consumer(await driver.acquireConnection()),
  })
  return new Transaction<Tables>({ config: { dialect }, driver, executor, dialect })
}

/** A transaction of the user's own Kysely, with its version, its compiler and its plugins, over such a client. */
export async function transactionOf(db: kysely.Kysely<unknown>, client: pg.ClientBase): Promise<unknown> {
  const executor = db.getExecutor()
  const dialect: kysely.Dialect = {
    createDriver: () => driverOver(client),
    createAdapter: () => executor.adapter,
    createQueryCompiler: () => ({ compileQuery: (node, id) => executor.compileQuery(node, id) }),
    createIntrospector: () => db.introspection,
  }
  const plugins = [...executor.plugins]
  return new (kyselyOf(db))({ dialect, plugins }).startTransaction().execute()
}

/** The class itself: a constructor of the user's, of a class that extends it, may want anything. */
function kyselyOf(db: kysely.Kysely<unknown>): typeof kysely.Kysely {
  let prototype = db
  while (!Object.hasOwn(prototype, 'startTransaction'))
    prototype = Object.getPrototypeOf(prototype) as typeof db
  return prototype.constructor as typeof kysely.Kysely
}
