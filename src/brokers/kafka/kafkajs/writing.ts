import { varintSize, writeVarint } from '../wire/cursor.ts'
import {
  at,
  compressionMask,
  headingBytes,
  lengthEnd,
  type Heading,
  type Passage,
  type Stretch,
} from '../wire/records.ts'

/** Writes batches of records that kafkajs reads without effort: not compressed, no headers, a few thousand at a time. */

/** kafkajs hands each batch to a function as arguments, and the stack holds only so many. */
const recordsMax = 5000

/** As kafkajs reads it. */
export function writeRecords({ heading, passages }: Stretch): Buffer[] {
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
