import type { DeliveredEvent, IncomingMessage } from '../brokers/broker.ts'
import { fieldsOfAttributes } from '../brokers/cloudevent.ts'
import { admit, cut } from '../database/gate.ts'
import type { InboxMessage } from '../database/inbox.ts'
import { describeError } from '../base/errors.ts'
import type { Redact } from '../base/redaction.ts'
import { takes } from '../message/message.ts'
import { headersOf, readEvent, saidBy, type Event } from './event.ts'
import { identityOf, isOwn, type Identify } from './identity.ts'

/** For whom deliveries are read, and how those are told apart that are no CloudEvents. */
export interface Reading {
  readonly consumer: string
  /** Patterns of topics that it takes. */
  readonly topics: readonly string[]
  readonly maxPayloadBytes: number
  /** Of outboxes, whose ids are kept as they are. */
  readonly sources: readonly string[]
  readonly identify?: Identify | undefined
  readonly topicOf?: ((event: DeliveredEvent) => string) | undefined
  readonly redact: Redact
}

/** What may be told of an error of a delivery. */
export function toldOf(
  error: unknown,
  { topic, key }: Pick<IncomingMessage, 'topic' | 'key'>,
  as: Reading,
): string {
  return describeError(as.redact(error, { consumer: as.consumer, id: null, topic, key, attempt: 0 }))
}

/**
 * What an adapter hands over, as the type says that it is. Anybody may write one, and what is no delivery is refused with what
 * can be kept of it: whoever trips over it would have the same batch again and again, and never what is behind it.
 */
export function toDelivery(given: unknown): IncomingMessage {
  try {
    const { topic, body } = (given ?? {}) as Partial<IncomingMessage>
    if (isDelivery(given)) return given
    return unreadable(typeof topic === 'string' ? topic : '', body instanceof Uint8Array ? body : nothing)
  } catch {
    return unreadable('', nothing)
  }
}

function isDelivery(given: unknown): given is IncomingMessage {
  if (typeof given !== 'object' || given === null) return false
  const { topic, key, headers, properties, contentType, body, position } = given as IncomingMessage
  if (
    typeof topic !== 'string' ||
    !(body instanceof Uint8Array) ||
    !areTexts(headers) ||
    (properties !== undefined && !areTexts(properties))
  )
    return false
  return [key, contentType, position].every((text) => text === null || typeof text === 'string')
}

function areTexts(given: unknown): given is Record<string, string> {
  if (typeof given !== 'object' || given === null) return false
  for (const name in given) if (typeof (given as Record<string, unknown>)[name] !== 'string') return false
  return true
}

const nothing = Buffer.alloc(0)
const unreadable = (topic: string, body: Uint8Array): IncomingMessage => ({
  ...{ topic, key: null, headers: {}, contentType: null, body, position: null, redelivered: false },
  refused: 'Its adapter has handed over what is no delivery: a field is missing, or of another type.',
})

/** The message that a delivery is, or why it is none. Does not throw, whatever the delivery is. */
export function readDelivery(incoming: IncomingMessage, as: Reading): InboxMessage | string {
  try {
    return read(incoming, as)
  } catch (error) {
    return `It could not be read: ${toldOf(error, incoming, as)}`
  }
}

function read(incoming: IncomingMessage, as: Reading): InboxMessage | string {
  if (incoming.refused !== undefined) return incoming.refused
  const size = incoming.body.byteLength
  if (size > as.maxPayloadBytes)
    return `Its body has ${size} bytes, but the limit is ${as.maxPayloadBytes} (maxPayloadBytes).`
  const event = readEvent(incoming)
  if (typeof event === 'string') return event
  const own = isOwn(event, as.sources)
  const named = event.complete ? event.attributes.get('id')! : (incoming.headers['message-id'] ?? '')
  if (named.includes('\ufffd') && (event.complete || as.identify === undefined))
    return 'Its id is no valid UTF-8: another one may look the same, and would be taken for it.'
  let identity: { readonly id: string; readonly key: string | null } | null
  try {
    identity = identityOf(incoming, event, own, as.identify)
  } catch (error) {
    return `identify threw: ${toldOf(error, incoming, as)}`
  }
  if (identity === null) return 'It has no identity: it is no CloudEvent, and identify gave none.'
  let topic: string
  try {
    topic = topicOf(incoming, event, as)
  } catch (error) {
    return `topicOf threw: ${toldOf(error, incoming, as)}`
  }
  if (as.topicOf !== undefined && !takes(as.topics, topic))
    return `topicOf gave the topic "${cut(topic, 100)}", which is none that the receiver takes (topics).`
  const carried = fieldsOfAttributes(event.complete ? event.attributes : new Map<string, string>())
  // Assigned, not spread, see `withFields`.
  const offered = Object.assign(carried, {
    consumer: as.consumer,
    id: identity.id,
    topic,
    key: identity.key,
    headers: headersOf(event, incoming.properties, own, topic),
    content: event.content,
    contentType: event.contentType,
  })
  return admit(offered)
}

/**
 * The topic under which the broker has delivered it, since the broker has checked who may send there. The type of a CloudEvent
 * is what the sender says: it would let whoever may send anything choose the handler.
 */
function topicOf(incoming: IncomingMessage, event: Event, as: Reading): string {
  if (as.topicOf === undefined) return incoming.topic
  const { topic: delivered, key } = incoming
  const topic: unknown = as.topicOf({
    ...{ topic: delivered, key, attributes: saidBy(event, incoming) },
    headers: event.headers,
  })
  if (typeof topic !== 'string') throw new TypeError('It gave no text.')
  return topic
}
