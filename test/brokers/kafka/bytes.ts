import { createRequire } from 'node:module'
import { gzipSync } from 'node:zlib'
import type { KafkaMessage } from 'kafkajs'
import { crc32c } from '../../../src/brokers/kafka/wire/cursor.ts'

/** Kafka's bytes as others write and read them: kafkajs encodes, and kafkajs decodes what we have rewritten. */

const load = createRequire(import.meta.url)
const encodeBatch = load('kafkajs/src/protocol/recordBatch/v0').RecordBatch as (
  batch: object,
) => Promise<{ readonly buffer: Buffer }>
const encodeRecord = load('kafkajs/src/protocol/recordBatch/record/v0') as (record: object) => unknown
const fetchResponse = load('kafkajs/src/protocol/requests/fetch/v11/response') as {
  decode(body: Buffer): Promise<{
    readonly responses: readonly {
      readonly topicName: string
      readonly partitions: readonly { readonly partition: number; readonly messages: FetchedRecord[] }[]
    }[]
  }>
}
const Long = load('kafkajs/src/utils/long') as { fromValue(value: unknown): unknown }

export type FetchedRecord = KafkaMessage & { readonly isControlRecord: boolean }

export interface TestRecord {
  readonly delta?: number
  readonly key?: Buffer | null
  readonly value?: Buffer | null
  readonly headers?: Readonly<Record<string, Buffer | string | Buffer[]>>
}

export const codecNumbers = { none: 0, gzip: 1, snappy: 2, lz4: 3, zstd: 4 } as const
export type Codec = keyof typeof codecNumbers

/** Bytes in the format of each codec, mostly without saving any. */
export const packers: Readonly<Record<Codec, (bytes: Buffer) => Buffer>> = {
  none: (bytes) => bytes,
  gzip: (bytes) => gzipSync(bytes),
  snappy: (bytes) => {
    const literal = Buffer.alloc(5)
    literal[0] = 0xfc
    literal.writeUInt32LE(bytes.length - 1, 1)
    return Buffer.concat([uvarint(bytes.length), literal, bytes])
  },
  lz4: (bytes) =>
    Buffer.concat([
      Buffer.from('04224d18604082', 'hex'),
      ...inPieces(bytes, 65536).flatMap((piece) => [le(4, piece.length + 0x80000000), piece]),
      le(4, 0),
    ]),
  zstd: (bytes) => {
    const pieces = inPieces(bytes, 65536)
    const blocks = pieces.flatMap((piece, index) => [
      le(3, piece.length * 8 + (index === pieces.length - 1 ? 1 : 0)),
      piece,
    ])
    return Buffer.concat([Buffer.from('28b52ffd0038', 'hex'), ...blocks])
  },
}

/** What a user registers: it takes off what `packers` put around. */
export const unpackers: Readonly<Record<'snappy' | 'lz4' | 'zstd', (packed: Buffer) => Buffer>> = {
  snappy: (packed) => packed.subarray(packed.findIndex((byte) => byte < 0x80) + 6),
  lz4: (packed) => fromBlocks(packed, 7, 4),
  zstd: (packed) => fromBlocks(packed, 6, 3),
}

function fromBlocks(packed: Buffer, start: number, headBytes: 3 | 4): Buffer {
  const pieces: Buffer[] = []
  for (let at = start; at < packed.length;) {
    const head = packed.readUIntLE(at, headBytes)
    const length = headBytes === 3 ? head >>> 3 : head & 0x7fffffff
    if (headBytes === 4 && head === 0) break
    pieces.push(packed.subarray(at + headBytes, at + headBytes + length))
    at += headBytes + length
  }
  return Buffer.concat(pieces)
}

const inPieces = (bytes: Buffer, size: number): Buffer[] =>
  Array.from({ length: Math.ceil(bytes.length / size) }, (_, index) =>
    bytes.subarray(index * size, (index + 1) * size),
  )

function le(size: 3 | 4, value: number): Buffer {
  const bytes = Buffer.alloc(size)
  bytes.writeUIntLE(value, 0, size)
  return bytes
}

function uvarint(value: number): Buffer {
  const bytes: number[] = []
  for (; value > 0x7f; value >>>= 7) bytes.push((value & 0x7f) | 0x80)
  return Buffer.from([...bytes, value])
}

/** A batch as a broker stores it. */
export async function batchOf(
  base: number,
  records: readonly TestRecord[],
  { codec = 'none', attributes = 0 }: { readonly codec?: Codec; readonly attributes?: number } = {},
): Promise<Buffer> {
  const encoded = records.map(({ delta, key = null, value = null, headers = {} }, index) =>
    encodeRecord({ offsetDelta: delta ?? index, timestampDelta: Long.fromValue(index), key, value, headers }),
  )
  const lastOffsetDelta = records.at(-1)?.delta ?? Math.max(records.length - 1, 0)
  const batch = await encodeBatch({
    firstOffset: Long.fromValue(base),
    firstTimestamp: 1_000_000,
    maxTimestamp: 2_000_000,
    lastOffsetDelta,
    records: encoded,
  })
  const { buffer } = batch
  return withRecords(buffer, packers[codec](buffer.subarray(61)), codecNumbers[codec] | attributes)
}

/** The batch with other records and flags, its length and checksum made right. */
export function withRecords(batch: Buffer, records: Buffer, attributes: number): Buffer {
  const changed = Buffer.concat([batch.subarray(0, 61), records])
  changed.writeInt32BE(changed.length - 12, 8)
  changed.writeInt16BE(attributes, 21)
  return sealed(changed)
}

/** With the checksum that its bytes have. */
export function sealed(batch: Buffer): Buffer {
  batch.writeUInt32BE(crc32c(batch.subarray(21)), 17)
  return batch
}

/** A response to Fetch, version 11, from its length on; one topic `t` with these partitions. */
export function responseOf(partitions: readonly Buffer[], highWatermark = 1_000_000): Buffer {
  const parts = partitions.flatMap((records, partition) => {
    const head = Buffer.alloc(4 + 2 + 8 + 8 + 8 + 4 + 4 + 4)
    head.writeInt32BE(partition)
    head.writeBigInt64BE(BigInt(highWatermark), 6)
    head.writeInt32BE(-1, 34)
    head.writeInt32BE(records.length, 38)
    return [head, records]
  })
  const head = Buffer.alloc(4 + 4 + 4 + 2 + 4 + 4 + 2 + 1 + 4)
  head.writeInt32BE(7, 4)
  head.writeInt32BE(1, 18)
  head.writeInt16BE(1, 22)
  head.write('t', 24)
  head.writeInt32BE(partitions.length, 25)
  const response = Buffer.concat([head, ...parts])
  response.writeInt32BE(response.length - 4)
  return response
}

/** What kafkajs makes of a response, by partition. */
export async function decodeResponse(response: Buffer): Promise<FetchedRecord[][]> {
  const { responses } = await fetchResponse.decode(response.subarray(8))
  return responses.flatMap(({ partitions }) => partitions.map(({ messages }) => messages))
}
