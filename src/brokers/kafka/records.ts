import type { KafkaMessage, Message } from 'kafkajs'
import type { OutgoingMessage } from '../../message/message.ts'
import type { IncomingMessage } from '../broker.ts'
import { limits } from '../../base/options.ts'
import { toWireHeaders } from '../cloudevent.ts'
import { Cursor, Malformed } from './wire/cursor.ts'

/** A message as a Kafka record and back: https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/bindings/kafka-protocol-binding.md */

const contentTypeHeader = 'content-type'

/** What Kafka adds to a record at most: lengths, offsets and the length of each header. */
const overheadBytes = 80
const headerOverheadBytes = 4

/**
 * The record leaves its timestamp to the moment of sending. Retention goes by it: a message that waited in the
 * outbox for longer than the topic keeps records would be deleted as it arrives.
 */
export function toRecord(message: OutgoingMessage, source: string): Message {
  const { content } = message
  return {
    key: message.key,
    value:
      typeof content === 'string'
        ? Buffer.from(content)
        : Buffer.from(content.buffer, content.byteOffset, content.byteLength),
    headers: { ...toWireHeaders(message, 'ce_', source), [contentTypeHeader]: message.contentType },
  }
}

/** At least what the record takes on the wire. */
export function sizeOf({ key, value, headers }: Message): number {
  let size = overheadBytes + Buffer.byteLength(value ?? '') + Buffer.byteLength(key ?? '')
  for (const [name, text] of Object.entries(headers ?? {})) {
    size += headerOverheadBytes + Buffer.byteLength(name) + Buffer.byteLength(String(text))
  }
  return size
}

/**
 * A record as the guard has left it: its value is what the broker sent, from the key to the headers, and its key a
 * reason why that cannot be read. A tombstone, the record without a value that marks its key as deleted, has an empty
 * body.
 */
export function toIncoming(topic: string, partition: number, record: KafkaMessage): IncomingMessage {
  const content = record.value ?? Buffer.alloc(0)
  const incoming = {
    topic,
    key: null,
    headers: {},
    contentType: null,
    body: content,
    position: `${topic}/${partition}/${record.offset}`,
    placedAt: record.timestamp,
    // Kafka does not say. The inbox knows by the id.
    redelivered: false,
    refused: record.key?.toString(),
  }
  try {
    const { key, value, headers, refused } = readContent(content)
    const contentType = headers.get(contentTypeHeader) ?? null
    headers.delete(contentTypeHeader)
    return {
      ...incoming,
      key: key?.toString() ?? null,
      headers: Object.fromEntries(headers),
      contentType,
      body: value ?? Buffer.alloc(0),
      refused: incoming.refused ?? refused,
    }
  } catch (error) {
    if (!(error instanceof Malformed)) throw error
    return { ...incoming, refused: `The record cannot be read: ${error.message}.` }
  }
}

interface Content {
  readonly key: Buffer | null
  readonly value: Buffer | null
  /** Of one with too many, the first. */
  readonly headers: Map<string, string>
  readonly refused: string | undefined
}

/** A header's name may stand there several times; the last one counts, as with `lastHeader` in Kafka's own client. */
function readContent(content: Buffer): Content {
  const cursor = new Cursor(content)
  const key = cursor.varbytes()
  const value = cursor.varbytes()
  const headers = new Map<string, string>()
  const count = cursor.varint()
  if (count < 0) throw new Malformed('the number of its headers is negative')
  const tooMany = count > limits.receivedHeaderCount
  let bytes = 0
  for (let left = tooMany ? limits.headerCount : count; left > 0; left--) {
    const name = cursor.take(cursor.varint())
    const text = cursor.varbytes()
    bytes += name.length + (text?.length ?? 0)
    if (bytes > limits.receivedHeadersBytes) break
    if (text !== null) headers.set(name.toString(), text.toString())
  }
  let refused: string | undefined
  if (tooMany) refused = `It has ${count} headers; at most ${limits.receivedHeaderCount} are received.`
  else if (bytes > limits.receivedHeadersBytes) {
    refused = `Its headers have more than the ${limits.receivedHeadersBytes} bytes that are received.`
  }
  return { key, value, headers, refused }
}
