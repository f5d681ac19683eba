import { MessageError, TwinboxError, type MessageErrorCode } from '../base/errors.ts'
import {
  jsonContentType,
  newMessageId,
  uuidPattern,
  type CheckedMessage,
  type NewMessage,
} from './message.ts'
import { faultOfTombstone } from './tombstone.ts'
import { limits } from '../base/options.ts'
import { checkHeaders } from './headers.ts'
import { asBytes, toJson } from './payload.ts'
import { checkText, type Fail } from './text.ts'

/**
 * The checks on a message before it is published.
 *
 * Everything that Postgres or a broker could refuse is refused here, before any SQL: an error inside the caller's
 * transaction would abort the caller's work, and an error in the relay would come too late to be heard.
 */

const topicPattern = new RegExp(`^[A-Za-z0-9._-]{1,${limits.topicLength}}$`)
// ASCII throughout: which other characters are spaces or control characters, each locale of a database sees its own way.
const contentTypePattern = /^[A-Za-z0-9!#$&^_.+-]+\/[A-Za-z0-9!#$&^_.+-]+( *; *[!-:<-~]+)*$/
const knownFields = new Set([
  ...['topic', 'key', 'payload', 'headers', 'contentType', 'dedupeKey'],
  ...['deliverAt', 'delayMs', 'expiresAt'],
])

/** Checks a message and gives it an id. @throws MessageError naming the path, the limit and what was found. */
export function checkMessage(message: NewMessage, maxPayloadBytes: number, at = ''): CheckedMessage {
  try {
    return check(message, maxPayloadBytes, at)
  } catch (error) {
    if (error instanceof TwinboxError) throw error
    const path = at.slice(0, -1) || 'message'
    throw new MessageError('INVALID_MESSAGE', path, `${path} could not be read: a getter or a proxy threw.`, {
      cause: error,
    })
  }
}

function check(message: NewMessage, maxPayloadBytes: number, at: string): CheckedMessage {
  const fail = (code: MessageErrorCode, path: string, text: string): never => {
    throw new MessageError(code, at + path, `${at}${path} ${text}`)
  }
  if (typeof message !== 'object' || message === null) {
    const path = at.slice(0, -1) || 'message'
    throw new MessageError('INVALID_MESSAGE', path, `${path} must be an object with a topic and a payload.`)
  }
  for (const field in message) {
    if (!knownFields.has(field)) {
      fail(
        'UNKNOWN_OPTION',
        field.slice(0, 100),
        `is not an option of publish. Known are: ${[...knownFields].join(', ')}.`,
      )
    }
  }
  const { topic, key, payload, headers, contentType, dedupeKey } = message
  checkTopic(topic, fail)
  if (key !== undefined && key !== null) checkText('key', key, limits.keyBytes, 'INVALID_KEY', fail)
  if (dedupeKey !== undefined) {
    checkText('dedupeKey', dedupeKey, limits.dedupeKeyBytes, 'INVALID_DEDUPE_KEY', fail)
  }
  const bytes = asBytes(payload)
  if (bytes !== null) {
    if (contentType !== undefined) checkContentType(contentType, fail)
    const fault = faultOfTombstone(contentType, bytes, key)
    if (fault !== null) fail(...fault)
  } else if (contentType !== undefined && contentType !== jsonContentType) {
    fail(
      'PAYLOAD_TYPE',
      'contentType',
      'goes with a Uint8Array payload; anything else is sent as application/json.',
    )
  }
  const content = bytes ?? toJson(payload, maxPayloadBytes, at)
  const size = typeof content === 'string' ? Buffer.byteLength(content) : content.byteLength
  if (size > maxPayloadBytes) {
    fail(
      'PAYLOAD_TOO_LARGE',
      'payload',
      `has ${size} bytes, but the limit is ${maxPayloadBytes} (maxPayloadBytes).`,
    )
  }
  return {
    id: newMessageId(),
    topic,
    key: key ?? null,
    headers: headers === undefined ? null : checkHeaders(headers, fail),
    content,
    contentType: bytes === null ? null : (contentType ?? 'application/octet-stream'),
    dedupeKey: dedupeKey ?? null,
    ...checkTimes(message, fail),
  }
}

const untimed = { deliverAt: null, delayMs: null, expiresAt: null }

/** When it is to be sent, and until when to be handled. */
function checkTimes(
  { deliverAt, delayMs, expiresAt }: NewMessage,
  fail: Fail,
): Pick<CheckedMessage, 'deliverAt' | 'delayMs' | 'expiresAt'> {
  if (deliverAt === undefined && delayMs === undefined && expiresAt === undefined) return untimed
  const sendAt = deliverAt === undefined ? null : checkDate('deliverAt', deliverAt, fail)
  if (delayMs !== undefined) {
    if (deliverAt !== undefined) fail('INVALID_DURATION', 'delayMs', 'excludes deliverAt: give one of them.')
    if (typeof delayMs !== 'number' || !(delayMs >= 0 && delayMs <= limits.aheadMs)) {
      const found = typeof delayMs === 'number' ? String(delayMs) : `of type ${typeof delayMs}`
      fail('INVALID_DURATION', 'delayMs', `is ${found}, but must be a number from 0 to ${limits.aheadMs}.`)
    }
  }
  const expires = expiresAt === undefined ? null : checkDate('expiresAt', expiresAt, fail)
  const sentFrom = Math.max(Date.now(), sendAt?.getTime() ?? Date.now() + (delayMs ?? 0))
  if (expires !== null && expires.getTime() <= sentFrom)
    fail('INVALID_DATE', 'expiresAt', 'is not after the time from which it can be sent.')
  return { deliverAt: sendAt, delayMs: delayMs ?? null, expiresAt: expires }
}

/** A copy: what is stored is the time that was checked, whatever the methods of the Date give later. */
function checkDate(path: string, value: unknown, fail: Fail): Date {
  const copy = new Date(value instanceof Date ? value : Number.NaN)
  if (Number.isNaN(copy.getTime())) fail('INVALID_DATE', path, 'must be a valid Date.')
  if (copy.getTime() > Date.now() + limits.aheadMs)
    fail('INVALID_DATE', path, `is more than ${limits.aheadMs} ms ahead, the limit.`)
  return copy
}

export function checkTopic(topic: unknown, fail: Fail): void {
  if (typeof topic !== 'string' || !topicPattern.test(topic)) {
    const found =
      typeof topic === 'string' ? `has ${topic.length} characters, or others` : `is of type ${typeof topic}`
    fail(
      'INVALID_TOPIC',
      'topic',
      `must be 1 to ${limits.topicLength} characters of A-Z a-z 0-9 . _ - and ${found}.`,
    )
  }
  if (topic === '.' || topic === '..')
    fail('INVALID_TOPIC', 'topic', 'may not be "." or "..": Kafka forbids both.')
}

function checkContentType(contentType: unknown, fail: Fail): void {
  const max = limits.contentTypeLength
  if (typeof contentType !== 'string' || contentType.length > max || !contentTypePattern.test(contentType)) {
    const found =
      typeof contentType === 'string' ? `has ${contentType.length}` : `is of type ${typeof contentType}`
    fail(
      'INVALID_TEXT',
      'contentType',
      `must be a media type such as application/avro, of at most ${max} characters; it ${found}.`,
    )
  }
}

/** What names a delayed message. @throws MessageError */
export function checkCancellable(which: {
  readonly id?: string
  readonly topic?: string
  readonly dedupeKey?: string
}): { id: string | null; topic: string | null; dedupeKey: string | null } {
  const fail: Fail = (code, path, text) => {
    throw new MessageError(code, path, `${path} ${text}`)
  }
  const { id, topic, dedupeKey } = which ?? {}
  if (id !== undefined) {
    if (topic !== undefined || dedupeKey !== undefined)
      fail('UNKNOWN_OPTION', 'id', 'excludes topic and dedupeKey.')
    if (typeof id !== 'string' || !uuidPattern.test(id)) fail('INVALID_MESSAGE', 'id', 'must be a UUID.')
    return { id, topic: null, dedupeKey: null }
  }
  checkTopic(topic, fail)
  checkText('dedupeKey', dedupeKey, limits.dedupeKeyBytes, 'INVALID_DEDUPE_KEY', fail)
  return { id: null, topic: topic!, dedupeKey: dedupeKey! }
}
