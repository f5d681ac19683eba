import { openDatabase, type DatabaseInput } from '../database/database.ts'
import { checkSchemaVersion } from '../database/migrate.ts'
import { messageStates } from '../database/sql/placed.ts'
import { privacySql } from '../database/sql/privacy.ts'
import { refuseUnknown } from '../base/options.ts'
import { toPlaced, type PlacedMessage } from './messages.ts'
import { readTarget, withIds, type Matching, type Target } from './target.ts'

/** Of 1 MiB each, they have to fit into memory. */
const batch = 50

/**
 * Reads all messages of a key, an id or a dedupe key whole, payloads included, one state after the other. Nothing is changed. One
 * that moves meanwhile may come twice or not at all. Not read: copies at the broker, schedules, and what operators did
 * (`showMessage`).
 *
 * @throws OptionError, SchemaError, or the database's error
 */
export function exportMessages(
  input: DatabaseInput,
  target: Target,
  options: { readonly schema?: string | undefined } = {},
): AsyncGenerator<PlacedMessage> {
  refuseUnknown('exportMessages', options, ['schema'])
  return read(input, readTarget('exportMessages', target), options.schema)
}

async function* read(
  input: DatabaseInput,
  asked: Matching,
  schema: string | undefined,
): AsyncGenerator<PlacedMessage> {
  const { database, owned } = openDatabase(input, { schema, poolSize: 1 })
  try {
    await checkSchemaVersion(database)
    const sql = privacySql(database.schema)
    const matching = await withIds(
      (statement, ...given) => database.query(statement, ...given),
      database.schema,
      asked,
    )
    for (const state of messageStates) {
      const all = await database.query(sql.places[state], matching)
      for (let start = 0; start < all.length; start += batch) {
        const places = all.slice(start, start + batch).map(({ place }) => place)
        for (const row of await database.query(sql.page[state], { ...matching, places })) yield toPlaced(row)
      }
    }
  } finally {
    if (owned) await database.close()
  }
}
