import { afterEach, beforeEach, expect, test } from 'vitest'
import {
  createClaimer,
  createOutbox,
  createReceiver,
  createRelay,
  diagnose,
  readMessages,
  readStatus,
  RetryLaterError,
  withTransaction,
  type Worker,
} from '../src/index.ts'
import { postgres } from '../src/brokers/postgres/postgres.ts'
import { recordEvents, type Recorder } from './support/events.ts'
import { createTestDatabase, type TestDatabase } from './support/postgres.ts'

/** Sequences that go back, lanes that are gone, rows below what all believe: what is committed is handled, and seen. */

let database: TestDatabase
let events: Recorder
let workers: Worker[] = []
let handled: { key: string | null; n: number }[] = []
const outbox = createOutbox()

beforeEach(async () => {
  database = await createTestDatabase()
  events = recordEvents()
  handled = []
})
afterEach(async () => {
  await stop()
  await database.drop()
})

async function stop(): Promise<void> {
  await Promise.all(workers.map((worker) => worker.stop()))
  workers = []
}

async function start(...made: Worker[]): Promise<void> {
  workers.push(...made)
  await Promise.all(made.map((worker) => worker.start()))
}

const relay = (): Worker =>
  createRelay({
    database: database.url,
    broker: postgres({ database: database.url }),
    onEvent: events.onEvent,
    leaseMs: 3000,
  })
const claimer = (): Worker =>
  createClaimer(
    { database: database.url, consumer: 'c', onEvent: events.onEvent, leaseMs: 3000 },
    {
      '#': {
        transaction: false,
        handle: ({ key, payload }) => void handled.push({ key, n: (payload as { n: number }).n }),
      },
    },
  )

/** A whole life: what is published arrives, as long as these run. */
async function startAll(): Promise<void> {
  const broker = postgres({ database: database.url })
  await start(
    createReceiver({ database: database.url, broker, consumer: 'c', topics: ['#'] }),
    relay(),
    claimer(),
  )
}

let published = 0
async function publish(count: number, keyed = true): Promise<void> {
  await withTransaction(database.pool, (client) =>
    outbox.publishMany(
      client,
      Array.from({ length: count }, (_, index) => ({
        topic: 't',
        ...(keyed ? { key: `k${index % 20}` } : {}),
        payload: { n: published++ },
      })),
    ),
  )
}

const all = (count: number): Promise<unknown> =>
  expect.poll(() => handled.length, { timeout: 20_000 }).toBe(count)

/** Workers have read so far that their watermarks are written down there. */
async function watermarksAt(table: 'outbox' | 'inbox'): Promise<number> {
  const found = async (): Promise<number> =>
    (
      await database.query<{ watermark: number }>(
        `select max(watermark)::int as watermark from twinbox.lane where (consumer = '') = ($1 = 'outbox')`,
        [table],
      )
    )[0]!.watermark
  await expect.poll(found, { timeout: 20_000 }).toBeGreaterThan(0)
  return found()
}

const setBack = (table: 'outbox' | 'inbox', to = 1): Promise<unknown> =>
  database.query(`select setval(pg_get_serial_sequence('twinbox.${table}', 'seq'), ${to}, false)`)
const standsAt = async (table: 'outbox' | 'inbox'): Promise<number> =>
  (
    await database.query<{ at: number }>(
      `select pg_sequence_last_value(pg_get_serial_sequence('twinbox.${table}', 'seq')::regclass)::int as at`,
    )
  )[0]!.at

/** Messages without a key have no order. */
const inOrder = (): boolean => {
  const last = new Map<string | null, number>()
  return handled.every(
    ({ key, n }) => key === null || ((last.get(key) ?? -1) < n && last.set(key, n) !== undefined),
  )
}

/**
 * All that can be asked of what is published while workers set a sequence forward: of one transaction some messages may have got
 * their places before that and some after it, and the former may come last.
 */
const eachOnce = (): boolean => new Set(handled.map(({ n }) => n)).size === handled.length

async function live(count = 600): Promise<{ outbox: number; inbox: number }> {
  await startAll()
  await publish(count)
  await publish(200, false)
  await all(count + 200)
  const watermarks = { outbox: await watermarksAt('outbox'), inbox: await watermarksAt('inbox') }
  handled = []
  return watermarks
}

test('what is published after a sequence has gone back is handled, and the sequence is set forward', async () => {
  const watermarks = await live()
  await stop()
  await setBack('outbox')
  await setBack('inbox')
  await publish(100)
  const { outbox: box } = await readStatus(database.url)
  expect(box).toMatchObject({ depth: 100, topics: [{ topic: 't', depth: 100 }] })
  expect(box.lagMs).toBeGreaterThan(0)
  expect(await readMessages(database.url, { states: ['outbox'] }, { limit: 1000 })).toHaveLength(100)
  const found = (await diagnose(database.url)).filter(
    ({ check, level }) => check === 'work' && level !== 'ok',
  )
  expect(found.map((finding) => finding.found)).toContainEqual(
    expect.stringMatching(/lanes of the outbox have messages in them below where all were known to be done/),
  )
  await startAll()
  await all(100)
  await publish(100)
  await all(200)
  expect(inOrder()).toBe(true)
  expect(await standsAt('outbox')).toBeGreaterThan(watermarks.outbox)
  expect(await standsAt('inbox')).toBeGreaterThan(watermarks.inbox)
  expect(events.of('sequence_mended').map(({ table }) => table)).toEqual(['outbox', 'inbox'])
})

test('also if it has come further than before by then', async () => {
  const watermarks = await live()
  await stop()
  await setBack('outbox')
  await publish(watermarks.outbox + 500)
  await startAll()
  await all(watermarks.outbox + 500)
  expect(inOrder()).toBe(true)
  expect(events.of('found_below').length).toBeGreaterThan(0)
})

test('a place in the inbox that is taken already is no fault of the message that would have got it', async () => {
  const broker = postgres({ database: database.url })
  await start(createReceiver({ database: database.url, broker, consumer: 'c', topics: ['#'] }), relay())
  // Nobody who runs reads the inbox, and notices.
  const waiting = async (): Promise<number> =>
    (await database.query<{ count: number }>('select count(*)::int as count from twinbox.inbox'))[0]!.count
  const one = (n: number): Promise<unknown> =>
    withTransaction(database.pool, (client) =>
      outbox.publish(client, { topic: 't', key: 'k', payload: { n } }),
    )
  await one(1)
  await one(2)
  await expect.poll(waiting, { timeout: 20_000 }).toBe(2)
  await setBack('inbox')
  await one(3)
  await expect.poll(waiting, { timeout: 20_000 }).toBe(3)
  expect(events.of('dead_letter')).toEqual([])
})

test('tables that are truncated while workers run, with their numbers begun anew, again and again', async () => {
  await live()
  for (let round = 1; round <= 3; round++) {
    // Not before every watermark stands beyond where the round's keys will be. A worker that begins anew when all has been read
    // has nothing to move its watermarks by: something has to come.
    const lowest = async (): Promise<number> => {
      const before = handled.length
      await publish(1)
      await all(before + 1)
      const [watermarks] = await database.query<{ lowest: number }>(
        `select case when count(distinct consumer) = 2 then min(watermark)::int else 0 end as lowest
        from twinbox.lane where watermark > 0`,
      )
      return watermarks!.lowest
    }
    await expect.poll(lowest, { timeout: 150_000, interval: 200 }).toBeGreaterThanOrEqual(50)
    handled = []
    await database.query(
      'truncate twinbox.outbox, twinbox.inbox, twinbox.seen, twinbox.dedupe restart identity',
    )
    await publish(50)
    await publish(50, false)
    await all(100)
    expect(eachOnce()).toBe(true)
  }
}, 500_000)

test('every worker whose lanes were read on that number begins anew, and not only the one that notices', async () => {
  await startAll()
  await start(relay(), relay(), claimer())
  await expect
    .poll(
      async () =>
        (
          await database.query<{ holder: number }>(
            'select distinct holder from twinbox.lane where holder is not null',
          )
        ).length,
    )
    .toBe(5)
  await publish(600)
  await all(600)
  await watermarksAt('outbox')
  await watermarksAt('inbox')
  handled = []
  await setBack('outbox')
  await setBack('inbox')
  await publish(200)
  await all(200)
  expect(eachOnce()).toBe(true)
})

// A message of a parked key waits with its place. Another one of the key that gets the same place may neither join it nor be
// joined by it, and each try failed with a duplicate key, for ever.
test('what waits for its key, and a message that has got its place since, are both handled', async () => {
  let isPatient = true
  const failing = createClaimer(
    { database: database.url, consumer: 'c', onEvent: events.onEvent, leaseMs: 3000 },
    {
      '#': {
        transaction: false,
        handle: ({ key, payload }) => {
          // So long that the key is parked.
          if (isPatient) throw new RetryLaterError({ afterMs: 6000 })
          handled.push({ key, n: (payload as { n: number }).n })
        },
      },
    },
  )
  const broker = postgres({ database: database.url })
  await start(createReceiver({ database: database.url, broker, consumer: 'c', topics: ['#'] }), failing)
  await start(relay())
  const publishKeyed = (count: number): Promise<unknown> =>
    withTransaction(database.pool, (client) =>
      outbox.publishMany(
        client,
        Array.from({ length: count }, (_, n) => ({ topic: 't', key: 'k', payload: { n } })),
      ),
    )
  await publishKeyed(40)
  await expect
    .poll(() => database.query('select from twinbox.parked_message'), { timeout: 20_000 })
    .toHaveLength(40)
  await watermarksAt('inbox')
  // Half of their places are given again.
  await setBack('inbox')
  await publishKeyed(20)
  isPatient = false
  await all(60)
  expect(events.of('trouble')).toEqual([])
})

test('all tables but the one of migrations truncated: lanes are made again, whether workers run or not', async () => {
  const tables = await database.query<{ name: string }>(
    `select tablename::text as name from pg_tables where schemaname = 'twinbox' and tablename not in ('migration', 'subscription')`,
  )
  const truncate = (): Promise<unknown> =>
    database.query(`truncate ${tables.map(({ name }) => `twinbox.${name}`).join(', ')} restart identity`)
  await live()
  await truncate()
  await publish(100)
  expect((await readStatus(database.url)).outbox.depth).toBeGreaterThan(0)
  await all(100)
  await stop()
  handled = []
  await truncate()
  await publish(100)
  expect((await readStatus(database.url)).outbox.depth).toBe(100)
  await startAll()
  await all(100)
})

test('a copy whose sequences all begin anew: workers start at once, and dead letters are written', async () => {
  const die = (): Worker =>
    createClaimer(
      { database: database.url, consumer: 'c', maxAttempts: 1, circuit: false, onEvent: events.onEvent },
      {
        '#': () => {
          throw new Error('no')
        },
      },
    )
  await startAll()
  await stop()
  await start(relay(), die())
  await publish(20, false)
  await expect.poll(() => events.of('dead_letter').length, { timeout: 20_000 }).toBe(20)
  await stop()
  await database.query(`
    select setval(pg_get_serial_sequence('twinbox.' || name, field), 1, false)
    from (values ('worker', 'id'), ('dead_letter', 'number'), ('outbox', 'seq'), ('inbox', 'seq')) as t(name, field)`)
  await start(relay(), die())
  await publish(20, false)
  await expect.poll(() => events.of('dead_letter').length, { timeout: 20_000 }).toBe(40)
  expect(events.of('trouble')).toEqual([])
  expect(events.of('sequence_mended').map(({ table }) => table)).toEqual(
    expect.arrayContaining(['worker', 'dead_letter']),
  )
})

test('a sequence that is where it should be is left alone, whoever asks', async () => {
  await live(100)
  await stop()
  const before = [await standsAt('outbox'), await standsAt('inbox')]
  expect(await database.query('select * from twinbox.mend_sequences()')).toEqual([])
  expect([await standsAt('outbox'), await standsAt('inbox')]).toEqual(before)
  expect(events.of('sequence_mended')).toEqual([])
  expect(events.of('found_below')).toEqual([])
})
