import { inspect } from 'node:util'
import type pg from 'pg'
import { OptionError } from '../base/errors.ts'
import { checkSchema } from '../base/options.ts'
import { inside, runAlone } from './alone.ts'
import { bounded, isPool, queryTimeoutMs, surviveErrors, useClient } from './client.ts'
import { Connections, sharedConnections } from './connections.ts'
import { ofDatabase } from './evidence.ts'
import { endPool, endWithinMs, startup, tearDown } from './pool.ts'
import { Share } from './share.ts'
import { rowTypes } from './types.ts'
import * as sql from './sql/server.ts'
import { inTransaction } from './transaction.ts'
import type { Parameters, ValuesOf } from './sql/parameter.ts'
import type { Given, Statement } from './sql/statement.ts'

/**
 * A database by its connection string, by `pg` options, or as a pool of your own (`max` at least the concurrency of handlers).
 *
 * The connection string may name several hosts, `postgres://user:secret@h1:5432,h2:5432/db`: the one that takes writes
 * is used, and when it fails, the one that takes them then.
 */
export type DatabaseInput = string | pg.PoolConfig | pg.Pool | Database

export interface DatabaseOptions {
  /** Where the tables are. @default 'twinbox' */
  readonly schema?: string | undefined
  /** Upper bound of connections, if the pool is not yours. @default 10 */
  readonly poolSize?: number | undefined
  /**
   * Whether statements are prepared by name. PgBouncer in transaction mode can do it since version 1.21, unless
   * `max_prepared_statements = 0`. @default true, except behind a pooler that shares sessions
   */
  readonly preparedStatements?: boolean | undefined
}

/**
 * A `pg` pool that survives what a pool meets in production.
 *
 * What is different from a bare pool: a connection that breaks while it is checked out or idle does not end the
 * process; a statement whose answer never comes fails after 15 s and takes its connection with it; nothing is given
 * back to the pool in an open transaction.
 */
export class Database {
  readonly schema: string
  /** For the transactions of handlers, as the user has set up their connections. Everything of ours runs on others. */
  readonly pool: pg.Pool
  /** Those that are ours. Several may share them. */
  readonly connections: Connections
  /** By this `application_name`, or the beginning of it, the connections that it uses are found: whose backends are whose. */
  readonly application: string
  /** Whether statements are prepared by name. Known after `probe`. */
  preparedStatements: boolean
  /** Whether a connection is a session of the server's, ours alone. False behind a pooler that shares them. Known after `probe`. */
  sessions = true
  /** Whether a pooler is in between, of whatever mode. Known after `probe`. */
  pooled = false
  readonly #owned: boolean
  readonly #ours: Share
  readonly #bookkeeping: Share
  readonly #wished: DatabaseOptions
  #probed: Promise<void> | null = null
  #hasEntered = false
  #closed = false

  constructor(
    input: Exclude<DatabaseInput, Database>,
    options: DatabaseOptions = {},
    shared: Connections | null = null,
  ) {
    this.schema = checkSchema(options.schema ?? 'twinbox')
    this.#wished = options
    this.preparedStatements = options.preparedStatements ?? true
    this.#owned = !isPool(input)
    const poolSize = options.poolSize ?? 10
    this.connections = shared ?? new Connections(input, poolSize, options.preparedStatements === true)
    const { connections } = this
    this.application = shared === null ? connections.application : connections.nextName()
    const name = { application_name: this.application }
    this.pool = isPool(input) ? input : connections.hosts.pool({ ...name, max: maxOf(input) ?? poolSize })
    surviveErrors(this.pool)
    this.#ours = new Share(() => connections.ours, shared === null ? 4 : 3)
    this.#bookkeeping = new Share(() => connections.bookkeeping, 4)
  }

  /**
   * Finds out, once and before anything of ours runs, what is at the other end, and sets our connections up for it. A
   * pooler that hands each transaction to another session keeps no setting, no advisory lock and no prepared statement:
   * then each transaction of ours begins with its settings, two round trips more.
   */
  async probe(): Promise<void> {
    this.#probed ??= this.#probe().catch((error: unknown) => {
      this.#probed = null
      throw error
    })
    return this.#probed
  }

  async #probe(): Promise<void> {
    if (!this.#hasEntered && !this.#closed) this.connections.enter()
    this.#hasEntered = true
    const { link, settings } = await this.connections.probe()
    this.sessions = link.sessions
    this.pooled = !link.direct
    this.preparedStatements = this.#wished.preparedStatements ?? link.sessions
    if (!this.#owned || !link.direct) return
    const options = startup(this.connections.hosts.config, { ...settings, ...sql.withoutIdleTimeout })
    Object.assign(this.pool.options, { options })
  }

  /**
   * Runs a statement of bookkeeping in a transaction of its own, whose commit does not wait for the disk: a crash of
   * the server may undo it, which leases, fences and the inbox absorb. Never for what a user was told is done.
   */
  async keep<Takes extends Parameters, Row>(
    statement: Statement<Takes, Row>,
    ...given: Given<Takes>
  ): Promise<Row[]> {
    await this.probe()
    const client = await this.#bookkeeping.connect()
    return useClient(client, async () => {
      // Before the next statement and not after this one, whose answer should not be lost with it.
      const { plans } = this.connections
      if (plans.forget(client)) await client.query(bounded(sql.forgetPlans))
      const startedAt = performance.now()
      try {
        return await this.runKept(client, statement, ...given)
      } finally {
        // Also when it has failed: a plan so bad that its statement timed out would be used again and again.
        plans.answered(client, startedAt)
      }
    })
  }

  /** A connection outside of any pool, set up like those for bookkeeping. The caller ends it. */
  async openSession(): Promise<pg.Client> {
    await this.probe()
    return this.connections.openSession()
  }

  /** Runs a statement in a transaction of its own, whose commit waits for the disk. */
  async query<Takes extends Parameters, Row>(
    statement: Statement<Takes, Row>,
    ...given: Given<Takes>
  ): Promise<Row[]> {
    await this.probe()
    const client = await this.#ours.connect()
    const settings = this.sessions ? null : sql.ownSettings
    return useClient(client, () => runAlone(client, settings, () => this.run(client, statement, ...given)))
  }

  /** A client of the pool, for the caller to give back. */
  connect(): Promise<pg.PoolClient> {
    return ofDatabase(this.pool.connect())
  }

  /** What `keep` does, on a client that somebody else looks after. */
  runKept<Takes extends Parameters, Row>(
    client: pg.ClientBase,
    statement: Statement<Takes, Row>,
    ...given: Given<Takes>
  ): Promise<Row[]> {
    const settings = this.sessions ? null : sql.bookkeepingSettings
    return runAlone(client, settings, () => this.run(client, statement, ...given))
  }

  /** Runs a statement in a transaction that somebody has begun, or on a session of our own. */
  async run<Takes extends Parameters, Row>(
    client: pg.ClientBase,
    statement: Statement<Takes, Row>,
    ...[values]: Given<Takes>
  ): Promise<Row[]> {
    const query = client.query({
      ...(this.preparedStatements && statement.isPrepared ? { name: statement.name } : {}),
      text: statement.text,
      values: statement.bind(values as ValuesOf<Takes>),
      types: rowTypes,
      query_timeout: queryTimeoutMs,
    } as pg.QueryConfig)
    return (await ofDatabase(query)).rows as Row[]
  }

  /** Runs statements of ours in one transaction, see `withTransaction`. */
  async transaction<Result>(work: (client: pg.PoolClient) => Promise<Result>): Promise<Result> {
    await this.probe()
    const begin = this.sessions ? sql.beginOurs : sql.beginWith(sql.ownSettings)
    return inTransaction(this.connections.ours, begin, work, () => this.#ours.connect())
  }

  /** Reads, by three statements beside those of `work`. The server ends each after so long, also one whose client waits no more. */
  async look<Result>(
    limits: Readonly<Record<string, string>> & { readonly statement_timeout: string },
    work: (client: pg.PoolClient) => Promise<Result>,
  ): Promise<Result> {
    await this.probe()
    const begin = sql.beginLook({ ...(this.sessions ? {} : sql.ownSettings), ...limits })
    const client = await this.#ours.connect()
    return useClient(client, () => inside(client, begin, () => work(client)))
  }

  /**
   * Tears down the connections that are ours, but for those that somebody uses who shares them. Cut off, each would be waited for
   * until its statement's time is up; and the idle ones may look sound for as long as TCP goes on trying, a quarter of an hour.
   */
  abandon(): void {
    this.#bookkeeping.tearDown()
    this.#ours.tearDown()
    if (this.#owned) tearDown(this.pool)
  }

  /** What logging shows: `pg` keeps the password on its pool, hidden but not gone. */
  toJSON = (): object => ({ schema: this.schema, application: this.application });
  [inspect.custom] = this.toJSON

  /**
   * Closes the connections that are ours unless others share them, and the pool if it is our own. Connections that are still in
   * use after 5 s are torn down.
   */
  async close(): Promise<void> {
    if (this.#closed) return
    this.#closed = true
    const ours = [this.#bookkeeping, this.#ours].map((share) => share.close(endWithinMs))
    await Promise.all([...ours, ...(this.#owned ? [endPool(this.pool)] : [])])
    if (this.#hasEntered) await this.connections.leave()
  }
}

const maxOf = (input: string | pg.PoolConfig): number | undefined =>
  typeof input === 'string' ? undefined : input.max

/** Opens a database, or takes it as it is. `poolSize` is of a pool made here. Shared, all who open it so have our connections in common. */
export function openDatabase(
  input: DatabaseInput,
  options: DatabaseOptions = {},
  isShared = false,
): { database: Database; owned: boolean } {
  if (input instanceof Database) {
    if (options.schema !== undefined && options.schema !== input.schema) {
      throw new OptionError(
        'schema',
        `schema is ${options.schema}, but the database given was opened for ${input.schema}.`,
      )
    }
    return { database: input, owned: false }
  }
  const shared = isShared ? sharedConnections(input, options) : null
  return { database: new Database(input, options, shared), owned: true }
}
