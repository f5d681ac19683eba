import { arrayText, joined, plainArray, unlessEmpty } from '../database/sql/statement.ts'
import type { CheckedMessage } from '../message.ts'

/** For messages that have no key, where their lanes begin. */
const anyLane = (): number => Math.floor(Math.random() * 64)

const jsonOf = ({ content }: CheckedMessage): string | null => (typeof content === 'string' ? content : null)
const bodyOf = ({ content }: CheckedMessage): Buffer | null =>
  typeof content === 'string' ? null : asBuffer(content)

/** The parameters of a statement that publishes several. */
export function columnsOf(messages: readonly CheckedMessage[], orderingLock: boolean): unknown[] {
  return [
    arrayText(messages.map(({ id }) => id)),
    plainArray(messages.map(({ topic }) => topic)),
    unlessEmpty(messages.map(({ key }) => key)),
    joined(messages.map(({ headers }) => headers)),
    joined(messages.map(jsonOf)),
    unlessEmpty(messages.map(bodyOf)),
    unlessEmpty(messages.map(({ contentType }) => contentType)),
    unlessEmpty(messages.map(({ dedupeKey }) => dedupeKey)),
    anyLane(),
    orderingLock,
  ]
}

/** Those of the one that publishes one. */
export function fieldsOf(message: CheckedMessage, orderingLock: boolean): unknown[] {
  const { id, topic, key, headers, contentType } = message
  return [id, topic, key, headers, jsonOf(message), bodyOf(message), contentType, anyLane(), orderingLock]
}

function asBuffer(bytes: Uint8Array): Buffer {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength)
}
