import { gunzip } from 'node:zlib'
import { promisify } from 'node:util'
import { describeError } from '../../../base/errors.ts'
import { Cursor, Malformed } from './cursor.ts'

/** Takes the compression off a batch of records, knowing beforehand what it would come to. */

/** The batch is sound as far as anybody can tell, and nobody here can unpack it. The text says what to install. */
export class NoCodec extends Error {}

/** What users register at `kafkajs.CompressionCodecs`. One that is not there throws. */
export type Codecs = Readonly<Record<number, (() => unknown) | undefined>>

interface Method {
  readonly name: string
  readonly install: string
  /** How many bytes it unpacks to, at most, without unpacking. */
  readonly measure: (packed: Buffer) => number
}

const gzip = 1
const methods: Readonly<Record<number, Method>> = {
  2: {
    name: 'snappy',
    install: 'npm install kafkajs-snappy, then CompressionCodecs[CompressionTypes.Snappy] = SnappyCodec',
    measure: measureSnappy,
  },
  3: {
    name: 'lz4',
    install: 'npm install kafkajs-lz4, then CompressionCodecs[CompressionTypes.LZ4] = new LZ4().codec',
    measure: measureLz4,
  },
  4: {
    name: 'zstd',
    install: 'npm install @kafkajs/zstd, then CompressionCodecs[CompressionTypes.ZSTD] = ZstdCodec()',
    measure: measureZstd,
  },
}

/** @throws Malformed if it is damaged or unpacks to more than `maxBytes`; NoCodec */
export async function unpack(
  packed: Buffer,
  compression: number,
  codecs: Codecs,
  maxBytes: number,
): Promise<Buffer> {
  if (compression === 0) return packed
  if (compression === gzip) return ungzip(packed, maxBytes)
  const method = methods[compression]
  if (method === undefined) throw new Malformed(`its compression ${compression} is none that Kafka has`)
  const size = method.measure(packed)
  if (size > maxBytes) throw tooLarge(maxBytes)
  const codec = codecOf(codecs, compression, method)
  let unpacked: unknown
  try {
    unpacked = await codec.decompress(packed)
  } catch (error) {
    throw new Malformed(`the codec for ${method.name} could not unpack it: ${describeError(error)}`)
  }
  if (!(unpacked instanceof Uint8Array)) {
    throw new NoCodec(`the codec for ${method.name} gave no bytes. One that works: ${method.install}`)
  }
  if (unpacked.length > maxBytes) throw tooLarge(maxBytes)
  return Buffer.from(unpacked.buffer, unpacked.byteOffset, unpacked.length)
}

interface Codec {
  decompress(packed: Buffer): unknown
}

const isCodec = (value: unknown): value is Codec =>
  typeof value === 'object' &&
  value !== null &&
  'decompress' in value &&
  typeof value.decompress === 'function'

function codecOf(codecs: Codecs, compression: number, { name, install }: Method): Codec {
  let cause: unknown
  try {
    const codec = codecs[compression]?.()
    if (isCodec(codec)) return codec
  } catch (error) {
    cause = error
  }
  throw new NoCodec(`kafkajs has no codec for ${name}. Install one before the receiver starts: ${install}`, {
    cause,
  })
}

const tooLarge = (maxBytes: number): Malformed =>
  new Malformed(`it unpacks to more than ${maxBytes} bytes (8 times the byte budget of a batch)`)

const gunzipAsync = promisify(gunzip)

/** Ours, whatever is registered: kafkajs's unpacks without a bound. */
async function ungzip(packed: Buffer, maxBytes: number): Promise<Buffer> {
  try {
    return await gunzipAsync(packed, { maxOutputLength: maxBytes })
  } catch (error) {
    if (error instanceof RangeError) throw tooLarge(maxBytes)
    throw new Malformed(`it could not be unpacked: ${describeError(error)}`)
  }
}

const xerial = Buffer.from([0x82, 0x53, 0x4e, 0x41, 0x50, 0x50, 0x59, 0])

/** Each block begins with its size: https://github.com/google/snappy/blob/main/format_description.txt */
function measureSnappy(packed: Buffer): number {
  if (!packed.subarray(0, xerial.length).equals(xerial)) return snappyBlockSize(packed)
  // Java's framing: two versions, then blocks behind their lengths.
  const cursor = new Cursor(packed, xerial.length + 8)
  let size = 0
  while (cursor.left > 0) size += snappyBlockSize(cursor.take(cursor.int32()))
  return size
}

function snappyBlockSize(block: Buffer): number {
  let size = 0
  for (let at = 0; at < 5; at++) {
    const byte = block[at]
    if (byte === undefined) break
    size += (byte & 0x7f) * 2 ** (7 * at)
    if (byte < 0x80) return size
  }
  throw new Malformed('it is no snappy')
}

/** Passes over a frame that is for others. lz4 and zstd have the same: RFC 8878, section 3.1.2. Whether it was one. */
function skips(cursor: Cursor, magic: number): boolean {
  if (magic >>> 4 !== 0x184d2a5) return false
  cursor.take(cursor.take(4).readUInt32LE())
  return true
}

/** https://github.com/lz4/lz4/blob/dev/doc/lz4_Frame_format.md and lz4_Block_format.md */
function measureLz4(packed: Buffer): number {
  const cursor = new Cursor(packed)
  let size = 0
  while (cursor.left > 0) {
    const magic = cursor.take(4).readUInt32LE()
    if (skips(cursor, magic)) continue
    if (magic !== 0x184d2204) throw new Malformed('it is no lz4')
    const flags = cursor.take(2)[0]!
    cursor.take((flags & 0x08 ? 8 : 0) + (flags & 0x01 ? 4 : 0) + 1)
    for (;;) {
      const head = cursor.take(4).readUInt32LE()
      if (head === 0) break
      const block = cursor.take(head & 0x7fffffff)
      size += head >>> 31 ? block.length : lz4BlockSize(block)
      if (flags & 0x10) cursor.take(4)
    }
    if (flags & 0x04) cursor.take(4)
  }
  return size
}

function lz4BlockSize(block: Buffer): number {
  let at = 0
  let size = 0
  const extended = (length: number): number => {
    if (length < 15) return length
    let byte: number
    do {
      byte = block[at++] ?? 0
      length += byte
    } while (byte === 255)
    return length
  }
  while (at < block.length) {
    const token = block[at++]!
    const literals = extended(token >>> 4)
    size += literals
    at += literals
    // The last sequence has literals only.
    if (at >= block.length) break
    at += 2
    size += extended(token & 0x0f) + 4
  }
  return size
}

/** A block has at most 128 KiB: https://datatracker.ietf.org/doc/html/rfc8878#section-3.1.1 */
function measureZstd(packed: Buffer): number {
  const cursor = new Cursor(packed)
  let size = 0
  while (cursor.left > 0) {
    const magic = cursor.take(4).readUInt32LE()
    if (skips(cursor, magic)) continue
    if (magic !== 0xfd2fb528) throw new Malformed('it is no zstd')
    const descriptor = cursor.take(1)[0]!
    const single = (descriptor & 0x20) !== 0
    const contentSize = [single ? 1 : 0, 2, 4, 8][descriptor >>> 6]!
    cursor.take((single ? 0 : 1) + [0, 1, 2, 4][descriptor & 3]! + contentSize)
    for (let last = false; !last;) {
      const head = cursor.take(3).readUIntLE(0, 3)
      last = (head & 1) !== 0
      const type = (head >>> 1) & 3
      const length = head >>> 3
      cursor.take(type === 1 ? 1 : length)
      size += type === 2 ? 128 * 1024 : length
    }
    if (descriptor & 0x04) cursor.take(4)
  }
  return size
}
