import type { IncomingMessage } from '../brokers/broker.ts'
import { isEvent, splitHeaders, withTrace } from '../brokers/cloudevent.ts'
import { isDeeper, isJsonType, jsonText } from '../database/gate.ts'
import { limits } from '../base/options.ts'
import { attributePrefix, eventVersion, isProperty, properties as amqp } from '../message/attributes.ts'
import { jsonContentType } from '../message/message.ts'
import { carriedColumns } from '../message/row.ts'
import { membersOf } from './members.ts'

/** What a delivery says, in binary mode (headers and body) or in structured mode (all of it in the body). */
export interface Event {
  /** Whether it is a CloudEvent, and no other message. */
  readonly complete: boolean
  /** Of a CloudEvent, or of what has some of them only. */
  readonly attributes: ReadonlyMap<string, string>
  /** All else. */
  readonly headers: Readonly<Record<string, string>>
  /** JSON text, or bytes. */
  readonly content: string | Uint8Array
  readonly contentType: string | null
}

/** A delivery, or why it cannot be a message. */
export function readEvent(incoming: IncomingMessage): Event | string {
  const { attributes, headers } = splitHeaders(incoming)
  // It has a place of its own at every broker, and some write it as an attribute all the same.
  const contentType = incoming.contentType ?? attributes.get('datacontenttype') ?? null
  const json = jsonText(contentType, incoming.body)
  if (json !== null && isDeeper(json, limits.receivedDepth)) return tooDeep
  // Each field by its name: objects that are spread cost more than all the rest.
  const complete = isEvent({ attributes })
  const binary = { complete, attributes, headers, content: json ?? incoming.body, contentType }
  return json !== null && isStructured(contentType) ? readStructured(json, binary) : binary
}

/** The attributes, and the properties of the broker's protocol. */
export const saidBy = (
  { attributes }: Event,
  { properties = {} }: Pick<IncomingMessage, 'properties'>,
): Record<string, string> => Object.fromEntries([...attributes, ...Object.entries(properties)])

const tooDeep = `Its JSON is nested deeper than ${limits.receivedDepth} levels, the limit.`

const isStructured = (contentType: string | null): boolean =>
  contentType !== jsonContentType && /^\s*application\/cloudevents\+json\s*(;|$)/i.test(contentType ?? '')

/**
 * An event in JSON: https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/formats/json-format.md. Its data stays the text
 * that was sent: parsed and written again, a large number would be another one.
 */
function readStructured(json: string, binary: Event): Event | string {
  const members = membersOf(json, limits.receivedHeaderCount)
  if (members === null) return binary
  if (members === 'many') return `It has more than ${limits.receivedHeaderCount} attributes.`
  const attributes = new Map<string, string>()
  for (const [name, text] of members) {
    if (name === 'data' || name === 'data_base64' || text === 'null') continue
    const value: unknown = JSON.parse(text)
    attributes.set(name, typeof value === 'string' ? value : text)
  }
  const headers = withTrace(new Map(Object.entries(binary.headers)), attributes)
  const complete = isEvent({ attributes })
  const read = { complete, attributes, headers: Object.fromEntries(headers) }
  // Not an event, whatever it says: nothing of it is its data.
  if (!complete) return { ...read, content: json, contentType: binary.contentType }
  const content = dataOf(members, attributes.get('datacontenttype') ?? null)
  return typeof content === 'string' ? content : { ...read, ...content }
}

function dataOf(
  members: ReadonlyMap<string, string>,
  type: string | null,
): Pick<Event, 'content' | 'contentType'> | string {
  const data = members.get('data')
  const packed = members.get('data_base64')
  if (packed !== undefined && packed !== 'null') {
    if (data !== undefined && data !== 'null') return 'It has both data and data_base64.'
    const text: unknown = JSON.parse(packed)
    const bytes = typeof text === 'string' ? Buffer.from(text, 'base64') : null
    // `from` passes over what is no base64.
    if (bytes === null || bytes.toString('base64') !== (text as string).trim())
      return 'Its data_base64 is no base64.'
    return { content: jsonText(type, bytes) ?? bytes, contentType: type }
  }
  if (data === undefined) return { content: Buffer.alloc(0), contentType: type ?? 'application/json' }
  if (type === null || isJsonType(type)) return { content: data, contentType: type }
  const value: unknown = JSON.parse(data)
  return { content: Buffer.from(typeof value === 'string' ? value : data), contentType: type }
}

/** Attributes that are columns of a message, or headers already. */
const columns = new Set(['specversion', ...carriedColumns.map(({ attribute }) => attribute)])
/** Properties that our own RabbitMQ adapter sets. */
const set = new Set<string>([amqp.messageId, amqp.timestamp, amqp.deliveryMode])

/**
 * The headers as they are stored, with what else the sender says: `ce_type`, `amqp-reply-to`. Of a message of our own nothing that a
 * field of it says, so nothing at all under its own topic.
 */
export function headersOf(
  { attributes, headers, content, contentType }: Event,
  properties: Readonly<Record<string, string>> | undefined,
  own: boolean,
  topic: string,
): Readonly<Record<string, string>> {
  let all: Record<string, string> | null = null
  // Mostly there is none: a copy for each message would be felt.
  const add = (name: string, value: string): void => void ((all ??= freed(headers))[name] = value)
  for (const name in headers) if (isProperty(name)) all ??= freed(headers)
  for (const [name, value] of attributes) {
    if (name === 'traceparent' || name === 'tracestate') continue
    if (own && (columns.has(name) || name === 'id' || name === 'source')) continue
    if (own && name === 'type' && value === topic) continue
    if (name === 'specversion' && value === eventVersion) continue
    add(`${attributePrefix}${name}`, value)
  }
  for (const name in properties) if (!own || !set.has(name)) add(name, properties[name]!)
  // JSON is stored without its type.
  if (typeof content === 'string' && contentType !== null && !isPlainJson(contentType))
    add(`${attributePrefix}datacontenttype`, contentType)
  return all ?? headers
}

const isPlainJson = (contentType: string): boolean =>
  contentType === jsonContentType ||
  /^\s*application\/json\s*(;\s*charset\s*=\s*"?utf-8"?\s*)?$/i.test(contentType)

/** A header that looks like a property gets another name: RabbitMQ vouches for `amqp-user-id`. */
const freed = (headers: Readonly<Record<string, string>>): Record<string, string> =>
  Object.fromEntries(
    Object.entries(headers).map(([name, value]) => [isProperty(name) ? `x-${name}` : name, value]),
  )
