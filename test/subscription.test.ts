import { randomUUID } from 'node:crypto'
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from 'vitest'
import { postgres } from '../src/brokers/postgres/postgres.ts'
import type { Broker } from '../src/brokers/broker.ts'
import { createReceiver, readStatus, unsubscribe, type ReceiverOptions, type Worker } from '../src/index.ts'
import { outgoing, statuses } from './brokers/collector.ts'
import { recordEvents, type Recorder } from './support/events.ts'
import { createTestDatabase, type TestDatabase } from './support/postgres.ts'

let database: TestDatabase
let broker: Broker
let consumer: string
let events: Recorder
const receivers: Worker[] = []

beforeAll(async () => {
  database = await createTestDatabase()
  broker = postgres({ database: database.url })
})
beforeEach(async () => {
  consumer = `c${randomUUID().slice(0, 8)}`
  events = recordEvents()
  await database.query('truncate twinbox.subscription')
})
afterEach(() => Promise.all(receivers.splice(0).map((receiver) => receiver.stop())))
afterAll(async () => {
  await broker.close()
  await database.drop()
})

async function receive(topics: readonly string[], options: Partial<ReceiverOptions> = {}): Promise<Worker> {
  const receiver = createReceiver({
    ...{ database: database.url, broker, consumer, topics, onEvent: events.onEvent },
    ...options,
  })
  receivers.push(receiver)
  await receiver.start()
  return receiver
}

const subscriptions = async (): Promise<readonly string[]> => {
  const { consumers } = await readStatus(database.url)
  return consumers.find((each) => each.consumer === consumer)?.subscriptions ?? []
}
/** As if all that was done until now had been done two hours earlier. */
const twoHoursPass = async (): Promise<void> => {
  await database.query(
    `update twinbox.worker set beat_at = beat_at - interval '2 hours' where ended_at is not null`,
  )
  await database.query(`update twinbox.subscription set created_at = created_at - interval '2 hours'`)
}
const send = async (topic: string): Promise<readonly string[]> =>
  statuses(await broker.send([outgoing(topic)], { signal: new AbortController().signal }))

test('what no receiver has named for long is unsubscribed, and not before', async () => {
  const old = await receive(['order.#', 'invoice.#'])
  await twoHoursPass()
  await receive(['order.#'])
  // One that names it lives.
  expect(await subscriptions()).toEqual(['invoice.#', 'order.#'])
  await old.stop()
  await receive(['order.#'])
  // The last that named it has just ended: the deploy may be taken back.
  expect(await subscriptions()).toEqual(['invoice.#', 'order.#'])
  expect(await send('invoice.made')).toEqual(['sent'])
  await twoHoursPass()
  await receive(['order.#'], { unsubscribeAfterMs: 0 })
  expect(await subscriptions()).toEqual(['invoice.#', 'order.#'])
  await receive(['order.#'])
  expect((await events.next('unsubscribed')).topics).toEqual(['invoice.#'])
  expect(await subscriptions()).toEqual(['order.#'])
  // Nobody wants it, and nothing of its key has to wait for that.
  expect(await send('invoice.made')).toEqual(['sent'])
  expect(await send('refund.made')).toEqual(['rejected'])
  expect(await database.query(`select topic from twinbox.inbox where consumer = '${consumer}'`)).toEqual([
    { topic: 'invoice.made' },
  ])
  // Somebody wants it again.
  await receive(['invoice.#'])
  expect(await subscriptions()).toEqual(['invoice.#', 'order.#'])
  expect(await send('invoice.made')).toEqual(['sent'])
  expect(await database.query(`select from twinbox.inbox where consumer = '${consumer}'`)).toHaveLength(2)
})

test('an operator unsubscribes a consumer, unless a living receiver would subscribe again', async () => {
  const receiver = await receive(['order.#', 'invoice.#'])
  const ending = unsubscribe(database.url, { consumer, topics: ['invoice.#'] })
  await expect(ending).rejects.toMatchObject({ code: 'INVALID_OPTION', option: 'topics' })
  await expect(ending).rejects.toThrow(`Receiver ${receiver.id} of "${consumer}"`)
  await receiver.stop()
  expect(await unsubscribe(database.url, { consumer, topics: ['invoice.#', 'refund.#'] })).toEqual({
    unsubscribed: ['invoice.#'],
    unknown: ['refund.#'],
  })
  expect(await subscriptions()).toEqual(['order.#'])
  await expect(unsubscribe(database.url, { consumer, topics: [] })).rejects.toMatchObject({
    option: 'topics',
  })
  await expect(unsubscribe(database.url, { consumer, topics: ['a b'] })).rejects.toMatchObject({
    code: 'INVALID_TOPIC',
  })
})

test('of a broker that keeps bindings, the broker is asked for and unsubscribes first', async () => {
  const asked: unknown[] = []
  let isDown = true
  const binding: Broker = {
    ...broker,
    name: 'binding',
    unsubscribe: async (options) => {
      asked.push(options)
      if (isDown) throw new Error('down')
    },
  }
  await (await receive(['order.#', 'invoice.#'], { broker: binding })).stop()
  await expect(unsubscribe(database.url, { consumer, topics: ['invoice.#'] })).rejects.toMatchObject({
    option: 'broker',
  })
  await expect(
    unsubscribe(database.url, { consumer, topics: ['invoice.#'], broker: binding }),
  ).rejects.toThrow('down')
  await twoHoursPass()
  await (await receive(['order.#'], { broker: binding })).stop()
  await events.next('trouble', ({ doing }) => doing === 'keeping the subscription')
  isDown = false
  await receive(['order.#'], { broker: binding })
  expect((await events.next('unsubscribed')).topics).toEqual(['invoice.#'])
  expect(asked.at(-1)).toEqual({ consumer, topics: ['invoice.#'] })
})
