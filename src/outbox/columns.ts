import { anyLane } from '../database/layout.ts'
import { arrayText, bytesArray, joined, plainArray, textArray } from '../database/sql/statement.ts'
import type { CheckedMessage } from '../message/message.ts'

const jsonOf = ({ content }: CheckedMessage): string | null => (typeof content === 'string' ? content : null)
const bodyOf = ({ content }: CheckedMessage): Buffer | null =>
  typeof content === 'string' ? null : asBuffer(content)

/**
 * The parameters of a statement that publishes several. Texts, all of them, and what they are stands in the statement: data
 * libraries have ideas of their own of JSON, arrays and dates, and would store something else.
 */
export function columnsOf(
  messages: readonly CheckedMessage[],
  orderingLock: boolean,
  dedupeWindowMs?: number,
): (string | null)[] {
  return [
    arrayText(messages.map(({ id }) => id)),
    plainArray(messages.map(({ topic }) => topic)),
    textArray(messages.map(({ key }) => key)),
    joined(messages.map(({ headers }) => headers)),
    joined(messages.map(jsonOf)),
    bytesArray(messages.map(bodyOf)),
    textArray(messages.map(({ contentType }) => contentType)),
    textArray(messages.map(({ dedupeKey }) => dedupeKey)),
    String(anyLane()),
    String(orderingLock),
    ...(dedupeWindowMs === undefined ? [] : [String(dedupeWindowMs)]),
  ]
}

/** Further ones, of messages that have a time. */
export const timesOf = (messages: readonly CheckedMessage[]): (string | null)[] => [
  // What is past is sent at once, however long it is past: Postgres and JavaScript write years before 1 differently.
  textArray(messages.map(({ deliverAt }) => deliverAt && iso(Math.max(deliverAt.getTime(), 0)))),
  textArray(messages.map(({ delayMs }) => (delayMs === null ? null : String(delayMs)))),
  textArray(messages.map(({ expiresAt }) => expiresAt && iso(expiresAt.getTime()))),
]

const iso = (time: number): string => new Date(time).toISOString()

/** Those of the one that publishes one. Bytes are bytes for every driver. */
export function fieldsOf(message: CheckedMessage, orderingLock: boolean): (string | Buffer | null)[] {
  const { id, topic, key, headers, contentType } = message
  const content = [headers, jsonOf(message), bodyOf(message), contentType]
  return [id, topic, key, ...content, String(anyLane()), String(orderingLock)]
}

function asBuffer(bytes: Uint8Array): Buffer {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength)
}
