import type { EachBatchPayload, Kafka, OffsetsByTopicPartition } from 'kafkajs'
import type { Delivery, Member, Reading } from '../client.ts'
import type { Settings } from '../options.ts'
import type { Known } from './guard.ts'

/** A member of a group by the consumer of kafkajs. */
export function createMember(kafka: Kafka, settings: Settings, reading: Reading, known: Known): Member {
  const heartbeatMs = Math.ceil(settings.sessionTimeoutMs / 10)
  const consumer = kafka.consumer({
    groupId: reading.groupId,
    sessionTimeout: settings.sessionTimeoutMs,
    rebalanceTimeout: 3 * settings.sessionTimeoutMs,
    // Also how soon a member learns that the group is rebalancing, and until then the others wait.
    heartbeatInterval: heartbeatMs,
    maxWaitTimeInMs: reading.fetchWaitMs,
    maxBytes: reading.batchBytes,
    maxBytesPerPartition: reading.partitionBytesMax,
    metadataMaxAge: reading.metadataMaxAgeMs,
    allowAutoTopicCreation: false,
    // Whether kafkajs restarts depends on what its errors wrap; sometimes it stays down without a word.
    retry: { retries: 5, initialRetryTime: 100, maxRetryTime: 1000, restartOnFailure: async () => false },
  })
  const { CRASH, RECEIVED_UNSUBSCRIBED_TOPICS, GROUP_JOIN, END_BATCH_PROCESS } = consumer.events
  consumer.on(CRASH, ({ payload }) => reading.onCrash(payload.error))
  consumer.on(RECEIVED_UNSUBSCRIBED_TOPICS, ({ payload }) => reading.onForeign(payload.topicsNotSubscribed))
  consumer.on(GROUP_JOIN, ({ payload }) =>
    reading.onJoined(new Map(Object.entries(payload.memberAssignment))),
  )
  // Comes also for batches that hold nothing for us: nobody commits their offset, and the lag that is left of it is none.
  consumer.on(END_BATCH_PROCESS, ({ payload: { topic, partition, lastOffset } }) =>
    reading.onPosition(topic, partition, BigInt(lastOffset) + 1n),
  )

  /** What kafkajs throws here, a rebalance above all, is for kafkajs to deal with. */
  async function eachBatch(payload: EachBatchPayload): Promise<void> {
    const { topic, partition, messages } = payload.batch
    const delivery: Delivery = {
      ...{ topic, partition, records: messages },
      stale: () => !payload.isRunning() || payload.isStale(),
      commit: async ({ offset }) => {
        payload.resolveOffset(offset)
        await payload.commitOffsetsIfNecessary(noted(payload.uncommittedOffsets()))
        await payload.heartbeat()
      },
    }
    // kafkajs sends heartbeats between batches only; a slow database would cost us the partition. Their failure says what the
    // commit will say too, when there is something to do about it.
    const timer = setInterval(() => void payload.heartbeat().catch(() => {}), heartbeatMs)
    try {
      await reading.onRecords(delivery)
    } finally {
      clearInterval(timer)
    }
  }

  /** kafkajs knows what is next, which may be behind markers that nobody sees. */
  const noted = ({ topics }: OffsetsByTopicPartition): OffsetsByTopicPartition => ({
    topics: topics.map(({ topic, partitions }) => ({
      topic,
      partitions: partitions.map((each) => ({ ...each, metadata: reading.noteOf(topic) })),
    })),
  })

  return {
    start: async () => {
      const joined = new Promise<void>((resolve) => void consumer.on(GROUP_JOIN, () => resolve()))
      await consumer.connect()
      await consumer.subscribe({ topics: [...reading.topics], fromBeginning: true })
      await consumer.run({ autoCommit: false, eachBatchAutoResolve: false, eachBatch })
      await joined
    },
    hasTopicIds: () => known.metadataVersion !== null,
    pause: (topic, partition) => {
      const partitions = [{ topic, partitions: [partition] }]
      consumer.pause(partitions)
      return () => consumer.resume(partitions)
    },
    rewind: (topic, partitions, metadata) =>
      consumer.commitOffsets(partitions.map((partition) => ({ topic, partition, offset: '0', metadata }))),
    leave: () => consumer.disconnect(),
  }
}
