import type { IHeaders, KafkaMessage, Message } from 'kafkajs'
import type { OutgoingMessage } from '../../message.ts'
import type { IncomingMessage } from '../broker.ts'
import { toWireHeaders } from '../cloudevent.ts'

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

/** A tombstone, the record without a value that marks its key as deleted, has an empty body. */
export function toIncoming(topic: string, partition: number, record: KafkaMessage): IncomingMessage {
  const { [contentTypeHeader]: contentType = null, ...headers } = toText(record.headers)
  return {
    topic,
    key: record.key?.toString() ?? null,
    headers,
    contentType,
    body: record.value ?? Buffer.alloc(0),
    position: `${topic}/${partition}/${record.offset}`,
    // Kafka does not say. The inbox knows by the id.
    redelivered: false,
  }
}

/** A name may stand there several times; the last one counts, as with `lastHeader` in Kafka's own client. */
function toText(headers: IHeaders | undefined): Record<string, string> {
  const texts: Record<string, string> = {}
  for (const [name, values] of Object.entries(headers ?? {})) {
    const value = Array.isArray(values) ? values.at(-1) : values
    if (value !== undefined && value !== null) texts[name] = value.toString()
  }
  return texts
}
