import { callbackify } from 'node:util'
import pg from 'pg'
import { OptionError, TwinboxError } from '../base/errors.ts'
import { ofDatabase } from './evidence.ts'
import { asking } from './password.ts'
import { takesWrites } from './sql/server.ts'
import { isConnectionLost, sqlstate } from './sqlstate.ts'

interface Address {
  readonly host: string
  readonly port: number
}

type PoolCallback = (
  error: Error | undefined,
  client: pg.PoolClient | undefined,
  done: (error?: Error | boolean) => void,
) => void

const connectTimeoutMs = 5000

/**
 * Where a database can be: at one host, or at several of which one is the primary. `pg` itself knows one.
 *
 * Everything that is connected from here shares one opinion of who the primary is. A host that refuses, does not
 * answer or takes no writes changes that opinion to the next one, and whoever asked for a connection is served by
 * that one: so after a failover the whole worker has moved when its first connection has.
 */
export class Hosts {
  /** How to connect, as `pg` itself has read it: without a URL, which would overrule what is set beside it. */
  readonly config: pg.PoolConfig
  /** None if there is only one. */
  readonly addresses: readonly Address[]
  /** How often the opinion has changed. */
  #moves = 0

  constructor(config: pg.PoolConfig, addresses: readonly Address[] = []) {
    this.config = config
    this.addresses = addresses
  }

  pool(config: pg.PoolConfig): pg.Pool {
    const all = { ...this.config, ...config }
    if (this.addresses.length < 2) return new PoolOfHosts(all, this)
    return new PoolOfHosts({ ...all, Client: this.#clientClass() as new () => pg.Client }, this)
  }

  /** A connection outside of any pool. */
  async connect(config: pg.ClientConfig): Promise<pg.Client> {
    const Client = this.addresses.length < 2 ? pg.Client : this.#clientClass()
    return this.inTurn(async () => {
      const client = new Client({ ...this.config, ...config })
      client.on('error', () => {})
      try {
        return await ofDatabase(client.connect())
      } catch (error) {
        void client.end().catch(() => {})
        throw error
      }
    })
  }

  /** Runs `connect`, and runs it again when it failed and the next host is to be asked: as often as there are hosts. */
  async inTurn<Result>(connect: () => Promise<Result>): Promise<Result> {
    for (let left = this.addresses.length; ; left--) {
      const moves = this.#moves
      try {
        return await connect()
      } catch (error) {
        if (left <= 1 || this.#moves === moves) throw error
      }
    }
  }

  /** One that connects to the host of the moment, and fails there unless it takes writes. */
  #clientClass(): new (config: pg.ClientConfig) => pg.Client {
    const current = (): number => this.#moves
    const address = (move: number): Address => this.addresses[move % this.addresses.length]!
    const leave = (move: number, error: unknown): void => {
      // Ten connections that fail at one host are one reason to move on, not ten. And a host that answers with a wrong
      // password, a full server or a pooler's refusal is the right one.
      const state = sqlstate(error)
      const refused = state !== null && (!isConnectionLost(error) || state === '08P01')
      if (!refused && this.#moves === move) this.#moves++
    }
    return class extends pg.Client {
      readonly #move: number

      constructor(config: pg.ClientConfig) {
        const move = current()
        // A pool hides the password from enumeration.
        super({ ...config, password: config.password, ...address(move) })
        this.#move = move
        this.on('error', () => {})
      }

      override connect(): Promise<pg.Client>
      override connect(callback: (error: Error) => void): void
      override connect(callback?: (error: Error) => void): Promise<pg.Client> | void {
        const connect = (): Promise<pg.Client> => this.#connect(() => super.connect())
        if (callback === undefined) return connect()
        callbackify(connect)(callback)
      }

      async #connect(connect: () => Promise<pg.Client>): Promise<pg.Client> {
        try {
          await connect()
          const { rows } = await this.query<{ writable: boolean }>({
            text: takesWrites,
            query_timeout: connectTimeoutMs,
          } as pg.QueryConfig)
          if (rows[0]!.writable) return this
          throw new TwinboxError(
            // The SQLSTATE of the first write there, so that it counts as a lost connection everywhere.
            '25006',
            `${this.host}:${this.port} is read-only, and none of the other hosts of the database takes writes.`,
          )
        } catch (error) {
          leave(this.#move, error)
          void this.end().catch(() => {})
          throw error
        }
      }
    }
  }
}

class PoolOfHosts extends pg.Pool {
  readonly #hosts: Hosts

  constructor(config: pg.PoolConfig, hosts: Hosts) {
    super(config)
    this.#hosts = hosts
  }

  override connect(): Promise<pg.PoolClient>
  override connect(callback: PoolCallback): void
  override connect(callback?: PoolCallback): Promise<pg.PoolClient> | void {
    const connect = (): Promise<pg.PoolClient> => ofDatabase(this.#hosts.inTurn(() => super.connect()))
    if (callback === undefined) return connect()
    callbackify(connect)((error, client?: pg.PoolClient) =>
      callback(error ?? undefined, client, (spent) => client?.release(spent)),
    )
  }
}

/** Reads a connection string or `pg` options. @throws OptionError */
export function readHosts(input: string | pg.PoolConfig, max: number): Hosts {
  const given = typeof input === 'string' ? { connectionString: input } : input
  if (typeof given !== 'object' || given === null) {
    throw new OptionError('database', 'database must be a connection string, pg options or a pg pool.')
  }
  const config = {
    max,
    keepAlive: true,
    keepAliveInitialDelayMillis: 5000,
    connectionTimeoutMillis: connectTimeoutMs,
    ...given,
  }
  const { connectionString } = config
  if (typeof connectionString !== 'string') return new Hosts(asRead(config))
  if (!/^(postgres|postgresql|socket):/.test(connectionString)) {
    // Never echoed: it may hold a password, or parts of one.
    throw new OptionError('database', 'database must be a URL that starts with postgres:// or postgresql://.')
  }
  checkSessionAttributes(connectionString)
  const read = urlOfEachHost(connectionString).map((url) => asRead({ ...config, connectionString: url }))
  const addresses = read.map(({ host, port }) => ({ host: host!, port: port! }))
  if (addresses[0]!.host.includes(',')) {
    throw unreadable('several hosts belong before the path, not into "host"')
  }
  return new Hosts(read[0]!, addresses)
}

/** How to connect as somebody else's pool does. */
export function hostsOfPool(pool: pg.Pool): Hosts {
  const { options } = pool as unknown as { options?: pg.PoolConfig }
  return new Hosts(
    asRead({ ...options, ...(options?.password == null ? {} : { password: options.password }) }),
  )
}

/** The options with everything in them that `pg` takes from the URL and the environment. Connects nowhere. */
function asRead({ connectionString, ...rest }: pg.PoolConfig): pg.PoolConfig {
  try {
    // Without its stream, which may be one that is connected as soon as it is made.
    const { stream: _stream, ...readable } = {
      ...rest,
      ...(connectionString === undefined ? {} : { connectionString }),
    }
    const client = new pg.Client(readable)
    const { connectionParameters } = client as unknown as { connectionParameters: pg.ClientConfig }
    // pg hides the password from enumeration, so that it does not show up in logs.
    // Beside a URL that has none, pg forgets the one that was given.
    const forgotten = [null, '', process.env['PGPASSWORD']].includes(client.password)
    const password = forgotten ? (rest.password ?? client.password) : client.password
    return { ...rest, ...connectionParameters, password: asking(password) }
  } catch (error) {
    throw unreadable(error instanceof Error && 'code' in error ? String(error.code) : 'unknown error')
  }
}

/** `postgres://me:secret@h1:5432,h2:5433/db?ssl=true` as two URLs. */
function urlOfEachHost(url: string): string[] {
  const [, before, list, after] = /^(\w+:\/\/(?:[^/?#]*@)?)([^/?#]*)(.*)$/s.exec(url) ?? []
  if (list === undefined || !list.includes(',')) return [url]
  return list.split(',').map((host, index) => {
    const [, name, port] = /^(\[[0-9a-f:.]+\]|[^:[\]\s]+)(?::(\d{1,5}))?$/i.exec(host) ?? []
    if (name === undefined || Number(port ?? 1) < 1 || Number(port ?? 1) > 65_535) {
      throw unreadable(`host ${index + 1} of its list is not of the form name:port`)
    }
    return `${before}${host}${after}`
  })
}

/** That the primary is wanted need not be said. Any other wish cannot be granted: every connection of ours writes. */
function checkSessionAttributes(url: string): void {
  const wanted = new URLSearchParams(/\?([^#]*)/.exec(url)?.[1]).get('target_session_attrs')
  if (wanted === null || wanted === 'read-write' || wanted === 'primary') return
  throw new OptionError(
    'database',
    'target_session_attrs must be read-write or primary, or be left out: Twinbox needs a server that takes writes.',
  )
}

function unreadable(why: string): OptionError {
  return new OptionError(
    'database',
    `database is a URL that cannot be read (${why}). Characters such as @ / : % in a password have to be percent-encoded.`,
  )
}
