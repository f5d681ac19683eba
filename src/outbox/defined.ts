import { MessageError, type MessageErrorCode } from '../base/errors.ts'
import { limits } from '../base/options.ts'
import { parseHeaders } from '../base/telemetry.ts'
import { checkHeaders } from '../message/headers.ts'
import { checkText } from '../message/text.ts'
import type { CheckedMessage, NewMessage } from '../message/message.ts'
import { readPayload, versionHeader, type Reading } from '../topics/reading.ts'
import { versionOf, type Topics } from '../topics/topics.ts'

/**
 * A message as its topic is defined: its payload fits, it has the topic's key unless it has one of its own, and says its version.
 *
 * What is checked is the JSON that will be sent, read back, since that is what a claimer will check: a Date is text by then. It
 * is sent as it was published, and not as the schema gives it: a transformation or a default would be applied twice.
 *
 * @throws MessageError
 */
export async function asDefined(
  topics: Topics,
  message: CheckedMessage,
  given: Pick<NewMessage, 'key' | 'headers'>,
  at = '',
): Promise<CheckedMessage> {
  const { topic, content } = message
  const fail = (code: MessageErrorCode, path: string, text: string, cause?: unknown): never => {
    throw new MessageError(code, at + path, at + text, cause === undefined ? undefined : { cause })
  }
  const definition = topics.definitions.get(topic)
  if (definition === undefined) {
    const known = topics.names.slice(0, 20).join(', ') + (topics.names.length > 20 ? ', …' : '')
    return fail('UNKNOWN_TOPIC', 'topic', `topic is none of those that this outbox has been given: ${known}.`)
  }
  const payload: unknown = typeof content === 'string' ? JSON.parse(content) : content
  let read: Reading
  try {
    read = await readPayload(definition, payload)
  } catch (error) {
    return fail(
      'PAYLOAD_INVALID',
      'payload',
      `payload could not be checked: the schema of "${topic}" threw.`,
      error,
    )
  }
  if (read.wrong !== undefined)
    return fail(
      'PAYLOAD_INVALID',
      read.path,
      `${read.wrong} The topic is "${topic}". What is checked is the JSON of the payload, as a handler will get it.`,
    )
  const failAt = (code: MessageErrorCode, path: string, text: string): never =>
    fail(code, path, `${path} ${text}`)
  let { key } = message
  if (given.key === undefined && definition.key !== undefined) {
    try {
      key = definition.key(read.value) ?? null
    } catch (error) {
      return fail('INVALID_KEY', 'key', `key could not be made: that of the topic "${topic}" threw.`, error)
    }
    if (key !== null) checkText('key', key, limits.keyBytes, 'INVALID_KEY', failAt)
  }
  const own = parseHeaders(message.headers)
  if (own?.[versionHeader] !== undefined)
    failAt('HEADER_RESERVED', `headers["${versionHeader}"]`, `is said by the definition of "${topic}".`)
  const version = versionOf(definition)
  if (version === 1) return { ...message, key }
  return { ...message, key, headers: checkHeaders({ ...own, [versionHeader]: String(version) }, failAt) }
}
