import type { IncomingMessage } from './broker.ts'
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
export function fromWireHeaders(
  incoming: Pick<IncomingMessage, 'headers'>,
): { attributes: Map<string, string>; headers: Record<string, string> } | null {
  const attributes = new Map<string, string>()
  const headers = new Map<string, string>()
  for (const [name, value] of Object.entries(incoming.headers)) {
    const prefix = prefixes.find((candidate) => name.startsWith(candidate))
    if (prefix === undefined) headers.set(name, value)
    else attributes.set(name.slice(prefix.length), value)
  }
  if (!attributes.has('id') || !attributes.has('specversion')) return null
  // Another sender may say it as an attribute only. The header is nearer: it is of the last hop.
  if (!headers.has('traceparent')) {
    for (const name of traceAttributes) {
      const value = attributes.get(name)
      if (value !== undefined) headers.set(name, value)
    }
  }
  return { attributes, headers: Object.fromEntries(headers) }
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
