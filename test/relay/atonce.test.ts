import { afterEach, beforeEach, expect, test, vi } from 'vitest'
import { postgres } from '../../src/brokers/postgres/postgres.ts'
import { Database } from '../../src/database/database.ts'
import { movingSql } from '../../src/database/sql/moving.ts'
import type { ValuesOf } from '../../src/database/sql/parameter.ts'
import { sqlstate } from '../../src/database/sqlstate.ts'
import { createOutbox, createRelay, type Broker, type Worker } from '../../src/index.ts'
import { createTestDatabase, type TestDatabase } from '../support/postgres.ts'
import { until } from '../support/until.ts'

/** A read of the outbox that moves what it has found: all of it, or it is a read. */
let database: TestDatabase
let own: Database
let broker: Broker
let relay: Worker | undefined
beforeEach(async () => {
  database = await createTestDatabase()
  own = new Database(database.url)
  broker = postgres({ database: database.url, unroutable: 'drop' })
  await subscribe('one', ['t', 'u'])
})
afterEach(async () => {
  vi.restoreAllMocks()
  await relay?.stop()
  relay = undefined
  await broker.close()
  await own.close()
  await database.drop()
})

const subscribe = (consumer: string, topics: string[]): Promise<unknown> =>
  broker.subscribe({ consumer, topics, batchSize: 100 }, async () => {})

interface Message {
  readonly topic?: string
  readonly key?: string
}
async function publish(messages: readonly Message[], from = 0): Promise<readonly string[]> {
  const published = await database.transaction((client) =>
    createOutbox().publishMany(
      client,
      messages.map((message, n) => ({ topic: 't', payload: from + n, ...message })),
    ),
  )
  return published.map(({ id }) => id)
}

const sql = movingSql('twinbox').readAndMove
type Values = ValuesOf<typeof sql.takes>
const lanes = Array.from({ length: 64 }, (_, lane) => lane)
const each = (value: number): number[] => lanes.map(() => value)

/** As a relay that holds all lanes asks it. */
async function readAndMove(otherwise: Partial<Values> = {}) {
  await database.query(`update twinbox.lane set fence = 7 where consumer = ''`)
  const [known] = await database.query<{ server: string; version: string }>(
    `select extract(epoch from pg_postmaster_start_time())::text || ' ' || 'twinbox.inbox'::regclass::oid::text || ' ' ||
      twinbox.incarnation()::text as server,
      (select sum(hashtextextended(consumer || ' ' || pattern, 0))::text from twinbox.subscription) as version`,
  )
  return own.keep(sql, {
    ...{ lanes, bounds: each(0), budgets: each(200), fences: each(7), lowered: each(0), mark: true },
    ...{ bytes: 8e6, rows: 5000, topics: ['t', 'u'], takers: [['one'], ['one']], firstPartition: 0 },
    ...known!,
    ...otherwise,
  })
}
const inbox = (): Promise<{ payload: number }[]> =>
  database.query(`select payload from twinbox.inbox where consumer = 'one' order by seq`)
const left = async (): Promise<number> => (await database.query('select from twinbox.outbox')).length

test('what it finds is in the inboxes with its answer, in order', async () => {
  const ids = await publish([{ key: 'a' }, { key: 'a', topic: 'u' }, { key: 'b' }, {}])
  const rows = await readAndMove()
  expect(rows).toHaveLength(4)
  expect(rows.every(({ here, moved, xid }) => here && moved && xid !== null)).toBe(true)
  expect(new Set(rows.map((row) => ('id' in row ? row.id : null)))).toEqual(new Set(ids))
  expect((await inbox()).map(({ payload }) => payload)).toEqual([0, 1, 2, 3])
  expect(await left()).toBe(0)
  expect(await readAndMove()).toMatchObject([{ moved: false, lane: null }])
})

const two = [{ key: 'a' }, { key: 'a' }]
test.each<[string, Message[], Partial<Values>, (string | (() => Promise<unknown>))?]>([
  ['one is of a topic of which nothing is known', [...two, { key: 'a', topic: 'other' }], {}],
  [
    'one has expired',
    two,
    {},
    "update twinbox.outbox set expires_at = now() - interval '1 second' where seq = (select max(seq) from twinbox.outbox)",
  ],
  ['one is larger than what is read at once', two, { bytes: 1 }],
  ['it would write too many rows', two, { rows: 1 }],
  ['there are many', Array.from({ length: 101 }, () => ({ key: 'a' })), {}],
  ['a lane has another holder', two, { fences: each(6) }],
  ['something has come back into a lane', two, {}, 'update twinbox.lane set lowered = 1'],
  [
    'a key is parked',
    two,
    {},
    `insert into twinbox.parked (consumer, lane, key, until, reason, blocker) values ('', twinbox.lane_of('a'), 'other', 'infinity', 'why', 1)`,
  ],
  ['somebody has subscribed since', two, {}, () => subscribe('two', ['t'])],
])('it is a read where %s', async (_, messages, otherwise, first) => {
  await publish(messages)
  const { version } = (
    await database.query<{ version: string }>(
      'select sum(hashtextextended(consumer || $1 || pattern, 0))::text as version from twinbox.subscription',
      [' '],
    )
  )[0]!
  await readAndMove({ server: 'another' })
  if (typeof first === 'string') await database.query(first)
  else await first?.()
  const rows = await readAndMove({ version, ...otherwise })
  expect(rows).toHaveLength(messages.length)
  expect(rows.every(({ here, moved }) => here && !moved)).toBe(true)
  expect(await database.query('select from twinbox.inbox')).toEqual([])
  expect(await left()).toBe(messages.length)
})

test('on another server it does not even read', async () => {
  await publish(two)
  expect(await readAndMove({ server: 'another' })).toMatchObject([{ here: false, moved: false, lane: null }])
  expect(await left()).toBe(2)
})

test('nothing is moved if one has been seen', async () => {
  const ids = await publish(two)
  await database.query(`insert into twinbox.seen (consumer, id) values ('one', $1)`, [ids[1]])
  const error: unknown = await readAndMove().catch((refusal: unknown) => refusal)
  expect(sqlstate(error)).toBe('22012')
  expect(await inbox()).toEqual([])
  expect(await left()).toBe(2)
})

const isRead = (name: string): boolean => /outbox.step$|readAndMove$/.test(name)
/** The statements of a relay, by what they do, and a way to hold those back that read. */
function watchStatements() {
  const names: string[] = []
  let gate: Promise<unknown> | null = null
  let held = 0
  const reads: { readonly lanes: readonly number[]; readonly bounds: readonly number[] }[] = []
  const original = Reflect.get(Database.prototype, 'run') as (...given: unknown[]) => Promise<unknown[]>
  vi.spyOn(Database.prototype, 'run').mockImplementation(async function (
    this: Database,
    ...given: unknown[]
  ) {
    const name = (given[1] as { name: string }).name.replace('twinbox.', '')
    if (isRead(name)) reads.push(given[2] as (typeof reads)[number])
    if (isRead(name) && gate !== null) {
      held++
      await gate
    }
    const rows = (await original.apply(this, given)) as { lane?: number | null }[]
    if (!isRead(name) || rows.some(({ lane }) => lane !== null)) names.push(name)
    return rows
  })
  return {
    names,
    reads,
    held: () => held,
    hold(opened: Promise<unknown>) {
      gate = opened
    },
  }
}
async function start(): Promise<void> {
  relay = createRelay({ database: database.url, broker })
  await relay.start()
}
/** One after the other, until each half of the lanes has moved some. */
async function learn(): Promise<void> {
  for (let n = 0; n < 24; n++) await publish([{ key: `k${n}` }])
  await until(async () => (await left()) === 0)
}

test('an idle relay moves a message by one statement', async () => {
  const { names } = watchStatements()
  await start()
  await learn()
  // Not as long as a transaction of another test, of which this server has many, may be a straggler.
  await until(async () => {
    names.splice(0)
    for (let n = 0; n < 20; n++) {
      await publish([n % 2 === 0 ? {} : { key: `k${n}` }])
      await until(async () => (await left()) === 0)
    }
    const moving = names.filter((name) => /^moving|^outbox|^receive/.test(name))
    return moving.length === 20 && moving.every((name) => name === 'moving.readAndMove')
  })
  expect(await database.query('select from twinbox.inbox')).not.toHaveLength(0)
})

test('what a straggler has added goes before what was published after it', async () => {
  const statements = watchStatements()
  await start()
  await learn()
  const client = await database.pool.connect()
  await client.query('begin')
  await createOutbox().publish(client, { topic: 't', key: 'K', payload: 'first' })
  // Reads begin above it, once it has run for a second.
  const since = performance.now()
  const [lane] = await database.query<{ lane: number; seq: number }>(
    `select twinbox.lane_of('K')::int as lane, (select last_value from pg_sequences where sequencename = 'outbox_seq_seq')::int as seq`,
  )
  const above = (): boolean =>
    statements.reads.some((read) => (read.bounds[read.lanes.indexOf(lane!.lane)] ?? 0) >= lane!.seq)
  while (!above() && performance.now() < since + 20_000) {
    await publish([{ key: 'K0' }, { key: 'k1' }, { key: 'k2' }, { key: 'k3' }])
    await new Promise((resolve) => setTimeout(resolve, 20))
  }
  await until(async () => (await left()) === 0)
  let open = (): void => {}
  statements.hold(new Promise<void>((resolve) => (open = resolve)))
  // Both halves are about to read, and none is reading.
  await publish([{ key: 'k1' }])
  await until(() => statements.held() === 2)
  await client.query('commit')
  client.release()
  await publish([{ key: 'K' }], 1000)
  open()
  await until(async () => (await left()) === 0)
  const rows = await database.query<{ payload: unknown }>(
    `select payload from twinbox.inbox where key = 'K' order by seq`,
  )
  expect(rows.map(({ payload }) => payload)).toEqual(['first', 1000])
})

test('whatever comes between, each key keeps its order, and nothing is lost', async () => {
  const { names } = watchStatements()
  await start()
  const expected = new Map<string, Set<number>>([
    ['one', new Set()],
    ['two', new Set()],
  ])
  let n = 0
  for (let round = 0; round < 60; round++) {
    const chance = Math.random()
    if (round === 30) await subscribe('two', ['t'])
    const messages = Array.from({ length: chance < 0.1 ? 150 : 1 + Math.floor(Math.random() * 4) }, () => ({
      topic: Math.random() < 0.05 ? 'nobody' : 't',
      key: `k${Math.floor(Math.random() * 5)}`,
    }))
    const from = n
    n += messages.length
    const isSeen = Math.random() < 0.15
    const expires = messages.map(() => Math.random() < 0.05)
    await database.transaction(async (client) => {
      const published = await createOutbox().publishMany(
        client,
        messages.map((message, index) => ({ payload: from + index, ...message })),
      )
      await client.query(
        `update twinbox.outbox set expires_at = now() - interval '1 second' where id = any ($1)`,
        [published.filter((_, index) => expires[index]).map(({ id }) => id)],
      )
      if (isSeen)
        await client.query(
          `insert into twinbox.seen (consumer, id, digest) select 'one', id, encode(substring(sha256($2) for 16), 'hex')::uuid
          from unnest($1::uuid[]) as id`,
          [[published[0]!.id], Buffer.from(String(from))],
        )
    })
    for (const [index, { topic }] of messages.entries()) {
      if (topic !== 't' || expires[index]) continue
      if (!(isSeen && index === 0)) expected.get('one')!.add(from + index)
      if (round >= 30) expected.get('two')!.add(from + index)
    }
    if (Math.random() < 0.7) await until(async () => (await left()) === 0)
    // What was published before may still be in the outbox, and then it is for both.
    if (round === 29) await until(async () => (await left()) === 0)
  }
  await until(async () => (await left()) === 0)
  for (const [consumer, numbers] of expected) {
    const rows = await database.query<{ key: string; payload: number }>(
      `select key, payload from twinbox.inbox where consumer = $1 order by seq`,
      [consumer],
    )
    expect(rows.map(({ payload }) => payload).toSorted((a, b) => a - b)).toEqual([...numbers])
    for (const key of new Set(rows.map((row) => row.key))) {
      const ofKey = rows.filter((row) => row.key === key).map(({ payload }) => payload)
      expect(ofKey).toEqual(ofKey.toSorted((a, b) => a - b))
    }
  }
  // Each way was taken, or this would be no test.
  for (const way of ['moving.readAndMove', 'moving.move', 'receive.receive']) expect(names).toContain(way)
})
