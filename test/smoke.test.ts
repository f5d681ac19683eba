import { afterAll, beforeAll, expect, test } from 'vitest'
import { createClaimer, createOutbox, createReceiver, createRelay } from '../src/index.ts'
import { postgres } from '../src/brokers/postgres/postgres.ts'
import { createTestDatabase, type TestDatabase } from './support/postgres.ts'

let database: TestDatabase
beforeAll(async () => {
  database = await createTestDatabase()
})
afterAll(() => database.drop())

test('a message goes from publish to its handler, and nothing is left behind', async () => {
  const broker = postgres({ database: database.url })
  const handled: unknown[] = []
  await using relay = createRelay({ database: database.url, broker })
  await using receiver = createReceiver({
    database: database.url,
    broker,
    consumer: 'billing',
    topics: ['order.*'],
  })
  const done = deferred()
  await using claimer = createClaimer(
    {
      database: database.url,
      consumer: 'billing',
      onEvent: (event) => event.type === 'handled' && done.resolve(),
    },
    { 'order.placed': (message) => void handled.push(message.payload) },
  )
  await receiver.start()
  await relay.start()
  await claimer.start()
  await database.transaction((client) =>
    createOutbox().publish(client, { topic: 'order.placed', key: 'o1', payload: { total: 42 } }),
  )
  await done.promise
  expect(handled).toEqual([{ total: 42 }])
  expect(await database.query('select from twinbox.outbox union all select from twinbox.inbox')).toEqual([])
  await broker.close()
})

function deferred(): { promise: Promise<void>; resolve: () => void } {
  let resolve = (): void => {}
  const promise = new Promise<void>((done) => (resolve = done))
  return { promise, resolve }
}
