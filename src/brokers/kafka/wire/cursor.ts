/** Bytes that are not what Kafka's protocol says. The message tells where and why, as the end of a sentence. */
export class Malformed extends Error {}

/** Reads what the protocol is made of (https://kafka.apache.org/protocol#protocol_types), and never past the end. */
export class Cursor {
  readonly bytes: Buffer
  at: number

  constructor(bytes: Buffer, at = 0) {
    this.bytes = bytes
    this.at = at
  }

  get left(): number {
    return this.bytes.length - this.at
  }

  skip(length: number): void {
    if (length < 0 || length > this.left) {
      throw new Malformed(`a field of ${length} bytes is said to stand where ${this.left} are left`)
    }
    this.at += length
  }

  take(length: number): Buffer {
    this.skip(length)
    return this.bytes.subarray(this.at - length, this.at)
  }

  int8 = (): number => this.take(1).readInt8()
  int16 = (): number => this.take(2).readInt16BE()
  int32 = (): number => this.take(4).readInt32BE()
  int64 = (): bigint => this.take(8).readBigInt64BE()

  /** Calls `read` as often as the array has elements. A null array has none. */
  array(read: () => void): void {
    for (let count = this.int32(); count > 0; count--) read()
  }

  string(): string {
    return this.take(this.int16()).toString()
  }

  /** Bytes behind a length of 32 bits, which is -1 for null. */
  nullable(): Buffer | null {
    const length = this.int32()
    return length === -1 ? null : this.take(length)
  }

  /** Bytes behind a varint, which is -1 for null. */
  varbytes(): Buffer | null {
    const length = this.varint()
    return length === -1 ? null : this.take(length)
  }

  /** A zigzag number of at most 32 bits. */
  varint(): number {
    let value = 0
    for (let shift = 0; shift < 35; shift += 7) {
      if (this.at >= this.bytes.length) throw new Malformed('a number ends too soon')
      const byte = this.bytes[this.at++]!
      value |= (byte & 0x7f) << shift
      if (byte < 0x80) return (value >>> 1) ^ -(value & 1)
    }
    throw new Malformed('a number has more than 32 bits')
  }

  /** A number without a sign of at most 31 bits. */
  uvarint(): number {
    let value = 0
    for (let shift = 0; shift < 35; shift += 7) {
      if (this.at >= this.bytes.length) throw new Malformed('a number ends too soon')
      const byte = this.bytes[this.at++]!
      value += (byte & 0x7f) * 2 ** shift
      if (byte < 0x80) return value
    }
    throw new Malformed('a number has more than 32 bits')
  }

  /** Bytes behind their length and one, which is 0 for null, as versions with tags have them. */
  compact(): Buffer | null {
    const length = this.uvarint()
    return length === 0 ? null : this.take(length - 1)
  }

  compactArray(read: () => void): void {
    for (let count = this.uvarint(); count > 1; count--) read()
  }

  /** Steps over fields that a version without them does not know. */
  skipTags(): void {
    for (let count = this.uvarint(); count > 0; count--) {
      this.uvarint()
      this.skip(this.uvarint())
    }
  }

  /** A zigzag number of at most 64 bits. */
  varlong(): bigint {
    const start = this.at
    this.skipVarlong()
    let value = 0n
    for (let place = this.at - 1; place >= start; place--)
      value = (value << 7n) | BigInt(this.bytes[place]! & 0x7f)
    return BigInt.asIntN(64, (value >> 1n) ^ -(value & 1n))
  }

  /** Steps over a zigzag number of at most 64 bits. */
  skipVarlong(): void {
    for (let length = 1; length <= 10; length++) {
      this.skip(1)
      if (this.bytes[this.at - 1]! < 0x80) return
    }
    throw new Malformed('a number has more than 64 bits')
  }
}

/** How many bytes `writeVarint` needs. */
export function varintSize(value: number): number {
  let rest = ((value << 1) ^ (value >> 31)) >>> 0
  let size = 1
  for (; rest > 0x7f; rest >>>= 7) size++
  return size
}

/** Returns the place after it. */
export function writeVarint(bytes: Buffer, at: number, value: number): number {
  let rest = ((value << 1) ^ (value >> 31)) >>> 0
  for (; rest > 0x7f; rest >>>= 7) bytes[at++] = (rest & 0x7f) | 0x80
  bytes[at++] = rest
  return at
}

const castagnoli = Uint32Array.from({ length: 256 }, (_, byte) => {
  let crc = byte
  for (let bit = 0; bit < 8; bit++) crc = crc & 1 ? (crc >>> 1) ^ 0x82f63b78 : crc >>> 1
  return crc
})

/** CRC-32C, the checksum of a record batch. */
export function crc32c(bytes: Uint8Array): number {
  let crc = 0xffffffff
  for (let at = 0; at < bytes.length; at++) crc = castagnoli[(crc ^ bytes[at]!) & 0xff]! ^ (crc >>> 8)
  return ~crc >>> 0
}
