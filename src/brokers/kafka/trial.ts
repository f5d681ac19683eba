import type { Admin } from 'kafkajs'
import type { Address, Trial, TrialPlace } from '../adapter.ts'
import { loadKafkajs } from './client.ts'
import { kafka } from './kafka.ts'

/** Topics and groups that begin with its name. */
export function openTrial({ name, fewTopics = false }: TrialPlace, brokers: readonly string[]): Trial {
  const groupId = (consumer: string): string => `${name}.${consumer}`
  const open = (): ReturnType<typeof kafka> =>
    kafka({ brokers, groupId, topology: 'declare', ...(fewTopics && { topic: () => name }) })
  return {
    open,
    receiving: fewTopics
      ? { topics: ['#'], from: [name], topicOf: ({ attributes }) => attributes['type'] ?? '' }
      : { topics: ['#'] },
    // Kafka creates any topic but this one.
    nowhere: '..',
    locate: async () => {
      // What it says of itself, and what it is called by at first, need not be the same.
      const found = brokers.map((broker): Address => {
        const [host, port] = broker.split(':')
        return { host: host!, port: Number(port) }
      })
      await withAdmin(brokers, async (admin) => {
        for (const { host, port } of (await admin.describeCluster()).brokers) {
          if (!found.some((known) => known.host === host && known.port === port)) found.push({ host, port })
        }
      })
      return found
    },
    clear: (consumers) =>
      withAdmin(brokers, async (admin) => {
        const topics = (await admin.listTopics()).filter(
          (topic) => topic === name || topic.startsWith(`${name}.`),
        )
        if (topics.length > 0) await admin.deleteTopics({ topics })
        // The coordinator may still wait for a member that has just left.
        await admin.deleteGroups(consumers.map(groupId)).catch(() => {})
      }),
  }
}

async function withAdmin(
  brokers: readonly string[],
  work: (admin: Admin) => Promise<unknown>,
): Promise<void> {
  const { Kafka, logLevel } = await loadKafkajs()
  const admin = new Kafka({
    brokers: [...brokers],
    logLevel: logLevel.NOTHING,
    retry: { retries: 2 },
  }).admin()
  await admin.connect()
  try {
    await work(admin)
  } finally {
    await admin.disconnect()
  }
}
