import { setTimeout as sleep } from 'node:timers/promises'
import type { Admin, Kafka } from 'kafkajs'
import { BrokerError } from '../../base/errors.ts'
import { topicMatches } from '../../message/message.ts'
import { withAdmin } from './client.ts'
import { toTrouble, typeOf } from './errors.ts'
import type { Settings } from './options.ts'

/** Topics that cannot be had, and why. */
export type Missing = ReadonlyMap<string, BrokerError>

/** Creates those that do not exist, or with `topology: 'check'` only finds them out. @throws what kafkajs throws */
export function ensureTopics(kafka: Kafka, names: readonly string[], settings: Settings): Promise<Missing> {
  return withAdmin(kafka, async (admin) => {
    const existing = new Set(await admin.listTopics())
    const wanted = names.filter((name) => !existing.has(name))
    const missing = new Map<string, BrokerError>()
    for (const topic of wanted) {
      if (settings.topology === 'check') {
        missing.set(topic, new BrokerError('config', `Kafka has no topic "${topic}" (topology: 'check').`))
        continue
      }
      const { partitions: numPartitions, replicationFactor, sendTimeoutMs: timeout } = settings
      try {
        // Waiting for leaders, kafkajs fails at once if the broker that it asks has not heard of the topic yet.
        const topics = [{ topic, numPartitions, replicationFactor }]
        await admin.createTopics({ topics, timeout, waitForLeaders: false })
        await untilListed(admin, topic)
      } catch (error) {
        // The broker is at fault, and with it every topic; unless it named this one.
        if (typeOf(error) === null) throw error
        missing.set(topic, toTrouble(`Could not create topic "${topic}"`, error))
      }
    }
    return missing
  })
}

/** For a moment after its creation, not every broker knows a topic. Gives up after a second: those who use it retry. */
async function untilListed(admin: Admin, topic: string): Promise<void> {
  for (let looks = 0; looks < 20; looks++) {
    if ((await admin.listTopics()).includes(topic)) return
    await sleep(50)
  }
}

const isPattern = (topic: string): boolean => /[*#]/.test(topic)

/** The topics to subscribe to by now, sorted. Names are created when `ensureTopics` does that; patterns find. */
export async function findTopics(
  kafka: Kafka,
  patterns: readonly string[],
  settings: Settings,
): Promise<{ readonly topics: readonly string[]; readonly missing: Missing }> {
  const names = patterns.filter((pattern) => !isPattern(pattern))
  const missing = await ensureTopics(kafka, names, settings)
  const found = new Set(names.filter((name) => !missing.has(name)))
  if (names.length < patterns.length) {
    for (const topic of await withAdmin(kafka, (admin) => admin.listTopics())) {
      // Two underscores are Kafka's own: `#` does not mean the offsets of all consumer groups.
      if (!topic.startsWith('__') && patterns.some((pattern) => topicMatches(pattern, topic)))
        found.add(topic)
    }
  }
  return { topics: [...found].toSorted(), missing }
}
