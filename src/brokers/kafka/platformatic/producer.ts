import type { ClusterMetadata } from '@platformatic/kafka'
import type { Producer } from '../client.ts'
import type { Outgoing } from '../outgoing.ts'
import { createChooser, type Partitions } from '../partitions.ts'
import type { OutgoingRecord } from '../records.ts'
import type { Pool } from './pool.ts'

/** How soon messages without a key go to a partition that was added, and keys move. */
const metadataMaxAge = 300_000

/** Says what the broker says, where the library has words of its own. */
class Refused extends Error {
  readonly type: string

  constructor(type: string, text: string, cause?: unknown) {
    super(text, { cause })
    this.type = type
  }
}

/** Its own partitioner puts half of all keys where neither Java's client nor kafkajs puts them, so each record comes with its partition. */
export async function openProducer(pool: Pool): Promise<Producer> {
  const choose = createChooser()
  const producer = pool.make(
    // Its own retries would hide whether an earlier one may have arrived, and go on after we have given up.
    (options) =>
      new pool.library.Producer({ ...options, retries: 0, repeatOnStaleMetadata: false, metadataMaxAge }),
  )
  await producer.metadata({ topics: [] })

  async function placesOf(topics: readonly string[]): Promise<ClusterMetadata> {
    try {
      return await producer.metadata({ topics: [...topics] })
    } catch (error) {
      // "Unknown topic": the options that it could also be about are ours, and are sound.
      if (error instanceof pool.library.UserError)
        throw new Refused('UNKNOWN_TOPIC_OR_PARTITION', error.message, error)
      throw error
    }
  }

  async function write(batch: readonly Outgoing[]): Promise<void> {
    const { topics, brokers } = await placesOf([...new Set(batch.map(({ topic }) => topic))])
    const partitionsOf = new Map<string, Partitions>()
    for (const [topic, { partitions, partitionsCount: count }] of topics) {
      const led = partitions.flatMap(({ leader }, partition) => (brokers.has(leader) ? [partition] : []))
      partitionsOf.set(topic, { count, led })
    }
    const messages = batch.map(({ topic, record }) => {
      const partitions = partitionsOf.get(topic)!
      const partition = (record.partition ??= choose(topic, record.key, partitions))
      if (!partitions.led.includes(partition))
        throw new Refused('LEADER_NOT_AVAILABLE', `Partition ${partition} of topic "${topic}" has no leader.`)
      return { topic, partition, ...bytesOf(record) }
    })
    await producer.send({ messages, acks: -1 })
  }

  return {
    write: async (batch) => {
      try {
        await write(batch)
      } catch (error) {
        // Whatever it is, where things are may have changed.
        producer.clearMetadata()
        throw error
      }
    },
    // What was written has been answered by now.
    close: async () => pool.discard(producer),
  }
}

const bytesOf = ({ key, value, headers }: OutgoingRecord) => ({
  ...(key !== null && { key: Buffer.from(key) }),
  // A tombstone has none; the types say that there is always one.
  value: value as Buffer,
  headers: new Map(Object.entries(headers).map(([name, text]) => [Buffer.from(name), Buffer.from(text)])),
})
