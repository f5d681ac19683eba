import pg from 'pg'
import { afterAll, afterEach, beforeAll, beforeEach, expect, onTestFinished, test, vi } from 'vitest'
import { postgres } from '../src/brokers/postgres/postgres.ts'
import { Database } from '../src/database/database.ts'
import { receive } from '../src/database/inbox.ts'
import { createClaimer, createReceiver, createRelay, type Broker, type Worker } from '../src/index.ts'
import { Session } from '../src/membership/session.ts'
import { Sleep } from '../src/membership/sleep.ts'
import { recordEvents, type Recorder } from './support/events.ts'
import { apart, createTestDatabase, type TestDatabase } from './support/postgres.ts'
import { until } from './support/until.ts'
import { inboxMessage } from './support/messages.ts'

/** Workers that find nothing to do are woken by whoever writes something for them, and nobody is woken in vain. */
let database: TestDatabase
let broker: Broker
let events: Recorder
let workers: Worker[] = []
let listener: pg.Client
const heard: string[] = []
beforeAll(async () => {
  database = await createTestDatabase()
  listener = new pg.Client({ connectionString: database.url })
  await listener.connect()
  listener.on('notification', ({ payload }) => void heard.push(payload ?? ''))
  await listener.query('listen twinbox')
})
beforeEach(() => {
  heard.length = 0
  events = recordEvents()
  broker = postgres({ database: database.url })
})
afterEach(async () => {
  await Promise.all(workers.splice(0).map((worker) => worker.stop()))
  await broker.close()
})
afterAll(async () => {
  await listener.end()
  await database.drop()
})

async function start(worker: Worker): Promise<Worker> {
  workers.push(worker)
  await worker.start()
  return worker
}
/** As if each was of a process of its own. */
const relay = (): Promise<Worker> =>
  start(createRelay({ database: apart(database.url), broker, onEvent: events.onEvent }))

/** Not from this process's outbox, whose hints its relays would hear. */
const publish = `select twinbox.publish('t', '{}'::json)`

/**
 * Databases that were made of one template have the same object identifiers: without the database, workers of the test
 * files beside this one would count.
 */
const watching = `locktype = 'advisory' and classid = 'twinbox.migration'::regclass and mode = 'ExclusiveLock' and granted
  and database = (select oid from pg_database where datname = current_database())`

/** The backends that watch for those that sleep: one, or none. */
async function watchers(consumer: string): Promise<number[]> {
  const rows = await database.query<{ pid: number }>(
    `select pid from pg_locks where ${watching} and objid = (hashtext($1)::bigint & 4294967295)::oid`,
    [consumer],
  )
  return rows.map(({ pid }) => pid)
}
const asleep = (consumer: string): Promise<void> => until(async () => (await watchers(consumer)).length === 1)

test('a relay that sleeps is woken by what is published, and the claimers by what arrives', async () => {
  await start(createReceiver({ database: database.url, broker, consumer: 'c', topics: ['#'] }))
  await relay()
  await start(
    createClaimer({ database: database.url, consumer: 'c', onEvent: events.onEvent }, { '#': () => {} }),
  )
  await Promise.all([asleep(''), asleep('c')])
  await database.query(publish)
  await events.next('sent')
  await events.next('handled')
  await expect.poll(() => heard).toEqual(expect.arrayContaining(['', 'c']))
})

test('while they are awake, nobody is told, and nobody waits for anybody at the commit', async () => {
  const client = await database.pool.connect()
  try {
    // As long as this is open, no relay falls asleep.
    await client.query('begin')
    await client.query(publish)
    await relay()
    const before = heard.length
    await database.query(publish)
    await events.next('sent')
    expect(heard).toHaveLength(before)
  } finally {
    await client.query('commit')
    client.release()
  }
})

test('nobody falls asleep over a transaction that has published', async () => {
  const client = await database.pool.connect()
  await client.query('begin')
  await client.query(publish)
  await relay()
  // What shall not happen gives no sign.
  await new Promise((resolve) => setTimeout(resolve, 1500))
  expect(await watchers('')).toHaveLength(0)
  await client.query('commit')
  client.release()
  await asleep('')
  expect(await watchers('')).toHaveLength(1)
})

test('of several that sleep one watches, and when it leaves, another one does', async () => {
  await Promise.all([relay(), relay(), relay()])
  await asleep('')
  for (let left = 3; left > 1; left--) {
    const [holder] = await database.query<{ id: number }>(
      `select w.id from pg_stat_activity as a join twinbox.worker as w on starts_with(w.application, a.application_name)
      where a.pid = any ($1)`,
      [await watchers('')],
    )
    const watcher = workers.find(({ id }) => id === holder!.id)!
    await watcher.stop()
    workers = workers.filter((worker) => worker !== watcher)
    await asleep('')
  }
  await database.query(publish)
  await expect.poll(() => heard).toContain('')
})

test('whoever is about to fall asleep hears of what is published meanwhile', async () => {
  // Without their looks, only a NOTIFY can wake them: one that is missed is missed for good.
  const looks = 1000
  // oxlint-disable-next-line typescript/unbound-method
  const { rest } = Sleep.prototype
  const spy = vi.spyOn(Sleep.prototype, 'rest').mockImplementation(function (
    this: Sleep,
    ms: number,
    dueInMs?: number | null,
  ) {
    const pauseMs = rest.call(this, ms, dueInMs)
    return pauseMs >= looks ? 3_600_000 : pauseMs
  })
  try {
    await Promise.all([relay(), relay()])
    await asleep('')
    for (let sent = 0; sent < 100; sent++) {
      await database.query(publish)
      await events.next('sent', undefined, sent + 1)
      // Around the moment at which they fall asleep.
      await new Promise((resolve) => setTimeout(resolve, Math.random() * 60))
    }
    await expect.poll(() => database.query('select from twinbox.outbox')).toEqual([])
  } finally {
    spy.mockRestore()
  }
})

test('with a backlog, a claimer neither sleeps nor tells others that it has got up', async () => {
  const inbox = new Database(database.url)
  const count = 200
  await receive(
    inbox,
    Array.from({ length: count }, () => inboxMessage({ consumer: 'busy' })),
  )
  await inbox.close()
  // Longer than it takes to become drowsy, so that it is the backlog that keeps it awake.
  const handle = (): Promise<void> => new Promise((resolve) => setTimeout(resolve, 40))
  let left = count
  let from = 0
  let toldOf: string[] = []
  await start(
    createClaimer(
      { database: database.url, consumer: 'busy', concurrency: 8, onEvent: events.onEvent },
      {
        '#': {
          transaction: false,
          handle: async () => {
            await handle()
            // It may have lain down while it looked for its partitions, and got up when it found the first message.
            if (--left === count - 40) from = heard.length
            if (left === 40) toldOf = heard.slice(from)
          },
        },
      },
    ),
  )
  await events.next('handled', () => true, count)
  expect(toldOf.filter((news) => news.startsWith('busy'))).toEqual([])
})

test('whoever sleeps while another one watches goes on sleeping when it asks whether that is still so', async () => {
  const idle = async (): Promise<{ sleep: Sleep; session: Session; asked: () => number }> => {
    // As in a process of its own.
    const own = new Database(database.url)
    onTestFinished(() => own.close())
    const session = new Session(own, {
      onEnd: () => {},
      onGone: () => {},
      onNotified: () => {},
    })
    await session.open()
    const asks = vi.spyOn(session, 'watch')
    const sleep = new Sleep(own, session, { consumer: 'idle', emit: () => {}, worker: { onWoken: () => {} } })
    await until(() => sleep.pause(100) >= 1000)
    return { sleep, session, asked: () => asks.mock.calls.length }
  }
  const watcher = await idle()
  const sleeper = await idle()
  const before = sleeper.asked()
  const deadline = performance.now() + 1500
  const pauses = new Set<number>()
  while (performance.now() < deadline) {
    pauses.add(sleeper.sleep.pause(100))
    await new Promise((resolve) => setTimeout(resolve, 5))
  }
  expect([...pauses]).toEqual([1250])
  expect(sleeper.asked() - before).toBeLessThanOrEqual(2)
  // The watcher dies: the other one takes its place.
  const [first] = await watchers('idle')
  watcher.session.drop()
  await until(async () => {
    sleeper.sleep.pause(100)
    const [now] = await watchers('idle')
    return now !== undefined && now !== first
  })
  await sleeper.session.end()
})
