import type { ConsumeMessage } from 'amqplib'
import { properties } from '../../message/attributes.ts'
import type { IncomingMessage } from '../broker.ts'
import { textOf } from '../binary.ts'
import { fromWireHeaders, setHeader } from '../cloudevent.ts'
import { prototypeName, unreadable } from './frames.ts'

/** A delivery as Twinbox sees it. Anybody may publish to an exchange, so nothing here may throw. */
export function toIncoming(delivery: ConsumeMessage): IncomingMessage {
  const { fields: from, properties: sent, content } = delivery
  const { [unreadable]: refused, ...readable } = sent.headers ?? {}
  const headers = textHeaders(readable)
  const messageId: unknown = sent.messageId
  if (typeof messageId === 'string') headers['message-id'] ??= messageId
  const contentType: unknown = sent.contentType
  return {
    topic: from.routingKey,
    key: fromWireHeaders({ headers })?.attributes.get('partitionkey') ?? null,
    headers,
    properties: toProperties(sent),
    contentType: typeof contentType === 'string' ? contentType : null,
    body: content,
    position: null,
    redelivered: from.redelivered,
    ...(typeof refused === 'string' && { refused }),
  }
}

const fields = Object.entries(properties) as [keyof typeof properties, string][]

function toProperties(sent: ConsumeMessage['properties']): Record<string, string> {
  const found: Record<string, string> = {}
  for (const [field, name] of fields) {
    const value: unknown = sent[field]
    if (typeof value === 'string' || typeof value === 'number') found[name] = String(value)
  }
  return found
}

function textHeaders(table: object): Record<string, string> {
  const headers = new Map<string, string>()
  for (const [name, value] of named(table)) {
    // Nearly all are like that, and need not be looked through byte by byte.
    if (typeof value === 'string' && /^[\w:-]+$/.test(name) && !value.includes('\0')) headers.set(name, value)
    else setHeader(headers, Buffer.from(name), toBytes(value))
  }
  // `fromEntries` makes a header called __proto__ a property like any other.
  return Object.fromEntries(headers)
}

const named = (table: object): [string, unknown][] =>
  Object.entries(table).map(([name, value]) => [name === prototypeName ? '__proto__' : name, value])

/** Other clients send numbers, bytes, dates and whole tables as header values. */
function toBytes(value: unknown): Buffer {
  if (Buffer.isBuffer(value)) return value
  const plain = toPlain(value)
  return Buffer.from(typeof plain === 'string' ? plain : JSON.stringify(plain))
}

function toPlain(value: unknown): unknown {
  if (Buffer.isBuffer(value)) return textOf(value)
  if (Array.isArray(value)) return value.map(toPlain)
  if (typeof value !== 'object' || value === null) return value
  if ('!' in value && 'value' in value) return typedToPlain(value['!'], value.value)
  return Object.fromEntries(named(value).map(([name, inner]) => [name, toPlain(inner)]))
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
