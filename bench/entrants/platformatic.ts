import { Producer } from '@platformatic/kafka'
import { toRecord } from '../../src/brokers/kafka/records.ts'
import type { Place, Stop, Task } from '../race/entrant.ts'
import type { Tally } from '../race/tally.ts'
import { nameOf, outgoing } from './brokers.ts'

/** @platformatic/kafka with batches, two at a time, acknowledged by all replicas. */
export async function barePlatformatic({ url, process }: Place, task: Task, tally: Tally): Promise<Stop> {
  const topic = nameOf(url)
  const producer = new Producer({ clientId: 'bench', bootstrapBrokers: [task.broker!.address] })
  const underWay = new Set<Promise<void>>()
  for (const batch of outgoing(task, process)) {
    const messages = batch.map(({ message }) => {
      const { key, value, headers } = toRecord(message, 'twinbox')
      const pairs = Object.entries(headers).map(
        ([name, text]) => [Buffer.from(name), Buffer.from(text)] as const,
      )
      return { topic, value: value!, headers: new Map(pairs), ...(key !== null && { key: Buffer.from(key) }) }
    })
    const send = async (): Promise<void> => {
      await producer.send({ messages, acks: -1 })
      for (const { n } of batch) tally.note(n)
    }
    const sending = send().finally(() => underWay.delete(sending))
    underWay.add(sending)
    if (underWay.size >= 2) await Promise.race(underWay)
  }
  await Promise.all(underWay)
  await producer.close()
  return async () => {}
}
