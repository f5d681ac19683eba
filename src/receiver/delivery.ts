import type { IncomingMessage } from '../brokers/broker.ts'
import { fromWireHeaders } from '../brokers/cloudevent.ts'
import { admit, isDeeper, jsonText } from '../database/gate.ts'
import type { InboxMessage } from '../database/inbox.ts'
import { describeError } from '../base/errors.ts'
import { toMessageId } from '../message/message.ts'
import { limits } from '../base/options.ts'
import { placeOf } from './place.ts'

/** What makes a message of another system a message: above all an identity that is the same for every redelivery. */
export interface Identity {
  /** A UUID is taken as it is; of any other text a UUID is made, the same for the same text. */
  readonly id: string
  /** @default what the broker says */
  readonly topic?: string | undefined
  /** Ordering key. @default what the broker says */
  readonly key?: string | null | undefined
}

/** For whom deliveries are read, and how those are told apart that are no CloudEvents. */
export interface Reading {
  readonly consumer: string
  readonly maxPayloadBytes: number
  readonly identify?: ((incoming: IncomingMessage) => Identity | null) | undefined
}

/** The message that a delivery is, or why it is none. Does not throw, whatever the delivery is. */
export function readDelivery(incoming: IncomingMessage, as: Reading): InboxMessage | string {
  try {
    return read(incoming, as)
  } catch (error) {
    return `It could not be read: ${describeError(error)}`
  }
}

function read(incoming: IncomingMessage, as: Reading): InboxMessage | string {
  if (incoming.refused !== undefined) return incoming.refused
  const size = incoming.body.byteLength
  if (size > as.maxPayloadBytes)
    return `Its body has ${size} bytes, but the limit is ${as.maxPayloadBytes} (maxPayloadBytes).`
  const event = fromWireHeaders(incoming)
  let identity: Identity | null
  try {
    const given = identityOf(incoming, event, as)
    identity = given === null ? null : { id: given.id, topic: given.topic, key: given.key }
  } catch (error) {
    return `identify threw: ${describeError(error)}`
  }
  if (identity === null || typeof identity.id !== 'string' || identity.id === '') {
    return 'It has no identity: it is no CloudEvent, and identify gave none.'
  }
  const json = jsonText(incoming.contentType, incoming.body)
  if (json !== null && isDeeper(json, limits.receivedDepth))
    return `Its JSON is nested deeper than ${limits.receivedDepth} levels, the limit.`
  const timeOf = (name: string): Date => new Date(event?.attributes.get(name) ?? Number.NaN)
  return admit({
    consumer: as.consumer,
    id: toMessageId(identity.id),
    topic: identity.topic ?? event?.attributes.get('type') ?? incoming.topic,
    key: identity.key === undefined ? incoming.key : identity.key,
    headers: event?.headers ?? incoming.headers,
    content: json ?? incoming.body,
    contentType: incoming.contentType,
    publishedAt: timeOf('time'),
    expiresAt: timeOf('expirytime'),
  })
}

function identityOf(
  incoming: IncomingMessage,
  event: ReturnType<typeof fromWireHeaders>,
  { identify }: Reading,
): Identity | null {
  if (event !== null) {
    const id = event.attributes.get('id')!
    // Of other senders, only source and id together are an identity.
    const source = event.attributes.get('source') ?? ''
    const own = toMessageId(id) === id.toLowerCase()
    return { id: own ? id : `${source} ${id}`, key: event.attributes.get('partitionkey') ?? incoming.key }
  }
  if (identify !== undefined) return identify(incoming)
  const id = incoming.headers['message-id'] ?? placeOf(incoming)
  return id === null || id === undefined ? null : { id: `${incoming.topic} ${id}` }
}
