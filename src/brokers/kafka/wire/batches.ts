import { admit, admitsPacked, type Allowance } from './allowance.ts'
import { crc32c, Cursor, Malformed } from './cursor.ts'
import {
  at,
  compressionMask,
  controlFlag,
  headingBytes,
  lengthEnd,
  refusedAt,
  stepAt,
  type Frame,
  type Passage,
  type Stretch,
} from './records.ts'
import { readOldFrame } from './old.ts'
import { NoCodec, unpack } from './unpack.ts'

/** What a client gets of a partition instead of what the broker sent. */
export interface Digest {
  readonly stretches: readonly Stretch[]
  /** The batch at the position cannot be read here and now, though it is sound; null if that is not so. */
  readonly stuck: NoCodec | null
  /** The batch at the position reaches beyond the end, so the next fetch has to say whether that is so. */
  readonly doubtful: boolean
}

/** From here on the layouts differ; every format has offset, length and the format's number in front. */
const frameBytesMin = at.magic + 1

/**
 * Rewrites the records of a partition from an offset on. Whatever stands there, something of it comes out, so that the
 * position moves on; unless the allowance ends or nobody can unpack it.
 *
 * The end has to be looked at twice. A broker notes its high watermark before it reads the records, and a batch that
 * comes in between is sent with it, though it reaches beyond that end: it was sound, and was set aside, while a broker
 * that had just been started was busy. Of a later response the end is at least where the records of this one end. So
 * what is still beyond it then has an offset that was damaged, which no checksum covers.
 *
 * @param from where the fetch began: a batch may begin before that
 * @param end what no offset reaches
 * @param doubted whether the batch there was beyond the end before
 */
export async function digest(
  records: Buffer,
  { from, end, doubted }: { readonly from: bigint; readonly end: bigint; readonly doubted: boolean },
  allowance: Allowance,
): Promise<Digest> {
  const stretches: Stretch[] = []
  let position = from
  let place = 0
  const emit = (last: bigint, stretch: Stretch): void => {
    stretches.push(stretch)
    position = last + 1n
  }

  while (records.length - place >= frameBytesMin && allowance.objectBytes > 0) {
    const size = lengthEnd + records.readInt32BE(place + at.length)
    // The last one may have been cut off by the size of the fetch; the first one never is.
    if (size < frameBytesMin || size > records.length - place) break
    const frame = records.subarray(place, place + size)
    place += size
    const next = records.length - place >= 8 ? records.readBigInt64BE(place) : null
    try {
      const { passages, heading, last, rest } = await readFrame(frame, position, allowance)
      if (last >= end) {
        if (!doubted || position > from) return { stretches, stuck: null, doubtful: position === from }
        throw new Malformed('its offsets cannot be right')
      }
      const reached = passages.at(-1)
      if (reached !== undefined) {
        emit(heading.baseOffset + BigInt(reached.delta), { heading, passages })
      }
      if (rest === 'none' && position <= last) emit(last, stepAt(last))
      if (rest instanceof Malformed && position <= last)
        emit(last, refusedAt(last, describe(frame, rest), frame))
    } catch (error) {
      if (error instanceof NoCodec) {
        return { stretches, stuck: stretches.length === 0 ? error : null, doubtful: false }
      }
      if (!(error instanceof Malformed)) throw error
      // A broker finds batches by what they say of themselves: it may send one more, in front of what we want.
      if (next !== null && next <= position) continue
      const last = lastOffset(frame, position, next === null || next > end ? null : next, end)
      emit(last, refusedAt(last, describe(frame, error), frame))
    }
  }
  if (position === from && records.length > 0 && allowance.objectBytes > 0) {
    emit(from, refusedAt(from, 'What stands at its offset is no batch of records.', records))
  }
  return { stretches, stuck: null, doubtful: false }
}

async function readFrame(frame: Buffer, from: bigint, allowance: Allowance): Promise<Frame> {
  const format = frame.readInt8(at.magic)
  if (format === 0 || format === 1) return readOldFrame(frame, format, from, allowance)
  if (format !== 2) throw new Malformed(`its format ${format} is unknown`)
  if (frame.length < headingBytes) throw new Malformed('it is too short')
  if (frame.readUInt32BE(at.crc) !== crc32c(frame.subarray(at.attributes))) {
    throw new Malformed('its checksum is wrong')
  }
  const baseOffset = frame.readBigInt64BE(0)
  const lastDelta = frame.readInt32BE(at.lastDelta)
  const last = baseOffset + BigInt(lastDelta)
  if (baseOffset < 0n || lastDelta < 0) throw new Malformed('its offsets cannot be right')
  const attributes = frame.readInt16BE(at.attributes)
  const heading = { bytes: frame.subarray(0, headingBytes), baseOffset }
  if (attributes & compressionMask && !admitsPacked(allowance))
    return { heading, passages: [], last, rest: 'later' }
  const bytes = await unpack(
    frame.subarray(headingBytes),
    attributes & compressionMask,
    allowance.codecs,
    allowance.unpackedBytesMax,
  )
  const passages: Passage[] = []
  const fromDelta = Number(from - baseOffset)
  const cursor = new Cursor(bytes)
  let previous = -1
  try {
    for (let count = frame.readInt32BE(at.count); count > 0; count--) {
      const size = cursor.varint()
      const head = cursor.at
      const stop = head + size
      cursor.skip(1)
      cursor.skipVarlong()
      const delta = cursor.varint()
      const content = cursor.at
      cursor.skip(stop - content)
      if (delta <= previous || delta > lastDelta) throw new Malformed('its offsets are out of order')
      previous = delta
      if (delta < fromDelta) continue
      if (!admit(allowance, size)) return { heading, passages, last, rest: 'later' }
      const key = attributes & controlFlag ? new Cursor(bytes.subarray(content, stop)).varbytes() : null
      passages.push({ delta, bytes, head, content, end: stop, key })
    }
    if (cursor.left > 0) throw new Malformed('it holds more than the records that it counts')
  } catch (error) {
    if (!(error instanceof Malformed)) throw error
    return { heading, passages, last, rest: error }
  }
  return { heading, passages, last, rest: 'none' }
}

/** Where a batch ends that cannot be read: too far would be a loss, too short only says the same once more. */
function lastOffset(frame: Buffer, from: bigint, next: bigint | null, end: bigint): bigint {
  const base = frame.readBigInt64BE(0)
  let last = base
  if (frame.readInt8(at.magic) === 2 && frame.length >= headingBytes) {
    const delta = frame.readInt32BE(at.lastDelta)
    const sound = frame.readUInt32BE(at.crc) === crc32c(frame.subarray(at.attributes))
    if (sound || delta + 1 === frame.readInt32BE(at.count)) last = base + BigInt(delta)
    else if (next !== null) last = next - 1n
  } else if (next !== null) last = next - 1n
  if (last >= end) last = from
  return last < from ? from : last
}

function describe(frame: Buffer, { message }: Malformed): string {
  const base = frame.readBigInt64BE(0)
  return `The batch of records from offset ${base} on (${frame.length} bytes) cannot be read: ${message}.`
}
