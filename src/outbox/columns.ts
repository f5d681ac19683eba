import { anyLane } from '../database/layout.ts'
import type { outboxSql } from '../database/sql/outbox.ts'
import type { ValuesOf } from '../database/sql/parameter.ts'
import type { CheckedMessage } from '../message/message.ts'

const jsonOf = ({ content }: CheckedMessage): string | null => (typeof content === 'string' ? content : null)
const bodyOf = ({ content }: CheckedMessage): Buffer | null =>
  typeof content === 'string' ? null : asBuffer(content)

type Statements = ReturnType<typeof outboxSql>

/** What a statement that publishes several is given. */
export const columnsOf = (
  messages: readonly CheckedMessage[],
  locks: boolean,
): ValuesOf<Statements['publish']['takes']> => ({
  ids: messages.map(({ id }) => id),
  topics: messages.map(({ topic }) => topic),
  keys: messages.map(({ key }) => key),
  headers: messages.map(({ headers }) => headers),
  payloads: messages.map(jsonOf),
  bodies: messages.map(bodyOf),
  contentTypes: messages.map(({ contentType }) => contentType),
  dedupeKeys: messages.map(({ dedupeKey }) => dedupeKey),
  firstLane: anyLane(),
  locks,
})

type Times = Record<'deliverAt' | 'delaysMs' | 'expiresAt', readonly (string | null)[]>

/** The times of messages that have some. */
export const timesOf = (messages: readonly CheckedMessage[]): Times => ({
  // What is past is sent at once, however long it is past: Postgres and JavaScript write years before 1 differently.
  deliverAt: messages.map(({ deliverAt }) => deliverAt && iso(Math.max(deliverAt.getTime(), 0))),
  delaysMs: messages.map(({ delayMs }) => (delayMs === null ? null : String(delayMs))),
  expiresAt: messages.map(({ expiresAt }) => expiresAt && iso(expiresAt.getTime())),
})

const iso = (time: number): string => new Date(time).toISOString()

/** What a statement that publishes one is given. */
export const fieldsOf = (
  message: CheckedMessage,
  locks: boolean,
): ValuesOf<Statements['publishOne']['takes']> => ({
  id: message.id,
  topic: message.topic,
  key: message.key,
  headers: message.headers,
  payload: jsonOf(message),
  body: bodyOf(message),
  contentType: message.contentType,
  lane: anyLane(),
  locks,
})

function asBuffer(bytes: Uint8Array): Buffer {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength)
}
