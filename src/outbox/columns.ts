import { MessageError } from '../base/errors.ts'
import { limits } from '../base/options.ts'
import { anyLane } from '../database/layout.ts'
import { publishedColumns, valuesOf } from '../database/sql/columns.ts'
import type { outboxSql } from '../database/sql/outbox.ts'
import type { ValuesOf } from '../database/sql/parameter.ts'
import type { CheckedMessage } from '../message/message.ts'
import { fieldOf, textColumns, type FieldsOf } from '../message/row.ts'

/** A message as the columns have it, in the object that is given, see `withFields`. */
function stored<Values extends object>(message: CheckedMessage, values: Values): Values & Published {
  const { content } = message
  const isText = typeof content === 'string'
  const given = { payload: isText ? content : null, body: isText ? null : asBuffer(content) }
  const target = values as Record<string, unknown>
  for (const field of publishedFields)
    target[field] = field === 'payload' || field === 'body' ? given[field] : message[field]
  return values as Values & Published
}

type Published = FieldsOf<(typeof publishedColumns)[number]>
const publishedFields = publishedColumns.map(fieldOf)
type Statements = ReturnType<typeof outboxSql>

/** What a statement that publishes several is given. */
export const columnsOf = (
  messages: readonly CheckedMessage[],
  locks: boolean,
): ValuesOf<Statements['publish']['takes']> => ({
  ...valuesOf(
    publishedColumns,
    messages.map((message) => stored(message, {})),
  ),
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
): ValuesOf<Statements['publishOne']['takes']> => stored(message, { lane: anyLane(), locks })

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
