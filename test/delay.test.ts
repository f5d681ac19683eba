import type pg from 'pg'
import { randomUUID } from 'node:crypto'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { toWireHeaders } from '../src/brokers/cloudevent.ts'
import {
  createClaimer,
  createOutbox,
  createReceiver,
  createRelay,
  type Broker,
  type Message,
  type NewMessage,
  type OnBatch,
  type Worker,
} from '../src/index.ts'
import { recordEvents, type Recorder } from './support/events.ts'
import { createTestDatabase, type TestDatabase } from './support/postgres.ts'
import { until } from './support/until.ts'

let database: TestDatabase
let events: Recorder
let workers: Worker[] = []
beforeAll(async () => {
  database = await createTestDatabase()
})
beforeEach(() => {
  events = recordEvents()
})
afterEach(async () => {
  await Promise.all(workers.splice(0).map((worker) => worker.stop()))
  await database.query('truncate twinbox.outbox, twinbox.deferred, twinbox.dedupe, twinbox.dead_letter')
})
afterAll(() => database.drop())

const outbox = createOutbox()
const hour = 3_600_000

test('what comes due while it is being published goes one way, and not two', async () => {
  for (let round = 0; round < 5; round++) {
    const messages = Array.from({ length: 2000 }, (_, n) => ({ topic: 't', payload: n, delayMs: n / 100 }))
    const published = await database.transaction((client) => outbox.publishMany(client, messages))
    const rows = await database.query<{ id: string }>(
      'select id from twinbox.outbox union all select id from twinbox.deferred',
    )
    expect(rows.map(({ id }) => id).toSorted()).toEqual(published.map(({ id }) => id).toSorted())
    await database.query('truncate twinbox.outbox, twinbox.deferred')
  }
})

/** A broker over the wire's headers: what is sent is what is received. */
function wire(): Broker & { readonly sent: string[] } {
  let deliver: OnBatch = async () => {}
  const sent: string[] = []
  return {
    name: 'wire',
    sent,
    async send(batch) {
      sent.push(...batch.map(({ content }) => String(content)))
      await deliver(
        batch.map((message) => ({
          topic: message.topic,
          key: message.key,
          headers: toWireHeaders(message, 'ce_', 'twinbox'),
          contentType: message.contentType,
          body: Buffer.from(message.content),
          position: null,
          redelivered: false,
        })),
      )
      return batch.map(() => ({ status: 'sent' }))
    },
    async subscribe(_, onBatch) {
      deliver = onBatch
      return { stop: async () => {} }
    },
    close: async () => {},
  }
}

async function relay(broker: Broker): Promise<void> {
  const worker = createRelay({ database: database.url, broker, onEvent: events.onEvent })
  workers.push(worker)
  await worker.start()
}

const publish = (...messages: NewMessage[]): Promise<{ id: string; duplicate: boolean }[]> =>
  database.transaction((client) => outbox.publishMany(client, messages))
const waiting = async (): Promise<number> =>
  (
    await database.query<{ count: number }>(`select count(*)::int from twinbox.deferred where consumer = ''`)
  )[0]!.count
/** Moves the time at which they are due, not the clock. */
const makeDue = (where = 'true'): Promise<unknown> =>
  database.query(
    `update twinbox.deferred set due_at = due_at - interval '1 day' where consumer = '' and ${where}`,
  )

describe('a delayed message', () => {
  test('is not sent before it is due, and is sent then; what is due already is sent at once', async () => {
    const broker = wire()
    await relay(broker)
    await publish(
      { topic: 't', payload: 'later', delayMs: hour },
      { topic: 't', payload: 'now' },
      { topic: 't', payload: 'past', deliverAt: new Date(0) },
      { topic: 't', payload: 'zero', delayMs: 0 },
    )
    await until(() => broker.sent.length === 3)
    expect(broker.sent.toSorted((a, b) => a.localeCompare(b))).toEqual(['"now"', '"past"', '"zero"'])
    const [row] = await database.query<{ due: boolean }>(
      `select due_at = published_at and due_at > now() + interval '59 min' as due from twinbox.deferred`,
    )
    expect(row).toEqual({ due: true })
    await makeDue()
    await until(() => broker.sent.length === 4)
    expect(broker.sent[3]).toBe('"later"')
    expect(await waiting()).toBe(0)
  })

  test('follows the others of its key in the order in which they become due, with any number of relays', async () => {
    const broker = wire()
    const start = Date.now()
    // Published backwards, and due one second after the other.
    await publish(
      ...Array.from({ length: 200 }, (_, n) => ({
        topic: 't',
        key: 'k',
        payload: 199 - n,
        deliverAt: new Date(start + hour + (199 - n) * 1000),
      })),
    )
    for (let n = 0; n < 3; n++) {
      const worker = createRelay({ database: database.url, broker, batchSize: 10, onEvent: events.onEvent })
      workers.push(worker)
      await worker.start()
    }
    await makeDue()
    await until(() => broker.sent.length === 200)
    expect(broker.sent).toEqual(Array.from({ length: 200 }, (_, n) => String(n)))
  })

  test('is a duplicate or makes one, as any message', async () => {
    const [first] = await publish({ topic: 't', payload: 1, dedupeKey: 'd', delayMs: hour })
    expect(
      await publish({ topic: 't', payload: 2, dedupeKey: 'd' }, { topic: 't', payload: 3, delayMs: hour }),
    ).toEqual([
      { id: first!.id, duplicate: true },
      { id: expect.any(String) as string, duplicate: false },
    ])
    expect(await waiting()).toBe(2)
    expect(await database.query('select from twinbox.outbox')).toEqual([])
  })
})

describe('cancelling', () => {
  const cancel = (
    which: Parameters<typeof outbox.cancel>[1],
    client?: pg.PoolClient,
  ): Promise<{ cancelled: boolean }> =>
    client === undefined
      ? database.transaction((own) => outbox.cancel(own, which))
      : outbox.cancel(client, which)

  test('by id or by dedupe key, which is free again; a second time there is nothing to cancel', async () => {
    const [one, two] = await publish(
      { topic: 't', payload: 1, delayMs: hour },
      { topic: 't', payload: 2, delayMs: hour, dedupeKey: 'd' },
    )
    expect(await cancel({ id: one!.id })).toEqual({ cancelled: true })
    expect(await cancel({ id: one!.id })).toEqual({ cancelled: false })
    expect(await cancel({ topic: 'other', dedupeKey: 'd' })).toEqual({ cancelled: false })
    expect(await cancel({ topic: 't', dedupeKey: 'd' })).toEqual({ cancelled: true })
    expect(await waiting()).toBe(0)
    const [again] = await publish({ topic: 't', payload: 3, dedupeKey: 'd', delayMs: hour })
    expect(again).toMatchObject({ duplicate: false })
    expect(await cancel({ id: again!.id })).toEqual({ cancelled: true })
    expect((await publish({ topic: 't', payload: 4, dedupeKey: 'd' }))[0]).toMatchObject({ duplicate: false })
    expect(two!.id).not.toBe(again!.id)
  })

  test('belongs to the transaction: rolled back, it never was', async () => {
    const [one] = await publish({ topic: 't', payload: 1, delayMs: hour, dedupeKey: 'd' })
    await expect(
      database.transaction(async (client) => {
        expect(await cancel({ id: one!.id }, client)).toEqual({ cancelled: true })
        throw new Error('no')
      }),
    ).rejects.toThrow('no')
    expect(await waiting()).toBe(1)
    expect(await cancel({ topic: 't', dedupeKey: 'd' })).toEqual({ cancelled: true })
  })

  test('a message that is sent or never was delayed cannot be cancelled', async () => {
    const [plain] = await publish({ topic: 't', payload: 1, dedupeKey: 'p' })
    expect(await cancel({ id: plain!.id })).toEqual({ cancelled: false })
    expect(await cancel({ topic: 't', dedupeKey: 'p' })).toEqual({ cancelled: false })
    expect((await publish({ topic: 't', payload: 1, dedupeKey: 'p' }))[0]).toMatchObject({ duplicate: true })
  })

  test('against many relays that promote: each message is either cancelled or sent, never both or neither', async () => {
    const broker = wire()
    const published = await publish(
      ...Array.from({ length: 400 }, (_, n) => ({ topic: 't', payload: n, delayMs: hour })),
    )
    await relay(broker)
    await relay(broker)
    const due = makeDue()
    const outcomes = await Promise.all(published.map(async ({ id }) => ({ ...(await cancel({ id })), id })))
    await due
    await until(async () => (await waiting()) === 0)
    const left = outcomes.filter(({ cancelled }) => !cancelled).length
    await until(() => broker.sent.length >= left)
    await until(async () => (await database.query('select from twinbox.outbox')).length === 0)
    expect(broker.sent).toHaveLength(left)
    const taken = new Set(broker.sent.map(Number))
    expect(outcomes.filter(({ cancelled }, n) => cancelled === taken.has(n))).toEqual([])
  })

  test('a relay that is promoting is waited for', async () => {
    const [one] = await publish({ topic: 't', payload: 1, delayMs: hour })
    const promoting = await database.pool.connect()
    await promoting.query('begin')
    await promoting.query(`delete from twinbox.deferred where id = $1`, [one!.id])
    const cancelled = cancel({ id: one!.id })
    await until(
      async () =>
        (await database.query(`select from pg_locks where not granted and locktype = 'transactionid'`))
          .length > 0,
    )
    await promoting.query('commit')
    promoting.release()
    expect(await cancelled).toEqual({ cancelled: false })
  })

  test.each([
    [{}, /topic must be/],
    [{ id: 'x' }, /id must be a UUID/],
    [{ id: randomUUID(), topic: 't' }, /excludes topic/],
    [{ topic: 't' }, /dedupeKey must be a string/],
    [undefined, /topic must be/],
  ])('what cannot name a message is refused before any SQL: %j', async (which, says) => {
    const client = { query: () => expect.fail('No SQL.') }
    await expect(outbox.cancel(client, which as never)).rejects.toThrow(says)
  })

  test('needs a transaction', async () => {
    await expect(outbox.cancel(database.pool as never, { id: randomUUID() })).rejects.toThrow(
      /^cancel got a pool/,
    )
  })
})

describe('a message that expires', () => {
  const soon = (): Date => new Date(Date.now() + hour)
  const expire = (table: string): Promise<unknown> =>
    database.query(
      `update twinbox.${table} set expires_at = now() - interval '1 s' where expires_at is not null`,
    )

  test('is a dead letter and not sent, if it expires in the outbox; its key goes on', async () => {
    const broker = wire()
    await publish(
      { topic: 't', key: 'k', payload: 1 },
      { topic: 't', key: 'k', payload: 2, expiresAt: soon() },
      { topic: 't', key: 'k', payload: 3 },
    )
    await expire('outbox')
    await relay(broker)
    await until(() => broker.sent.length === 2)
    expect(broker.sent).toEqual(['1', '3'])
    expect(await events.next('dead_letter')).toMatchObject({ reason: 'expired', attempt: 0 })
    expect(
      await database.query('select consumer, payload, attempt, reason from twinbox.dead_letter'),
    ).toEqual([{ consumer: '', payload: 2, attempt: 0, reason: 'expired' }])
    expect(await database.query('select from twinbox.parked')).toEqual([])
  })

  test('takes its end with it over the wire, and is not handled after it; its key goes on', async () => {
    const broker = wire()
    const consumer = 'expiring'
    const receiver = createReceiver({ database: database.url, broker, consumer, topics: ['#'] })
    workers.push(receiver)
    await receiver.start()
    await relay(broker)
    const at = soon()
    await publish(
      { topic: 't', key: 'k', payload: 1, expiresAt: at },
      { topic: 't', key: 'k', payload: 2 },
      { topic: 't', payload: 3, expiresAt: at },
      { topic: 't', payload: 4 },
    )
    await until(async () => (await database.query('select from twinbox.inbox')).length === 4)
    expect(await database.query('select expires_at from twinbox.inbox where expires_at is not null')).toEqual(
      [{ expires_at: at }, { expires_at: at }],
    )
    await expire('inbox')
    const handled: Message[] = []
    const claimer = createClaimer(
      { database: database.url, consumer, onEvent: events.onEvent },
      { t: (message) => void handled.push(message) },
    )
    workers.push(claimer)
    await claimer.start()
    await until(() => handled.length === 2 && events.of('dead_letter').length === 2)
    expect(
      handled
        .map(({ payload, expiresAt }) => [payload, expiresAt])
        .toSorted((a, b) => Number(a[0]) - Number(b[0])),
    ).toEqual([
      [2, null],
      [4, null],
    ])
    expect(
      await database.query(
        'select consumer, payload, attempt, reason from twinbox.dead_letter order by payload::text',
      ),
    ).toEqual([
      { consumer, payload: 1, attempt: 0, reason: 'expired' },
      { consumer, payload: 3, attempt: 0, reason: 'expired' },
    ])
    expect(await database.query('select from twinbox.parked')).toEqual([])
  })

  test('a handler is told until when', async () => {
    const consumer = 'told'
    const broker = wire()
    const receiver = createReceiver({ database: database.url, broker, consumer, topics: ['#'] })
    const handled: Message[] = []
    const claimer = createClaimer(
      { database: database.url, consumer },
      { t: (message) => void handled.push(message) },
    )
    workers.push(receiver, claimer)
    await receiver.start()
    await claimer.start()
    await relay(broker)
    const at = soon()
    await publish({ topic: 't', payload: 1, expiresAt: at })
    await until(() => handled.length === 1)
    expect(handled[0]!.expiresAt).toEqual(at)
  })
})

describe('what cannot be a time', () => {
  const far = new Date(Date.now() + 4000 * 24 * hour)
  test.each([
    [{ deliverAt: new Date(Number.NaN) }, 'INVALID_DATE', 'deliverAt'],
    [{ deliverAt: '2026-01-01' }, 'INVALID_DATE', 'deliverAt'],
    [{ deliverAt: far }, 'INVALID_DATE', 'deliverAt'],
    [{ deliverAt: new Date(8.64e15) }, 'INVALID_DATE', 'deliverAt'],
    [{ delayMs: -1 }, 'INVALID_DURATION', 'delayMs'],
    [{ delayMs: 1e20 }, 'INVALID_DURATION', 'delayMs'],
    [{ delayMs: Number.NaN }, 'INVALID_DURATION', 'delayMs'],
    [{ delayMs: '5s' }, 'INVALID_DURATION', 'delayMs'],
    [{ delayMs: 1, deliverAt: new Date() }, 'INVALID_DURATION', 'delayMs'],
    [{ expiresAt: new Date(0) }, 'INVALID_DATE', 'expiresAt'],
    [{ expiresAt: far }, 'INVALID_DATE', 'expiresAt'],
    [{ expiresAt: new Date(Date.now() + hour), delayMs: 2 * hour }, 'INVALID_DATE', 'expiresAt'],
  ])('is refused before any SQL: %j', async (fields, code, path) => {
    const client = { query: () => expect.fail('No SQL.') }
    await expect(
      outbox.publish(client, { topic: 't', payload: 1, ...fields } as never),
    ).rejects.toMatchObject({ code, path })
  })
})

describe('the SQL function', () => {
  const call = async (args: string): Promise<{ id: string; duplicate: boolean }> =>
    (
      await database.query<{ id: string; duplicate: boolean }>(
        `select * from twinbox.publish('t', '1', ${args})`,
      )
    )[0]!

  test('delays and expires as well, and what it delays can be cancelled', async () => {
    const { id } = await call(
      `delay => '1 hour', expires_at => now() + interval '2 hours', dedupe_key => 'd'`,
    )
    await call(`deliver_at => now() - interval '1 hour'`)
    expect(await database.query('select from twinbox.outbox')).toHaveLength(1)
    expect(
      await database.query(
        `select dedupe_key, due_at > now() + interval '59 min' as later, expires_at > now() as ends from twinbox.deferred`,
      ),
    ).toEqual([{ dedupe_key: 'd', later: true, ends: true }])
    expect(
      await database.transaction((client) => outbox.cancel(client, { topic: 't', dedupeKey: 'd' })),
    ).toEqual({
      cancelled: true,
    })
    expect((await call(`dedupe_key => 'd'`)).id).not.toBe(id)
  })

  test.each([
    `delay => '-1 s'`,
    `delay => '1 s', deliver_at => now()`,
    `deliver_at => 'infinity'`,
    `deliver_at => '-infinity'`,
    `delay => '3651 days'`,
    `expires_at => now()`,
    `expires_at => 'infinity'`,
    `expires_at => now() + interval '1 hour', delay => '2 hours'`,
  ])('refuses %s', async (args) => {
    await expect(call(args)).rejects.toMatchObject({ code: '22023' })
  })
})
