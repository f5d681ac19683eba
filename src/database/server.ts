import { SchemaError } from '../base/errors.ts'
import type { Database } from './database.ts'
import { serverFacts } from './sql/server.ts'

/** What the server must be, asked once at start. @throws SchemaError */
export async function checkServer(database: Database): Promise<void> {
  const [facts] = await database.query(serverFacts)
  const { version, encoding, recovery, read_only: readOnly } = facts!
  const refuse = (why: string): never => {
    throw new SchemaError('SERVER_UNSUPPORTED', why)
  }
  if (version < 140_000)
    refuse(`The server is Postgres ${Math.floor(version / 10_000)}, but Twinbox needs 14 or newer.`)
  if (encoding !== 'UTF8') refuse(`The database's encoding is ${encoding}, but Twinbox needs UTF8.`)
  if (recovery) refuse('The server is a read-only standby. Connect to the primary.')
  if (readOnly) {
    refuse(
      'default_transaction_read_only is on for this server, database or user, so nothing can be written. Switch it off, or connect as somebody for whom it is off.',
    )
  }
}
