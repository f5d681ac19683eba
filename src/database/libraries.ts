/**
 * Transactions of data libraries, each known by what its objects have, so that none of them is imported and no version
 * has to be ours. `pg` and Kysely are known elsewhere, and before these: see `executor.ts`.
 */

/** Transactions of data libraries, recognised by their shapes too. Whether one is a transaction is found out at run time. */
export type LibraryTransaction =
  | DrizzleTransaction
  | PostgresJsTransaction
  | PrismaTransaction
  | KnexTransaction
  | MikroOrmTransaction
  | SequelizeTransaction
  | SlonikTransaction

/** The `tx` of Drizzle's `db.transaction`, over node-postgres or postgres.js. */
export interface DrizzleTransaction {
  readonly _: object
  execute(query: never): unknown
  rollback(): never
}
/** The `sql` that `sql.begin` of postgres.js gives. */
export interface PostgresJsTransaction {
  unsafe(text: string, values?: never[]): PromiseLike<unknown>
  savepoint(work: never): unknown
}
/** The `tx` of Prisma's `$transaction`. */
export interface PrismaTransaction {
  $queryRawUnsafe(text: string, ...values: never[]): PromiseLike<unknown>
  readonly $connect?: never
}
/** The `trx` of `knex.transaction`, which is that of Objection as well. */
export interface KnexTransaction {
  readonly executionPromise: Promise<unknown>
  isCompleted(): boolean
}
/** The `em` of MikroORM's `em.transactional`. */
export interface MikroOrmTransaction {
  getTransactionContext(): unknown
  isInTransaction(): boolean
}
/** The `t` of `sequelize.transaction`. */
export interface SequelizeTransaction {
  commit(): Promise<void>
  rollback(): Promise<void>
  afterCommit(work: never): unknown
}
/** The connection that Slonik's `pool.transaction` gives. */
export interface SlonikTransaction {
  query(sql: never): Promise<{ readonly rows: readonly unknown[] }>
  oneFirst(sql: never): Promise<unknown>
  readonly end?: never
}

/** What an object of a library is found to be. */
export interface Recognised {
  /** In words, with an article: "a Prisma client". */
  readonly what: string
  /** What to pass instead, where this is not in a transaction. */
  readonly pass: string
  /** Whether it is in a transaction, as far as it tells; null if only the server knows. */
  readonly inside: boolean | null
  /** Whether its statements may stand by themselves, each a transaction of its own. */
  readonly alone?: true
  /** The transaction of another library or of a driver that it stands for. */
  readonly over?: unknown
  /** Runs a statement with parameters as `$1`, and resolves with rows, or with an object that has them. */
  readonly query?: (text: string, values: unknown[]) => PromiseLike<unknown>
}

export type Members = Readonly<Record<PropertyKey, unknown>>
type Method = (...given: unknown[]) => PromiseLike<unknown>

export const has = (given: Members, ...names: readonly string[]): boolean =>
  names.every((name) => typeof given[name] === 'function')
export const isObject = (value: unknown): value is Members =>
  (typeof value === 'object' && value !== null) || typeof value === 'function'
/** A method of the library's, called as one: some hold their state in `this`. */
const method = (given: Members, name: string): Method => (given[name] as Method).bind(given)

/** Prisma 6 marks a client of a transaction by the first, 7 by the second. */
const prismaMarks = ['id', 'scope_context'].map((name) => Symbol.for(`prisma.client.transaction.${name}`))

/** One for each library: what the object is, or null if it is none of the library's. */
const shapes: readonly ((given: Members) => Recognised | null)[] = [
  function drizzle(given) {
    if (!has(given, 'execute', 'transaction') || !isObject(given['session']) || !isObject(given['dialect']))
      return null
    const client = given['session']['client']
    // A database over one client is in that client's transaction, if there is one; its methods roll nothing back.
    const overClient = isObject(client) && has(client, 'getTransactionStatus')
    return {
      what: 'a Drizzle database',
      pass: 'the tx of db.transaction(async (tx) => …)',
      inside: has(given, 'rollback') || overClient,
      over: client,
    }
  },
  function postgresJs(given) {
    if (typeof given !== 'function' || !has(given, 'unsafe')) return null
    return {
      what: 'a postgres.js sql',
      pass: 'the sql that sql.begin(async (sql) => …) gives',
      // After its end a transaction goes on with the connection; and one that is reserved may have been given a BEGIN.
      inside: has(given, 'savepoint') || has(given, 'release') ? null : false,
      alone: true,
      query: method(given, 'unsafe'),
    }
  },
  function prisma(given) {
    if (!has(given, '$queryRawUnsafe', '$executeRawUnsafe')) return null
    const query = method(given, '$queryRawUnsafe')
    return {
      what: 'a Prisma client',
      pass: 'the tx of prisma.$transaction(async (tx) => …)',
      inside: prismaMarks.some((mark) => mark in given) || null,
      query: (text, values) => query(text, ...values),
    }
  },
  function knex(given) {
    const { client } = given
    if (!has(given, 'raw', 'transaction') || !isObject(client) || !has(client, 'acquireConnection'))
      return null
    const acquire = method(client, 'acquireConnection')
    return {
      what: 'a Knex instance',
      pass: 'the trx of knex.transaction(async (trx) => …), or of Model.transaction(async (trx) => …) of Objection',
      inside:
        given['isTransaction'] === true &&
        (!has(given, 'isCompleted') || !(given['isCompleted'] as () => boolean)()),
      // Knex itself would want each ? of the text escaped, and its parameters by number changed.
      query: async (text, values) => method((await acquire()) as Members, 'query')(text, values),
    }
  },
  function mikroOrm(given) {
    if (!has(given, 'getTransactionContext', 'isInTransaction')) return null
    const context = (given['getTransactionContext'] as () => unknown).call(given)
    return {
      what: 'an EntityManager of MikroORM',
      pass: 'the em of em.transactional(async (em) => …)',
      inside: isObject(context),
      over: context,
    }
  },
  function typeOrm(given) {
    const isRunner = 'isTransactionActive' in given && has(given, 'query', 'startTransaction')
    const isManager =
      has(given, 'query', 'getRepository') || (has(given, 'query') && isObject(given['manager']))
    if (!isRunner && !isManager) return null
    const manager = isObject(given['manager']) ? given['manager'] : given
    // A data source has a manager too, whose statements are each a transaction of their own.
    const runner = isRunner ? given : 'queryRunner' in given ? given['queryRunner'] : manager['queryRunner']
    const active = isObject(runner) && runner['isTransactionActive'] === true
    return {
      what: `a ${isRunner ? 'QueryRunner' : has(given, 'createQueryRunner') ? 'DataSource' : 'manager'} of TypeORM`,
      pass: 'the em of dataSource.transaction(async (em) => …), or a QueryRunner after startTransaction()',
      inside: active,
      alone: true,
      query: method(active ? runner : given, 'query'),
    }
  },
  function sequelize(given) {
    const isInstance = has(given, 'getQueryInterface', 'transaction')
    if (!isInstance && !(has(given, 'afterCommit', 'commit', 'rollback') && isObject(given['sequelize'])))
      return null
    const { connection, finished } = given
    return {
      what: isInstance ? 'a Sequelize instance' : 'a Sequelize transaction',
      pass: 'the t of sequelize.transaction(async (t) => …)',
      inside: !isInstance && isObject(connection) && (finished === undefined || finished === null),
      over: connection,
    }
  },
  function slonik(given) {
    if (!has(given, 'query', 'oneFirst', 'maybeOneFirst', 'transaction')) return null
    const query = method(given, 'query')
    return {
      what: 'a Slonik connection',
      pass: 'the one that pool.transaction(async (transaction) => …) gives',
      // A connection has the methods of a transaction; since 49 a transaction has an id as well.
      inside: has(given, 'end', 'connect') ? false : 'transactionId' in given || null,
      query: (sql, values) => query({ sql, values, type: 'SLONIK_TOKEN_QUERY' }),
    }
  },
]

/** What it is, if it is of a library that is known here. */
export function recognise(given: unknown): Recognised | null {
  if (!isObject(given)) return null
  for (const shape of shapes) {
    const recognised = shape(given)
    if (recognised !== null) return recognised
  }
  return null
}
