import type * as Platformatic from '@platformatic/kafka'
import { BrokerError } from '../../../base/errors.ts'
import { missingPeer } from '../../peer.ts'
import { placeOf, type Admin, type Client, type Library, type Refusal } from '../client.ts'
import type { Settings } from '../options.ts'
import { createMember } from './member.ts'
import { makePool, type MadePool } from './pool.ts'
import { openProducer } from './producer.ts'
import { signingIn } from './signing.ts'

const peer = '@platformatic/kafka'
/** What the package asks for, without its hotfixes. */
const nodeMin = [22, 22] as const
const earliest = -2n

export const platformatic: Library = {
  peer,
  open: async (settings, requestTimeoutMs) => {
    const library = await loadPlatformatic()
    return openClient(
      makePool(library, settings, requestTimeoutMs, await signingIn(library, settings)),
      settings,
    )
  },
}

/**
 * @param load in place of the library
 * @throws BrokerError if it is not installed, or this Node is too old for it
 */
export async function loadPlatformatic(
  load?: () => Promise<typeof Platformatic>,
  node = process.versions.node,
): Promise<typeof Platformatic> {
  const [major = 0, minor = 0] = node.split('.').map(Number)
  if (major < nodeMin[0] || (major === nodeMin[0] && minor < nodeMin[1])) {
    throw new BrokerError(
      'config',
      `client: 'platformatic' of kafka() needs Node ${nodeMin.join('.')} or later, and this is ${node}: run another Node, or leave the option out (client: 'kafkajs')`,
    )
  }
  try {
    return load === undefined ? await import('@platformatic/kafka') : await load()
  } catch (cause) {
    throw missingPeer(peer, cause)
  }
}

function openClient(pool: MadePool, settings: Settings): Client {
  const { Admin: AdminClient } = pool.library
  return {
    withAdmin: async (work) => {
      const admin = pool.make((options) => new AdminClient({ ...options, metadataMaxAge: 0 }))
      try {
        const { brokers } = await admin.metadata({ topics: [] })
        return await work(adminOf(pool.library, admin, [...brokers.values()]))
      } finally {
        pool.discard(admin)
      }
    },
    openProducer: () => openProducer(pool),
    member: (reading) => createMember(pool, settings, reading),
    retire: pool.retire,
  }
}

function adminOf(
  { ResponseError }: typeof Platformatic,
  admin: Platformatic.Admin,
  brokers: Awaited<ReturnType<Admin['brokers']>>,
): Admin {
  return {
    topics: () => admin.listTopics({ includeInternals: true }),
    create: async (names, { partitions, replicationFactor: replicas }) => {
      try {
        await admin.createTopics({ topics: [...names], partitions, replicas })
        return []
      } catch (error) {
        const refused = refusalsOf(error)
        if (refused.length === 0) throw error
        return refused
      }
    },
    remove: (topics) => admin.deleteTopics({ topics: [...topics] }),
    brokers: async () => brokers,
    removeGroups: (groups) => admin.deleteGroups({ groups: [...groups] }),
    committed: async (groupId, topics) => {
      const [group] = await admin.listConsumerGroupOffsets({ groups: [groupId] })
      const places = (group?.topics ?? [])
        .filter(({ name }) => topics.includes(name))
        .flatMap(({ name, partitions }) =>
          partitions.map(({ partitionIndex, committedOffset: offset, metadata: note }) => {
            return [placeOf(name, partitionIndex), { offset, note: note ?? null }] as const
          }),
        )
      return new Map(places.filter(([, { offset }]) => offset >= 0n))
    },
    ranges: async (topic) => {
      const { topics } = await admin.metadata({ topics: [topic] })
      const indexes = Array.from({ length: topics.get(topic)!.partitionsCount }, (_, index) => index)
      const offsetsAt = async (timestamp: bigint): Promise<ReadonlyMap<number, bigint>> => {
        const partitions = indexes.map((partitionIndex) => ({ partitionIndex, timestamp }))
        const found = await admin.listOffsets({ topics: [{ name: topic, partitions }] })
        return new Map(found.flatMap((each) => each.partitions.map((at) => [at.partitionIndex, at.offset])))
      }
      const [low, high] = [await offsetsAt(earliest), await offsetsAt(-1n)]
      return indexes.map((partition) => ({
        ...{ partition, low: low.get(partition) ?? 0n, high: high.get(partition) ?? 0n },
      }))
    },
  }

  /** What the broker refused by name, of a response that is somewhere in the error. */
  function refusalsOf(error: unknown): Refusal[] {
    if (error instanceof ResponseError) {
      const { topics = [] } = error['response'] as {
        readonly topics?: readonly { readonly name: string; readonly errorCode: number }[]
      }
      return error.errors.flatMap((each: Error & { readonly path?: string }): Refusal[] => {
        const topic = topics[Number(/^\/topics\/(\d+)$/.exec(each.path ?? '')?.[1])]
        return topic === undefined ? [] : [{ topic: topic.name, error: each }]
      })
    }
    return error instanceof AggregateError ? error.errors.flatMap(refusalsOf) : []
  }
}
