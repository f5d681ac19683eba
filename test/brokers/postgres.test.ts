import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest'
import { postgres } from '../../src/brokers/postgres.ts'
import type { Broker, SendOutcome } from '../../src/index.ts'
import { outgoing } from './contract.ts'
import { createTestDatabase, type TestDatabase } from '../support/postgres.ts'

/**
 * The Postgres broker has no wire, so the suite of the others cannot ask what comes off it. What they promise, it has to
 * promise all the same; where it arrives is the inbox.
 */
let database: TestDatabase
let broker: Broker
beforeAll(async () => {
  database = await createTestDatabase()
  broker = postgres({ database: database.url })
})
beforeEach(() => database.query('truncate twinbox.subscription, twinbox.inbox, twinbox.seen'))
afterAll(async () => {
  await broker.close()
  await database.drop()
})

const { signal } = new AbortController()
const subscribe = (consumer: string, topics: string[]): Promise<unknown> =>
  broker.subscribe({ consumer, topics, batchSize: 100 }, async () => {})
const statuses = (outcomes: readonly SendOutcome[]): string[] => outcomes.map(({ status }) => status)
const inbox = (consumer: string): Promise<{ id: string; topic: string }[]> =>
  database.query('select id, topic from twinbox.inbox where consumer = $1 order by seq', [consumer])

test('each consumer gets what its patterns take, once', async () => {
  await subscribe('billing', ['order.*', '#.placed'])
  await subscribe('audit', ['#'])
  const sent = [outgoing('order.placed'), outgoing('order.line.added'), outgoing('mail')]
  expect(statuses(await broker.send(sent, { signal }))).toEqual(['sent', 'sent', 'sent'])
  expect(await inbox('billing')).toMatchObject([{ id: sent[0]!.id }])
  expect((await inbox('audit')).map(({ id }) => id).toSorted()).toEqual(sent.map(({ id }) => id).toSorted())
  // Sent again after a crash, it is dropped as seen.
  expect(statuses(await broker.send(sent, { signal }))).toEqual(['sent', 'sent', 'sent'])
  expect(await inbox('audit')).toHaveLength(3)
})

test('who has subscribed before a message is sent gets it, also a moment before, and nobody else', async () => {
  await subscribe('first', ['t'])
  await broker.send([outgoing('t')], { signal })
  await subscribe('second', ['t'])
  await broker.send([outgoing('t')], { signal })
  expect(await inbox('second')).toHaveLength(1)
  expect(await inbox('first')).toHaveLength(2)
  await database.query(`delete from twinbox.subscription where consumer = 'first'`)
  await broker.send([outgoing('t')], { signal })
  expect(await inbox('second')).toHaveLength(2)
  expect(await inbox('first')).toHaveLength(2)
})

test('what nobody takes is refused and says so, and its neighbours are sent', async () => {
  await subscribe('billing', ['order.*'])
  const [lost, taken] = await broker.send([outgoing('nobody'), outgoing('order.placed')], { signal })
  expect(lost).toMatchObject({ status: 'rejected', error: { kind: 'config' } })
  expect(lost).toHaveProperty('error.message', expect.stringContaining('"nobody"'))
  expect(taken!.status).toBe('sent')
  expect(await inbox('billing')).toHaveLength(1)

  const dropping = postgres({ database: database.url, unroutable: 'drop' })
  expect(statuses(await dropping.send([outgoing('nobody')], { signal }))).toEqual(['sent'])
  await dropping.close()
})

test('text and bytes arrive as they were', async () => {
  await subscribe('c', ['t'])
  const json = '{ "a" : 1e400, "b":"\\u0000" }'
  const bytes = Uint8Array.from({ length: 256 }, (_, index) => index)
  await broker.send(
    [
      { ...outgoing('t'), content: json },
      { ...outgoing('t'), content: bytes, contentType: 'application/x-bytes' },
      { ...outgoing('t'), content: new Uint8Array(), contentType: 'application/x-bytes' },
    ],
    { signal },
  )
  const rows = await database.query<{
    payload: string | null
    body: Buffer | null
    content_type: string | null
  }>('select payload::text as payload, body, content_type from twinbox.inbox order by seq')
  expect(rows.find(({ payload }) => payload !== null)?.payload).toBe(json)
  const bodies = rows.filter(({ body }) => body !== null)
  expect(bodies.map(({ body }) => [...body!]).toSorted((a, b) => a.length - b.length)).toEqual([
    [],
    [...bytes],
  ])
  expect(bodies.every(({ content_type: type }) => type === 'application/x-bytes')).toBe(true)
})

test('a batch keeps the order of a key', async () => {
  await subscribe('c', ['t'])
  const sent = Array.from({ length: 1000 }, (_, n) => ({ ...outgoing('t'), key: `k${n % 7}` }))
  await broker.send(sent, { signal })
  const rows = await database.query<{ id: string; key: string }>(
    'select id, key from twinbox.inbox order by seq',
  )
  expect(rows.map(({ id }) => id)).toEqual(sent.map(({ id }) => id))
})

test('the inbox of another database is as good as ours, and one that is away is an outage', async () => {
  const other = await createTestDatabase()
  const far = postgres({ database: other.url })
  await far.subscribe({ consumer: 'c', topics: ['t'], batchSize: 1 }, async () => {})
  expect(statuses(await far.send([outgoing('t')], { signal }))).toEqual(['sent'])
  expect(await other.query('select from twinbox.inbox')).toHaveLength(1)
  await other.drop()
  const [outcome] = await far.send([outgoing('t')], { signal })
  expect(['failed', 'unknown']).toContain(outcome!.status)
  await far.close()
  await far.close()
  expect(statuses(await far.send([outgoing('t')], { signal }))).toEqual(['failed'])
})
