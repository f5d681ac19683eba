import { randomBytes } from 'node:crypto'
import { inspect } from 'node:util'
import type pg from 'pg'
import { OptionError } from '../errors.ts'
import { checkSchema } from '../options.ts'
import { isPool, queryTimeoutMs, surviveErrors, useClient } from './client.ts'
import { hostsOfPool, readHosts, type Hosts } from './hosts.ts'
import { rowTypes } from './types.ts'
import * as sql from './sql/server.ts'
import { sqlstate } from './sqlstate.ts'
import { withTransaction } from './transaction.ts'

/**
 * A database by its connection string, by `pg` options, or as a pool of your own (`max` at least concurrency + 3).
 *
 * The connection string may name several hosts, `postgres://user:secret@h1:5432,h2:5432/db`: the one that takes writes
 * is used, and when it fails, the one that takes them then.
 */
export type DatabaseInput = string | pg.PoolConfig | pg.Pool | Database

/** A statement of `database/sql`, prepared once per connection under its name. */
export interface Statement {
  /** Left out where each run needs a plan of its own. */
  readonly name?: string
  readonly text: string
}

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
  readonly pool: pg.Pool
  /** The `application_name` of the connections that are ours, and of no others: whose backends are whose. */
  readonly application: string
  /** Whether statements are prepared by name. Known after `probe`. */
  preparedStatements: boolean
  /** Whether a connection is a session of the server's, ours alone. False behind a pooler. Known after `probe`. */
  sessions = true
  readonly #owned: boolean
  readonly #hosts: Hosts
  readonly #bookkeeping: pg.Pool
  readonly #wished: DatabaseOptions
  /** Connections for bookkeeping whose plans may be out of date. */
  readonly #stale = new WeakSet<pg.ClientBase>()
  #probed: Promise<void> | null = null
  #closed = false

  constructor(input: Exclude<DatabaseInput, Database>, options: DatabaseOptions = {}) {
    this.schema = checkSchema(options.schema ?? 'twinbox')
    this.#wished = options
    this.preparedStatements = options.preparedStatements ?? true
    this.#owned = !isPool(input)
    this.#hosts = isPool(input) ? hostsOfPool(input) : readHosts(input, options.poolSize ?? 10)
    this.application = applicationName(this.#hosts.config.application_name)
    const ours = { application_name: this.application }
    this.pool = isPool(input) ? input : this.#hosts.pool(ours)
    surviveErrors(this.pool)
    this.#bookkeeping = this.#hosts.pool({ ...ours, max: 4 })
    surviveErrors(this.#bookkeeping)
  }

  /**
   * Finds out, once and before anything of ours runs, whether the server itself is at the other end: a pooler refuses
   * or ignores our settings, and hands each transaction to another session, where no advisory lock and no prepared
   * statement is. Then every commit waits for the disk, which is slower but right.
   */
  async probe(): Promise<void> {
    this.#probed ??= this.#probe().catch((error: unknown) => {
      this.#probed = null
      throw error
    })
    return this.#probed
  }

  async #probe(): Promise<void> {
    const bookkeeping = { ...sql.bookkeepingSettings, ...sql.keepaliveSettings }
    const session = await this.#hosts.connect(this.#startup(bookkeeping)).catch((error: unknown) => {
      // "unsupported startup parameter": PgBouncer.
      if (sqlstate(error) === '08P01') return null
      throw error
    })
    try {
      const text = sql.hasBookkeepingSettings
      this.sessions = session !== null && (await this.run<{ ours: boolean }>(session, { text }))[0]!.ours
      this.preparedStatements = this.#wished.preparedStatements ?? this.sessions
      if (!this.sessions) return
      const checked = await this.run(session!, { text: sql.tryConnectionCheck }).then(
        () => sql.connectionCheck,
        () => ({}),
      )
      Object.assign(this.#bookkeeping.options, this.#startup({ ...bookkeeping, ...checked }))
      if (this.#owned)
        Object.assign(this.pool.options, this.#startup({ ...sql.keepaliveSettings, ...checked }))
    } finally {
      await session?.end().catch(() => {})
    }
  }

  /** Settings as start-up parameters, so that no statement ever runs on a connection that has not got them yet. */
  #startup(settings: Readonly<Record<string, string>>): pg.ClientConfig {
    const ours = Object.entries(settings).map(([name, value]) => `-c ${name}=${value}`)
    const { options: theirs } = this.#hosts.config
    return { application_name: this.application, options: [...(theirs ? [theirs] : []), ...ours].join(' ') }
  }

  /**
   * Runs a statement of bookkeeping in a transaction of its own, whose commit does not wait for the disk: a crash of
   * the server may undo it, which leases, fences and the inbox absorb. Never for what a user was told is done.
   */
  async keep<Row = Record<string, unknown>>(
    statement: Statement,
    values: readonly unknown[] = [],
  ): Promise<Row[]> {
    await this.probe()
    const client = await this.#bookkeeping.connect()
    return useClient(client, async () => {
      // Before the next statement and not after this one, whose answer should not be lost with it.
      if (this.#stale.delete(client)) await this.run(client, { text: sql.forgetPlans })
      const startedAt = performance.now()
      const rows = await this.run<Row>(client, statement, values)
      if (performance.now() - startedAt > slowMs) this.#stale.add(client)
      return rows
    })
  }

  /** A connection outside of any pool, set up like those for bookkeeping. The caller ends it. */
  async openSession(): Promise<pg.Client> {
    await this.probe()
    const { application_name, options } = this.#bookkeeping.options as pg.PoolConfig
    return this.#hosts.connect({ application_name, options })
  }

  /** Runs a statement in a transaction of its own. */
  async query<Row = Record<string, unknown>>(
    statement: Statement,
    values: readonly unknown[] = [],
  ): Promise<Row[]> {
    await this.probe()
    const client = await this.pool.connect()
    return useClient(client, () => this.run<Row>(client, statement, values))
  }

  /** Runs a statement on a client that somebody else looks after. */
  async run<Row = Record<string, unknown>>(
    client: pg.ClientBase,
    statement: Statement,
    values: readonly unknown[] = [],
  ): Promise<Row[]> {
    const result = await client.query({
      ...(this.preparedStatements && statement.name !== undefined ? { name: statement.name } : {}),
      text: statement.text,
      values: values as unknown[],
      types: rowTypes,
      query_timeout: queryTimeoutMs,
    } as pg.QueryConfig)
    return result.rows as Row[]
  }

  /** Runs `work` in a transaction of this pool, see `withTransaction`. */
  async transaction<Result>(work: (client: pg.PoolClient) => Promise<Result>): Promise<Result> {
    return withTransaction(this.pool, work)
  }

  /**
   * Tears down all connections that are ours. Cut off, each would be waited for until its statement's time is up; and
   * the idle ones may look sound for as long as TCP goes on trying, a quarter of an hour.
   */
  abandon(): void {
    tearDown(this.#bookkeeping)
    if (this.#owned) tearDown(this.pool)
  }

  /** What logging shows: `pg` keeps the password on its pool, hidden but not gone. */
  toJSON = (): object => ({ schema: this.schema, application: this.application });
  [inspect.custom] = this.toJSON

  /** Closes the connections for bookkeeping, and the pool if it is our own. Connections that are still in use after 5 s are torn down. */
  async close(): Promise<void> {
    if (this.#closed) return
    this.#closed = true
    await Promise.all([endPool(this.#bookkeeping), ...(this.#owned ? [endPool(this.pool)] : [])])
  }
}

/**
 * A statement of bookkeeping that takes longer may have a plan that was made while its table was empty, and is kept until
 * somebody has analyzed that, a minute later: a burst of messages comes sooner. Planning anew takes some milliseconds.
 */
const slowMs = 50

/** Theirs, so that the connection is found where it is looked for, and a tag that is this instance's alone. */
function applicationName(theirs: string | undefined): string {
  const tag = `twinbox ${randomBytes(4).toString('hex')}`
  // The server keeps 63 bytes, and replaces what is not ASCII.
  const prefix = (theirs ?? '').replaceAll(/[^ -~]/g, '?').slice(0, 62 - tag.length)
  return prefix === '' ? tag : `${prefix} ${tag}`
}

function tearDown(pool: pg.Pool): void {
  const { _clients: clients } = pool as unknown as {
    _clients: { connection: { stream: { destroy(): void } } }[]
  }
  for (const client of clients) client.connection.stream.destroy()
}

async function endPool(pool: pg.Pool): Promise<void> {
  // end() waits for ever for a client that somebody forgot, or whose server is gone.
  const deadline = setTimeout(() => tearDown(pool), 5000)
  await pool.end().finally(() => clearTimeout(deadline))
}

/** Opens a database, or takes it as it is. `poolSize` applies only to a pool that is made here. */
export function openDatabase(
  input: DatabaseInput,
  options: DatabaseOptions = {},
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
  return { database: new Database(input, options), owned: true }
}
