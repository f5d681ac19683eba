import type { Address, Trial, TrialPlace } from '../adapter.ts'
import { openClient } from './clients.ts'
import { kafka } from './kafka.ts'
import { checkOptions, type KafkaOptions } from './options.ts'

const requestTimeoutMs = 30_000

/** Topics and groups that begin with its name. */
export function openTrial(
  { name, fewTopics = false }: TrialPlace,
  given: Pick<KafkaOptions, 'brokers' | 'client' | 'topology'>,
): Trial {
  const groupId = (consumer: string): string => `${name}.${consumer}`
  const open = (): ReturnType<typeof kafka> =>
    kafka({ topology: 'declare', ...given, groupId, ...(fewTopics && { topic: () => name }) })
  const settings = checkOptions(given)
  return {
    open,
    receiving: fewTopics
      ? { topics: ['#'], from: [name], topicOf: ({ attributes }) => attributes['type'] ?? '' }
      : { topics: ['#'] },
    // Kafka creates any topic but this one.
    nowhere: '..',
    locate: async () => {
      // What it says of itself, and what it is called by at first, need not be the same.
      const found = given.brokers.map((broker): Address => {
        const [host, port] = broker.split(':')
        return { host: host!, port: Number(port) }
      })
      const client = await openClient(settings, requestTimeoutMs)
      const named = await client.withAdmin((admin) => admin.brokers()).finally(() => client.retire())
      for (const { host, port } of named) {
        if (!found.some((known) => known.host === host && known.port === port)) found.push({ host, port })
      }
      return found
    },
    clear: async (consumers) => {
      const client = await openClient(settings, requestTimeoutMs)
      await client
        .withAdmin(async (admin) => {
          const topics = (await admin.topics()).filter(
            (topic) => topic === name || topic.startsWith(`${name}.`),
          )
          if (topics.length > 0) await admin.remove(topics)
          // The coordinator may still wait for a member that has just left.
          await admin.removeGroups(consumers.map(groupId)).catch(() => {})
        })
        .finally(() => client.retire())
    },
  }
}
