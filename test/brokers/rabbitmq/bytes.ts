import { Duplex } from 'node:stream'
import type { Channel } from 'amqplib'

/** Messages as any program may publish them, byte by byte: a client library sends only what it has a notation for. */

/** Each value with its type before it. */
export type Field = readonly [type: string, value: Buffer]

const uint32 = (value: number): Buffer => {
  const bytes = Buffer.alloc(4)
  bytes.writeUInt32BE(value)
  return bytes
}
export const short = (bytes: Uint8Array): Buffer =>
  Buffer.concat([Buffer.from([Math.min(bytes.length, 255)]), bytes.subarray(0, 255)])
export const long = (bytes: Uint8Array): Buffer => Buffer.concat([uint32(bytes.length), bytes])
export const list = (fields: readonly Field[]): Field => [
  'A',
  long(Buffer.concat(fields.map(([type, value]) => Buffer.concat([Buffer.from(type), value])))),
]
export const table = (fields: readonly (readonly [name: Uint8Array, field: Field])[]): Field => [
  'F',
  long(
    Buffer.concat(
      fields.map(([name, [type, value]]) => Buffer.concat([short(name), Buffer.from(type), value])),
    ),
  ),
]
export const text = (value: string): Field => ['S', long(Buffer.from(value))]

/** The properties of a message, those that are given, in the order of the protocol. */
export interface Properties {
  readonly contentType?: Uint8Array | undefined
  readonly contentEncoding?: Uint8Array | undefined
  /** A table. */
  readonly headers?: Field | undefined
  readonly correlationId?: Uint8Array | undefined
  readonly replyTo?: Uint8Array | undefined
  readonly messageId?: Uint8Array | undefined
  /** Of 8 bytes. */
  readonly timestamp?: Buffer | undefined
  readonly type?: Uint8Array | undefined
  readonly appId?: Uint8Array | undefined
}

/** Publishes past the client library, on its connection. */
export function publishBytes(
  channel: Channel,
  to: { readonly exchange: string; readonly routingKey: Uint8Array },
  properties: Properties,
  body: Uint8Array,
): void {
  const values: [flag: number, value: Buffer | undefined][] = [
    [0x8000, properties.contentType && short(properties.contentType)],
    [0x4000, properties.contentEncoding && short(properties.contentEncoding)],
    [0x2000, properties.headers?.[1]],
    [0x0400, properties.correlationId && short(properties.correlationId)],
    [0x0200, properties.replyTo && short(properties.replyTo)],
    [0x0080, properties.messageId && short(properties.messageId)],
    [0x0040, properties.timestamp],
    [0x0020, properties.type && short(properties.type)],
    [0x0008, properties.appId && short(properties.appId)],
  ]
  const given = values.filter((entry): entry is [number, Buffer] => entry[1] !== undefined)
  const flags = Buffer.alloc(2)
  flags.writeUInt16BE(given.reduce((all, [flag]) => all | flag, 0))
  const size = Buffer.alloc(8)
  size.writeBigUInt64BE(BigInt(body.length))
  // Class 60, method 40: basic.publish.
  const method = Buffer.concat([
    Buffer.from([0, 60, 0, 40, 0, 0]),
    short(Buffer.from(to.exchange)),
    short(to.routingKey),
    Buffer.from([0]),
  ])
  const header = Buffer.concat([Buffer.from([0, 60, 0, 0]), size, flags, ...given.map(([, value]) => value)])
  const frames = [frame(channel, 1, method), frame(channel, 2, header)]
  for (let at = 0; at < body.length; at += 100_000)
    frames.push(frame(channel, 3, body.subarray(at, at + 100_000)))
  const { connection } = channel
  if (!('stream' in connection) || !(connection.stream instanceof Duplex)) throw new Error('No socket.')
  connection.stream.write(Buffer.concat(frames))
}

function frame(channel: Channel, type: number, payload: Uint8Array): Buffer {
  const head = Buffer.alloc(7)
  head.writeUInt8(type, 0)
  head.writeUInt16BE((channel as unknown as { ch: number }).ch, 1)
  head.writeUInt32BE(payload.length, 3)
  return Buffer.concat([head, payload, Buffer.from([0xce])])
}
