import { MessageError } from '../base/errors.ts'
import { limits } from '../base/options.ts'
import { anyLane } from '../database/layout.ts'
import { publishedColumns, valuesOf } from '../database/sql/columns.ts'
import type { outboxSql } from '../database/sql/outbox.ts'
import type { ValuesOf } from '../database/sql/parameter.ts'
import type { CheckedMessage } from '../message/message.ts'
import { fieldOf, textColumns, type FieldsOf } from '../message/row.ts'

/** A message as the columns have it, field by field: an object for each message in between would be thrown away at once. */
function stored(message: CheckedMessage, field: PublishedField): string | Buffer | null {
  const { content } = message
  if (field === 'payload') return typeof content === 'string' ? content : null
  if (field === 'body') return typeof content === 'string' ? null : asBuffer(content)
  return message[field]
}

type Published = FieldsOf<(typeof publishedColumns)[number]>
type PublishedField = keyof Published
const publishedFields: readonly PublishedField[] = publishedColumns.map(fieldOf)
type Statements = ReturnType<typeof outboxSql>

/** What a statement that publishes several is given. */
export const columnsOf = (
  messages: readonly CheckedMessage[],
  locks: boolean,
): ValuesOf<Statements['publish']['takes']> => ({
  ...valuesOf(publishedColumns, messages, stored),
  firstLane: anyLane(),
  locks,
})

/** And several of which some have a dedupe key or a time. */
export const timedColumnsOf = (
  messages: readonly CheckedMessage[],
  locks: boolean,
  windowMs: number,
): ValuesOf<Statements['publishTimed']['takes']> => ({
  ...columnsOf(messages, locks),
  dedupeKey: messages.map(({ dedupeKey }) => dedupeKey),
  windowMs,
  deliverAt: messages.map(dueOf),
  delayMs: messages.map(({ delayMs }) => (delayMs === null ? null : String(delayMs))),
  expiresAt: messages.map(endOf),
})

// What is past is sent at once, however long it is past: Postgres and JavaScript write years before 1 differently.
const dueOf = ({ deliverAt }: CheckedMessage): string | null =>
  deliverAt && iso(Math.max(deliverAt.getTime(), 0))
const endOf = ({ expiresAt }: CheckedMessage): string | null => expiresAt && iso(expiresAt.getTime())
const iso = (time: number): string => new Date(time).toISOString()

/** What a statement that publishes one is given. */
export const fieldsOf = (
  message: CheckedMessage,
  locks: boolean,
): ValuesOf<Statements['publishOne']['takes']> => {
  const values: Record<string, unknown> = { lane: anyLane(), locks }
  for (const field of publishedFields) values[field] = stored(message, field)
  return values as ValuesOf<Statements['publishOne']['takes']>
}

/** And one that has a dedupe key or a time. */
export const timedFieldsOf = (
  message: CheckedMessage,
  locks: boolean,
  windowMs: number,
): ValuesOf<Statements['publishOneTimed']['takes']> => ({
  ...fieldsOf(message, locks),
  dedupeKey: message.dedupeKey,
  windowMs,
  deliverAt: dueOf(message),
  delayMs: message.delayMs,
  expiresAt: endOf(message),
})

function asBuffer(bytes: Uint8Array): Buffer {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength)
}

/** What is more in all than one statement can take. @throws MessageError */
export function refuseTooMuch(messages: readonly CheckedMessage[]): void {
  let size = 0
  for (const message of messages) {
    size += message.content.length + (message.headers?.length ?? 0) + (message.dedupeKey?.length ?? 0) + 64
    for (const { field } of textColumns) size += message[field]?.length ?? 0
  }
  if (size > limits.publishBytes) {
    throw new MessageError(
      'PAYLOAD_TOO_LARGE',
      'messages',
      `messages have about ${size} bytes in all, but the limit is ${limits.publishBytes}. Publish them in several calls.`,
    )
  }
}
