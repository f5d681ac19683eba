import { jsonContentType, uuidPattern } from '../message/message.ts'
import { columnNames, fieldOf, textColumns } from '../message/row.ts'
import { limits } from '../base/options.ts'
import type { InboxMessage } from './inbox.ts'

/**
 * The one gate to the inbox. Receivers and the Postgres broker make their messages here, so what is valid is decided once:
 * a value that passes here and that Postgres refuses would hold up all that is behind it.
 */
export interface Offered extends Omit<InboxMessage, 'headers' | 'payload' | 'body'> {
  readonly headers: Readonly<Record<string, string>> | null
  /** JSON text, or bytes. The content type is of bytes. */
  readonly content: string | Uint8Array
}

/** The message for the inbox, or why it cannot be one. Does not throw, whatever the fields are. */
export function admit(offered: Offered): InboxMessage | string {
  const { id, key, content, headers } = offered
  if (typeof id !== 'string' || !uuidPattern.test(id)) return 'It has no id.'
  if (typeof content !== 'string' && !(content instanceof Uint8Array))
    return 'Its content is neither text nor bytes.'
  // JSON has no such character, and texts are parted by it on their way into the database.
  if (typeof content === 'string' && content.includes('\x1e')) return 'Its content is no JSON.'
  // Field by field, see `withFields`.
  const message = { consumer: offered.consumer } as Writable<InboxMessage>
  for (const field of fieldNames) message[field] = offered[field as keyof Offered] as never
  const isText = typeof content === 'string'
  message.contentType = isText ? null : (message.contentType ?? 'application/octet-stream')
  message.payload = isText ? content : null
  message.body = isText ? null : toBuffer(content)
  for (const { field, what, receivedBytes } of textColumns) {
    if (message[field] === null && field !== 'topic') continue
    const fault = faultOf(what, message[field], receivedBytes)
    if (fault !== null) return fault
  }
  const fault = headers === null ? null : faultOfHeaders(headers)
  if (fault !== null) return fault
  message.key = key === '' ? null : key
  message.headers = headers === null || Object.keys(headers).length === 0 ? null : JSON.stringify(headers)
  message.publishedAt = storable(message.publishedAt)
  message.expiresAt = storable(message.expiresAt)
  return message
}

type Writable<Fields> = { -readonly [field in keyof Fields]: Fields[field] }
const fieldNames = columnNames.map(fieldOf)

function faultOf(what: string, text: unknown, maxBytes: number): string | null {
  if (typeof text !== 'string') return `Its ${what} is no text.`
  if (text.length > maxBytes || Buffer.byteLength(text) > maxBytes)
    return `Its ${what} has ${Buffer.byteLength(text)} bytes, but the limit is ${maxBytes}.`
  return isText(text) ? null : `Its ${what} contains a NUL or half a character, so it is no valid text.`
}

function faultOfHeaders(headers: unknown): string | null {
  if (typeof headers !== 'object' || Array.isArray(headers)) return 'Its headers are no object.'
  const entries = Object.entries(headers as Record<string, unknown>)
  if (entries.length > limits.receivedHeaderCount)
    return `It has ${entries.length} headers, but the limit is ${limits.receivedHeaderCount}.`
  let bytes = 0
  for (const [name, value] of entries) {
    if (typeof value !== 'string') return 'One of its headers is no text.'
    if (!isText(name) || !isText(value))
      return 'Its headers contain a NUL or half a character, so they are no valid text.'
    bytes += Buffer.byteLength(name) + Buffer.byteLength(value)
  }
  return bytes <= limits.receivedHeadersBytes
    ? null
    : `Its headers have ${bytes} bytes, but the limit is ${limits.receivedHeadersBytes}.`
}

const isText = (text: string): boolean => !text.includes('\0') && text.isWellFormed()

/** What Postgres and Date both hold begins 4713 BC and ends with Date. What is earlier has passed as well then. */
const earliest = Date.UTC(-4712, 0, 1)

/** A time that nobody can read says nothing: it is left out. */
function storable(time: unknown): Date | null {
  const at = time instanceof Date ? time.getTime() : Number.NaN
  if (Number.isNaN(at)) return null
  return at < earliest ? new Date(earliest) : (time as Date)
}

const toBuffer = (bytes: Uint8Array): Buffer => Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength)

/** As text that Postgres stores, cut to some bytes. */
export function cut(text: unknown, maxBytes: number): string {
  // Cut first: of a text of 100 MB nothing is to be copied.
  const clean = String(text).slice(0, maxBytes).replaceAll('\0', '').toWellFormed()
  if (Buffer.byteLength(clean) <= maxBytes) return clean
  // Half a character at the cut becomes U+FFFD, which has three bytes.
  return Buffer.from(clean)
    .subarray(0, maxBytes - 2)
    .toString()
}

/** Whether JSON is nested deeper than so many levels. In linear time, since anybody may send it. */
export function isDeeper(json: string, levels: number): boolean {
  if (json.length <= 2 * levels) return false
  let depth = 0
  let quoted = false
  for (let index = 0; index < json.length; index++) {
    const code = json.charCodeAt(index)
    if (quoted) {
      if (code === backslash) index++
      else if (code === quote) quoted = false
    } else if (code === quote) quoted = true
    else if (code === bracket || code === brace) {
      if (++depth > levels) return true
    } else if (code === bracketEnd || code === braceEnd) depth--
  }
  return false
}

const [quote, backslash, bracket, bracketEnd, brace, braceEnd] = [0x22, 0x5c, 0x5b, 0x5d, 0x7b, 0x7d]

/** The body as JSON text if it says that it is JSON and is: Postgres would refuse the whole batch for one that is not. */
export function jsonText(contentType: string | null, body: Uint8Array): string | null {
  if (contentType === null || !isJsonType(contentType)) return null
  try {
    const text = new TextDecoder('utf-8', { fatal: true, ignoreBOM: false }).decode(body)
    if (text.includes('\0')) return null
    JSON.parse(text)
    return text
  } catch {
    return null
  }
}

/** `application/json`, and what is built on it: `application/cloudevents+json`, RFC 6839. */
export function isJsonType(contentType: string): boolean {
  if (contentType === jsonContentType) return true
  const type = contentType.split(';')[0]!.trim().toLowerCase()
  return type === jsonContentType || type === 'text/json' || /^[^/\s]+\/[^/\s]+\+json$/.test(type)
}
