import { execFileSync } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { cpus } from 'node:os'
import { setTimeout as sleep } from 'node:timers/promises'
import pg from 'pg'
import { startOwnServer } from '../proof/stage/postgres.ts'
import { migrate } from '../src/index.ts'

/** What the figures depend on. */
export interface Machine {
  readonly cores: number
  readonly cpu: string
  readonly platform: string
  readonly node: string
  readonly postgres: string
  readonly commit: string
}

/** A database of our own, on a server that need not be. */
export class Scratch {
  readonly url: string
  readonly machine: Machine
  readonly #pool: pg.Pool
  readonly #remove: () => Promise<void>

  private constructor(url: string, pool: pg.Pool, machine: Machine, remove: () => Promise<void>) {
    this.url = url
    this.#pool = pool
    this.machine = machine
    this.#remove = remove
  }

  /** On the named server, the one of the environment, the one on this machine, or an embedded one: the first there is. */
  static async open(given: string | undefined): Promise<Scratch> {
    const server = await findServer(given)
    const name = `twinbox_bench_${randomBytes(5).toString('hex')}`
    try {
      await administer(server.url, `create database ${name}`)
    } catch (error) {
      await server.stop()
      throw error
    }
    const url = Object.assign(new URL(server.url), { pathname: `/${name}` }).toString()
    const pool = new pg.Pool({ connectionString: url, max: 3 })
    // Connections may break, idle or in use, when servers are stopped by the same Ctrl-C.
    pool.on('error', () => {})
    pool.on('connect', (client) => client.on('error', () => {}))
    const remove = async (): Promise<void> => {
      await pool.end()
      if (!server.ours) await administer(server.url, `drop database if exists ${name} with (force)`)
      await server.stop()
    }
    try {
      await migrate(url)
      const { rows } = await pool.query<{ server_version: string }>('show server_version')
      return new Scratch(url, pool, describeMachine(rows[0]!.server_version), remove)
    } catch (error) {
      await remove()
      throw error
    }
  }

  async query<Row = Record<string, unknown>>(text: string, values?: unknown[]): Promise<Row[]> {
    return (await this.#pool.query(text, values)).rows as Row[]
  }

  /** Of the server, such as 15. */
  get version(): number {
    return Number.parseInt(this.machine.postgres, 10)
  }

  /** The database's name. */
  get name(): string {
    return new URL(this.url).pathname.slice(1)
  }

  /** Runs `work` in a transaction, and commits. */
  async transaction<Result>(work: (client: pg.PoolClient) => Promise<Result>): Promise<Result> {
    const client = await this.#pool.connect()
    let failure: Error | undefined
    try {
      await client.query('begin')
      const result = await work(client)
      await client.query('commit')
      return result
    } catch (error) {
      failure = error as Error
      throw error
    } finally {
      // A connection in a failed transaction is not worth keeping.
      client.release(failure)
    }
  }

  /** Resolves when the column `done` is true. @throws with what the query says otherwise. */
  async until(what: string, query: string, values: unknown[] = [], withinMs = 120_000): Promise<void> {
    const deadline = performance.now() + withinMs
    for (;;) {
      const [row] = await this.query<{ done: boolean }>(query, values)
      if (row?.done === true) return
      if (performance.now() > deadline) {
        throw new Error(`${what}: not within ${withinMs / 1000} s. ${JSON.stringify(row)}`)
      }
      await sleep(20)
    }
  }

  async drop(): Promise<void> {
    await this.#remove()
  }
}

interface Server {
  readonly url: string
  /** Started for this run, and gone with all that is in it when it stops. */
  readonly ours: boolean
  stop(): Promise<void>
}

async function findServer(given: string | undefined): Promise<Server> {
  const named = given ?? process.env['TWINBOX_BENCH_DATABASE_URL'] ?? process.env['DATABASE_URL']
  if (named !== undefined) return { url: named, ours: false, stop: async () => {} }
  const local = 'postgres://postgres@127.0.0.1:5432/postgres'
  try {
    await administer(local, 'select')
    return { url: local, ours: false, stop: async () => {} }
  } catch {
    return startOwn()
  }
}

async function startOwn(): Promise<Server> {
  const server = await startOwnServer()
  return { url: server.url, ours: true, stop: () => server.stop() }
}

async function administer(url: string, statement: string): Promise<void> {
  const client = new pg.Client({ connectionString: url, connectionTimeoutMillis: 5000 })
  await client.connect()
  try {
    await client.query(statement)
  } finally {
    await client.end()
  }
}

function describeMachine(postgres: string): Machine {
  return {
    cores: cpus().length,
    cpu: cpus()[0]?.model ?? 'unknown',
    platform: `${process.platform} ${process.arch}`,
    node: process.version,
    postgres,
    commit: commit(),
  }
}

/** What a report itself writes, while it goes on measuring the same code. */
const written = ['docs/performance.md', 'bench/results.json', 'bench/chart.svg', 'bench/growth.svg']

/** What is measured, as git calls it. */
export function commit(): string {
  try {
    // Somebody may be working in the checkout: not even its index is ours to lock.
    const git = (...args: string[]): string =>
      execFileSync('git', ['--no-optional-locks', ...args], {
        encoding: 'utf8',
        stdio: ['ignore', 'pipe', 'ignore'],
      }).trim()
    const others = written.map((path) => `:(top,exclude)${path}`)
    const changed = git('status', '--porcelain', '--untracked-files=no', '--', ':/', ...others)
    return `${git('rev-parse', '--short', 'HEAD')}${changed === '' ? '' : '-dirty'}`
  } catch {
    return 'unknown'
  }
}
