import { execFile } from 'node:child_process'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import pg from 'pg'
import {
  embeddedServer,
  freePort,
  startEmbeddedServer,
  type EmbeddedServer,
} from '../../proof/stage/postgres.ts'
import { Database } from '../../src/database/database.ts'
import { migrate } from '../../src/database/migrate.ts'
import { isConnectionLost } from '../../src/database/sqlstate.ts'
import type { TestDatabase } from './postgres.ts'
import { answers } from './servers/postgres.ts'

interface NodeSetup {
  readonly folder: string
  readonly port: number
  readonly settings: readonly string[]
}

async function createNode(setup: NodeSetup, empty: boolean) {
  const { server, said, kill } = await embeddedServer({ ...setup, persistent: true })
  if (empty) await server.initialise()
  const url = urlOf([setup.port])
  return {
    url,
    kill,
    /** Resolves when it answers, even if only with reading. */
    async start() {
      let failed = false
      // It resolves only when the server takes writes, which a standby does not do.
      void server.start().catch(() => (failed = true))
      while (!(await answers(url))) {
        if (failed) throw new Error(`Postgres did not start: ${said.join('\n')}`)
        await new Promise((resolve) => setTimeout(resolve, 25))
      }
    },
  }
}

const urlOf = (ports: readonly number[]): string =>
  `postgres://postgres:postgres@${ports.map((port) => `127.0.0.1:${port}`).join(',')}/postgres`

/** A server of a test's own, which it may kill and start again: the one that all tests share must live. */
export const startServer = (settings: readonly string[] = []): Promise<EmbeddedServer> =>
  startEmbeddedServer({ settings, persistent: true })

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
