import { isUtf8 } from 'node:buffer'
import { limits } from '../../base/options.ts'
import { takes, type OutgoingMessage } from '../../message/message.ts'
import type { IncomingMessage } from '../broker.ts'
import { toWireHeaders } from '../cloudevent.ts'

/**
 * A message on the wire is three frames: its id, its headers as a JSON object of texts, its body as it is. The headers are those of
 * a CloudEvent in binary mode, with the names that Kafka's binding has (`ce_id`, `ce_type`, `content-type`); `ce_type` is the
 * topic. The answer is the id and `ok`, or the id, `no` and a reason. An answer without an id is about the connection.
 */
export type Frames = readonly [id: string, headers: string, body: string | Uint8Array]

const contentTypeHeader = 'content-type'

/** What JSON adds to headers within their limits: names, quotes, and an escape for each character. */
const headersFrameBytes = 8 * limits.receivedHeadersBytes
const idBytes = 255

export const toFrames = (message: OutgoingMessage, source: string): Frames => [
  message.id,
  JSON.stringify({ ...toWireHeaders(message, 'ce_', source), [contentTypeHeader]: message.contentType }),
  message.content,
]

export const bytesOfFrames = ([id, headers, body]: Frames): number =>
  200 + id.length + headers.length + body.length

/** A delivery, or why it is none. Anybody may send anything, so this does not throw. */
export function readFrames(
  frames: readonly Buffer[],
  topics: readonly string[],
): { readonly id: Buffer; readonly delivery: IncomingMessage | string } {
  const [id = nothing, headersFrame, body] = frames
  if (id.length === 0 || id.length > idBytes || !isUtf8(id))
    return { id: nothing, delivery: `The first frame must be an id of 1 to ${idBytes} bytes, in UTF-8.` }
  if (headersFrame === undefined || body === undefined || frames.length > 3)
    return { id, delivery: `There must be 3 frames: id, headers, body. There are ${frames.length}.` }
  const headers = readHeaders(headersFrame)
  if (typeof headers === 'string') return { id, delivery: headers }
  const { [contentTypeHeader]: contentType = null, ...rest } = headers
  const name = id.toString()
  if (rest['ce_id'] !== undefined && rest['ce_id'] !== name)
    return { id, delivery: 'ce_id of the headers must be the id of the first frame.' }
  const topic = rest['ce_type'] ?? ''
  if (topic === '' || topic.length > limits.receivedTopicBytes)
    return { id, delivery: 'ce_type of the headers must be the topic.' }
  if (!takes(topics, topic))
    return { id, delivery: `No receiver here takes the topic "${topic.slice(0, 100)}".` }
  const delivery: IncomingMessage = {
    topic,
    key: rest['ce_partitionkey'] ?? null,
    // Of what is no CloudEvent it is the identity.
    headers: rest['ce_id'] === undefined ? Object.assign(rest, { 'message-id': name }) : rest,
    contentType,
    body,
    position: null,
    redelivered: false,
  }
  return { id, delivery }
}

function readHeaders(frame: Buffer): Record<string, string> | string {
  if (frame.length > headersFrameBytes)
    return `The headers must have ${headersFrameBytes} bytes at most. They have ${frame.length}.`
  let headers: unknown
  try {
    headers = JSON.parse(utf8.decode(frame))
  } catch {
    return notHeaders
  }
  if (typeof headers !== 'object' || headers === null || Array.isArray(headers)) return notHeaders
  const entries = Object.entries(headers)
  if (entries.length > limits.receivedHeaderCount)
    return `There must be ${limits.receivedHeaderCount} headers at most. There are ${entries.length}.`
  if (entries.some(([, value]) => typeof value !== 'string')) return notHeaders
  // A header called __proto__ is a property like any other.
  return Object.fromEntries(entries as [string, string][])
}

const utf8 = new TextDecoder('utf-8', { fatal: true })
const nothing = Buffer.alloc(0)
const notHeaders = 'The headers must be a JSON object of texts, in UTF-8.'

/** An answer of a receiver. Null if it is none. */
export function readAnswer(
  frames: readonly Buffer[],
): { readonly id: string; readonly refused: string | null } | null {
  const [id, verdict, reason] = frames.map((frame) => frame.toString())
  if (id === undefined) return null
  if (verdict === 'ok' && id !== '') return { id, refused: null }
  if (verdict === 'no') return { id, refused: reason?.slice(0, 1000) || 'It gave no reason.' }
  return null
}

/**
 * The name by which a relay's connection goes says whom it looks for, so that a receiver of another consumer, at an address that was
 * given away or mistaken, does not take what is not its own.
 */
export const toIdentity = (consumer: string, random: string): string => `${prefix}${consumer}/${random}`

/** Whom a connection looks for; null if it does not say. */
export function wantedOf(identity: Buffer): string | null {
  const name = identity.toString()
  return name.startsWith(prefix) ? name.slice(prefix.length, name.lastIndexOf('/')) : null
}

const prefix = 'twinbox/'
