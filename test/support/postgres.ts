import { createHash, randomBytes } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { resolve } from 'node:path'
import pg from 'pg'
import { migrate, migrationFiles } from '../../src/index.ts'
import { isMissing } from './require.ts'
import { postgres } from './servers/postgres.ts'
import { shared } from './shared.ts'

/** The server that the tests of this run share. Its user may create databases. */
export async function serverUrl(): Promise<string> {
  const found = await shared(postgres)
  if (isMissing(found)) throw new Error(`Tests need a Postgres: ${found.missing}`)
  return found.url
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
  const server = await serverUrl()
  const name = `twinbox_test_${randomBytes(6).toString('hex')}`
  const { migrated = true } = options
  // Not from template1, to which somebody may just be connected.
  const template = migrated ? await migratedTemplate(server) : 'template0'
  await administer(server, `create database ${name} template ${template}`)
  const url = urlOf(server, name)
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
      await administer(server, `drop database if exists ${name} with (force)`)
    },
  }
}

let processes = 0

/** The same database for a worker that shall share nothing with the others here, as if it was of another process. */
export const apart = (url: string): string => `${url}#${++processes}`

const urlOf = (server: string, name: string): string =>
  Object.assign(new URL(server), { pathname: `/${name}` }).toString()

let template: Promise<string> | undefined

/**
 * A database with Twinbox's tables to copy from: a copy costs a server a fifth of what migrating costs, and there are
 * hundreds of databases. It stays on the server for later runs, under a name that changes with the migrations.
 */
function migratedTemplate(server: string): Promise<string> {
  return (template ??= makeTemplate(server))
}

async function makeTemplate(server: string): Promise<string> {
  const hash = createHash('sha256')
  for (const { name, sql } of migrationFiles()) hash.update(`${name}\0${sql}\0`)
  // What `migrate` writes beside the files decides too.
  for (const file of ['migrate.ts', 'sql/migration.ts']) {
    hash.update(readFileSync(resolve(import.meta.dirname, '../../src/database', file)))
  }
  const name = `twinbox_template_${hash.digest('hex').slice(0, 12)}`
  const client = new pg.Client({ connectionString: server })
  await client.connect()
  try {
    // One at a time: of two files that began together, the second one's rename broke an index of pg_database, and with it
    // the whole run. The lock is the session's, so who is killed leaves none.
    await client.query(`select pg_advisory_lock(hashtext('twinbox_template'))`)
    const there = await client.query(`select from pg_database where datname = '${name}'`)
    if (there.rowCount) return name
    // Renamed when complete: a run that is broken off leaves no half a template.
    const draft = `twinbox_test_${randomBytes(6).toString('hex')}`
    await client.query(`create database ${draft} template template0`)
    await migrate(urlOf(server, draft))
    await dropOldTemplates(client)
    await client.query(`alter database ${draft} rename to ${name}`)
    await client.query(`comment on database ${name} is '${new Date().toISOString()}'`)
    return name
  } finally {
    await client.end()
  }
}

/** Those of other commits, a week after they were made: another checkout may still work with a younger one. */
async function dropOldTemplates(client: pg.Client): Promise<void> {
  const { rows } = await client.query<{ datname: string }>(
    `select datname from pg_database
     where datname like 'twinbox\\_template\\_%'
       and shobj_description(oid, 'pg_database')::timestamptz < now() - interval '7 days'`,
  )
  for (const { datname } of rows) await client.query(`drop database if exists ${datname}`).catch(() => {})
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
