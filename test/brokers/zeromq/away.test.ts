import { afterAll, beforeAll, expect, test } from 'vitest'
import {
  createOutbox,
  createReceiver,
  createRelay,
  diagnose,
  readStatus,
  type Worker,
} from '../../../src/index.ts'
import { recordEvents } from '../../support/events.ts'
import { createTestDatabase, type TestDatabase } from '../../support/postgres.ts'
import { until } from '../../support/until.ts'
import { newAddress, useFixture } from './fixture.ts'

const { make } = useFixture()
let database: TestDatabase
beforeAll(async () => {
  database = await createTestDatabase()
})
afterAll(() => database.drop())

const inboxOf = async (consumer: string): Promise<string[]> =>
  (
    await database.query<{ payload: number }>(
      'select payload::text::int as payload from twinbox.inbox where consumer = $1 order by payload',
      [consumer],
    )
  ).map(({ payload }) => String(payload))

/** With a relay and receivers, over ZeroMQ, as status, doctor and events tell it. */
test('a consumer that is away holds back what is for it alone, which is told, and gets all of it when it comes', async () => {
  const workers: Worker[] = []
  const begin = async (worker: Worker): Promise<void> => {
    workers.push(worker)
    await worker.start()
  }
  try {
    const consumers = {
      billing: { addresses: [await newAddress()], topics: ['order.*'] },
      shipping: { addresses: [await newAddress()], topics: ['order.*', 'return.#'] },
    }
    const events = recordEvents()
    const receiver = (consumer: 'billing' | 'shipping'): Worker =>
      createReceiver({
        ...{ database: database.url, broker: make({ consumers }), consumer },
        topics: consumers[consumer].topics,
      })
    await begin(receiver('billing'))
    await begin(
      createRelay({
        database: database.url,
        broker: make({ consumers }),
        batchSize: 10,
        onEvent: events.onEvent,
      }),
    )
    const outbox = createOutbox()
    const publish = (topics: readonly string[], from: number): Promise<void> =>
      database.transaction(async (client) => {
        await outbox.publishMany(
          client,
          topics.map((topic, index) => ({ topic, key: `${topic} ${index}`, payload: from + index })),
        )
      })
    await publish(
      Array.from({ length: 40 }, () => 'order.placed'),
      0,
    )
    await publish(
      Array.from({ length: 10 }, () => 'return.asked'),
      40,
    )
    await until(async () => (await inboxOf('billing')).length === 40)
    const told = await events.next('trouble')
    expect(String(told.error)).toContain('The consumer shipping is not to be reached at')

    // They come and go, to be tried; at any moment all are there.
    await until(async () => (await readStatus(database.url)).outbox.parkedKeys.count > 0)
    const { outbox: box } = await readStatus(database.url)
    expect(box.depth + box.parkedMessages.count).toBe(50)
    expect(box.deadLetters.count).toBe(0)
    await until(async () =>
      (await diagnose(database.url)).some(({ found }) =>
        /keys of the outbox wait .* The consumer shipping is not to be reached at/.test(found),
      ),
    )

    await begin(receiver('shipping'))
    await until(async () => (await inboxOf('shipping')).length === 50)
    await until(async () => (await database.query('select 1 from twinbox.outbox')).length === 0)
    expect(await inboxOf('shipping')).toEqual(Array.from({ length: 50 }, (_, index) => String(index)))
    expect(await inboxOf('billing')).toHaveLength(40)
    expect(events.of('message_failed')).toEqual([])
  } finally {
    await Promise.all(workers.map((worker) => worker.stop()))
  }
})
