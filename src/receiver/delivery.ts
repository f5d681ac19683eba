import type { DeliveredEvent, IncomingMessage } from '../brokers/broker.ts'
import { fieldsOfAttributes, fromWireHeaders } from '../brokers/cloudevent.ts'
import { admit, cut, isDeeper, jsonText } from '../database/gate.ts'
import type { InboxMessage } from '../database/inbox.ts'
import { describeError } from '../base/errors.ts'
import type { Redact } from '../base/redaction.ts'
import { carriedColumns } from '../message/row.ts'
import { isOutboxId, toMessageId, topicMatches } from '../message/message.ts'
import { limits } from '../base/options.ts'
import { placeOf } from './place.ts'

/** What makes a message of another system a message: above all an identity that is the same for every redelivery. */
export interface Identity {
  /** Of this text the message's id is made, the same for the same text. */
  readonly id: string
  /** Ordering key. @default what the broker says */
  readonly key?: string | null | undefined
}

/** For whom deliveries are read, and how those are told apart that are no CloudEvents. */
export interface Reading {
  readonly consumer: string
  /** Patterns of topics that it takes. */
  readonly topics: readonly string[]
  readonly maxPayloadBytes: number
  /** Of outboxes, whose ids are kept as they are. */
  readonly sources: readonly string[]
  readonly identify?: ((incoming: IncomingMessage) => Identity | null) | undefined
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
  const { topic, key, headers, contentType, body, position } = given as IncomingMessage
  if (
    typeof topic !== 'string' ||
    !(body instanceof Uint8Array) ||
    typeof headers !== 'object' ||
    headers === null
  )
    return false
  for (const name in headers) if (typeof headers[name] !== 'string') return false
  return [key, contentType, position].every((text) => text === null || typeof text === 'string')
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

type CloudEvent = ReturnType<typeof fromWireHeaders>

function read(incoming: IncomingMessage, as: Reading): InboxMessage | string {
  if (incoming.refused !== undefined) return incoming.refused
  const size = incoming.body.byteLength
  if (size > as.maxPayloadBytes)
    return `Its body has ${size} bytes, but the limit is ${as.maxPayloadBytes} (maxPayloadBytes).`
  const event = fromWireHeaders(incoming)
  const own = isOwn(event, as)
  const named = event?.attributes.get('id') ?? incoming.headers['message-id'] ?? ''
  if (named.includes('\ufffd') && (event !== null || as.identify === undefined))
    return 'Its id is no valid UTF-8: another one may look the same, and would be taken for it.'
  let identity: { readonly id: string; readonly key: string | null } | null
  try {
    identity = identityOf(incoming, event, own, as)
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
  if (as.topicOf !== undefined && !as.topics.some((pattern) => topicMatches(pattern, topic)))
    return `topicOf gave the topic "${cut(topic, 100)}", which is none that the receiver takes (topics).`
  const json = jsonText(incoming.contentType, incoming.body)
  if (json !== null && isDeeper(json, limits.receivedDepth))
    return `Its JSON is nested deeper than ${limits.receivedDepth} levels, the limit.`
  const carried = fieldsOfAttributes(event?.attributes ?? new Map<string, string>())
  // Assigned, not spread, see `withFields`.
  const offered = Object.assign(carried, {
    consumer: as.consumer,
    id: identity.id,
    topic,
    key: identity.key,
    headers: event === null ? incoming.headers : headersOf(event, own, topic),
    content: json ?? incoming.body,
    contentType: incoming.contentType,
  })
  return admit(offered)
}

/**
 * The topic under which the broker has delivered it, since the broker has checked who may send there. The type of a CloudEvent
 * is what the sender says: it would let whoever may send anything choose the handler.
 */
function topicOf(incoming: IncomingMessage, event: CloudEvent, as: Reading): string {
  if (as.topicOf === undefined) return incoming.topic
  const topic: unknown = as.topicOf({
    topic: incoming.topic,
    key: incoming.key,
    attributes: Object.fromEntries(event?.attributes ?? []),
    headers: event?.headers ?? incoming.headers,
  })
  if (typeof topic !== 'string') throw new TypeError('It gave no text.')
  return topic
}

const isOwn = (event: CloudEvent, { sources }: Reading): boolean =>
  event !== null &&
  sources.includes(event.attributes.get('source') ?? '') &&
  isOutboxId(event.attributes.get('id')!)

/** Each kind of identity for itself, and its parts told apart: or who may choose one could choose another's. */
function identityOf(
  incoming: IncomingMessage,
  event: CloudEvent,
  own: boolean,
  { identify }: Reading,
): { readonly id: string; readonly key: string | null } | null {
  const made = (...parts: readonly string[]): string => toMessageId(JSON.stringify(parts))
  if (event !== null) {
    const { attributes } = event
    const id = attributes.get('id')!
    const key = attributes.get('partitionkey') ?? incoming.key
    // Of other senders, only source and id together are an identity.
    return { id: own ? id.toLowerCase() : made('event', attributes.get('source') ?? '', id), key }
  }
  if (identify !== undefined) {
    const given = identify(incoming)
    if (given === null || typeof given.id !== 'string' || given.id === '') return null
    return { id: made('identify', given.id), key: given.key === undefined ? incoming.key : given.key }
  }
  const named = incoming.headers['message-id']
  if (named !== undefined) return { id: made('message-id', incoming.topic, named), key: incoming.key }
  const place = placeOf(incoming)
  return place === null ? null : { id: made('place', incoming.topic, place), key: incoming.key }
}

/** Attributes that are columns of a message, or headers already. */
const known = new Set([
  ...['specversion', 'traceparent', 'tracestate'],
  ...carriedColumns.map(({ attribute }) => attribute),
])

/**
 * The headers, and the attributes that nothing else of a message says, as `ce_type`: nothing at all for a message of our own
 * under its own topic.
 */
function headersOf(
  { attributes, headers }: NonNullable<CloudEvent>,
  own: boolean,
  topic: string,
): Readonly<Record<string, string>> {
  let all: Record<string, string> | null = null
  for (const [name, value] of attributes) {
    if (
      known.has(name) ||
      (own && (name === 'id' || name === 'source' || (name === 'type' && value === topic)))
    )
      continue
    // Mostly there is none: a copy for each message would be felt.
    ;(all ??= { ...headers })[`ce_${name}`] = value
  }
  return all ?? headers
}
