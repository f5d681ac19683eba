import type pg from 'pg'
import { isPool, surviveErrors } from './client.ts'
import { hostsOfPool, readHosts, type Hosts } from './hosts.ts'
import { findLink } from './link.ts'
import { Plans } from './plans.ts'
import { applicationName, endPool, setUp, withoutTimeouts, type Link } from './pool.ts'
import * as sql from './sql/server.ts'

/** With the session of its workers, a process has ten connections to a database, beside those of handlers. */
const bookkeepingShared = 5
const oursMax = 4

type Input = string | pg.PoolConfig | pg.Pool

/** What was found at the other end, and how connections of ours are set up for it. */
interface Way {
  readonly link: Link
  /** On all of them. */
  readonly settings: Readonly<Record<string, string>>
}

/**
 * Our own connections to a database: where it is, what is at the other end, and two pools, for bookkeeping and for what waits
 * for the disk. Handlers' connections are not among them. Several may share them, see `sharedConnections`: the first that
 * uses them opens the pools, and the last closes them.
 */
export class Connections {
  /** The `application_name` of these connections, and of no others: whose backends are whose. */
  readonly application: string
  readonly hosts: Hosts
  readonly plans = new Plans()
  readonly #max: { readonly ours: number; readonly bookkeeping: number }
  readonly #prepares: boolean
  #pools: { readonly ours: pg.Pool; readonly bookkeeping: pg.Pool } | null = null
  #way: Promise<Way> | null = null
  #users = 0
  #names = 0

  /** `poolSize` bounds the pool of what waits for the disk, unless the input does; `prepares`: whether the user insists on prepared statements. */
  constructor(input: Input, poolSize: number, prepares: boolean, bookkeepingMax = 4) {
    this.hosts = isPool(input) ? hostsOfPool(input) : readHosts(input, poolSize)
    this.application = applicationName(this.hosts.config.application_name)
    this.#prepares = prepares
    this.#max = { ours: Math.min(this.hosts.config.max ?? oursMax, oursMax), bookkeeping: bookkeepingMax }
  }

  get ours(): pg.Pool {
    return this.#open().ours
  }

  get bookkeeping(): pg.Pool {
    return this.#open().bookkeeping
  }

  /** A name for connections that are one user's alone. Whose row says it, of that one all are ended with these, see `disconnecting`. */
  nextName(): string {
    this.#names = (this.#names + 1) % 0x1_0000
    return `${this.application} ${this.#names.toString(16).padStart(4, '0')}`
  }

  /** Finds out, once, what is at the other end, and sets the pools up for it. */
  probe(): Promise<Way> {
    this.#way ??= this.#probe().catch((error: unknown) => {
      this.#way = null
      throw error
    })
    return this.#way
  }

  async #probe(): Promise<Way> {
    const link = await findLink(this.hosts, this.#prepares)
    const settings = {
      ...(link.direct ? sql.keepaliveSettings : {}),
      ...(link.checksConnection ? sql.connectionCheck : {}),
    }
    if (!link.sessions) return { link, settings }
    const all = {
      ...settings,
      ...(link.facts.version >= sql.transactionTimeoutSince ? sql.withoutTransactionTimeout : {}),
    }
    const { config } = this.hosts
    Object.assign(this.ours.options, setUp(link, config, { ...sql.ownSettings, ...all }))
    Object.assign(this.bookkeeping.options, setUp(link, config, { ...sql.bookkeepingSettings, ...all }))
    return { link, settings }
  }

  /** A connection outside of any pool, set up like those for bookkeeping. The caller ends it. */
  async openSession(): Promise<pg.Client> {
    const { onConnect, ...config } = this.bookkeeping.options as ReturnType<typeof setUp>
    const client = await this.hosts.connect(config)
    await onConnect?.(client)
    return client
  }

  /** One more needs them. */
  enter(): void {
    this.#users++
  }

  /** One less does. Connections that are still in use 5 s after the last one are torn down. */
  async leave(): Promise<void> {
    if (--this.#users > 0 || this.#pools === null) return
    const pools = [this.#pools.bookkeeping, this.#pools.ours]
    this.#pools = null
    // Whoever comes next may find another server.
    this.#way = null
    await Promise.all(pools.map(endPool))
  }

  #open(): { readonly ours: pg.Pool; readonly bookkeeping: pg.Pool } {
    this.#pools ??= { ours: this.#pool(this.#max.ours), bookkeeping: this.#pool(this.#max.bookkeeping) }
    return this.#pools
  }

  #pool(max: number): pg.Pool {
    const pool = this.hosts.pool({ application_name: this.application, ...withoutTimeouts, max })
    surviveErrors(pool)
    return pool
  }
}

const byUrl = new Map<string, Connections>()
const byObject = new WeakMap<object, Map<string, Connections>>()

/** The connections that all of this process share who name the same database in the same way: by the same text, or the same object. */
export function sharedConnections(
  input: Input,
  options: { readonly schema?: string | undefined; readonly preparedStatements?: boolean | undefined },
): Connections {
  // What a URL leaves out, the environment says.
  const environment = Object.entries(process.env).filter(([name]) => name.startsWith('PG'))
  const { schema, preparedStatements } = options
  const key = JSON.stringify([typeof input === 'string' && input, schema, preparedStatements, environment])
  let known = byUrl
  if (typeof input === 'object' && input !== null) {
    known = byObject.get(input) ?? new Map<string, Connections>()
    byObject.set(input, known)
  }
  let connections = known.get(key)
  if (connections === undefined) {
    connections = new Connections(input, oursMax, preparedStatements === true, bookkeepingShared)
    known.set(key, connections)
  }
  return connections
}
