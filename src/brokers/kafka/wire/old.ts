import { crc32 } from 'node:zlib'
import { admit, recordObjectBytes, type Allowance } from './allowance.ts'
import { Cursor, Malformed } from './cursor.ts'
import { compressionMask, plainHeading, plainPassage, type Frame, type Passage } from './records.ts'
import { unpack } from './unpack.ts'

/**
 * A message in a format of before Kafka 0.11, which a topic that is old enough still holds; with compression, it is
 * around others.
 */
export async function readOldFrame(
  frame: Buffer,
  format: 0 | 1,
  from: bigint,
  allowance: Allowance,
): Promise<Frame> {
  const { offset: last, attributes, time, key, value } = readOldMessage(new Cursor(frame))
  if (last < 0n) throw new Malformed('its offsets cannot be right')
  const compression = attributes & compressionMask
  const heading = plainHeading(last, time)
  if (compression === 0) {
    if (last < from) return { heading, passages: [], last, rest: 'none' }
    if (!admit(allowance, frame.length)) return { heading, passages: [], last, rest: 'later' }
    return { heading, passages: [plainPassage(0, key, value)], last, rest: 'none' }
  }
  const { codecs, unpackedBytesMax } = allowance
  const cursor = new Cursor(await unpack(value ?? Buffer.alloc(0), compression, codecs, unpackedBytesMax))
  const messages: OldMessage[] = []
  while (cursor.left > 0) {
    messages.push(readOldMessage(cursor))
    if (messages.length * recordObjectBytes > unpackedBytesMax)
      throw new Malformed('it holds too many messages')
  }
  // In format 1 they count from the first, and the message around them has the offset of the last.
  const base = format === 1 && messages.length > 0 ? last - messages.at(-1)!.offset : 0n
  const passages: Passage[] = []
  for (const message of messages) {
    const offset = base + message.offset
    if (offset < from || offset > last) continue
    const passage = plainPassage(Number(offset - last), message.key, message.value)
    if (!admit(allowance, passage.end)) return { heading, passages, last, rest: 'later' }
    passages.push(passage)
  }
  return { heading, passages, last, rest: 'none' }
}

interface OldMessage {
  readonly offset: bigint
  readonly attributes: number
  readonly time: bigint
  readonly key: Buffer | null
  readonly value: Buffer | null
}

function readOldMessage(cursor: Cursor): OldMessage {
  const offset = cursor.int64()
  const message = new Cursor(cursor.take(cursor.int32()))
  const crc = message.int32() >>> 0
  if (crc !== crc32(message.bytes.subarray(message.at))) throw new Malformed('its checksum is wrong')
  const format = message.int8()
  const attributes = message.int8()
  const time = format === 1 ? message.int64() : 0n
  return { offset, attributes, time, key: message.nullable(), value: message.nullable() }
}
