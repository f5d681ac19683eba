import { randomBytes } from 'node:crypto'
import { Kafka, logLevel, type Admin } from 'kafkajs'
import { afterAll, beforeAll } from 'vitest'
import { kafka } from '../../src/brokers/kafka/kafka.ts'
import { describeWith } from '../support/require.ts'
import { kafka as kafkaServer } from '../support/servers/kafka.ts'
import { kafkaPython } from '../support/servers/python.ts'
import { shared } from '../support/shared.ts'
import { suite } from './suite.ts'

const python = await shared(kafkaPython)

describeWith('kafka', await shared(kafkaServer), 'examples/python', ({ brokers, minSessionMs }) => {
  describeWith('python3-kafka', python, 'consumer and publisher', ({ program }) => {
    let admin: Admin
    beforeAll(async () => {
      admin = new Kafka({ brokers, logLevel: logLevel.NOTHING, retry: { retries: 20 } }).admin()
      await admin.connect()
    })
    afterAll(() => admin.disconnect())
    const sessionTimeoutMs = Math.max(minSessionMs, 2000)
    const newName = (): string => `python.${randomBytes(6).toString('hex')}`
    suite({
      python: program,
      consumer: 'kafka_consumer.py',
      publisher: 'kafka_publisher.py',
      env: { KAFKA_BROKERS: brokers.join(','), SESSION_MS: String(sessionTimeoutMs) },
      broker: () => kafka({ brokers, sessionTimeoutMs }),
      newTopic: async () => {
        const topic = newName()
        await admin.createTopics({ topics: [{ topic, numPartitions: 3 }] })
        return topic
      },
      newName,
      // A machine that stands still for longer than a session costs a commit, and so a repeat.
      repeatsPerKill: null,
    })
  })
})
