import type { Codecs } from './unpack.ts'

/** What a fetch may bring into memory, all its partitions together. */
export interface Allowance {
  readonly codecs: Codecs
  /** What one compressed batch may unpack to. */
  readonly unpackedBytesMax: number
  /** What is left for what kafkajs makes of the records. Where it ends, the next fetch goes on; one record always fits. */
  objectBytes: number
  /** Whether there has been one. */
  used: boolean
}

/** What an object of a record takes beside its bytes, roughly. */
export const recordObjectBytes = 400

/** Takes room for a record; once there is none, for nothing that follows. */
export function admit(allowance: Allowance, size: number): boolean {
  const room = allowance.objectBytes - size - recordObjectBytes
  if (room < 0 && allowance.used) {
    allowance.objectBytes = 0
    return false
  }
  allowance.objectBytes = room
  allowance.used = true
  return true
}

/** What is packed may come to much: it is not begun only to be thrown away. */
export function admitsPacked(allowance: Allowance): boolean {
  if (!allowance.used || allowance.objectBytes > allowance.unpackedBytesMax / 2) return true
  allowance.objectBytes = 0
  return false
}
