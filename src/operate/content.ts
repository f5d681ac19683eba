import type { Database } from '../database/database.ts'
import { messageSql } from '../database/sql/message.ts'
import type { MessageState } from '../database/sql/placed.ts'
import type { FoundRow } from '../database/sql/search.ts'
import { jsonContentType } from '../message/message.ts'

/** What a message brings: what a reader may not see. */
export interface MessageContent {
  readonly headers: Readonly<Record<string, string>>
  readonly contentType: string
  /** JSON text or bytes. */
  readonly payload: string | Uint8Array
}

/** Where a message stands, as a search has found it. */
export type Standing = Pick<FoundRow, 'state' | 'consumer' | 'lane' | 'key' | 'topic' | 'place'>

/**
 * Reads headers and payload of a message where it was found; null if it has gone on, or if nothing of its content is kept there.
 *
 * @throws the database's error, for a role that may not see them
 */
export async function readContent(
  database: Database,
  id: string,
  { state, ...standing }: Standing,
): Promise<MessageContent | null> {
  if (!hasContent(state)) return null
  const { content } = messageSql(database.schema)
  const [row] = await database.query(content[state], { ...standing, id })
  if (row === undefined) return null
  return {
    headers: row.headers === null ? {} : (JSON.parse(row.headers) as Record<string, string>),
    contentType: row.content_type ?? jsonContentType,
    payload: row.payload ?? row.body ?? '',
  }
}

const hasContent = (state: MessageState): state is Exclude<MessageState, 'handled'> => state !== 'handled'
