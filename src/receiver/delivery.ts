import type { IncomingMessage } from '../brokers/broker.ts'
import { fromWireHeaders } from '../brokers/cloudevent.ts'
import type { InboxMessage } from '../database/inbox.ts'
import { describeError } from '../errors.ts'
import { jsonContentType, toMessageId } from '../message.ts'
import { limits } from '../options.ts'

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
interface Reading {
  readonly consumer: string
  readonly identify?: ((incoming: IncomingMessage) => Identity | null) | undefined
}

/** The message that a delivery is, or why it is none. */
export function readDelivery(incoming: IncomingMessage, as: Reading): InboxMessage | string {
  const event = fromWireHeaders(incoming)
  let identity: Identity | null
  try {
    identity = identityOf(incoming, event, as)
  } catch (error) {
    return `identify threw: ${describeError(error)}`
  }
  if (identity === null || typeof identity.id !== 'string' || identity.id === '') {
    return 'It has no identity: it is no CloudEvent, and identify gave none.'
  }
  const key = identity.key === undefined ? incoming.key : identity.key
  if (key !== null && Buffer.byteLength(key) > limits.keyBytes)
    return `Its key has more than ${limits.keyBytes} bytes.`
  const topic = identity.topic ?? event?.attributes.get('type') ?? incoming.topic
  const headers = event?.headers ?? incoming.headers
  const texts = [topic, key ?? '', ...Object.entries(headers).flat()]
  if (texts.some((text) => text.includes('\0') || !text.isWellFormed())) {
    return 'Its topic, key or headers contain what is no valid text.'
  }
  const json = jsonText(incoming)
  const timeOf = (name: string): Date | null => {
    const time = Date.parse(event?.attributes.get(name) ?? '')
    return Number.isNaN(time) ? null : new Date(time)
  }
  return {
    consumer: as.consumer,
    id: toMessageId(identity.id),
    topic,
    key: key === '' ? null : key,
    headers: Object.keys(headers).length === 0 ? null : JSON.stringify(headers),
    payload: json,
    body: json === null ? Buffer.from(incoming.body) : null,
    contentType: json === null ? (incoming.contentType ?? 'application/octet-stream') : null,
    publishedAt: timeOf('time'),
    expiresAt: timeOf('expirytime'),
  }
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
  const id = incoming.headers['message-id'] ?? incoming.position
  return id === null || id === undefined ? null : { id: `${incoming.topic} ${id}` }
}

/** The body as JSON text if it says that it is JSON and is: Postgres would refuse the whole batch for one that is not. */
function jsonText(incoming: IncomingMessage): string | null {
  const type = (incoming.contentType ?? '').split(';')[0]!.trim().toLowerCase()
  if (type !== jsonContentType) return null
  try {
    const text = new TextDecoder('utf-8', { fatal: true, ignoreBOM: false }).decode(incoming.body)
    if (text.includes('\0')) return null
    JSON.parse(text)
    return text
  } catch {
    return null
  }
}
