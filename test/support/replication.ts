import { execFile, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import pg from 'pg'
import { embeddedServer, freePort } from '../../proof/stage/postgres.ts'
import { Database } from '../../src/database/database.ts'
import { migrate } from '../../src/database/migrate.ts'
import { isConnectionLost } from '../../src/database/sqlstate.ts'
import type { TestDatabase } from './postgres.ts'
import { answers } from './servers/postgres.ts'

/** Servers of a test's own, which it may kill: the one that all tests share must live. */
export interface Node {
  readonly url: string
  /** Resolves when it answers, even if only with reading. */
  start(): Promise<void>
  /** SIGKILL to the postmaster, or what `pg_ctl stop -m immediate` does. Resolves when it is gone. */
  kill(how?: 'SIGKILL' | 'SIGQUIT'): Promise<void>
}

interface NodeSetup {
  readonly folder: string
  readonly port: number
  readonly settings?: readonly string[]
}

async function createNode(setup: NodeSetup, empty: boolean): Promise<Node> {
  const { server, said } = await embeddedServer({ ...setup, persistent: true })
  if (empty) await server.initialise()
  // The library cannot do without its process, and would wait at the exit for the end of one that was killed.
  const library = server as unknown as { process?: ChildProcess | undefined }
  const url = urlOf([setup.port])
  return {
    url,
    async start() {
      let failed = false
      // It resolves only when the server takes writes, which a standby does not do.
      void server.start().catch(() => (failed = true))
      while (!(await answers(url))) {
        if (failed) throw new Error(`Postgres did not start: ${said.join('\n')}`)
        await new Promise((resolve) => setTimeout(resolve, 25))
      }
    },
    async kill(how = 'SIGKILL') {
      const child = library.process
      if (child === undefined) return
      library.process = undefined
      const gone = once(child, 'exit')
      child.kill(how)
      await gone
    },
  }
}

const urlOf = (ports: readonly number[]): string =>
  `postgres://postgres:postgres@${ports.map((port) => `127.0.0.1:${port}`).join(',')}/postgres`

/** A server that can be killed and started again. */
export async function startServer(
  settings: readonly string[] = [],
): Promise<Node & { stop(): Promise<void> }> {
  const folder = await mkdtemp(join(tmpdir(), 'twinbox-server-'))
  const node = await createNode({ folder: join(folder, 'data'), port: await freePort(), settings }, true)
  await node.start()
  return {
    ...node,
    stop: async () => {
      await node.kill()
      await rm(folder, { recursive: true, force: true, maxRetries: 5 })
    },
  }
}

/** A primary and its hot standby. What the primary says is committed is on the disk of both. */
export interface Replication {
  /** `both` names the standby first, where nobody can write as long as the primary lives. */
  readonly urls: { readonly primary: string; readonly standby: string; readonly both: string }
  /** SIGKILL; resolves when it is gone. */
  killPrimary(): Promise<void>
  /** Resolves when the standby takes writes. */
  promote(): Promise<void>
  stop(): Promise<void>
}

export async function startReplication(): Promise<Replication> {
  const folder = await mkdtemp(join(tmpdir(), 'twinbox-replication-'))
  const folders = { primary: join(folder, 'primary'), standby: join(folder, 'standby') }
  const [port, standbyPort] = [await freePort(), await freePort()]
  const primary = await createNode(
    { folder: folders.primary, port, settings: ['synchronous_standby_names=*'] },
    true,
  )
  // One that has never run is copied as it is; -a, since its files belong to the user that Postgres runs as.
  await promisify(execFile)('cp', ['-a', folders.primary, folders.standby])
  await writeFile(join(folders.standby, 'standby.signal'), '')
  const settings = [
    `primary_conninfo=host=127.0.0.1 port=${port} user=postgres password=postgres`,
    'wal_retrieve_retry_interval=100ms',
  ]
  const standby = await createNode({ folder: folders.standby, port: standbyPort, settings }, false)
  await primary.start()
  await standby.start()
  return {
    urls: { primary: primary.url, standby: standby.url, both: urlOf([standbyPort, port]) },
    killPrimary: () => primary.kill(),
    promote: async () => {
      const client = new pg.Client({ connectionString: standby.url })
      await client.connect()
      await client.query('select pg_promote()')
      await client.end()
    },
    stop: async () => {
      await Promise.all([primary.kill(), standby.kill()])
      await rm(folder, { recursive: true, force: true, maxRetries: 5 })
    },
  }
}

/**
 * A database for a test on servers that die: it is at whichever of the hosts takes writes, its transactions know what
 * became of their commit, and a query that only looks is asked again after an outage.
 */
export async function createLastingDatabase(url: string): Promise<TestDatabase> {
  await migrate(url)
  const database = new Database(url)
  return {
    url,
    pool: database.pool,
    async query<Row>(text: string, values?: unknown[]) {
      for (;;) {
        try {
          return (await database.pool.query(text, values)).rows as Row[]
        } catch (error) {
          if (!isConnectionLost(error)) throw error
          await new Promise((resolve) => setTimeout(resolve, 25))
        }
      }
    },
    transaction: (work) => database.transaction(work),
    drop: () => database.close(),
  }
}
