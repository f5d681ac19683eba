import { randomBytes } from 'node:crypto'
import { Kafka, logLevel, type Admin, type ITopicConfig, type KafkaMessage, type Producer } from 'kafkajs'
import { afterAll, afterEach, beforeAll, expect, vi } from 'vitest'
import type { Broker } from '../../../src/brokers/broker.ts'
import { kafka, type KafkaOptions } from '../../../src/brokers/kafka/kafka.ts'
import { createReceiver, type TwinboxEvent, type Worker } from '../../../src/index.ts'
import type { KafkaService, KafkaSource } from '../../support/kafka.ts'
import { createTestDatabase, type TestDatabase } from '../../support/postgres.ts'

export const never: AbortSignal = new AbortController().signal

export interface Fixture {
  readonly service: () => KafkaService
  /** The client library of what `make` gives. */
  readonly client: KafkaOptions['client']
  /** Whether its nodes are ours. */
  readonly ours: boolean
  /** Closed after the test. */
  readonly make: (options?: Partial<KafkaOptions>) => Broker
  /** A name that nobody has used. */
  readonly newTopic: () => string
  /** A new topic, created by somebody else. */
  readonly createTopic: (config?: Partial<ITopicConfig>) => Promise<string>
  /** kafkajs as it is: the other side. */
  readonly admin: () => Admin
  readonly producer: () => Producer
  readonly transactional: () => Producer
  /** Reads a topic until it has seen so many messages; those that were written twice count once. */
  readonly readRecords: (topic: string, count: number) => Promise<StoredRecord[]>
}

export type StoredRecord = KafkaMessage & { readonly partition: number }

/** A Kafka for the tests of one describe. */
export function useFixture(source: KafkaSource, nodes = 1, client?: KafkaOptions['client']): Fixture {
  const brokers: Broker[] = []
  let service: KafkaService
  let other: Kafka
  let admin: Admin
  let producer: Producer

  beforeAll(async () => {
    service = await source.start(nodes)
    other = new Kafka({ brokers: service.brokers, logLevel: logLevel.NOTHING, retry: { retries: 20 } })
    admin = other.admin()
    producer = other.producer({ allowAutoTopicCreation: false })
    await Promise.all([admin.connect(), producer.connect()])
  }, 180_000)
  afterEach(async () => {
    await Promise.all(brokers.splice(0).map((broker) => broker.close()))
  })
  afterAll(async () => {
    await Promise.all([admin.disconnect(), producer.disconnect()])
    await service.stop()
  }, 60_000)

  const newTopic = (): string => `test.${randomBytes(6).toString('hex')}`
  return {
    service: () => service,
    client,
    ours: source.ours,
    make: (options = {}) => {
      const broker = kafka({
        ...{ brokers: service.brokers, client },
        sessionTimeoutMs: Math.max(service.minSessionMs, 2000),
        topology: 'declare',
        partitions: 3,
        ...options,
      })
      brokers.push(broker)
      return broker
    },
    newTopic,
    createTopic: async (config) => {
      const topic = newTopic()
      // A node that has just been thawed is fenced by the controller for seconds and has nowhere to put a topic; kafkajs
      // does not try that again. Nor may it wait for the leaders: it fails if the node has not heard of the topic yet.
      const topics = [{ topic, numPartitions: 3, ...config }]
      await vi.waitFor(() => admin.createTopics({ topics, waitForLeaders: false }), {
        timeout: 30_000,
        interval: 500,
      })
      await expect.poll(() => isLed(admin, topic), { timeout: 30_000 }).toBe(true)
      return topic
    },
    admin: () => admin,
    producer: () => producer,
    transactional: () =>
      other.producer({ transactionalId: newTopic(), idempotent: true, maxInFlightRequests: 1 }),
    readRecords: async (topic, count) => {
      const consumer = other.consumer({ groupId: newTopic(), maxWaitTimeInMs: 100 })
      const records: StoredRecord[] = []
      const ids = new Set<string>()
      await consumer.connect()
      await consumer.subscribe({ topic, fromBeginning: true })
      await new Promise<void>((done, fail) => {
        consumer
          .run({
            eachMessage: async ({ partition, message }) => {
              records.push({ ...message, partition })
              if (ids.add(String(message.headers?.['ce_id'])).size === count) done()
            },
          })
          .catch(fail)
      })
      await consumer.disconnect()
      return records
    },
  }
}

async function isLed(admin: Admin, topic: string): Promise<boolean> {
  if (!(await admin.listTopics()).includes(topic)) return false
  const { topics } = await admin.fetchTopicMetadata({ topics: [topic] })
  return topics[0]!.partitions.every(({ leader }) => leader >= 0)
}

/** How many TCP connections the process has open. */
export const sockets = (): number =>
  process.getActiveResourcesInfo().filter((resource) => resource === 'TCPSocketWrap').length

/** A receiver at a time, and its tables. */
export interface Receiving {
  readonly database: () => TestDatabase
  /** Each topic has a consumer of its name. */
  readonly receive: (topic: string, broker: Broker, onEvent: (event: TwinboxEvent) => void) => Promise<void>
  readonly stop: () => Promise<void>
}

/** For the tests of one describe. The receiver ends with its test. */
export function useReceiver(): Receiving {
  let database: TestDatabase
  let receiver: Worker | null = null
  const stop = async (): Promise<void> => {
    await receiver?.stop()
    receiver = null
  }
  beforeAll(async () => {
    database = await createTestDatabase()
  })
  afterEach(stop)
  afterAll(() => database.drop())
  return {
    database: () => database,
    receive: async (topic, broker, onEvent) => {
      receiver = createReceiver({ database: database.url, broker, consumer: topic, topics: [topic], onEvent })
      await receiver.start()
    },
    stop,
  }
}
