import type { IncomingMessage } from './broker.ts'
import { inBase64, isText, textOf } from './binary.ts'
import type { OutgoingMessage } from '../message/message.ts'
import { carriedColumns, type CarriedFields } from '../message/row.ts'

/**
 * A message on the wire is a CloudEvent 1.0 in binary mode: the payload is the body as it is, everything else is a
 * header. The bindings differ only in the prefix of the attribute names and in where the content type goes:
 * https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/bindings/kafka-protocol-binding.md
 * https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/bindings/amqp-protocol-binding.md
 */
export type AttributePrefix = 'ce_' | 'cloudEvents:'

const traceAttributes = ['traceparent', 'tracestate'] as const

const prefixes = ['ce_', 'cloudEvents:', 'cloudEvents_'] as const

/** The headers of a message on the wire: the CloudEvents attributes, then the user's own. */
export function toWireHeaders(
  message: OutgoingMessage,
  prefix: AttributePrefix,
  source: string,
): Record<string, string> {
  const headers: Record<string, string> = {
    [`${prefix}specversion`]: '1.0',
    [`${prefix}id`]: message.id,
    [`${prefix}source`]: source,
    [`${prefix}type`]: message.topic,
  }
  for (const { field, attribute } of carriedColumns) {
    const value = message[field] ?? null
    if (value !== null)
      headers[`${prefix}${attribute}`] = typeof value === 'string' ? value : value.toISOString()
  }
  // https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/extensions/distributed-tracing.md
  for (const name of traceAttributes) {
    const value = message.headers?.[name]
    if (value !== undefined) headers[`${prefix}${name}`] = value
  }
  return Object.assign(headers, message.headers)
}

/** The CloudEvents attributes of a delivery and the headers that are not attributes, or null if it is no CloudEvent. */
export function fromWireHeaders(incoming: Pick<IncomingMessage, 'headers'>): WireHeaders | null {
  const wire = splitHeaders(incoming)
  return isEvent(wire) ? wire : null
}

export interface WireHeaders {
  readonly attributes: Map<string, string>
  readonly headers: Record<string, string>
}

export const isEvent = ({ attributes }: Pick<WireHeaders, 'attributes'>): boolean =>
  attributes.has('id') && attributes.has('specversion')

/** The same of whatever it is. */
export function splitHeaders(incoming: Pick<IncomingMessage, 'headers'>): WireHeaders {
  const attributes = new Map<string, string>()
  const headers = new Map<string, string>()
  for (const [name, value] of Object.entries(incoming.headers)) {
    const prefix = prefixes.find((candidate) => name.startsWith(candidate))
    if (prefix === undefined) headers.set(name, value)
    else attributes.set(name.slice(prefix.length), value)
  }
  return { attributes, headers: Object.fromEntries(withTrace(headers, attributes)) }
}

/** Another sender may say it as an attribute only. The header is nearer: it is of the last hop. */
export function withTrace(
  headers: Map<string, string>,
  attributes: ReadonlyMap<string, string>,
): Map<string, string> {
  if (headers.has('traceparent')) return headers
  for (const name of traceAttributes) {
    const value = attributes.get(name)
    if (value !== undefined) headers.set(name, value)
  }
  return headers
}

/** Behind the name of a header whose value is in base64. `publish` takes no name with a semicolon. */
const packed = ';base64'

/**
 * Sets a header as it came off the wire. What is no text of UTF-8, or has a NUL, stands there in base64, under `name;base64`: eight
 * bytes of Java's LongSerializer, say. An attribute of a CloudEvent keeps its name, and its value becomes `base64,…`; an id
 * is left unreadable, and the receiver refuses it, since ids are text.
 */
export function setHeader(headers: Map<string, string>, rawName: Buffer, value: Buffer): void {
  const name = textOf(rawName)
  const prefix = prefixes.find((candidate) => name.startsWith(candidate))
  const text = isText(value)
  if (name === 'message-id' || name.slice(prefix?.length) === 'id') headers.set(name, value.toString())
  else if (prefix !== undefined) headers.set(name, text ? value.toString() : inBase64(value))
  else if (text && !name.endsWith(packed)) headers.set(name, value.toString())
  else headers.set(name + packed, value.toString('base64'))
}

/** What attributes say of the columns of a message. A time that nobody can read is an invalid one. */
export function fieldsOfAttributes(attributes: ReadonlyMap<string, string>): CarriedFields {
  const fields: Record<string, string | Date | null> = {}
  for (const { field, attribute, type } of carriedColumns) {
    const value = attributes.get(attribute) ?? null
    fields[field] = type === 'time' ? new Date(value ?? Number.NaN) : value
  }
  return fields as unknown as CarriedFields
}
