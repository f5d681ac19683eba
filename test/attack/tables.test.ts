import { randomBytes } from 'node:crypto'
import pg from 'pg'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { postgres } from '../../src/brokers/postgres/postgres.ts'
import type { Broker } from '../../src/brokers/broker.ts'
import { sqlstate } from '../../src/database/sqlstate.ts'
import {
  applyRoles,
  createClaimer,
  createOutbox,
  createReceiver,
  createRelay,
  createSchedules,
  readDeadLetters,
  readStatus,
  type Message,
  type Worker,
} from '../../src/index.ts'
import { recordEvents, type Recorder } from '../support/events.ts'
import { createTestDatabase, serverUrl, type TestDatabase } from '../support/postgres.ts'

/**
 * Operator, owner and neighbour → tables: rows that change under a worker, rows that were written by hand under a role of
 * ours, and what another user of the server does. Each message takes effect once, and the workers go on.
 */

let database: TestDatabase
let consumer: string
let events: Recorder
const running: Worker[] = []
const outbox = createOutbox()
const unique = `n${randomBytes(5).toString('hex')}`
beforeAll(async () => {
  database = await createTestDatabase()
  await database.query('create table effects (consumer text, n text)')
  await applyRoles(database.url)
  await database.query(`create role ${unique} login password 'secret'`)
})
beforeEach(() => {
  consumer = `c${randomBytes(4).toString('hex')}`
  events = recordEvents()
})
afterEach(async () => {
  for (const worker of running.splice(0).toReversed()) await worker.stop()
})
afterAll(async () => {
  await database.drop()
  const server = new pg.Client({ connectionString: await serverUrl() })
  await server.connect()
  await server.query(`drop role if exists ${unique}`)
  await server.end()
})

const times = { heartbeatMs: 200, deadAfterMs: 5000, leaseMs: 2000 }

/** Relay, receiver and claimer of the consumer, whose handler writes an effect after `act`. */
async function work(
  act: (message: Message) => unknown = () => {},
  { transaction = true, concurrency = 4 } = {},
): Promise<void> {
  const { onEvent } = events
  const broker = postgres({ database: database.url })
  const note = 'insert into public.effects values ($1, $2)'
  const shared = { database: database.url, onEvent, ...times }
  const handle = async (message: Message, { client }: { client?: pg.ClientBase }): Promise<void> => {
    await act(message)
    await (client ?? database.pool).query(note, [consumer, JSON.stringify(message.payload)])
  }
  const workers = [
    createReceiver({ ...shared, broker, consumer, topics: [`${consumer}.#`] }),
    createRelay({ ...shared, broker }),
    createClaimer(
      { ...shared, consumer, concurrency, maxAttempts: 3, backoffMsMin: 1, backoffMsMax: 5 },
      { '#': { transaction, handle } as never },
    ),
  ]
  for (const worker of workers) {
    running.push(worker)
    await worker.start()
  }
}

const publish = (
  payloads: readonly unknown[],
  fields: (n: number) => object = () => ({}),
): Promise<unknown> =>
  database.transaction((client) =>
    outbox.publishMany(
      client,
      payloads.map((payload, n) => ({ topic: `${consumer}.t`, payload, ...fields(n) })),
    ),
  )
const effects = async (): Promise<unknown[]> =>
  (
    await database.query<{ n: string }>('select n from effects where consumer = $1 order by n::int', [
      consumer,
    ])
  ).map(({ n }) => JSON.parse(n) as unknown)
const numbers = (count: number): number[] => Array.from({ length: count }, (_, n) => n)

/** Runs `act` once, in the middle of the first handler. */
function once(act: () => Promise<unknown>): () => Promise<void> {
  let first = true
  return async () => {
    if (!first) return
    first = false
    await act()
  }
}

describe('rows that change while a handler works on them', () => {
  const acts: Readonly<Record<string, string>> = {
    'the fences of its lanes are raised': `update twinbox.lane set fence = fence + 100 where consumer = $1`,
    'its lanes are somebody else’s': `update twinbox.lane set holder = -1, lease_until = 'infinity', fence = fence + 1
      where consumer = $1 and $1 <> ''`,
    'its lanes are gone': `delete from twinbox.lane where consumer = $1`,
    'its worker is gone': `delete from twinbox.worker where consumer = $1`,
    'all workers are ended': `update twinbox.worker set ended_at = now(), ended_by = 'evict' where $1 <> ''`,
    'the message has another content': `update twinbox.inbox set payload = payload where consumer = $1`,
    'what was received is forgotten': `delete from twinbox.seen where consumer = $1`,
  }
  test.each(Object.keys(acts))('%s: each message takes effect once all the same', async (name) => {
    await work(once(() => database.query(acts[name]!, [consumer])))
    await publish(numbers(20), (n) => ({ key: n % 2 === 0 ? 'k' : null }))
    if (name.includes('somebody else')) {
      await events.next('lease_lost')
      await database.query(
        `update twinbox.lane set holder = null, lease_until = '-infinity' where holder = -1`,
      )
    }
    await expect.poll(async () => (await effects()).length, { timeout: 30_000 }).toBeGreaterThanOrEqual(20)
    expect(await effects()).toEqual(numbers(20))
  })

  test('its message is gone: it takes no effect, and the others do', async () => {
    await work(
      once(() =>
        database.query(`delete from twinbox.inbox where consumer = $1 and payload::text = '0'`, [consumer]),
      ),
      { concurrency: 1 },
    )
    await publish(numbers(5), () => ({ key: 'k' }))
    await expect.poll(effects, { timeout: 20_000 }).toEqual([1, 2, 3, 4])
    expect(events.of('lease_lost').length).toBeGreaterThan(0)
  })

  test('its message has another id: the transaction is rolled back, and what is there now is handled', async () => {
    await work(
      once(() =>
        database.query(
          `update twinbox.inbox set id = gen_random_uuid() where consumer = $1 and payload::text = '0'`,
          [consumer],
        ),
      ),
      { concurrency: 1 },
    )
    await publish(numbers(3), () => ({ key: 'k' }))
    await expect.poll(effects, { timeout: 20_000 }).toEqual([0, 1, 2])
  })
})

test('rows of the outbox that change while they are sent: what the broker has is gone, and nothing else', async () => {
  const sent: number[] = []
  let touch: (() => Promise<unknown>) | null = () =>
    database.query(
      `update twinbox.outbox set id = gen_random_uuid() where topic = $1 and payload::text = '1'`,
      [`${consumer}.t`],
    )
  const broker: Broker = {
    name: 'told',
    async send(batch) {
      const ours = batch.filter(({ topic }) => topic === `${consumer}.t`)
      // A batch of what other tests have left comes first, perhaps: changed then, the row is read as it has become.
      const act = ours.length > 0 ? touch : null
      if (ours.length > 0) touch = null
      await act?.()
      sent.push(...ours.map(({ content }) => Number(content)))
      return batch.map(() => ({ status: 'sent' as const }))
    },
    subscribe: async () => ({ stop: async () => {} }),
    close: async () => {},
  }
  await publish([0, 1, 2], () => ({ key: 'k' }))
  const relay = createRelay({ database: database.url, broker, onEvent: events.onEvent, ...times })
  running.push(relay)
  await relay.start()
  const left = async (): Promise<string[]> => {
    const rows = await database.query<{ payload: string }>(
      'select payload::text from twinbox.outbox where topic = $1',
      [`${consumer}.t`],
    )
    return rows.map(({ payload }) => payload)
  }
  // Message 1 has become another one, which the next holder of the lane finds: on a busy machine, the same relay.
  const others = async (): Promise<string[]> => (await left()).filter((payload) => payload !== '1')
  await expect.poll(others, { timeout: 20_000 }).toEqual([])
  await relay.stop()
  const next = createRelay({ database: database.url, broker, onEvent: events.onEvent, ...times })
  running.push(next)
  await next.start()
  await expect.poll(left, { timeout: 20_000 }).toEqual([])
  expect(sent.toSorted((a, b) => a - b)).toEqual([0, 1, 1, 2])
})

describe('a publisher with psql', () => {
  let psql: pg.Client
  beforeAll(async () => {
    await database.query(`grant twinbox_publisher to ${unique}`)
    const url = Object.assign(new URL(database.url), { username: unique, password: 'secret' }).toString()
    psql = new pg.Client({ connectionString: url })
    await psql.connect()
  })
  afterAll(async () => {
    await psql.end()
    await database.query(`revoke twinbox_publisher from ${unique}`)
  })
  const outcome = (text: string): Promise<string> =>
    psql.query(text).then(
      () => 'ok',
      (error: unknown) => sqlstate(error) ?? 'unknown',
    )

  test('says nothing by system columns, defaults, sequences, returning, conflict clauses or views', async () => {
    const values = `(0, gen_random_uuid(), 't', '1')`
    const insert = 'insert into twinbox.outbox (lane, id, topic, payload)'
    const others: string[] = []
    for (const text of [
      `insert into twinbox.outbox (seq, lane, id, topic, payload) overriding system value values (1, 0, gen_random_uuid(), 't', '1')`,
      `insert into twinbox.outbox (size, lane, id, topic, payload) values (1, 0, gen_random_uuid(), 't', '1')`,
      `insert into twinbox.outbox (attempt, lane, id, topic, payload) values (9, 0, gen_random_uuid(), 't', '1')`,
      `insert into twinbox.outbox (published_at, lane, id, topic, payload) values ('2000-01-01', 0, gen_random_uuid(), 't', '1')`,
      `${insert} values ${values} returning seq`,
      `${insert} values ${values} returning *`,
      `${insert} values ${values} on conflict (lane, seq) do update set topic = 'u'`,
      `${insert} select lane, id, topic, payload from twinbox.outbox`,
      `select nextval('twinbox.outbox_seq_seq')`,
      `select setval('twinbox.outbox_seq_seq', 1)`,
      `alter sequence twinbox.outbox_seq_seq restart`,
      `do $$ begin lock table twinbox.outbox in access exclusive mode; end $$`,
      `create view pg_temp.spy as select * from twinbox.outbox; select * from pg_temp.spy`,
      `create rule r as on insert to twinbox.outbox do instead nothing`,
      `create trigger t before insert on twinbox.outbox for each row execute function suppress_redundant_updates_trigger()`,
      `comment on table twinbox.outbox is 'mine'`,
      `copy twinbox.outbox to stdout`,
      `copy (select * from twinbox.dedupe) to stdout`,
      `explain analyze select * from twinbox.dedupe`,
    ]) {
      const found = await outcome(text)
      // Denied; or a column that only the server fills in.
      if (!/^(42501|428C9)$/.test(found)) others.push(`${found}: ${text}`)
    }
    expect(others).toEqual([])
    expect(await database.query(`select from twinbox.outbox where topic = 't'`)).toEqual([])
  })

  test('with rows of its own: the sound one is sent, and the unsound ones do not get in', async () => {
    await work()
    const [good] = await database.query<{ lane: number }>(`select twinbox.lane_of('k') as lane`)
    const row = (more: string): string =>
      `insert into twinbox.outbox (lane, id, topic, key, payload, headers) values (${good!.lane}, ${more})`
    for (const [more, state] of [
      [`gen_random_uuid(), '${consumer}.t', 'k', '7', null`, 'ok'],
      [`gen_random_uuid(), '${consumer}.t', E'k\\n', '8', '{"a":"b","a":"c"}'`, 'ok'],
      [`gen_random_uuid(), '${consumer}.t', 'l', '9', '{"X":"\\u0000"}'`, '23514'],
      [`gen_random_uuid(), '${consumer}.t' || chr(10), 'l', '9', null`, '23514'],
    ] as const)
      expect([more, await outcome(row(more))]).toEqual([more, state])
    await expect.poll(effects, { timeout: 20_000 }).toEqual([7, 8])
  })

  test('takes the id of a message that waits for its time: that one is not dropped in silence', async () => {
    const dedupeKey = `order ${consumer}`
    await publish([1], () => ({ delayMs: 60_000, dedupeKey }))
    const { rows } = await psql.query<{ id: string }>(
      `select id from twinbox.publish($1, '0', dedupe_key => $2)`,
      [`${consumer}.t`, dedupeKey],
    )
    await psql.query(`insert into twinbox.outbox (lane, id, topic, payload) values (0, $1, $2, '666')`, [
      rows[0]!.id,
      `${consumer}.t`,
    ])
    await work()
    await expect.poll(effects, { timeout: 20_000 }).toEqual([666])
    await database.query(`update twinbox.deferred set due_at = now() where topic = $1`, [`${consumer}.t`])
    expect(await events.next('dead_letter')).toMatchObject({ id: rows[0]!.id })
    const { letters } = await readDeadLetters(database.url, { topic: `${consumer}.t` })
    expect(letters).toMatchObject([{ reason: expect.stringMatching(/^.*collision/) as string }])
  })
})

test('a neighbour that notifies our channel with anything wakes workers, and stops none', async () => {
  await work()
  await publish([0])
  await expect.poll(effects, { timeout: 20_000 }).toEqual([0])
  const url = Object.assign(new URL(database.url), { username: unique, password: 'secret' }).toString()
  const neighbour = new pg.Client({ connectionString: url })
  await neighbour.connect()
  const payloads = [
    '',
    consumer,
    `${consumer}!`,
    '!',
    '{"a":',
    'x'.repeat(7999),
    '\u001b[2J',
    '__proto__',
    "'",
  ]
  for (let round = 0; round < 50; round++)
    for (const payload of payloads) await neighbour.query('select pg_notify($1, $2)', ['twinbox', payload])
  await publish([1])
  await expect.poll(effects, { timeout: 20_000 }).toEqual([0, 1])
  await neighbour.end()
  expect(events.of('trouble')).toEqual([])
})

test('consumers whose names are patterns or names of methods are kept apart', async () => {
  const names = ['a_b', 'aXb', 'A_B', '__proto__', 'constructor', 'null']
  const broker = postgres({ database: database.url })
  const got: string[] = []
  for (const name of names) {
    const receiver = createReceiver({
      database: database.url,
      broker,
      consumer: name,
      topics: [`for.${consumer}`],
    })
    const claimer = createClaimer(
      { database: database.url, consumer: name, onEvent: events.onEvent, maxAttempts: 1 },
      {
        '#': () => {
          got.push(name)
          throw new Error(`of ${name}`)
        },
      },
    )
    for (const worker of [receiver, claimer]) {
      running.push(worker)
      await worker.start()
    }
  }
  const relay = createRelay({ database: database.url, broker })
  running.push(relay)
  await relay.start()
  await database.transaction((client) =>
    outbox.publish(client, { topic: `for.${consumer}`, payload: 1, key: 'k' }),
  )
  await events.next('dead_letter', () => true, names.length)
  expect(got.toSorted()).toEqual(names.toSorted())
  const { consumers } = await readStatus(database.url)
  for (const name of names) {
    const { letters } = await readDeadLetters(database.url, { consumer: name })
    expect(letters.map(({ reason }) => reason)).toEqual([`Error: of ${name}`])
    expect(consumers.find((each) => each.consumer === name)?.deadLetters.count).toBe(1)
  }
})

test('1,000 schedules of every second hold up no message, and tick once each', async () => {
  const schedules = createSchedules({ database: database.url })
  await schedules.set({ name: 'each', cron: '* * * * * *', topic: `${consumer}.tick`, payload: -1 })
  const columns = (
    await database.query<{ column_name: string }>(
      `select column_name from information_schema.columns
      where table_schema = 'twinbox' and table_name = 'schedule' and column_name <> 'name' and is_generated = 'NEVER'`,
    )
  )
    .map(({ column_name: column }) => column)
    .join(', ')
  await database.query(`insert into twinbox.schedule (name, ${columns})
    select 'each ' || n, ${columns} from twinbox.schedule, generate_series(1, 999) as n where name = 'each'`)
  await work(undefined, { transaction: false, concurrency: 20 })
  await publish([1])
  await expect.poll(async () => (await effects()).includes(1), { timeout: 20_000 }).toBe(true)
  await expect
    .poll(
      async () =>
        (await database.query<{ n: number }>('select count(last_at)::int as n from twinbox.schedule'))[0]!.n,
      { timeout: 30_000 },
    )
    .toBe(1000)
  await database.query('delete from twinbox.schedule')
  const ids = events.of('handled').flatMap((event) => event.ids)
  expect(new Set(ids).size).toBe(ids.length)
})
