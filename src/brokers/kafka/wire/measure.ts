import { Cursor, Malformed } from './cursor.ts'

/** What a batch would unpack to, at most, known without unpacking it. */

const xerial = Buffer.from([0x82, 0x53, 0x4e, 0x41, 0x50, 0x50, 0x59, 0])

/** Each block begins with its size: https://github.com/google/snappy/blob/main/format_description.txt */
export function measureSnappy(packed: Buffer): number {
  let size = 0
  for (const block of blocksOf(packed)) size += snappyBlockSize(block)
  return size
}

/** Java's framing has two versions, then blocks behind their lengths. What has no frame is a block. */
export function* blocksOf(packed: Buffer): Generator<Buffer> {
  if (packed.subarray(0, xerial.length).equals(xerial)) {
    const cursor = new Cursor(packed, xerial.length + 8)
    while (cursor.left > 0) yield cursor.take(cursor.int32())
  } else yield packed
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
export function measureLz4(packed: Buffer): number {
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
export function measureZstd(packed: Buffer): number {
  const cursor = new Cursor(packed)
  let size = 0
  while (cursor.left > 0) {
    const magic = cursor.take(4).readUInt32LE()
    if (skips(cursor, magic)) continue
    if (magic !== 0xfd2fb528) throw new Malformed('it is no zstd')
    const descriptor = cursor.take(1)[0]!
    const single = (descriptor & 0x20) !== 0
    const contentSize = [single ? 1 : 0, 2, 4, 8][descriptor >>> 6]!
    if (!single) checkWindow(cursor.take(1)[0]!)
    cursor.take([0, 1, 2, 4][descriptor & 3]!)
    const said = cursor.take(contentSize)
    // A library may take so much memory before it has read anything.
    if (contentSize === 8) size = Math.max(size, Number(said.readBigUInt64LE()))
    else if (contentSize > 0) size = Math.max(size, said.readUIntLE(0, contentSize))
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

/** What has to be kept of what was unpacked: 128 MiB at most, as with zstd itself unless it is told otherwise. */
function checkWindow(descriptor: number): void {
  const base = 2 ** (10 + (descriptor >>> 3))
  if (base + (base / 8) * (descriptor & 7) > 128 * 1024 * 1024)
    throw new Malformed('it takes a window of more than 128 MiB to unpack')
}
