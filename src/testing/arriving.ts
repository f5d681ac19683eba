import type { ClaimedRow } from '../database/sql/inbox.ts'
import { MessageError } from '../base/errors.ts'
import { limits } from '../base/options.ts'
import { parseHeaders } from '../base/telemetry.ts'
import { attributePrefix, isProperty } from '../message/attributes.ts'
import { checkMessage } from '../message/check.ts'
import { uuidPattern, type Message, type NewMessage } from '../message/message.ts'
import { asDefined } from '../outbox/defined.ts'
import { versionHeader } from '../topics/reading.ts'
import { versionOf, type Topics } from '../topics/topics.ts'

/** A message on its way to a handler, as it is published, as `published` tells it or as a handler gets it. What it does not say is filled in. */
export interface Arriving
  extends
    Pick<NewMessage, 'topic' | 'payload' | 'key' | 'headers' | 'contentType'>,
    Partial<Pick<Message, 'id' | 'attributes' | 'publishedAt' | 'receivedAt' | 'expiresAt'>> {
  /** Nothing: it has been sent. */
  readonly deliverAt?: Date | null | undefined
}

/**
 * The row of the inbox that it would be. With defined topics it has the key and the version that `publish` would give it, unless it says
 * them; that its payload does not fit is for the claimer to find out.
 *
 * @throws MessageError for what no publisher could send
 */
export async function arrivalOf(
  message: Arriving,
  topics: Topics | null,
): Promise<Omit<ClaimedRow, 'attempt'>> {
  const { topic, payload, key, headers: said = {}, attributes = {} } = message
  const foreign = Object.entries({ ...said, ...prefixed(attributes) }).filter(([name]) => isForeign(name))
  const headers = Object.fromEntries(Object.entries(said).filter(([name]) => !isForeign(name)))
  const bytes = payload instanceof Uint8Array
  const given: NewMessage = {
    topic,
    payload,
    ...(key === undefined ? {} : { key }),
    headers,
    ...(bytes && message.contentType !== undefined ? { contentType: message.contentType } : {}),
  }
  let checked = checkMessage(given, limits.receivedBytes)
  const definition = topics?.definitions.get(topic)
  if (topics !== null && definition !== undefined && headers[versionHeader] === undefined) {
    const version = versionOf(definition)
    const numbered = { ...checked, headers: JSON.stringify({ ...headers, [versionHeader]: String(version) }) }
    checked = await asDefined(topics, checked, given).catch(() => (version === 1 ? checked : numbered))
  }
  const { content } = checked
  const all = { ...parseHeaders(checked.headers), ...Object.fromEntries(foreign) }
  if (message.id !== undefined && !uuidPattern.test(message.id))
    throw new MessageError('INVALID_MESSAGE', 'id', 'id must be the id of a message, a UUID.')
  const now = new Date()
  const expires = dateOf('expiresAt', message.expiresAt, null)
  return {
    id: message.id ?? checked.id,
    topic,
    key: checked.key,
    headers: Object.keys(all).length === 0 ? null : JSON.stringify(all),
    payload: typeof content === 'string' ? content : null,
    body: typeof content === 'string' ? null : Buffer.from(content),
    content_type: checked.contentType,
    published_at: dateOf('publishedAt', message.publishedAt, now),
    received_at: dateOf('receivedAt', message.receivedAt ?? undefined, now)!,
    expires_at: expires,
    expires_in_ms: expires && expires.getTime() - now.getTime(),
    ...{ lane: 0, seq: 1, fence: 1, crashes: 0 },
  }
}

const isForeign = (name: string): boolean => name.startsWith(attributePrefix) || isProperty(name)
const prefixed = (attributes: Readonly<Record<string, string>>): Record<string, string> =>
  Object.fromEntries(
    Object.entries(attributes).map(([name, value]) => [
      isProperty(name) ? name : attributePrefix + name,
      value,
    ]),
  )

function dateOf(path: string, given: Date | null | undefined, otherwise: Date | null): Date | null {
  if (given === undefined) return otherwise
  if (given === null || (given instanceof Date && !Number.isNaN(given.getTime()))) return given
  throw new MessageError('INVALID_DATE', path, `${path} must be a valid Date, or null.`)
}
