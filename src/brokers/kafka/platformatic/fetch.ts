import type * as Platformatic from '@platformatic/kafka'
import type { Connection } from '@platformatic/kafka'
import { BrokerError, describeError } from '../../../base/errors.ts'
import { Cursor, Malformed } from '../wire/cursor.ts'
import type { Aborted } from '../wire/reading.ts'

/**
 * The message of the protocol that brings records, in the first version that names topics by their ids: the broker itself says when a topic
 * was made again. The library would decode the records at once, unpack them without a bound, and fail for a batch that it cannot read;
 * so we read the answer: https://kafka.apache.org/protocol#The_Messages_Fetch
 */
export const fetchApi = 1
export const fetchVersion = 13

export interface Wanted {
  readonly topicId: string
  readonly partition: number
  readonly position: bigint
}

export interface Fetched {
  readonly topicId: string
  readonly partition: number
  /** By Kafka's number; 0 is none. */
  readonly error: number
  readonly end: bigint
  readonly aborted: readonly Aborted[]
  readonly records: Buffer
}

type Topic = Parameters<(typeof Platformatic)['fetchV13']['createRequest']>[6][number]

export interface FetchLimits {
  readonly waitMs: number
  readonly maxBytes: number
  readonly partitionBytesMax: number
}

/** Records that were committed only. @throws what the library throws, and BrokerError */
export function fetchRecords(
  { fetchV13 }: typeof Platformatic,
  connection: Connection,
  wanted: readonly Wanted[],
  { waitMs, maxBytes, partitionBytesMax }: FetchLimits,
): Promise<readonly Fetched[]> {
  const topics = new Map<string, Topic>()
  for (const { topicId, partition, position: fetchOffset } of wanted) {
    const topic = topics.get(topicId) ?? { topicId, partitions: [] }
    topics.set(topicId, topic)
    topic.partitions.push({
      ...{ partition, fetchOffset, partitionMaxBytes: partitionBytesMax },
      ...{ currentLeaderEpoch: -1, lastFetchedEpoch: -1 },
    })
  }
  const request = () =>
    // Of no session: each request says all.
    fetchV13.createRequest(waitMs, 1, maxBytes, 1, 0, -1, [...topics.values()], [], '')
  const read = (_: number, _api: number, _version: number, reader: Platformatic.Reader): Buffer =>
    reader.buffer.slice(reader.position)
  return new Promise<Buffer>((resolve, reject) => {
    connection.send(fetchApi, fetchVersion, request, read, true, true, (error, bytes) => {
      if (error) reject(error)
      else resolve(bytes!)
    })
  }).then(readAnswer)
}

function readAnswer(bytes: Buffer): readonly Fetched[] {
  const fetched: Fetched[] = []
  try {
    const cursor = new Cursor(bytes)
    cursor.skip(4)
    const failure = cursor.int16()
    if (failure !== 0) throw new BrokerError('reconnect', `Kafka refused to send records: error ${failure}.`)
    cursor.skip(4)
    cursor.compactArray(() => {
      const topicId = cursor.take(16).toString('hex')
      cursor.compactArray(() => fetched.push(readPartition(cursor, topicId)))
      cursor.skipTags()
    })
  } catch (cause) {
    if (!(cause instanceof Malformed)) throw cause
    const text = `A response of Kafka is not what its protocol says: ${describeError(cause)}`
    throw new BrokerError('reconnect', text, { cause })
  }
  return fetched
}

function readPartition(cursor: Cursor, topicId: string): Fetched {
  const partition = cursor.int32()
  const error = cursor.int16()
  const end = cursor.int64()
  cursor.skip(16)
  const aborted: Aborted[] = []
  cursor.compactArray(() => {
    aborted.push({ producer: cursor.int64(), from: cursor.int64() })
    cursor.skipTags()
  })
  cursor.skip(4)
  const records = cursor.compact() ?? Buffer.alloc(0)
  cursor.skipTags()
  return { topicId, partition, error, end, aborted, records }
}
