import amqp from 'amqplib'
import { Kafka, logLevel, type Message } from 'kafkajs'
import type { Broker } from '../../src/brokers/broker.ts'
import { kafka } from '../../src/brokers/kafka/kafka.ts'
import { toRecord } from '../../src/brokers/kafka/records.ts'
import { rabbitmq } from '../../src/brokers/rabbitmq/rabbitmq.ts'
import { checkOptions } from '../../src/brokers/rabbitmq/options.ts'
import { toSending } from '../../src/brokers/rabbitmq/outgoing.ts'
import { zeromq } from '../../src/brokers/zeromq/zeromq.ts'
import type { OutgoingMessage } from '../../src/message/message.ts'
import type { Place, Stop, Task } from '../race/entrant.ts'
import { contentOf, portions, share } from '../race/messages.ts'
import type { Tally } from '../race/tally.ts'
import { outgoing as toSend } from '../../test/support/messages.ts'

/** Brokers of their own, and their client libraries without ours. */

export const consumer = 'bench'

/** Each lap has its own exchange, queue and topic. */
export const nameOf = (url: string): string => new URL(url).pathname.slice(1)

export const isKafka = ({ broker }: Task): boolean =>
  broker!.kind === 'kafka' || broker!.kind === 'platformatic'

export function brokerOf(url: string, task: Task): Broker {
  const { kind, address } = task.broker!
  const name = nameOf(url)
  if (isKafka(task)) {
    const client = kind === 'platformatic' ? kind : undefined
    return kafka({ brokers: [address], client, topology: 'declare', topic: () => name })
  }
  if (kind === 'zeromq') return zeromq({ consumers: { [consumer]: { addresses: [address], topics: ['#'] } } })
  return rabbitmq({ url: address, exchange: name, queue: () => name })
}

/** Where messages go: made by our adapter, for all alike. */
export async function prepareBroker(url: string, task: Task): Promise<void> {
  // There is nothing before its receivers listen, nor after.
  if (task.broker!.kind === 'zeromq') return
  const broker = brokerOf(url, task)
  const topics = isKafka(task) ? [nameOf(url)] : ['#']
  const subscription = await broker.subscribe({ consumer, topics, batchSize: 1 }, async () => {})
  await subscription.stop()
  await broker.close()
}

/** Puts the messages there that a receiver is to take. */
export async function fillBroker(url: string, task: Task): Promise<void> {
  const broker = brokerOf(url, task)
  for (const portion of portions(task)) {
    const batch = portion.map((each) => {
      const content = contentOf(each, task)
      return content instanceof Uint8Array
        ? toSend('bench.message', { content, contentType: 'application/octet-stream' })
        : toSend('bench.message', { content: JSON.stringify(content) })
    })
    const outcomes = await broker.send(batch, { signal: AbortSignal.timeout(60_000) })
    if (outcomes.some(({ status }) => status !== 'sent')) throw new Error('The broker did not take them.')
  }
  await broker.close()
}

/** How many messages the broker has. */
export async function countAtBroker(url: string, task: Task): Promise<number> {
  const name = nameOf(url)
  const { broker } = task
  if (isKafka(task)) {
    const admin = new Kafka({ brokers: [broker!.address], logLevel: logLevel.NOTHING }).admin()
    await admin.connect()
    const offsets = await admin.fetchTopicOffsets(name)
    await admin.disconnect()
    return offsets.reduce((sum, { high }) => sum + Number(high), 0)
  }
  return onChannel(broker!.address, async (channel) => (await channel.checkQueue(name)).messageCount)
}

export async function dropAtBroker(url: string, task: Task): Promise<void> {
  const { broker } = task
  if (broker!.kind === 'zeromq') return
  const name = nameOf(url)
  if (isKafka(task)) {
    const admin = new Kafka({ brokers: [broker!.address], logLevel: logLevel.NOTHING }).admin()
    await admin.connect()
    await admin.deleteTopics({ topics: [name] }).catch(() => {})
    await admin.disconnect()
    return
  }
  await onChannel(broker!.address, async (channel) => {
    await channel.deleteQueue(name)
    await channel.deleteExchange(name)
  })
}

async function onChannel<Result>(
  address: string,
  work: (channel: amqp.ConfirmChannel) => Promise<Result>,
): Promise<Result> {
  const connection = await amqp.connect(address)
  const channel = await connection.createConfirmChannel()
  try {
    return await work(channel)
  } finally {
    await connection.close()
  }
}

export function* outgoing(task: Task, process: number): Generator<{ n: number; message: OutgoingMessage }[]> {
  const { from, to } = share(task, process)
  for (const portion of portions(task, task.batchSize, from, to)) {
    yield portion.map(({ n, key, payload }) => ({
      n,
      message: toSend('bench.message', { key, content: JSON.stringify(payload) }),
    }))
  }
}

/** amqplib with publisher confirms, as many on the way as our adapter allows. */
export async function bareRabbitmq({ url, process }: Place, task: Task, tally: Tally): Promise<Stop> {
  const name = nameOf(url)
  const settings = checkOptions({ url: task.broker!.address, exchange: name })
  await onChannel(task.broker!.address, async (channel) => {
    let waiting = 0
    let wake = (): void => {}
    for (const batch of outgoing(task, process)) {
      for (const { n, message } of batch) {
        const { routingKey, body, properties } = toSending(message, settings)
        waiting++
        channel.publish(name, routingKey, body, properties, (error: unknown) => {
          waiting--
          if (error === null || error === undefined) tally.note(n)
          wake()
        })
        while (waiting >= settings.maxUnconfirmed) await new Promise<void>((resolve) => (wake = resolve))
      }
    }
    while (waiting > 0) await new Promise<void>((resolve) => (wake = resolve))
  })
  return async () => {}
}

/** kafkajs with batches, two at a time, acknowledged by all replicas. */
export async function bareKafka({ url, process }: Place, task: Task, tally: Tally): Promise<Stop> {
  const topic = nameOf(url)
  const client = new Kafka({ brokers: [task.broker!.address], logLevel: logLevel.NOTHING })
  const producer = client.producer({ allowAutoTopicCreation: false })
  await producer.connect()
  const underWay = new Set<Promise<void>>()
  for (const batch of outgoing(task, process)) {
    const messages: Message[] = batch.map(({ message }) => toRecord(message, 'twinbox'))
    const send = async (): Promise<void> => {
      await producer.send({ topic, acks: -1, messages })
      for (const { n } of batch) tally.note(n)
    }
    const sending = send().finally(() => underWay.delete(sending))
    underWay.add(sending)
    if (underWay.size >= 2) await Promise.race(underWay)
  }
  await Promise.all(underWay)
  await producer.disconnect()
  return async () => {}
}
