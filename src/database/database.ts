import { randomBytes } from 'node:crypto'
import type { EventEmitter } from 'node:events'
import { inspect } from 'node:util'
import type pg from 'pg'
import { OptionError, TransactionError } from '../errors.ts'
import { checkSchema } from '../options.ts'
import { hostsOfPool, readHosts, type Hosts } from './hosts.ts'
import { rowTypes } from './types.ts'
import * as sql from './sql/server.ts'
import { isConnectionLost, sqlstate } from './sqlstate.ts'

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

/** No statement of ours takes this long unless the network swallows its answer: `pg` itself would wait for ever. */
const queryTimeoutMs = 15_000

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
    return useClient(client, () => this.run<Row>(client, statement, values))
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

/**
 * Runs `work` in a transaction on a client of `pool`, and resolves only if it was committed.
 *
 * Two things that a plain BEGIN … COMMIT gets wrong: a COMMIT in a failed transaction is answered with ROLLBACK, which
 * neither pg nor Kysely takes for an error; and a connection that breaks at COMMIT leaves the outcome open, which is
 * looked up here by the transaction's id.
 *
 * @throws TransactionError `TRANSACTION_ROLLED_BACK` if a statement had failed and `work` swallowed its error: nothing
 *   was written. `COMMIT_UNKNOWN` if the outcome could not be looked up. Otherwise what `work` threw; nothing was
 *   written.
 */
export async function withTransaction<Result>(
  pool: pg.Pool | Database,
  work: (client: pg.PoolClient) => Promise<Result>,
): Promise<Result> {
  const source = pool instanceof Database ? pool.pool : pool
  surviveErrors(source)
  const client = await source.connect()
  return useClient(client, async () => {
    await client.query(sql.begin)
    let result: Result
    let xid: string | null = null
    try {
      result = await work(client)
      const assigned = await client.query<{ xid: string | null }>(sql.currentXid).catch((error: unknown) => {
        // 25P02: a statement has failed, and the rollback below will say so better.
        if (isConnectionLost(error)) throw error
        return null
      })
      xid = assigned?.rows[0]?.xid ?? null
    } catch (error) {
      // What went wrong first is what the caller has to know; a client that cannot roll back is thrown away.
      await client.query(sql.rollback).catch(() => {})
      throw error
    }
    await commit(client, source, xid)
    return result
  })
}

/** A statement whose answer is overdue after 15 s. On a connection that has silently died it would never come. */
export const bounded = (text: string): pg.QueryConfig =>
  ({ text, query_timeout: queryTimeoutMs }) as pg.QueryConfig

/** COMMIT, and the truth about it. */
async function commit(client: pg.ClientBase, pool: pg.Pool, xid: string | null): Promise<void> {
  let command: string
  try {
    command = (await client.query(sql.commit)).command
  } catch (error) {
    if (!isConnectionLost(error)) throw error
    const status = xid === null ? 'aborted' : await transactionStatus(pool, xid)
    if (status === 'committed') return
    if (status === 'aborted') {
      throw new TransactionError(
        'TRANSACTION_ROLLED_BACK',
        'The connection broke before the commit; nothing was written.',
        { cause: error },
      )
    }
    throw new TransactionError(
      'COMMIT_UNKNOWN',
      'The connection broke at the commit, and whether it took place could not be found out. Publish again with the same dedupe key.',
      { cause: error },
    )
  }
  if (command !== 'COMMIT') {
    throw new TransactionError(
      'TRANSACTION_ROLLED_BACK',
      'The server answered COMMIT with ROLLBACK: a statement of this transaction had failed and its error was swallowed. Nothing was written.',
    )
  }
}

async function transactionStatus(pool: pg.Pool, xid: string): Promise<'committed' | 'aborted' | 'unknown'> {
  for (let round = 0; round < 10; round++) {
    try {
      const { rows } = await pool.query<{ status: string | null }>(sql.transactionStatus, [xid])
      const status = rows[0]?.status
      if (status === 'committed' || status === 'aborted') return status
      if (status !== 'in progress') return 'unknown'
    } catch {
      // The server may be restarting; it is asked again.
    }
    await new Promise((resolve) => setTimeout(resolve, 50 * 2 ** Math.min(round, 5)))
  }
  return 'unknown'
}

/**
 * Gives the client back to its pool after `work`, or throws it away: after a time-out or a broken connection its next
 * user would wait for an answer that belongs to somebody else, and in an open transaction that user's writes would
 * become part of it.
 */
export async function useClient<Result>(client: pg.PoolClient, work: () => Promise<Result>): Promise<Result> {
  // A pool of the user's may have made this connection before we listened to the pool.
  surviveErrors(client)
  try {
    const result = await work()
    client.release()
    return result
  } catch (error) {
    giveBack(client, error)
    throw error
  }
}

/** What `useClient` does with a client after an error. */
export function giveBack(client: pg.PoolClient, error: unknown): void {
  // Its own error may be wrapped in one of the user's: a server that has become read-only would be kept for ever.
  const lost = [error, error instanceof Error ? error.cause : null].some(isConnectionLost)
  client.release(lost || client.getTransactionStatus?.() !== 'I')
}

function isPool(input: unknown): input is pg.Pool {
  return typeof input === 'object' && input !== null && 'connect' in input && 'totalCount' in input
}

const surviving = new WeakSet<EventEmitter>()

/** An `error` event without a listener ends the process: a restart of Postgres would take every worker with it. */
export function surviveErrors(emitter: EventEmitter): void {
  if (surviving.has(emitter)) return
  surviving.add(emitter)
  emitter.on('error', () => {})
  if (isPool(emitter)) emitter.on('connect', surviveErrors)
}
