import type { Channel } from 'amqplib'
import type { Trial, TrialPlace } from '../adapter.ts'
import { loadAmqplib } from './connection.ts'
import { rabbitmq } from './rabbitmq.ts'

/** An exchange of its own, and queues that begin with its name. */
export function openTrial({ url, insecure, name }: TrialPlace): Trial {
  const queue = (consumer: string): string => `${name}.${consumer}`
  const open = (): ReturnType<typeof rabbitmq> => rabbitmq({ url: url!, insecure, exchange: name, queue })
  return {
    open,
    receiving: { topics: ['#'] },
    nowhere: `${name}.nowhere`,
    locate: async () => {
      await withChannel(url!, async () => {})
      const { hostname, port } = new URL(url!)
      return [{ host: hostname, port: port === '' ? 5672 : Number(port) }]
    },
    clear: (consumers) =>
      withChannel(url!, async (channel) => {
        for (const consumer of consumers) await channel.deleteQueue(queue(consumer))
        await channel.deleteExchange(name)
      }),
  }
}

async function withChannel(url: string, work: (channel: Channel) => Promise<unknown>): Promise<void> {
  const { connect } = await loadAmqplib()
  const connection = await connect(url, { timeout: 5000 })
  connection.on('error', () => {})
  try {
    await work(await connection.createChannel())
  } finally {
    await connection.close()
  }
}
