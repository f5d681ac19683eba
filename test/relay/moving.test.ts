import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest'
import { moverOf, type Leaving } from '../../src/brokers/move.ts'
import { postgres, type PostgresOptions } from '../../src/brokers/postgres/postgres.ts'
import { Database } from '../../src/database/database.ts'
import { createOutbox, createRelay, type Broker, type Worker } from '../../src/index.ts'
import { recordEvents, type Recorder } from '../support/events.ts'
import { createTestDatabase, type TestDatabase } from '../support/postgres.ts'
import { until } from '../support/until.ts'

/** From the outbox into inboxes of the same database: moved by one statement, or sent. */
let database: TestDatabase
let other: TestDatabase
let events: Recorder
let relay: Worker | undefined
const brokers: Broker[] = []
beforeEach(async () => {
  events = recordEvents()
  ;[database, other] = await Promise.all([createTestDatabase(), createTestDatabase()])
})
afterEach(async () => {
  vi.restoreAllMocks()
  await relay?.stop()
  relay = undefined
  for (const broker of brokers.splice(0)) await broker.close()
  await Promise.all([database.drop(), other.drop()])
})

const open = (options: Partial<PostgresOptions> = {}): Broker => {
  const broker = postgres({ database: database.url, ...options })
  brokers.push(broker)
  return broker
}
/** Every message is seen by a `send` of its own. */
const wrapped = (broker: Broker): Broker => ({ ...broker, send: (...given) => broker.send(...given) })

const subscribe = (broker: Broker, consumer: string, topics: string[]): Promise<unknown> =>
  broker.subscribe({ consumer, topics, batchSize: 100 }, async () => {})
async function start(broker: Broker, of: TestDatabase = database): Promise<void> {
  relay = createRelay({ database: of.url, broker, onEvent: events.onEvent, backoffMsMin: 1, maxAttempts: 2 })
  await relay.start()
}
const isEmpty = (of: TestDatabase = database): Promise<void> =>
  until(async () => (await of.query('select from twinbox.outbox')).length === 0)
/** The statements that bring messages into inboxes, as they run. */
function watchWrites(): () => string[] {
  const run = vi.spyOn(Database.prototype, 'run')
  return () =>
    run.mock.calls.map(([, statement]) => statement.name).filter((name) => /\.(move|receive)$/.test(name))
}

async function publishAll(of: TestDatabase): Promise<void> {
  await of.transaction(async (client) => {
    const outbox = createOutbox()
    const headers = { traceparent: '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01', b: 'ü"\\' }
    await outbox.publishMany(client, [
      { topic: 'a.json', key: 'k1', payload: { n: 1, text: 'ü\u0000"' }, headers },
      { topic: 'a.json', key: 'k1', payload: [1e300, null] },
      { topic: 'a.bytes', key: 'k2', payload: new Uint8Array([0, 30, 255]), contentType: 'application/x-b' },
      { topic: 'a.bytes', payload: new Uint8Array() },
      { topic: 'b', key: 'k1', payload: 'x'.repeat(100_000), expiresAt: new Date(Date.now() + 3_600_000) },
      { topic: 'unkeyed', payload: 7 },
    ])
    await client.query(
      `insert into twinbox.outbox (lane, id, topic, key, body, content_type, payload, headers) values
        (twinbox.lane_of('k3'), gen_random_uuid(), 'a.raw', 'k3', '\\x01', null, null, '{}'),
        (twinbox.lane_of('k3'), gen_random_uuid(), 'a.raw', 'k3', null, 'text/x', '{ "a" : 1e400 }', '{ "a" : "b" }')`,
    )
  })
}
const contents = (of: TestDatabase): Promise<unknown[]> =>
  of.query(`
    select i.consumer, case when i.key is not null then i.lane end as lane, i.lane < 64 as keyed, i.topic, i.key,
      coalesce(i.headers::jsonb, '{}') as headers, i.payload::text as payload, i.body, i.content_type,
      i.expires_at is not null as expires, i.published_at is not null as published, i.attempt, i.fence, i.holder, k.digest
    from twinbox.inbox as i join twinbox.seen as k on k.consumer = i.consumer and k.id = i.id
    order by i.consumer, i.key, case when i.key is not null then i.seq end, i.topic, i.payload::text`)

test('what is moved arrives as what is sent', async () => {
  const written = watchWrites()
  const arrived: unknown[][] = []
  for (const [of, wrap] of [
    [database, (broker: Broker) => broker],
    [other, wrapped],
  ] as const) {
    const broker = open({ database: of.url })
    await subscribe(broker, 'one', ['#'])
    await subscribe(broker, 'two', ['a.*', 'b'])
    await publishAll(of)
    await start(wrap(broker), of)
    await isEmpty(of)
    await relay!.stop()
    arrived.push(await contents(of))
  }
  expect(arrived[0]).toHaveLength(15)
  expect(arrived[0]).toEqual(arrived[1])
  // Each in its own way, or this would be no test.
  expect(new Set(written().map((name) => name.split('.').at(-1)))).toEqual(new Set(['move', 'receive']))
  expect(written().indexOf('twinbox.receive.receive')).toBeGreaterThan(
    written().lastIndexOf('twinbox.moving.move'),
  )
})

test('it is told as what is sent is', async () => {
  const written = watchWrites()
  const broker = open()
  await subscribe(broker, 'one', ['#'])
  await publishAll(database)
  const ids = (await database.query<{ id: string }>('select id from twinbox.outbox')).map(({ id }) => id)
  await start(broker)
  await isEmpty()
  await until(() => events.of('sent').flatMap((event) => event.ids).length === ids.length)
  expect(new Set(events.of('sent').flatMap((event) => event.ids))).toEqual(new Set(ids))
  expect(events.of('sent')[0]).toMatchObject({ broker: 'postgres' })
  expect(new Set(written())).toEqual(new Set(['twinbox.moving.move']))
})

describe('sent, and not moved, is', () => {
  test.each<[string, () => Broker, Record<string, string>?]>([
    ['what goes to another database', () => open({ database: other.url })],
    ['what a wrapper of the broker wants to see', () => wrapped(open())],
    [
      'what somebody else sends in its place',
      () => {
        const broker = open()
        const send: Broker['send'] = broker.send.bind(broker)
        return Object.assign(broker, { send })
      },
    ],
    ['what a proxy of the broker wants to see', () => new Proxy(open(), {})],
  ])('%s', async (_, make) => {
    const written = watchWrites()
    const broker = make()
    await subscribe(broker, 'one', ['#'])
    await publishAll(database)
    await start(broker)
    await isEmpty()
    expect(new Set(written())).toEqual(new Set(['twinbox.receive.receive']))
  })

  test('what a tracer is to see', async () => {
    const written = watchWrites()
    const broker = open()
    await subscribe(broker, 'one', ['#'])
    await publishAll(database)
    const telemetry = { begin: () => ({ carried: [], run: (work: () => unknown) => work(), end: () => {} }) }
    relay = createRelay({ database: database.url, broker, telemetry: telemetry as never })
    await relay.start()
    await isEmpty()
    expect(new Set(written())).toEqual(new Set(['twinbox.receive.receive']))
  })
})

test('a duplicate is dropped, a collision becomes a dead letter, and what is behind either in its key keeps its order', async () => {
  const broker = open()
  await subscribe(broker, 'one', ['#'])
  const ids = await database.transaction((client) =>
    createOutbox().publishMany(
      client,
      [1, 2, 3, 4, 5].map((n) => ({ topic: 't', key: n % 2 === 0 ? 'even' : 'odd', payload: n })),
    ),
  )
  const digest = (json: string): string => `substring(sha256('${json}') for 16)`
  const seen = (n: number, json: string): Promise<unknown> =>
    database.query(
      `insert into twinbox.seen (consumer, id, digest) values ('one', $1, encode(${digest(json)}, 'hex')::uuid)`,
      [ids[n - 1]!.id],
    )
  await seen(1, '1')
  await seen(2, 'another')
  await start(broker)
  await isEmpty()
  const inbox = (): Promise<{ payload: number }[]> =>
    database.query(`select payload from twinbox.inbox where key = 'odd' order by seq`)
  expect((await inbox()).map(({ payload }) => payload)).toEqual([3, 5])
  const dead = await database.query('select id, reason from twinbox.dead_letter')
  expect(dead).toMatchObject([{ id: ids[1]!.id, reason: expect.stringContaining('collision') }])
})

test('what nobody takes holds back no other key, and is told', async () => {
  const broker = open()
  await subscribe(broker, 'one', ['t'])
  await database.transaction((client) =>
    createOutbox().publishMany(
      client,
      ['t', 'nobody', 't', 't'].map((topic, n) => ({ topic, key: `k${n}`, payload: n })),
    ),
  )
  await start(broker)
  await until(() => events.of('dead_letter').length === 1)
  expect(events.of('dead_letter')).toMatchObject([{ topic: 'nobody' }])
  expect(await database.query('select from twinbox.inbox')).toHaveLength(3)
})

test('in the middle of a key, what nobody takes is not overtaken by what is moved', async () => {
  const broker = open()
  await subscribe(broker, 'one', ['t'])
  await database.transaction((client) =>
    createOutbox().publishMany(client, [
      { topic: 't', key: 'k', payload: 0 },
      { topic: 'nobody', key: 'k', payload: 1 },
      { topic: 't', key: 'k', payload: 2 },
    ]),
  )
  const move = (await moverOf(broker)!(await outlet()))!
  expect(await move(await leaving())).toBe(1)
  expect(await database.query('select payload from twinbox.inbox')).toEqual([{ payload: 0 }])
})

const opened: Database[] = []
afterEach(async () => {
  for (const each of opened.splice(0)) await each.close()
})
async function outlet() {
  const own = new Database(database.url)
  opened.push(own)
  const [at] = await database.query<{ server: string }>(
    `select extract(epoch from pg_postmaster_start_time())::text || ' ' || 'twinbox.inbox'::regclass::oid::text || ' ' ||
      twinbox.incarnation()::text as server`,
  )
  return { database: own, server: at!.server }
}
const leaving = (fence = 0): Promise<Leaving[]> =>
  database.query<Leaving>(
    `select lane, seq::int, id, topic, size, ${fence} as fence from twinbox.outbox order by seq`,
  )

describe('all or nothing is moved', () => {
  let broker: Broker
  beforeEach(async () => {
    broker = open()
    await subscribe(broker, 'one', ['t'])
    await database.transaction((client) =>
      createOutbox().publishMany(
        client,
        [1, 2, 3].map((n) => ({ topic: 't', key: 'k', payload: n })),
      ),
    )
  })
  const untouched = async (): Promise<void> => {
    expect(await database.query('select from twinbox.inbox')).toEqual([])
    expect(await database.query('select from twinbox.seen where digest is not null')).toEqual([])
  }

  test('to those who are subscribed', async () => {
    const move = (await moverOf(broker)!(await outlet()))!
    expect(await move(await leaving())).toBe(3)
    expect(await database.query('select from twinbox.inbox')).toHaveLength(3)
    expect(await leaving()).toEqual([])
  })

  test('if the lane has another holder', async () => {
    const move = (await moverOf(broker)!(await outlet()))!
    expect(await move(await leaving(1))).toBe(0)
    await untouched()
    expect(await leaving()).toHaveLength(3)
  })

  test('on another server', async () => {
    const move = (await moverOf(broker)!({ ...(await outlet()), server: 'another' }))!
    expect(await move(await leaving())).toBe(0)
    await untouched()
  })

  test('if one has gone', async () => {
    const batch = await leaving()
    const move = (await moverOf(broker)!(await outlet()))!
    await database.query('delete from twinbox.outbox where seq = $1', [batch[1]!.seq])
    expect(await move(batch)).toBe(0)
    await untouched()
    expect(await leaving()).toHaveLength(2)
  })

  test('if the place of one is that of another message', async () => {
    const batch = await leaving()
    const move = (await moverOf(broker)!(await outlet()))!
    const elsewhere = batch.map((each, n) => (n === 2 ? { ...each, id: batch[0]!.id } : each))
    expect(await move(elsewhere)).toBe(0)
    await untouched()
  })

  test('if one has been seen', async () => {
    const batch = await leaving()
    const move = (await moverOf(broker)!(await outlet()))!
    await database.query(`insert into twinbox.seen (consumer, id) values ('one', $1)`, [batch[2]!.id])
    expect(await move(batch)).toBe(0)
    await untouched()
    expect(await leaving()).toHaveLength(3)
  })

  test('if somebody has subscribed since', async () => {
    const batch = await leaving()
    const move = (await moverOf(broker)!(await outlet()))!
    expect(await move([batch[0]!])).toBe(1)
    await subscribe(broker, 'two', ['t'])
    expect(await move(batch.slice(1))).toBe(0)
    // Who is told that looks again.
    expect(await move(batch.slice(1))).toBe(2)
    expect(await database.query(`select from twinbox.inbox where consumer = 'two'`)).toHaveLength(2)
  })
})

test('for many consumers it is moved in statements that are bounded, in order', async () => {
  const broker = open()
  for (let n = 0; n < 100; n++) await subscribe(broker, `c${n}`, ['t'])
  await database.transaction((client) =>
    createOutbox().publishMany(
      client,
      Array.from({ length: 120 }, (_, n) => ({ topic: 't', key: 'k', payload: n })),
    ),
  )
  const written = watchWrites()
  const move = (await moverOf(broker)!(await outlet()))!
  expect(await move(await leaving())).toBe(120)
  expect(written()).toHaveLength(3)
  const rows = await database.query<{ payload: number }>(
    `select payload from twinbox.inbox where consumer = 'c7' order by seq`,
  )
  expect(rows.map(({ payload }) => payload)).toEqual(Array.from({ length: 120 }, (_, n) => n))
})
