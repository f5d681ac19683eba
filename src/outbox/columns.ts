import { anyLane } from '../database/layout.ts'
import { publishedColumns, valuesOf } from '../database/sql/columns.ts'
import type { outboxSql } from '../database/sql/outbox.ts'
import type { ValuesOf } from '../database/sql/parameter.ts'
import type { CheckedMessage } from '../message/message.ts'

/** A message as the columns have it. */
const stored = <Message extends CheckedMessage>(
  message: Message,
): Message & { payload: string | null; body: Buffer | null } =>
  typeof message.content === 'string'
    ? { ...message, payload: message.content, body: null }
    : { ...message, payload: null, body: asBuffer(message.content) }

type Statements = ReturnType<typeof outboxSql>

/** What a statement that publishes several is given. */
export const columnsOf = (
  messages: readonly CheckedMessage[],
  locks: boolean,
): ValuesOf<Statements['publish']['takes']> => ({
  ...valuesOf(publishedColumns, messages.map(stored)),
  dedupeKey: messages.map(({ dedupeKey }) => dedupeKey),
  firstLane: anyLane(),
  locks,
})

type Times = Record<'deliverAt' | 'delayMs' | 'expiresAt', readonly (string | null)[]>

/** The times of messages that have some. */
export const timesOf = (messages: readonly CheckedMessage[]): Times => ({
  // What is past is sent at once, however long it is past: Postgres and JavaScript write years before 1 differently.
  deliverAt: messages.map(({ deliverAt }) => deliverAt && iso(Math.max(deliverAt.getTime(), 0))),
  delayMs: messages.map(({ delayMs }) => (delayMs === null ? null : String(delayMs))),
  expiresAt: messages.map(({ expiresAt }) => expiresAt && iso(expiresAt.getTime())),
})

const iso = (time: number): string => new Date(time).toISOString()

/** What a statement that publishes one is given. */
export const fieldsOf = (
  message: CheckedMessage,
  locks: boolean,
): ValuesOf<Statements['publishOne']['takes']> => ({ ...stored(message), lane: anyLane(), locks })

function asBuffer(bytes: Uint8Array): Buffer {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength)
}
