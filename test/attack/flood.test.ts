import { afterAll, beforeAll, expect, test } from 'vitest'
import { postgres } from '../../src/brokers/postgres/postgres.ts'
import { createClaimer, createOutbox, createReceiver, createRelay } from '../../src/index.ts'
import { recordEvents } from '../support/events.ts'
import { createTestDatabase, type TestDatabase } from '../support/postgres.ts'

let database: TestDatabase
beforeAll(async () => {
  database = await createTestDatabase()
})
afterAll(() => database.drop())

// What a flood costs other topics of its own consumer stands in test/claimer/flood.test.ts.
test('a flood whose handlers hang keeps no message of another consumer waiting, in the same process', async () => {
  const { url } = database
  const broker = postgres({ database: url })
  const [noisy, quiet] = [recordEvents(), recordEvents()]
  const topics = { noisy: ['flood'], quiet: ['quiet'] }
  const receivers = Object.entries(topics).map(([consumer, patterns]) =>
    createReceiver({ database: url, broker, consumer, topics: patterns }),
  )
  let started = 0
  let open = (): void => {}
  const opened = new Promise<void>((resolve) => (open = resolve))
  const flood = async (): Promise<void> => {
    started++
    await opened
  }
  const workers = [
    ...receivers,
    createRelay({ database: url, broker }),
    createClaimer({ database: url, consumer: 'noisy', onEvent: noisy.onEvent }, { flood }),
    createClaimer({ database: url, consumer: 'quiet', onEvent: quiet.onEvent }, { quiet: () => {} }),
  ]
  for (const worker of workers) await worker.start()
  try {
    const outbox = createOutbox()
    const messages = Array.from({ length: 1500 }, (_, n) => ({ topic: 'flood', key: `f${n}`, payload: n }))
    await database.transaction((client) => outbox.publishMany(client, messages))
    await expect.poll(() => started, { timeout: 30_000 }).toBe(10)
    await database.transaction((client) =>
      outbox.publishMany(
        client,
        Array.from({ length: 20 }, (_, n) => ({
          topic: 'quiet',
          key: n % 2 === 0 ? `q${n}` : null,
          payload: n,
        })),
      ),
    )
    const handled = (): number => quiet.of('handled').reduce((sum, { ids }) => sum + ids.length, 0)
    await expect.poll(handled, { timeout: 30_000 }).toBe(20)
    expect([started, noisy.of('handled')]).toEqual([10, []])
  } finally {
    open()
    await Promise.all(workers.map((worker) => worker.stop()))
    await broker.close()
  }
})
