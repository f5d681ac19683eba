import { varintSize, writeVarint, type Malformed } from './cursor.ts'

/** What is left of batches of records when they have been unpacked, and what is damaged has been set aside. */

/**
 * A record of which a client learns the offset and the time. What stands behind these, from the key to the headers, is
 * for `toIncoming` to read.
 */
export interface Passage {
  /** Its offset, from that of its batch on. */
  readonly delta: number
  /** Where its parts stand: from `head` on flags, time and offset, from `content` to `end` the rest. */
  readonly bytes: Buffer
  readonly head: number
  readonly content: number
  readonly end: number
  /** Why the content cannot be read; null if it may be. Of a marker of a transaction its key. */
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

/** Records that belong together, as they are handed on. */
export interface Stretch {
  readonly heading: Heading
  readonly passages: readonly Passage[]
}

/** A record that is stepped over, as the markers of transactions are, so that the position moves on. */
export function stepAt(offset: bigint): Stretch {
  const heading = plainHeading(offset)
  heading.bytes.writeInt16BE(controlFlag, at.attributes)
  return { heading, passages: [plainPassage(0, null, null)] }
}

/** A record that says why it cannot be read, with what there is of it. */
export function refusedAt(offset: bigint, why: string, body: Buffer): Stretch {
  return {
    heading: plainHeading(offset),
    passages: [{ ...plainPassage(0, null, body), key: Buffer.from(why) }],
  }
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
