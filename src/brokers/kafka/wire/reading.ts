import { Cursor } from './cursor.ts'
import { at, controlFlag, type Stretch } from './records.ts'
import type { ReceivedRecord } from '../records.ts'

/** Of the digest of a partition, the records that a client hands on which does not read batches itself. */

/** A transaction that was aborted: its records, from an offset on, are none. */
export interface Aborted {
  readonly producer: bigint
  readonly from: bigint
}

const appendTimeFlag = 0x08
const transactionFlag = 0x10
const producerAt = at.times + 16

/** @returns those that count, and the offset behind all */
export function readStretches(
  stretches: readonly Stretch[],
  from: bigint,
  aborted: readonly Aborted[],
): { readonly records: readonly ReceivedRecord[]; readonly next: bigint } {
  const records: ReceivedRecord[] = []
  /** Producers within a transaction that was aborted. */
  const aborting = new Set<bigint>()
  const ahead = aborted.toSorted((one, other) => Number(one.from - other.from))
  let next = from
  for (const { heading, passages } of stretches) {
    const { bytes, baseOffset } = heading
    const flags = bytes.readInt16BE(at.attributes)
    const producer = bytes.readBigInt64BE(producerAt)
    next = baseOffset + BigInt(passages.at(-1)!.delta) + 1n
    while (ahead.length > 0 && ahead[0]!.from < next) aborting.add(ahead.shift()!.producer)
    if (flags & controlFlag) {
      if (passages.some(({ key }) => key !== null && isAbort(key))) aborting.delete(producer)
      continue
    }
    if (flags & transactionFlag && aborting.has(producer)) continue
    const time = bytes.readBigInt64BE(at.times + (flags & appendTimeFlag ? 8 : 0))
    for (const { delta, key, bytes: all, head, content, end } of passages) {
      const later = flags & appendTimeFlag ? 0n : new Cursor(all, head + 1).varlong()
      records.push({
        offset: String(baseOffset + BigInt(delta)),
        timestamp: String(time + later),
        key,
        value: all.subarray(content, end),
      })
    }
  }
  return { records, next }
}

/** The key of a marker is its version and its type, which is 0 for an abort. */
const isAbort = (key: Buffer): boolean => key.length >= 4 && key.readInt16BE(2) === 0
