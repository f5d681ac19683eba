import type pg from 'pg'
import { afterAll, beforeAll, beforeEach, expect, test, vi } from 'vitest'
import { createOutbox } from '../src/index.ts'
import { createTestDatabase, type TestDatabase } from './support/postgres.ts'

/** `maxPending`: publishing is refused while too much waits. */

let database: TestDatabase
let client: pg.PoolClient
let texts: string[]
/** The caller's transaction, and what has run in it. */
const transaction = {
  query: async (text: string, values: unknown[]) => {
    texts.push(text)
    return client.query(text, values)
  },
}
const message = { topic: 't', payload: 1 }
beforeAll(async () => {
  database = await createTestDatabase()
  client = await database.pool.connect()
})
beforeEach(async () => {
  texts = []
  await client.query('rollback; truncate twinbox.outbox, twinbox.deferred, twinbox.parked_message; begin')
})
afterAll(async () => {
  await client.query('rollback')
  client.release()
  await database.drop()
})

/** As if so much time had passed. */
const later = (ms: number): void => {
  const now = performance.now()
  vi.spyOn(performance, 'now').mockReturnValue(now + ms)
}

test('without it nothing is counted', async () => {
  const outbox = createOutbox()
  for (let n = 0; n < 3; n++) await outbox.publish(transaction, message)
  expect(texts.filter((text) => text.includes('pending'))).toEqual([])
})

test('what is too much is refused before any SQL of the message, and the transaction goes on', async () => {
  const outbox = createOutbox({ maxPending: 3 })
  await outbox.publish(transaction, message)
  await outbox.publishMany(transaction, [message, { ...message, dedupeKey: 'd' }])
  expect(texts.filter((text) => text.includes('pending'))).toHaveLength(1)
  texts = []
  await expect(outbox.publish(transaction, message)).rejects.toMatchObject({
    name: 'MessageError',
    code: 'OUTBOX_FULL',
    message: expect.stringContaining('3 messages or more') as string,
  })
  expect(texts).toEqual([])
  const { rows } = await client.query('select from twinbox.outbox')
  expect(rows).toHaveLength(3)

  // A second later it is counted again, and there is room as soon as a relay has sent.
  later(1001)
  await expect(outbox.publish(transaction, message)).rejects.toMatchObject({ code: 'OUTBOX_FULL' })
  await client.query('delete from twinbox.outbox')
  later(1001)
  await outbox.publish(transaction, message)
  vi.restoreAllMocks()
})

test.each(['outbox', 'deferred', 'parked_message'])(
  'what waits in %s counts, up to the limit',
  async (table) => {
    const more = {
      outbox: ['lane', '0'],
      deferred: ['due_at', `now() + interval '1 day'`],
      parked_message: [`consumer, lane, key, seq`, `'', 0, 'k', n`],
    }[table]!
    await client.query(`insert into twinbox.${table} (id, topic, payload, ${more[0]})
    select gen_random_uuid(), 't', '1', ${more[1]} from generate_series(1, 5) as n`)
    const { rows } = await client.query('select twinbox.pending(4) as four, twinbox.pending(10) as ten')
    expect(rows).toEqual([{ four: 4, ten: 5 }])
    await expect(createOutbox({ maxPending: 5 }).publish(transaction, message)).rejects.toMatchObject({
      code: 'OUTBOX_FULL',
    })
    await expect(createOutbox({ maxPending: 6 }).publish(transaction, message)).resolves.toMatchObject({
      duplicate: false,
    })
  },
)

test('what waits in the inbox of a consumer does not', async () => {
  await client.query(`insert into twinbox.deferred (id, topic, payload, due_at, consumer)
    values (gen_random_uuid(), 't', '1', now(), 'c')`)
  const { rows } = await client.query('select twinbox.pending(10) as count')
  expect(rows).toEqual([{ count: 0 }])
})
