import { kafka } from '../../../src/brokers/kafka/kafka.ts'

/**
 * A receiver in a process of its own, to be killed. Says `joined` when it has its partitions and `holding` when it
 * has a batch, which it keeps for ever.
 */
const [brokers, consumer, topic, sessionTimeoutMs, client] = process.argv.slice(2)

await kafka({
  ...{ brokers: brokers!.split(','), sessionTimeoutMs: Number(sessionTimeoutMs) },
  client: client as 'kafkajs' | 'platformatic',
}).subscribe({ consumer: consumer!, topics: [topic!], batchSize: 10 }, async () => {
  console.log('holding')
  await new Promise(() => {})
})
console.log('joined')
