import { afterAll, afterEach, beforeAll, beforeEach, expect, test, vi } from 'vitest'
import { Database } from '../../src/database/database.ts'
import { receive } from '../../src/database/inbox.ts'
import { createClaimer, evictWorkers, type Handlers, type Worker } from '../../src/index.ts'
import { recordEvents, type Recorder } from '../support/events.ts'
import { inboxMessage } from '../support/messages.ts'
import { apart, createTestDatabase, type TestDatabase } from '../support/postgres.ts'

/** Workers of one process that were given the same URL: what they share, and that nobody takes others with it. */

let database: TestDatabase
let events: Recorder
const workers: Worker[] = []

beforeAll(async () => {
  database = await createTestDatabase()
})
beforeEach(() => {
  events = recordEvents()
})
afterEach(async () => {
  await Promise.all(workers.splice(0).map((worker) => worker.stop()))
  await database.query('delete from twinbox.worker')
})
afterAll(() => database.drop())

async function start(count: number, handlers: Handlers<unknown> = {}, url = database.url): Promise<Worker[]> {
  const options = { database: url, consumer: 'billing', concurrency: 2, onEvent: events.onEvent }
  const started = Array.from({ length: count }, () =>
    createClaimer(options, { 't.none': () => {}, ...handlers }),
  )
  workers.push(...started)
  await Promise.all(started.map((worker) => worker.start()))
  return started
}

const ids = (of: readonly Worker[]): (number | null)[] => of.map(({ id }) => id)

async function value<Result>(expression: string): Promise<Result> {
  return (await database.query<{ value: Result }>(`select ${expression} as value`))[0]!.value
}
const connections = (): Promise<number> =>
  value(
    `(select count(*)::int from pg_stat_activity where datname = current_database() and application_name like '%twinbox%')`,
  )
/** The backend that holds the locks of workers. */
const sessions = async (): Promise<number[]> =>
  (
    await database.query<{ pid: number }>(
      `select distinct pid from pg_locks where locktype = 'advisory' and classid = 'twinbox.worker'::regclass
        and database = (select oid from pg_database where datname = current_database())`,
    )
  ).map(({ pid }) => pid)
const locked = (): Promise<number> =>
  value(`(select count(*)::int from pg_locks where locktype = 'advisory' and classid = 'twinbox.worker'::regclass
    and database = (select oid from pg_database where datname = current_database()))`)
/** So many heartbeats later of all of these. */
async function beaten(of: readonly Worker[], times = 2): Promise<void> {
  const beats = (): Promise<string[]> =>
    value(`array(select beat_at::text from twinbox.worker where id in (${ids(of).join()}) order by id)`)
  for (let time = 0; time < times; time++) {
    const before = await beats()
    await expect
      .poll(async () => (await beats()).filter((at, index) => at === before[index]), { timeout: 15_000 })
      .toEqual([])
  }
}

test('64 claimers have ten connections at most, and one statement beats for all of them', async () => {
  const all = await start(64)
  expect(await connections()).toBeLessThanOrEqual(10)
  expect(await sessions()).toHaveLength(1)
  expect(await locked()).toBe(64)
  // oxlint-disable-next-line typescript/unbound-method
  const { runKept } = Database.prototype
  let beats = 0
  let said = 0
  const spy = vi.spyOn(Database.prototype, 'runKept').mockImplementation(function (
    this: Database,
    client,
    statement,
    ...given
  ) {
    const values = given[0] as { readonly ids?: readonly number[]; readonly signs?: unknown } | undefined
    if (values?.signs !== undefined) {
      beats++
      said += values.ids!.length
    }
    return runKept.call(this, client, statement, ...given) as Promise<never[]>
  })
  await beaten(all, 3)
  spy.mockRestore()
  // Most of them at a time, whenever each of them has started.
  expect(said / beats).toBeGreaterThan(16)
  expect(await connections()).toBeLessThanOrEqual(10)
})

test('the last one that stops closes the connections, and the others notice nothing', async () => {
  const all = await start(3)
  const [session] = await sessions()
  const [first, ...rest] = all
  const known = ids(rest)
  await first!.stop()
  expect(await sessions()).toEqual([session])
  expect(await locked()).toBe(2)
  await beaten(rest)
  expect(ids(rest)).toEqual(known)
  expect(events.of('lease_lost')).toEqual([])
  await Promise.all(rest.map((worker) => worker.stop()))
  await expect.poll(connections).toBe(0)
})

test('evicting one ends its handlers’ connections, and no others', async () => {
  const ended: string[] = []
  const began = new Set<string>()
  let goOn = (): void => {}
  const waits = new Promise<void>((resolve) => (goOn = resolve))
  const slow = (by: string): Handlers<unknown> => ({
    slow: async (message, { client }) => {
      await client.query('select 1')
      began.add(`${by} ${message.id}`)
      await waits
      await client.query('select 1').then(
        () => ended.push(`${by} well`),
        () => ended.push(`${by} cut`),
      )
    },
  })
  const [evicted] = await start(1, slow('evicted'))
  const [other] = await start(1, slow('other'))
  const inbox = new Database(database.url)
  await receive(
    inbox,
    Array.from({ length: 8 }, () =>
      inboxMessage({ consumer: 'billing', topic: 'slow', key: null, publishedAt: new Date() }),
    ),
  )
  await inbox.close()
  await expect.poll(() => began.size, { timeout: 10_000 }).toBe(4)
  const [session] = await sessions()
  const id = other!.id
  const former = evicted!.id!
  await evictWorkers(database.url, [former])
  await expect.poll(() => evicted!.id !== null && evicted!.id !== former, { timeout: 10_000 }).toBe(true)
  expect(await sessions()).toEqual([session])
  goOn()
  // What the evicted one was doing is done again, and what the other one was doing is not.
  const count = (how: RegExp): number => ended.filter((one) => how.test(one)).length
  await expect.poll(() => count(/well/), { timeout: 15_000 }).toBe(8)
  expect(count(/evicted cut/)).toBeGreaterThanOrEqual(2)
  expect(count(/other cut/)).toBe(0)
  expect(other!.id).toBe(id)
})

test('when their session is killed, all of them go on under their ids', async () => {
  await start(1, {}, apart(database.url))
  const all = await start(4)
  const known = ids(all)
  const [session] = await database.query<{ pid: number }>(
    `select pid from pg_locks where locktype = 'advisory' and classid = 'twinbox.worker'::regclass and objid = ${known[0]}::oid
      and database = (select oid from pg_database where datname = current_database())`,
  )
  await database.query('select pg_terminate_backend($1)', [session!.pid])
  await expect.poll(locked, { timeout: 10_000 }).toBe(5)
  await beaten(all, 3)
  expect(ids(all)).toEqual(known)
  expect(events.of('worker_dead')).toEqual([])
})

test('who cannot beat since somebody has locked its row delays no heartbeat of the others', async () => {
  const all = await start(3)
  const [stuck, ...rest] = all
  const known = ids(rest)
  const id = stuck!.id!
  await database.transaction(async (client) => {
    await client.query('select from twinbox.worker where id = $1 for update', [id])
    // As long as it takes until the one whose row it is fears for its life.
    await events.next('lease_lost', ({ workerId }) => workerId === id)
    await beaten(rest, 4)
  })
  expect(ids(rest)).toEqual(known)
  expect(events.of('worker_dead').filter(({ deadWorkerId }) => known.includes(deadWorkerId))).toEqual([])
})
