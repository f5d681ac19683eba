import { afterAll, afterEach, beforeAll, describe, expect, test, vi } from 'vitest'
import { postgres } from '../../src/brokers/postgres/postgres.ts'
import { createDashboard } from '../../src/dashboard/dashboard.ts'
import { createReader } from '../../src/dashboard/poll.ts'
import { Database } from '../../src/database/database.ts'
import { createClaimer, createOutbox, createReceiver, createRelay } from '../../src/index.ts'
import { busyMax, others } from '../../src/database/layout.ts'
import { Flow } from '../../src/membership/flow.ts'
import { createTestDatabase, type TestDatabase } from '../support/postgres.ts'
import { until } from '../support/until.ts'

/** What comes and goes of each topic: counted by workers, told by their rows, shown by the overview. */

let tables: TestDatabase
let database: Database
beforeAll(async () => {
  tables = await createTestDatabase()
  database = new Database(tables.url)
})
afterEach(() => void vi.useRealTimers())
afterAll(async () => {
  await database.close()
  await tables.drop()
})

describe('a worker', () => {
  const handled = (topic: string, count: number) =>
    ({
      type: 'handled',
      ...{ topic, attempt: 1, durationMs: 1 },
      ids: Array.from({ length: count }, () => 'x'),
    }) as const

  test('tells what it has sent, handled or dropped in the last ten seconds, the busiest topics first', () => {
    vi.useFakeTimers({ toFake: ['performance'] })
    const flow = new Flow()
    const seen: string[] = []
    const emit = flow.counting(({ type }) => void seen.push(type))
    emit(handled('a', 20))
    emit({ type: 'dropped', topic: 'b', ids: ['1', '2'] })
    emit({ type: 'sent', ids: [], topics: { a: 10, c: 60 }, broker: 'x', durationMs: 1 })
    vi.advanceTimersByTime(2000)
    expect(flow.tell()).toEqual({ busyTopics: ['c', 'a', 'b'], busyRates: [30, 15, 1] })
    expect(seen).toEqual(['handled', 'dropped', 'sent'])
    vi.advanceTimersByTime(8000)
    expect(flow.tell().busyRates).toEqual([6, 3, 0.2])
    vi.advanceTimersByTime(8000)
    expect(flow.tell()).toEqual({ busyTopics: [], busyRates: [] })
  })

  test('of 200,000 topics counts a bounded number, and tells of its busiest', () => {
    const flow = new Flow()
    const emit = flow.counting(() => undefined)
    for (let n = 0; n < 100; n++) emit(handled('busy', 1))
    for (let n = 0; n < 200_000; n++) emit(handled(`t.${n}`, 1))
    const { busyTopics, busyRates } = flow.tell()
    expect(busyTopics).toHaveLength(busyMax + 1)
    expect([busyTopics[0], busyTopics.at(-1)]).toEqual(['busy', others])
    // What is not told by its topic is told all the same: a box's sum is right.
    const all = busyRates.reduce((sum, each) => sum + each)
    expect(all / busyRates[0]!).toBeCloseTo(200_100 / 100)
  })
})

describe('a look', () => {
  const worker = (consumer: string, topics: readonly string[], rates: readonly number[], silentS = 0) =>
    tables.query(
      `insert into twinbox.worker (kind, consumer, host, pid, version, application, busy_topics, busy_rates, beat_at)
      values ($1, $2, 'h', 1, '1', 'a', $3, $4, clock_timestamp() + interval '1 hour' - $5 * interval '1 s' - case when $5 > 0 then interval '1 hour' else '0' end)`,
      [consumer === '' ? 'relay' : 'claimer', consumer, topics, rates, silentS],
    )
  const fill = (consumer: string, topic: string, count: number) =>
    tables.query(
      `insert into twinbox.inbox (consumer, id, lane, topic, key, payload)
      select $1, gen_random_uuid(), i % 64, $2, 'k' || i, '1' from generate_series(1, $3::int) as i`,
      [consumer, topic, count],
    )
  const flowsOf = (poll: Awaited<ReturnType<ReturnType<typeof createReader>>>, of: string) =>
    Object.fromEntries(
      (of === '' ? poll.outbox : poll.consumers.find(({ consumer }) => consumer === of)!).flows.map(
        ({ topic, ...flow }) => [topic, flow],
      ),
    )

  test('adds up what workers say, and what came is what went and what has grown', async () => {
    await worker('billing', ['a', 'b'], [5, 1])
    await worker('billing', ['a', 'idle'], [2, 3])
    await worker('billing', ['a'], [100], 60)
    await worker('billing', ['a', 'b'], [NaN, -1])
    await fill('billing', 'a', 10)
    await fill('billing', 'b', 20)
    const read = createReader(database)
    const first = flowsOf(await read(), 'billing')
    expect(first['a']).toMatchObject({ depth: 10, outRate: 7, inRate: null })
    expect(first['idle']).toMatchObject({ depth: 0, lagMs: null, outRate: 3 })
    await fill('billing', 'a', 20)
    await fill('billing', 'b', 40)
    let second = first
    await until(async () => (second = flowsOf(await read(), 'billing'))['b']!.depth === 60)
    const [a, b] = [second['a']!, second['b']!]
    expect([a.outRate, b.outRate, second['idle']!.inRate]).toEqual([7, 1, 3])
    expect((b.inRate! - 1) / (a.inRate! - 7)).toBeCloseTo(2)
  })

  test('says that it cannot tell, where workers name their busiest topics alone or a depth is an estimate', async () => {
    const many = Array.from({ length: busyMax }, (_, n) => `t.${n}`)
    await worker('many', [...many, others], [...many.map(() => 1), 30])
    await fill('many', 'quiet', 3000)
    await fill('many', 't.0', 3)
    const read = createReader(database)
    const started = await read()
    let poll = started
    await until(async () => (poll = await read()).lookedAt > started.lookedAt)
    // What of the topics is not known is of the box.
    expect(poll.consumers.find(({ consumer }) => consumer === 'many')!.outRate).toBe(50)
    const box = flowsOf(poll, 'many')
    expect(box['quiet']).toMatchObject({ outRate: null, inRate: 0 })
    expect(box['t.1']).toMatchObject({ outRate: 1, depth: null })
  })

  test('estimates what comes behind a backlog by what came last, however little of it is read', async () => {
    await fill('deep', 'old', 3000)
    const read = createReader(database)
    const before = await read()
    expect(flowsOf(before, 'deep')['old']!.inRate).toBeNull()
    // Two consumers by turns, so that each has its gaps in the seqs; of one, twice as many of one topic as of the other.
    await tables.query(
      `insert into twinbox.inbox (consumer, id, lane, topic, key, payload)
      select case when i % 2 = 0 then 'deep' else 'noise' end, gen_random_uuid(), (i / 2 + i / 128) % 64,
        case when i % 6 = 0 then 'old' else 'new' end, 'k' || i, '1'
      from generate_series(1, 12000) as i`,
    )
    let poll = before
    await until(async () => (poll = await read()).lookedAt > before.lookedAt)
    const seconds = (poll.lookedAt.getTime() - before.lookedAt.getTime()) / 1000
    const [{ old }, { new: fresh }] = [flowsOf(poll, 'deep'), flowsOf(poll, 'deep')]
    for (const share of [(old!.inRate! * seconds) / 2000, (fresh!.inRate! * seconds) / 4000]) {
      expect(share).toBeGreaterThan(0.8)
      expect(share).toBeLessThan(1.2)
    }
    await until(async () => (await read()).lookedAt > poll.lookedAt)
    await until(async () => flowsOf(await read(), 'deep')['old']!.inRate === 0)
  })
})

test('real workers say it in their rows, and the page shows it', async () => {
  const shared = { database: tables.url, heartbeatMs: 200 }
  const broker = postgres({ database: tables.url })
  const workers = [
    createReceiver({ ...shared, broker, consumer: 'shop', topics: ['order.#'] }),
    createRelay({ ...shared, broker }),
    createClaimer({ ...shared, consumer: 'shop' }, { 'order.#': async () => {} }),
  ]
  for (const worker of workers) await worker.start()
  const dashboard = createDashboard({
    database: tables.url,
    authorize: () => ({ name: 'ada', access: 'read' }),
  })
  try {
    const messages = Array.from({ length: 50 }, (_, n) => ({ topic: `order.${n % 2}`, payload: n }))
    await tables.transaction((client) => createOutbox().publishMany(client, messages))
    const busy = () =>
      tables.query<{ kind: string; topics: string[] }>(
        `select kind, busy_topics as topics from twinbox.worker where host <> 'h' and busy_topics <> '{}' order by kind`,
      )
    await until(async () => (await busy()).filter(({ topics }) => topics.length === 2).length === 2)
    expect((await busy()).map(({ kind }) => kind)).toEqual(['claimer', 'relay'])
    for (const path of ['/', '/?box=shop']) {
      const page = await (await dashboard.fetch(new Request(`http://localhost${path}`))).text()
      expect(page.slice(page.indexOf('Topics of the'))).toMatch(
        /<code>order\.0<\/code>[^]*?>(?!0\.0)[\d.]+\/s</,
      )
    }
  } finally {
    await dashboard.close()
    for (const worker of workers) await worker.stop()
    await broker.close()
  }
})
