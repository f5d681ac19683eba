import { varintSize, writeVarint, type Malformed } from './cursor.ts'

/** Writes batches of records that kafkajs reads without effort: not compressed, no headers, a few thousand at a time. */

/**
 * A record of which kafkajs learns the offset and the time. What stands behind these, from the key to the headers, is
 * the value of what we write, and `toIncoming` reads it.
 */
export interface Passage {
  /** Its offset, from that of its batch on. */
  readonly delta: number
  /** Where its parts stand: from `head` on flags, time and offset, from `content` to `end` the rest. */
  readonly bytes: Buffer
  readonly head: number
  readonly content: number
  readonly end: number
  /** Why the content cannot be read; null if it may be. Of a marker of a transaction its key, which kafkajs reads. */
  readonly key: Buffer | null
}

/** What a batch says of all its records. */
export interface Heading {
  /** The producer's id and epoch, flags, times: everything in front of the records. */
  readonly bytes: Buffer
  readonly baseOffset: bigint
}

/** What stands in a frame from an offset on. */
export interface Frame {
  readonly heading: Heading
  readonly passages: readonly Passage[]
  readonly last: bigint
  /** What is not among the passages: nothing, more than the allowance has room for, or what cannot be read. */
  readonly rest: 'none' | 'later' | Malformed
}

/** Offset, length, epoch, format, checksum, flags, offsets, times, producer, count: in front of the records. */
export const headingBytes = 61
export const at = {
  length: 8,
  magic: 16,
  crc: 17,
  attributes: 21,
  lastDelta: 23,
  times: 27,
  count: 57,
} as const
/** The length counts what stands behind it. */
export const lengthEnd = 12
export const controlFlag = 0x20
export const compressionMask = 0x07
/** kafkajs hands each batch to a function as arguments, and the stack holds only so many. */
const recordsMax = 5000

/** A heading for records of our own, at an offset. */
export function plainHeading(baseOffset: bigint, time = 0n): Heading {
  const bytes = Buffer.alloc(headingBytes)
  bytes.writeInt8(2, at.magic)
  bytes.writeBigInt64BE(time, at.times)
  bytes.writeBigInt64BE(time, at.times + 8)
  // No producer.
  bytes.fill(0xff, at.times + 16, at.count)
  return { bytes, baseOffset }
}

/** A record that kafkajs steps over, as it does over the markers of transactions, so that its position moves on. */
export function writeStep(offset: bigint): Buffer[] {
  const heading = plainHeading(offset)
  heading.bytes.writeInt16BE(controlFlag, at.attributes)
  return writeRecords(heading, [plainPassage(0, null, null)])
}

/** A record that says why it cannot be read, with what there is of it. */
export function writeRefused(offset: bigint, why: string, body: Buffer): Buffer[] {
  return writeRecords(plainHeading(offset), [{ ...plainPassage(0, null, body), key: Buffer.from(why) }])
}

/** A record without headers, at the time of its batch. */
export function plainPassage(delta: number, key: Buffer | null, value: Buffer | null): Passage {
  const head = Buffer.alloc(2 + varintSize(delta))
  writeVarint(head, 2, delta)
  const parts = [key, value].flatMap((part) => {
    const length = part?.length ?? -1
    const prefix = Buffer.alloc(varintSize(length))
    writeVarint(prefix, 0, length)
    return part === null ? [prefix] : [prefix, part]
  })
  const bytes = Buffer.concat([head, ...parts, noHeaders])
  return { delta, bytes, head: 0, content: head.length, end: bytes.length, key: null }
}

const noHeaders = Buffer.from([0])

export function writeRecords(heading: Heading, passages: readonly Passage[]): Buffer[] {
  const batches: Buffer[] = []
  for (let from = 0; from < passages.length; from += recordsMax) {
    batches.push(writeBatch(heading, passages.slice(from, from + recordsMax)))
  }
  return batches
}

function writeBatch({ bytes, baseOffset }: Heading, passages: readonly Passage[]): Buffer {
  const total = passages.reduce((sum, passage) => {
    const size = sizeOf(passage)
    return sum + varintSize(size) + size
  }, headingBytes)
  const batch = Buffer.allocUnsafe(total)
  bytes.copy(batch)
  batch.writeBigInt64BE(baseOffset)
  batch.writeInt32BE(total - lengthEnd, at.length)
  batch.writeInt16BE(bytes.readInt16BE(at.attributes) & ~compressionMask, at.attributes)
  batch.writeInt32BE(passages.at(-1)!.delta, at.lastDelta)
  batch.writeInt32BE(passages.length, at.count)
  let place = headingBytes
  for (const passage of passages) {
    const { key, head, content, end } = passage
    place = writeVarint(batch, place, sizeOf(passage))
    place += passage.bytes.copy(batch, place, head, content)
    place = writeVarint(batch, place, key?.length ?? -1)
    if (key !== null) place += key.copy(batch, place)
    place = writeVarint(batch, place, end - content)
    place += passage.bytes.copy(batch, place, content, end)
    // No headers.
    batch[place++] = 0
  }
  return batch
}

function sizeOf({ head, content, end, key }: Passage): number {
  const length = key?.length ?? -1
  return end - head + varintSize(length) + Math.max(length, 0) + varintSize(end - content) + 1
}
