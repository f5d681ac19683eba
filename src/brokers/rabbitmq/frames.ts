import { randomBytes, randomUUID } from 'node:crypto'
import type { ChannelModel } from 'amqplib'
import { isText } from '../binary.ts'

/**
 * What amqplib cannot decode, taken out of a frame before it tries. An error of its decoder ends the connection, and the
 * delivery comes again, for ever: RabbitMQ passes on what it has taken, and it takes tables of any depth, and numbers of
 * a type that amqplib does not know.
 */

/** More levels are a mistake or an attack, and the decoder has a stack of some 5,000. */
const depthMax = 64

const headerFrame = 2
const headBytes = 7
/** Class, weight and size of the body stand before the flags. */
const flagsAt = 12

const prototype = Buffer.from('__proto__')
/**
 * In place of the name `__proto__`, as long as that is, and known to no sender: amqplib makes an object of a table, and what
 * has that name would become the object's prototype. A text is lost that way, and bytes make the table pass for bytes.
 */
export const prototypeName = `_${randomBytes(4).toString('hex')}`

/** In place of headers that could not be read: a name that no sender can know, and why. */
export const unreadable = `unreadable ${randomUUID()}`

/** The parts of amqplib's connection that this needs. They are not public: without them nothing is guarded. */
interface Receiving {
  /** What was read from the socket and not decoded yet. */
  rest: Buffer
  recvFrame(): unknown
}

const isReceiving = (connection: object): connection is Receiving =>
  'rest' in connection && 'recvFrame' in connection && typeof connection.recvFrame === 'function'

/** From now on, frames of this connection are looked through before they are decoded. False if amqplib has changed. */
export function guardFrames({ connection }: ChannelModel): boolean {
  if (!isReceiving(connection)) return false
  const receive = connection.recvFrame.bind(connection)
  connection.recvFrame = () => {
    connection.rest = digestible(connection.rest)
    return receive()
  }
  return true
}

/** The same bytes, but that a header frame at their beginning can be decoded. */
function digestible(bytes: Buffer): Buffer {
  if (bytes.length < headBytes || bytes[0] !== headerFrame) return bytes
  const end = headBytes + bytes.readUInt32BE(3)
  if (bytes.length <= end) return bytes
  const headers = headersOf(bytes.subarray(headBytes, end))
  const fault = headers === null ? null : faultOf(headers)
  if (fault === null) return bytes
  const before = headers!.byteOffset - bytes.byteOffset - 4
  const table = tableOf(unreadable, fault)
  const frame = Buffer.concat([
    bytes.subarray(0, before),
    table,
    bytes.subarray(before + 4 + headers!.length, end),
  ])
  frame.writeUInt32BE(frame.length - headBytes, 3)
  return Buffer.concat([frame, bytes.subarray(end)])
}

/** The table of headers among the properties of a message: it stands behind two texts, each of which may be missing. */
function headersOf(payload: Buffer): Buffer | null {
  const flags = payload.readUInt16BE(flagsAt)
  if ((flags & 0x2000) === 0) return null
  let at = flagsAt + 2
  for (const text of [0x8000, 0x4000]) if ((flags & text) !== 0) at += 1 + payload.readUInt8(at)
  return payload.subarray(at + 4, at + 4 + payload.readUInt32BE(at))
}

const sizes: Readonly<Record<string, number>> = {
  ...{ V: 0, b: 1, B: 1, t: 1, s: 2, u: 2, I: 4, i: 4, f: 4, D: 5, l: 8, L: 8, T: 8, d: 8 },
}

/**
 * Why it could not be decoded, or null. Changed in place, as long as they are: a text that is none becomes bytes, a number of 64 bits without a sign becomes a
 * double, as amqplib would make one, and a name that an object cannot hold becomes one that it can.
 */
function faultOf(table: Buffer): string | null {
  /** Of the tables and lists that `at` is in, from the outermost to the innermost. */
  const ends = [{ end: table.length, named: true }]
  let at = 0
  while (ends.length > 0) {
    const { end, named } = ends.at(-1)!
    if (at >= end) {
      ends.pop()
      continue
    }
    if (named) {
      const after = at + 1 + table[at]!
      if (prototype.equals(table.subarray(at + 1, after))) table.write(prototypeName, at + 1, 'latin1')
      at = after
    }
    const type = String.fromCharCode(table[at] ?? 0)
    const size = sizes[type]
    at++
    if (type === 'L' && at + 8 <= table.length) {
      table[at - 1] = 'd'.charCodeAt(0)
      table.writeDoubleBE(Number(table.readBigUInt64BE(at)), at)
    }
    if (size !== undefined) at += size
    else if ('SxFA'.includes(type) && at + 4 <= table.length) {
      const length = table.readUInt32BE(at)
      at += 4
      // amqplib decodes a text whatever it is, and what is no text would be lost. Bytes look the same, but for their type.
      if (type === 'S' && !isText(table.subarray(at, at + length))) table.write('x', at - 5, 'latin1')
      if (type === 'S' || type === 'x') at += length
      else if (ends.length > depthMax)
        return `Its headers are nested deeper than ${depthMax} levels, the limit.`
      else ends.push({ end: at + length, named: type === 'F' })
    } else return 'Its headers have a type that is not known.'
    if (at > end && type !== 'F' && type !== 'A') return 'Its headers end too early.'
  }
  return null
}

/** A table of one text. */
function tableOf(name: string, text: string): Buffer {
  const entry = Buffer.alloc(1 + name.length + 5 + text.length)
  entry.writeUInt8(name.length, 0)
  entry.write(name, 1, 'latin1')
  entry.write('S', 1 + name.length, 'latin1')
  entry.writeUInt32BE(text.length, 2 + name.length)
  entry.write(text, 6 + name.length, 'latin1')
  const size = Buffer.alloc(4)
  size.writeUInt32BE(entry.length)
  return Buffer.concat([size, entry])
}
