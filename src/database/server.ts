import { SchemaError } from '../errors.ts'
import { useClient } from './client.ts'
import type { Database } from './database.ts'
import { serverFacts } from './sql/server.ts'

/** What the server must be, asked once at start. @throws SchemaError */
export async function checkServer(database: Database): Promise<void> {
  const client = await database.pool.connect()
  await useClient(client, async () => {
    const { rows } = await client.query<{ version: number; encoding: string; recovery: boolean }>(serverFacts)
    const { version, encoding, recovery } = rows[0]!
    if (version < 140_000) {
      throw new SchemaError(
        'SERVER_UNSUPPORTED',
        `The server is Postgres ${Math.floor(version / 10_000)}, but Twinbox needs 14 or newer.`,
      )
    }
    if (encoding !== 'UTF8') {
      throw new SchemaError(
        'SERVER_UNSUPPORTED',
        `The database's encoding is ${encoding}, but Twinbox needs UTF8.`,
      )
    }
    if (recovery) {
      throw new SchemaError(
        'SERVER_UNSUPPORTED',
        'The server is a read-only standby. Connect to the primary.',
      )
    }
  })
}
