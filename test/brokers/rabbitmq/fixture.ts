import { connect, type Channel, type ChannelModel } from 'amqplib'
import { afterAll, afterEach, beforeAll } from 'vitest'
import type { Broker } from '../../../src/brokers/broker.ts'
import { rabbitmq, type RabbitmqOptions } from '../../../src/brokers/rabbitmq/rabbitmq.ts'
import { startProxy, type Proxy } from '../../../proof/stage/proxy.ts'

export const never: AbortSignal = new AbortController().signal

export interface Fixture {
  /** The exchange of all brokers made here, unless they are told another. */
  readonly exchange: string
  /** A broker, closed after the test. */
  readonly make: (options?: Partial<RabbitmqOptions>) => Broker
  /** The same through a network that can be broken. */
  readonly makeBehindProxy: (options?: Partial<RabbitmqOptions>) => Promise<{ broker: Broker; proxy: Proxy }>
  readonly newTopic: () => string
  /** The name of a queue that others make. It is removed in the end. */
  readonly newQueue: () => string
  /** The queue of what `subscribe` of the contract calls the consumer. */
  readonly queueOf: (consumer: string, topic: string) => string
  /** A bare channel of amqplib, to arrange things and to look at them. Errors on it are the test's own fault. */
  readonly admin: () => Channel
}

/** Brokers against one server, under names of their own, which are removed in the end. */
export function useFixture(server: () => string): Fixture {
  const run = `t${process.pid}.${Date.now()}`
  const exchange = `twinbox.test.${run}`
  const closers: (() => Promise<unknown>)[] = []
  const queues = new Set<string>()
  let topics = 0
  let connection: ChannelModel
  let bare: Channel

  beforeAll(async () => {
    connection = await connect(server())
    connection.on('error', () => {})
    bare = await connection.createChannel()
    bare.on('error', () => {})
  })
  afterEach(async () => {
    await Promise.all(closers.splice(0).map((close) => close()))
  })
  afterAll(async () => {
    await connection.close().catch(() => {})
    // Not that one: a test may have broken it.
    const cleaner = await connect(server())
    const channel = await cleaner.createChannel()
    for (const queue of queues) await channel.deleteQueue(queue)
    await channel.deleteExchange(exchange)
    await cleaner.close()
  })

  const make = (options: Partial<RabbitmqOptions> = {}): Broker => {
    const broker = rabbitmq({
      url: server(),
      exchange,
      queue: (consumer) => {
        const name = `${run}.${consumer}`
        queues.add(name)
        return name
      },
      ...options,
    })
    closers.push(() => broker.close())
    return broker
  }
  return {
    exchange,
    make,
    makeBehindProxy: async (options) => {
      const { hostname, port } = new URL(server())
      const proxy = await startProxy({ host: hostname, port: Number(port || 5672) })
      const url = new URL(server())
      url.host = `127.0.0.1:${proxy.port}`
      const broker = make({ url: url.href, ...options })
      closers.push(() => proxy.close())
      return { broker, proxy }
    },
    newTopic: () => `${run}.topic.${++topics}`,
    newQueue: () => {
      const name = `${run}.queue.${queues.size}`
      queues.add(name)
      return name
    },
    queueOf: (consumer, topic) => `${run}.${consumer}-${topic}`,
    admin: () => bare,
  }
}
