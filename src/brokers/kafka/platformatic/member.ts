import type { GroupAssignment } from '@platformatic/kafka'
import type { Member, Reading } from '../client.ts'
import { typeOf } from '../errors.ts'
import type { Settings } from '../options.ts'
import type { Pool } from './pool.ts'
import { createReader, type Owner } from './reader.ts'

/** A join waits for the other members, at most for this and the time that these have. */
const joinGraceMs = 5000
/** The group has gone on, and this member learns by its next heartbeat how. */
const overtaken = new Set(['ILLEGAL_GENERATION', 'REBALANCE_IN_PROGRESS', 'UNKNOWN_MEMBER_ID'])

/** From one joining of the group to the next. */
interface Generation {
  /** Aborted when nothing more is to be begun. */
  readonly over: AbortController
  /** Whether the partitions may be another member's by now. */
  lost: boolean
}

/**
 * A member of a group by the consumer of @platformatic/kafka, which joins and sends heartbeats. It does not read: see `fetch.ts`. Nor does
 * it commit, since after a rebalance it would commit for the new generation what was read for the old one.
 */
export function createMember(pool: Pool, settings: Settings, reading: Reading): Member {
  const { groupId } = reading
  const { library } = pool
  const { sessionTimeoutMs } = settings
  const rebalanceTimeout = 3 * sessionTimeoutMs
  const consumer = pool.make(
    (options) =>
      new library.Consumer({
        ...{ ...options, groupId, rebalanceTimeout, sessionTimeout: sessionTimeoutMs },
        heartbeatInterval: Math.ceil(sessionTimeoutMs / 10),
        requestTimeout: rebalanceTimeout + joinGraceMs,
        metadataMaxAge: reading.metadataMaxAgeMs,
        // The name that kafkajs has for the same, so that members of both are one group.
        protocols: [{ name: 'RoundRobinAssigner', version: 0 }],
        retries: 5,
      }),
  )
  const reader = createReader(pool, reading)
  let generation: Generation | null = null
  let working: Promise<void> = Promise.resolve()
  let ended = false

  consumer.on('consumer:group:join', ({ assignments = [], generationId = -1, memberId }) =>
    begin(assignments, generationId, memberId),
  )
  consumer.on('consumer:group:rebalance', lose)
  consumer.on('consumer:heartbeat:error', ({ error }) => crash(error))
  // It has given up joining again.
  consumer.on('error', crash)

  function lose(): void {
    if (generation === null) return
    generation.lost = true
    generation.over.abort()
  }

  function crash(error: unknown): void {
    lose()
    if (!ended) reading.onCrash(error)
    ended = true
  }

  function begin(assignments: readonly GroupAssignment[], id: number, memberId: string): void {
    lose()
    const now: Generation = { over: new AbortController(), lost: false }
    generation = now
    if (ended) return
    const given = new Map(assignments.map(({ topic, partitions }) => [topic, partitions]))
    const foreign = [...given.keys()].filter((topic) => !reading.topics.includes(topic))
    if (foreign.length > 0) reading.onForeign(foreign)
    for (const topic of foreign) given.delete(topic)
    reading.onJoined(given)
    const owner: Owner = {
      over: now.over.signal,
      committed: () => committedOf(given),
      commit: async (topic, partition, next) => {
        if (now.lost) throw new Error('The group has gone on.')
        try {
          await commit(id, memberId, topic, [[partition, next]], reading.noteOf(topic))
        } catch (error) {
          if (overtaken.has(typeOf(error) ?? '')) lose()
          throw error
        }
      },
    }
    // What the last generation has in hand comes first: its offset may still count.
    working = working.then(() => reader.read(given, owner)).catch(crash)
  }

  async function committedOf(
    partitions: ReadonlyMap<string, readonly number[]>,
  ): Promise<ReadonlyMap<string, readonly (bigint | undefined)[]>> {
    const topics = [...partitions].map(([topic, numbers]) => ({ topic, partitions: [...numbers] }))
    return topics.length === 0 ? new Map() : consumer.listCommittedOffsets({ topics })
  }

  async function commit(
    id: number,
    memberId: string,
    name: string,
    offsets: readonly (readonly [partition: number, next: bigint])[],
    committedMetadata: string | null,
  ): Promise<void> {
    const coordinator = consumer.currentMetadata?.brokers.get(consumer.coordinatorId ?? -1)
    const connection = await consumer.connections.get(coordinator!)
    const partitions = offsets.map(([partitionIndex, committedOffset]) => ({
      ...{ partitionIndex, committedOffset, committedLeaderEpoch: -1, committedMetadata },
    }))
    await library.offsetCommitV8.api.async(connection, groupId, id, memberId, null, [{ name, partitions }])
  }

  return {
    start: async () => {
      consumer.topics.trackAll(...reading.topics)
      await reader.check()
      await consumer.joinGroup({})
    },
    hasTopicIds: () => true,
    pause: reader.pause,
    rewind: (topic, partitions, note) =>
      commit(
        consumer.generationId,
        consumer.memberId ?? '',
        topic,
        partitions.map((partition) => [partition, 0n]),
        note,
      ),
    leave: async () => {
      ended = true
      generation?.over.abort()
      reader.close()
      await working
      await new Promise<void>((resolve, reject) => {
        consumer.leaveGroup(false, (error) => (error ? reject(error) : resolve()))
      })
      pool.discard(consumer)
    },
  }
}
