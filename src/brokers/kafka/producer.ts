import type { ICustomPartitioner, Producer } from 'kafkajs'
import { loadKafkajs, openClient } from './client.ts'
import { createTopics, findAbsent, type Missing, type Quota } from './topics.ts'
import { atMost, within } from '../../base/waiting.ts'
import { groupBy, type Outgoing } from './outgoing.ts'
import type { Settings } from './options.ts'

/** A producer that makes no attempt of its own accord. */
export interface Attempts {
  /** Which topics do not exist. Asks the broker only about those that it has not seen. */
  absent(topics: readonly string[]): Promise<readonly string[]>
  /** Creates those that may be created. */
  create(absent: readonly string[]): Promise<Missing>
  /** Writes the batch, once. @throws what kafkajs throws */
  write(batch: readonly Outgoing[]): Promise<void>
  /** The topic may be gone: ask again before the next attempt. */
  forget(topics: readonly string[]): void
  /** Whatever is under way ends, and nothing of it is sent any more. */
  retire(): void
  close(): Promise<void>
}

const closeTimeoutMs = 2000

/**
 * Connects. Not idempotent in Kafka's sense: kafkajs calls that experimental, gets its sequence numbers out of step
 * (tulios/kafkajs#598), and the identity that it rests on ends with the producer, which we replace after each doubt.
 * Duplicates are the inbox's business. @throws what kafkajs throws
 */
export async function openProducer(settings: Settings, quota: Quota, signal: AbortSignal): Promise<Attempts> {
  const client = await openClient(settings, settings.sendTimeoutMs)
  const producer: Producer = client.kafka.producer({
    createPartitioner: await pinnedPartitioner(),
    allowAutoTopicCreation: false,
    idempotent: false,
    // Its own retries would hide whether an earlier one may have arrived, and go on after we have given up.
    retry: { retries: 0 },
  })
  const seen = new Set<string>()
  try {
    await within(signal, producer.connect())
  } catch (error) {
    client.retire()
    throw error
  }

  return {
    absent: async (topics) => {
      const unseen = topics.filter((topic) => !seen.has(topic))
      if (unseen.length === 0) return []
      const absent = await findAbsent(client.kafka, unseen)
      for (const topic of unseen) if (!absent.includes(topic)) seen.add(topic)
      return absent
    },
    create: async (absent) => {
      const missing = await createTopics(client.kafka, absent, settings, quota)
      for (const topic of absent) if (!missing.has(topic)) seen.add(topic)
      return missing
    },
    write: async (batch) => {
      const byTopic = groupBy(batch, ({ topic }) => topic)
      await producer.sendBatch({
        acks: -1,
        // The broker gives up on its replicas a little earlier than we on the broker: then we know why.
        timeout: Math.ceil(settings.sendTimeoutMs * 0.8),
        topicMessages: [...byTopic].map(([topic, messages]) => ({
          topic,
          messages: messages.map(({ record }) => record),
        })),
      })
    },
    forget: (topics) => {
      for (const topic of topics) seen.delete(topic)
    },
    retire: () => client.retire(),
    close: async () => {
      await atMost(closeTimeoutMs, producer.disconnect())
      client.retire()
    },
  }
}

/**
 * Kafka's own rule: murmur2 of the key, and in turn for messages without one. Pinned, since with another one every
 * key would move to another partition, and other producers of the topic, in Java say, go by this one.
 */
export async function pinnedPartitioner(): Promise<ICustomPartitioner> {
  const { Partitioners } = await loadKafkajs()
  return () => {
    const choose = Partitioners.DefaultPartitioner()
    return (args) => (args.message.partition = choose(args))
  }
}
