import type { OutgoingMessage } from '../../message/message.ts'
import { isTombstone, tombstoneType } from '../../message/tombstone.ts'
import type { IncomingMessage } from '../broker.ts'
import { limits } from '../../base/options.ts'
import { textOf } from '../binary.ts'
import { setHeader, toWireHeaders } from '../cloudevent.ts'
import { Cursor, Malformed } from './wire/cursor.ts'

/** A message as a Kafka record and back: https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/bindings/kafka-protocol-binding.md */

const contentTypeHeader = 'content-type'

/** A record to be written. */
export interface OutgoingRecord {
  readonly key: string | null
  readonly value: Buffer | null
  readonly headers: Record<string, string>
  /** Chosen by the first attempt to write it, and kept by all others. */
  partition?: number
}

/** A record as a client has received it. */
export interface ReceivedRecord {
  readonly offset: string
  /** In milliseconds. */
  readonly timestamp: string
  /** Why it cannot be read, if it cannot. */
  readonly key: Buffer | null
  /** What the broker sent, from the key to the headers. */
  readonly value: Buffer | null
}

/** What Kafka adds to a record at most: lengths, offsets and the length of each header. */
const overheadBytes = 80
const headerOverheadBytes = 4

/**
 * The record leaves its timestamp to the moment of sending. Retention goes by it: a message that waited in the
 * outbox for longer than the topic keeps records would be deleted as it arrives.
 */
export function toRecord(message: OutgoingMessage, source: string): OutgoingRecord {
  const { content, contentType } = message
  const headers = toWireHeaders(message, 'ce_', source)
  if (isTombstone({ contentType, payload: content })) return { key: message.key, value: null, headers }
  return {
    key: message.key,
    value:
      typeof content === 'string'
        ? Buffer.from(content)
        : Buffer.from(content.buffer, content.byteOffset, content.byteLength),
    headers: { ...headers, [contentTypeHeader]: contentType },
  }
}

/** At least what the record takes on the wire. */
export function sizeOf({ key, value, headers }: OutgoingRecord): number {
  let size = overheadBytes + (value?.length ?? 0) + Buffer.byteLength(key ?? '')
  for (const [name, text] of Object.entries(headers)) {
    size += headerOverheadBytes + Buffer.byteLength(name) + Buffer.byteLength(text)
  }
  return size
}

/**
 * Its place is `topic/partition/offset@id` with the id of the topic, if it has one. A tombstone, the
 * record without a value that marks its key as deleted, is told from an empty body by its content type.
 */
export function toIncoming(
  topic: string,
  partition: number,
  record: ReceivedRecord,
  topicId = '',
): IncomingMessage {
  const content = record.value ?? Buffer.alloc(0)
  const incoming = {
    topic,
    key: null,
    headers: {},
    contentType: null,
    body: content,
    position: `${topic}/${partition}/${record.offset}${topicId && `@${topicId}`}`,
    placedAt: record.timestamp,
    // Kafka does not say. The inbox knows by the id.
    redelivered: false,
    refused: record.key?.toString(),
  }
  try {
    const { key, value, headers, refused } = readContent(content)
    // It has no content to have a type.
    const contentType = value === null ? tombstoneType : takeContentType(headers)
    return {
      ...incoming,
      key: key === null ? null : textOf(key),
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

/**
 * The content type, which is a header like any other at Kafka: `content-type` of CloudEvents, `Content-Type` of bridges to HTTP,
 * `contentType` of Spring, in quotes where Spring writes JSON.
 */
function takeContentType(headers: Map<string, string>): string | null {
  const name = headers.has(contentTypeHeader) ? contentTypeHeader : [...headers.keys()].find(isContentType)
  if (name === undefined) return null
  const type = headers.get(name)!
  headers.delete(name)
  return /^".*"$/s.test(type) ? type.slice(1, -1) : type
}

const isContentType = (name: string): boolean => /^content[-_]?type$/i.test(name)

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
    if (text !== null) setHeader(headers, name, text)
  }
  let refused: string | undefined
  if (tooMany) refused = `It has ${count} headers; at most ${limits.receivedHeaderCount} are received.`
  else if (bytes > limits.receivedHeadersBytes) {
    refused = `Its headers have more than the ${limits.receivedHeadersBytes} bytes that are received.`
  }
  return { key, value, headers, refused }
}
