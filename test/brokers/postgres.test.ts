import fc from 'fast-check'
import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest'
import { postgres } from '../../src/brokers/postgres/postgres.ts'
import type { Broker, SendOutcome, Telemetry } from '../../src/index.ts'
import { outgoing } from './contract.ts'
import type { OutgoingMessage } from '../../src/message/message.ts'
import { anyBody, anyText, fuzzDeliveries, fuzzed, fuzzSeed } from '../support/fuzz.ts'
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

test('for a hundred consumers it is written in statements that are bounded, in order', async () => {
  const consumers = Array.from({ length: 100 }, (_, n) => `c${n}`)
  for (const consumer of consumers) await subscribe(consumer, ['t'])
  const statements: { bytes: number; rows: number }[] = []
  const telemetry: Telemetry = {
    begin: (_, messages) => {
      statements.push({ rows: messages.length, bytes: messages.reduce((sum, { bytes }) => sum + bytes, 0) })
      return { carried: [], run: (work) => work(), end: () => {} }
    },
  }
  const small = Array.from({ length: 120 }, () => ({ ...outgoing('t'), key: 'k' }))
  const large = Array.from({ length: 3 }, () => ({ ...outgoing('t'), content: new Uint8Array(1 << 18) }))
  const sent = [...small, ...large]
  expect(new Set(statuses(await broker.send(sent, { signal, telemetry })))).toEqual(new Set(['sent']))
  expect(Math.max(...statements.map(({ rows }) => rows))).toBeLessThanOrEqual(5000)
  expect(Math.max(...statements.map(({ bytes }) => bytes))).toBeLessThanOrEqual(8 << 20)
  for (const consumer of ['c0', 'c99']) {
    const ids = (await inbox(consumer)).map(({ id }) => id)
    expect(ids.slice(0, 120)).toEqual(small.map(({ id }) => id))
    expect(ids).toHaveLength(123)
  }
})

test('what the inbox cannot hold is poison by itself, its neighbours are sent', async () => {
  await subscribe('c', ['#'])
  const sent = [
    outgoing('t'),
    { ...outgoing('t'), topic: 't\0' },
    { ...outgoing('t'), key: 'k'.repeat(10_000) },
    { ...outgoing('t'), headers: { a: '\ud800' } },
    { ...outgoing('t'), content: `${'['.repeat(100_000)}${']'.repeat(100_000)}` },
    { ...outgoing('t'), expiresAt: Infinity as unknown as Date },
    outgoing('t'),
  ]
  const outcomes = await broker.send(sent, { signal })
  expect(statuses(outcomes)).toEqual(['sent', 'rejected', 'rejected', 'rejected', 'rejected', 'sent', 'sent'])
  for (const outcome of outcomes) if (outcome.status === 'rejected') expect(outcome.error.kind).toBe('poison')
  expect(await inbox('c')).toHaveLength(3)
})

test(
  `${fuzzDeliveries} messages of anything, each before a sound one (seed ${fuzzSeed})`,
  { timeout: 60_000 + fuzzDeliveries * 10 },
  async () => {
    await subscribe('c', ['#'])
    const anything = fc.record({
      id: fc.oneof(fc.uuid(), anyText()),
      topic: anyText(),
      key: fc.option(anyText()),
      headers: fc.option(
        fc.dictionary(anyText(), fc.oneof(anyText(), fc.integer() as fc.Arbitrary<unknown>), {
          maxKeys: 5,
        }),
      ),
      content: fc.oneof(anyText(), anyBody),
      contentType: anyText(),
      publishedAt: fc.oneof(fc.date({ noInvalidDate: false }), fc.constantFrom(new Date(-8.64e15), Infinity)),
      expiresAt: fc.option(
        fc.oneof(fc.date({ noInvalidDate: false }), fc.constantFrom(new Date(8.64e15), Infinity)),
      ),
    })
    const good: string[] = []
    const taken = new Set<string>()
    for (const messages of fuzzed(anything as fc.Arbitrary<OutgoingMessage>, 250)) {
      const batch = messages.flatMap((message) => [message, outgoing('good')])
      const outcomes = await broker.send(batch, { signal })
      for (const [index, { status }] of outcomes.entries()) {
        const { id } = batch[index]!
        expect(['sent', 'rejected']).toContain(status)
        if (index % 2 === 1) {
          expect(status).toBe('sent')
          good.push(id)
        }
        if (status === 'sent') taken.add(id.toLowerCase())
      }
    }
    const stored = await inbox('c')
    expect(new Set(stored.map(({ id }) => id))).toEqual(taken)
    expect(stored.filter(({ topic }) => topic === 'good').map(({ id }) => id)).toEqual(good)
  },
)

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
