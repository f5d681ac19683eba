import type { ConsumeMessage } from 'amqplib'
import type { IncomingMessage } from '../broker.ts'
import { fromWireHeaders } from '../cloudevent.ts'
import { prototypeName, unreadable } from './frames.ts'

/** A delivery as Twinbox sees it. Anybody may publish to an exchange, so nothing here may throw. */
export function toIncoming({ fields, properties, content }: ConsumeMessage): IncomingMessage {
  const { [unreadable]: refused, ...readable } = properties.headers ?? {}
  const headers = textHeaders(readable)
  const messageId: unknown = properties.messageId
  if (typeof messageId === 'string') headers['message-id'] ??= messageId
  const contentType: unknown = properties.contentType
  return {
    topic: fields.routingKey,
    key: fromWireHeaders({ headers })?.attributes.get('partitionkey') ?? null,
    headers,
    contentType: typeof contentType === 'string' ? contentType : null,
    body: content,
    position: null,
    redelivered: fields.redelivered,
    ...(typeof refused === 'string' && { refused }),
  }
}

function textHeaders(headers: Readonly<Record<string, unknown>>): Record<string, string> {
  return mapped(headers, toText)
}

/** `fromEntries` makes a header called __proto__ a property like any other. */
function mapped<Value>(table: object, of: (value: unknown) => Value): Record<string, Value> {
  const entries = Object.entries(table) as [string, unknown][]
  return Object.fromEntries(
    entries.map(([name, value]) => [name === prototypeName ? '__proto__' : name, of(value)]),
  )
}

/** Other clients send numbers, bytes, dates and whole tables as header values. */
function toText(value: unknown): string {
  const plain = toPlain(value)
  return typeof plain === 'string' ? plain : JSON.stringify(plain)
}

function toPlain(value: unknown): unknown {
  if (Buffer.isBuffer(value)) return value.toString()
  if (Array.isArray(value)) return value.map(toPlain)
  if (typeof value !== 'object' || value === null) return value
  if ('!' in value && 'value' in value) return typedToPlain(value['!'], value.value)
  return mapped(value, toPlain)
}

/** amqplib's notation for the types that JavaScript does not have. */
function typedToPlain(type: unknown, value: unknown): unknown {
  if (type === 'timestamp' && typeof value === 'number') {
    // Some clients send milliseconds where AMQP has seconds; a year beyond 275760 has no Date.
    const date = new Date(value * 1000)
    return Number.isNaN(date.getTime()) ? String(value) : date.toISOString()
  }
  return toPlain(value)
}
