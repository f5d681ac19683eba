import { atMost, within } from '../../base/waiting.ts'
import type { Producer } from './client.ts'
import { openClient } from './clients.ts'
import type { Settings } from './options.ts'
import { createTopics, findAbsent, type Missing, type Quota } from './topics.ts'

/** A producer, and which topics there are. */
export interface Attempts extends Producer {
  /** Which topics do not exist. Asks the broker only about those that it has not seen. */
  absent(topics: readonly string[]): Promise<readonly string[]>
  /** Creates those that may be created. */
  create(absent: readonly string[]): Promise<Missing>
  /** The topic may be gone: ask again before the next attempt. */
  forget(topics: readonly string[]): void
  /** Whatever is under way ends, and nothing of it is sent any more. */
  retire(): void
}

const closeTimeoutMs = 2000

/** Connects. @throws what the client library throws */
export async function openProducer(settings: Settings, quota: Quota, signal: AbortSignal): Promise<Attempts> {
  const client = await openClient(settings, settings.sendTimeoutMs)
  const seen = new Set<string>()
  let producer: Producer
  try {
    producer = await within(signal, client.openProducer())
  } catch (error) {
    client.retire()
    throw error
  }
  return {
    absent: async (topics) => {
      const unseen = topics.filter((topic) => !seen.has(topic))
      if (unseen.length === 0) return []
      const absent = await findAbsent(client, unseen)
      for (const topic of unseen) if (!absent.includes(topic)) seen.add(topic)
      return absent
    },
    create: async (absent) => {
      const missing = await createTopics(client, absent, settings, quota)
      for (const topic of absent) if (!missing.has(topic)) seen.add(topic)
      return missing
    },
    write: (batch) => producer.write(batch),
    forget: (topics) => {
      for (const topic of topics) seen.delete(topic)
    },
    retire: () => client.retire(),
    close: async () => {
      await atMost(closeTimeoutMs, producer.close())
      client.retire()
    },
  }
}
