import { placeOf, type Client } from './client.ts'

/** How far a consumer has come. */
export interface Progress {
  /** The partitions that the group gave us. */
  assigned(): ReadonlyMap<string, readonly number[]>
  /** The offset after the last record that was dealt with, null if none was since the partitions were assigned. */
  position(topic: string, partition: number): bigint | null
  /** When something was last received, handed over or assigned, by `performance.now()`. */
  last(): number
  /** Something has happened that nobody tells. */
  touch(): void
  /** To be told by the member of the group. */
  readonly joined: (partitions: ReadonlyMap<string, readonly number[]>) => void
  readonly moved: (topic: string, partition: number, next: bigint) => void
}

/** @param isHeldBack whether a partition stands where it was */
export function watchProgress(isHeldBack: (place: string) => boolean): Progress {
  let at = performance.now()
  let assignment: ReadonlyMap<string, readonly number[]> = new Map()
  const positions = new Map<string, bigint>()
  const touch = (): void => {
    at = performance.now()
  }
  return {
    touch,
    assigned: () => assignment,
    position: (topic, partition) => positions.get(placeOf(topic, partition)) ?? null,
    last: () => at,
    joined: (partitions) => {
      assignment = partitions
      positions.clear()
      touch()
    },
    moved: (topic, partition, next) => {
      const place = placeOf(topic, partition)
      if (!isHeldBack(place)) positions.set(place, next)
      touch()
    },
  }
}

/** How many records wait in our partitions by the broker's word. @throws what the client library throws */
export function countLag(client: Client, groupId: string, progress: Progress): Promise<bigint> {
  return client.withAdmin(async (admin) => {
    const topics = [...progress.assigned().keys()]
    const committed = await admin.committed(groupId, topics)
    let lag = 0n
    for (const topic of topics) {
      const ours = new Set(progress.assigned().get(topic))
      for (const { partition, low, high } of await admin.ranges(topic)) {
        if (!ours.has(partition)) continue
        const offset = committed.get(placeOf(topic, partition))?.offset ?? -1n
        // What retention has deleted does not wait: the group goes on at the lowest offset that there is.
        const reached = highest(low, offset, progress.position(topic, partition) ?? 0n)
        if (high > reached) lag += high - reached
      }
    }
    return lag
  })
}

const highest = (...offsets: bigint[]): bigint => offsets.reduce((one, other) => (one > other ? one : other))
