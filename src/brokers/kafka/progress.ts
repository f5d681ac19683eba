import type { Consumer, ConsumerEndBatchProcessEvent, ConsumerGroupJoinEvent } from 'kafkajs'
import { withAdmin, type Client } from './client.ts'

/** How far a consumer has come. */
export interface Progress {
  /** The partitions that the group gave us. */
  assigned(): ReadonlyMap<string, readonly number[]>
  /** The offset after the last record that was dealt with, null if none was since the partitions were assigned. */
  position(topic: string, partition: number): bigint | null
  /** When something was last received, handed over or assigned, by `performance.now()`. */
  last(): number
  /** Something has happened that the consumer has no event for. */
  touch(): void
}

export function watchProgress(consumer: Consumer, isHeldBack: (partition: string) => boolean): Progress {
  let at = performance.now()
  let assignment = new Map<string, number[]>()
  const positions = new Map<string, bigint>()
  const touch = (): void => {
    at = performance.now()
  }
  consumer.on(consumer.events.GROUP_JOIN, ({ payload }: ConsumerGroupJoinEvent) => {
    assignment = new Map(Object.entries(payload.memberAssignment))
    positions.clear()
    touch()
  })
  // Comes also for batches that hold nothing for us, such as the marker that ends a transaction: nobody commits
  // their offset, and the lag that is left of it is none.
  consumer.on(consumer.events.END_BATCH_PROCESS, ({ payload }: ConsumerEndBatchProcessEvent) => {
    const partition = `${payload.topic}/${payload.partition}`
    if (!isHeldBack(partition)) positions.set(partition, BigInt(payload.lastOffset) + 1n)
    touch()
  })
  return {
    touch,
    assigned: () => assignment,
    position: (topic, partition) => positions.get(`${topic}/${partition}`) ?? null,
    last: () => at,
  }
}

/** How many records wait in our partitions by the broker's word. @throws what kafkajs throws */
export function countLag({ kafka }: Client, groupId: string, progress: Progress): Promise<bigint> {
  return withAdmin(kafka, async (admin) => {
    const topics = [...progress.assigned().keys()]
    const committed = await admin.fetchOffsets({ groupId, topics })
    let lag = 0n
    for (const { topic, partitions } of committed) {
      const ours = new Set(progress.assigned().get(topic))
      const ends = await admin.fetchTopicOffsets(topic)
      for (const { partition, low, high } of ends) {
        if (!ours.has(partition)) continue
        const offset = partitions.find((candidate) => candidate.partition === partition)?.offset ?? '-1'
        // What retention has deleted does not wait: the group goes on at the lowest offset that there is.
        const reached = highest(BigInt(low), BigInt(offset), progress.position(topic, partition) ?? 0n)
        if (BigInt(high) > reached) lag += BigInt(high) - reached
      }
    }
    return lag
  })
}

const highest = (...offsets: bigint[]): bigint => offsets.reduce((one, other) => (one > other ? one : other))
