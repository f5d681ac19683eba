import { openDatabase, type DatabaseInput } from '../database/database.ts'
import { checkSchemaVersion } from '../database/migrate.ts'
import { holders, privacySql, type ExportedRow, type Holder } from '../database/sql/privacy.ts'
import { refuseUnknown } from '../base/options.ts'
import { jsonContentType } from '../message/message.ts'
import type { FailedAttempt } from '../message/row.ts'
import { readTarget, withIds, type Matching, type Target } from './target.ts'

/** A message as one table holds it. */
export interface ExportedMessage {
  /** The table. */
  readonly place: Holder
  /** Null for the outbox. */
  readonly consumer: string | null
  readonly id: string
  readonly topic: string
  readonly key: string | null
  readonly publishedAt: Date | null
  readonly expiresAt: Date | null
  readonly attempt: number
  readonly reason: string | null
  readonly errors: readonly FailedAttempt[]
  readonly headers: Readonly<Record<string, string>>
  readonly contentType: string
  /** JSON text or bytes; none of what was handled. */
  readonly payload?: string | Uint8Array
}

/** Of 1 MiB each, they have to fit into memory. */
const batch = 50

/**
 * Reads all messages of a key, an id or a dedupe key whole, payloads included, table by table. Nothing is changed. One that
 * moves meanwhile may come twice or not at all. Not read: copies at the broker, schedules, and what operators did (`showMessage`).
 *
 * @throws OptionError, SchemaError, or the database's error
 */
export function exportMessages(
  input: DatabaseInput,
  target: Target,
  options: { readonly schema?: string | undefined } = {},
): AsyncGenerator<ExportedMessage> {
  refuseUnknown('exportMessages', options, ['schema'])
  return read(input, readTarget('exportMessages', target), options.schema)
}

async function* read(
  input: DatabaseInput,
  asked: Matching,
  schema: string | undefined,
): AsyncGenerator<ExportedMessage> {
  const { database, owned } = openDatabase(input, { schema, poolSize: 1 })
  try {
    await checkSchemaVersion(database)
    const sql = privacySql(database.schema)
    const matching = await withIds(
      (statement, ...given) => database.query(statement, ...given),
      database.schema,
      asked,
    )
    for (const table of holders) {
      const all = await database.query(sql.places[table], matching)
      for (let start = 0; start < all.length; start += batch) {
        const places = all.slice(start, start + batch).map(({ place }) => place)
        for (const row of await database.query(sql.page[table], { ...matching, places }))
          yield toExported(row)
      }
    }
  } finally {
    if (owned) await database.close()
  }
}

function toExported(row: ExportedRow): ExportedMessage {
  const payload = row.payload ?? row.body ?? null
  return {
    place: row.place,
    consumer: row.consumer || null,
    id: row.id,
    topic: row.topic,
    key: row.key,
    publishedAt: row.published_at,
    expiresAt: row.expires_at ?? null,
    attempt: row.attempt,
    reason: row.reason,
    errors: row.errors ?? [],
    headers: row.headers == null ? {} : (JSON.parse(row.headers) as Record<string, string>),
    contentType: row.content_type ?? jsonContentType,
    ...(payload === null ? {} : { payload }),
  }
}
