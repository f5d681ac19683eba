import { placeOf, type Stuck } from '../client.ts'
import type { Allowance } from '../wire/allowance.ts'
import { digest } from '../wire/batches.ts'
import { Malformed, type Cursor } from '../wire/cursor.ts'
import { writeRecords } from './writing.ts'

/** The two messages of the protocol that bring records: https://kafka.apache.org/protocol#The_Messages_Fetch */

export const fetchApi = 1
/** What kafkajs 2.2.4 speaks. From 12 on the layout is another. */
const versionMax = 11

export interface FetchRequest {
  readonly version: number
  /** By topic and partition, from which offset on. */
  readonly positions: ReadonlyMap<string, bigint>
}

/** What is known of a connection from one fetch to the next. */
export interface FetchConnection {
  /** Called for a partition whose records somebody has to install a codec for. It gets none of them. */
  readonly onStuck: (stuck: Stuck) => void
  /** By topic and partition, the position whose batch reached beyond the end that its response spoke of. */
  readonly doubts: Map<string, bigint>
  /** By topic and partition, the position that Kafka does not have, until kafkajs asks from another one. */
  readonly lost: Map<string, bigint>
}

/** An offset that is asked for and is not there: deleted, or not written yet. */
const offsetOutOfRange = 1

/** @param body what stands behind the header of the request. @throws Malformed if its version is unknown */
export function readFetchRequest(body: Cursor, version: number): FetchRequest {
  if (version > versionMax) throw new Malformed(`version ${version} of the request Fetch is unknown`)
  const positions = new Map<string, bigint>()
  body.take(12)
  if (version >= 3) body.take(4)
  if (version >= 4) body.take(1)
  if (version >= 7) body.take(8)
  body.array(() => {
    const topic = body.string()
    body.array(() => {
      const partition = body.int32()
      if (version >= 9) body.take(4)
      positions.set(placeOf(topic, partition), body.int64())
      if (version >= 5) body.take(8)
      body.take(4)
    })
  })
  return { version, positions }
}

/** Replaces the records of every partition by what kafkajs can digest. What is around them stays as it is. */
export async function rewriteFetchResponse(
  body: Cursor,
  { version, positions }: FetchRequest,
  allowance: Allowance,
  { onStuck, doubts, lost }: FetchConnection,
): Promise<Buffer[]> {
  const written: Buffer[] = []
  let kept = 0
  if (version >= 1) body.take(4)
  if (version >= 7) body.take(6)
  for (let topics = body.int32(); topics > 0; topics--) {
    const topic = body.string()
    for (let partitions = body.int32(); partitions > 0; partitions--) {
      const partition = body.int32()
      const error = body.int16()
      const end = body.int64()
      if (version >= 4) body.take(8)
      if (version >= 5) body.take(8)
      if (version >= 4) body.array(() => body.take(16))
      if (version >= 11) body.take(4)
      written.push(body.bytes.subarray(kept, body.at))
      const records = body.nullable() ?? Buffer.alloc(0)
      kept = body.at
      const place = placeOf(topic, partition)
      const offset = positions.get(place) ?? 0n
      if (error === offsetOutOfRange) lost.set(place, offset)
      const range = { from: offset, end, doubted: doubts.get(place) === offset }
      const { stretches, stuck, doubtful } = await digest(records, range, allowance)
      const batches = stretches.flatMap(writeRecords)
      if (doubtful) doubts.set(place, offset)
      else doubts.delete(place)
      if (stuck !== null) onStuck({ topic, partition, offset, error: stuck })
      const size = Buffer.alloc(4)
      size.writeInt32BE(batches.reduce((sum, { length }) => sum + length, 0))
      written.push(size, ...batches)
    }
  }
  written.push(body.bytes.subarray(kept))
  return written
}
