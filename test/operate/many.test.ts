import type { Statement } from '../../src/database/sql/statement.ts'
import pg from 'pg'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { readDeadLetters, readParkedKeys, redriveDeadLetters, skipParkedKeys } from '../../src/index.ts'
import { deadSql, type DeadAction, type DeadScope, type Filtering } from '../../src/database/sql/dead.ts'
import type { Parameters, ValuesOf } from '../../src/database/sql/parameter.ts'
import { listingSql } from '../../src/database/sql/listing.ts'
import { parkedSql } from '../../src/database/sql/parked.ts'
import { bookkeepingSettings } from '../../src/database/sql/server.ts'
import { parkingSql } from '../../src/database/sql/parking.ts'
import { createTestDatabase, type TestDatabase } from '../support/postgres.ts'

/** 100,000 dead letters, each of a key of its own that waits behind it, and one key with 10,000 of them. */
const many = 100_000

let database: TestDatabase
let worker: pg.Client
beforeAll(async () => {
  database = await createTestDatabase()
  worker = new pg.Client({
    connectionString: database.url,
    options: Object.entries(bookkeepingSettings)
      .map(([name, value]) => `-c ${name}=${value.replaceAll(' ', '\\ ')}`)
      .join(' '),
  })
  await worker.connect()
  await database.query(
    `insert into twinbox.dead_letter (consumer, seq, id, topic, key, payload, attempt, reason, died_at)
    select 'c' || n % 3, n, gen_random_uuid(), 't' || n % 10, case when n % 10 = 0 then 'one' else 'k' || n end,
      json_build_object('pad', repeat('x', 300)), 10,
      case when n = 77777 then 'RareError: Needle' else 'TypeError: ' || repeat('y', 80) end,
      now() - n * interval '1 second'
    from generate_series(1, ${many}) as n`,
  )
  await database.query(
    `insert into twinbox.parked (consumer, lane, key, until, reason, blocker)
    select consumer, twinbox.lane_of(key), key, 'infinity', min(reason), max(seq) from twinbox.dead_letter
    group by consumer, key`,
  )
  await database.query(
    'vacuum analyze twinbox.dead_letter, twinbox.parked, twinbox.parked_message, twinbox.deferred',
  )
})
afterAll(async () => {
  await worker.end()
  await database.drop()
})

async function buffers<Takes extends Parameters>(
  client: pg.ClientBase | pg.Pool,
  statement: Statement<Takes>,
  values: ValuesOf<Takes>,
): Promise<number> {
  const own = 'connect' in client && 'totalCount' in client ? await client.connect() : null
  const on = own ?? (client as pg.Client)
  await on.query('begin')
  try {
    const { rows } = await on.query<{ 'QUERY PLAN': [{ Plan: Record<string, number> }] }>(
      `explain (analyze, buffers, timing off, format json) ${statement.text}`,
      statement.bind(values),
    )
    const { Plan: plan } = rows[0]!['QUERY PLAN'][0]
    return plan['Shared Hit Blocks']! + plan['Shared Read Blocks']!
  } finally {
    await on.query('rollback')
    own?.release()
  }
}

const none: Filtering = {
  ...{ consumer: null, topic: null, key: null, error: null, errorClass: null },
  ...{ olderThanMs: null, youngerThanMs: null, numbers: null, ids: null },
}

test('what one statement touches does not grow with the number of dead letters', async () => {
  const sql = deadSql('twinbox')
  const far = Number.MAX_SAFE_INTEGER
  const signature = { who: 'me', why: null }
  const most = { look: 5000, most: 500 }
  const step = (
    scope: DeadScope,
    action: DeadAction,
    filter: Partial<Filtering>,
    [afterConsumer, afterSeq, afterNumber]: readonly [string, number, number],
  ): Promise<number> => {
    const values = { ...none, ...filter, afterConsumer, afterSeq, afterNumber, newest: far, ...most }
    const statements = sql.step[scope]
    return action === 'count'
      ? buffers(database.pool, statements.count, values)
      : buffers(database.pool, statements[action], { ...values, ...signature })
  }
  const page = { belowSeq: far, belowNumber: far, look: 5000, limit: 100 }
  const keys = { consumer: null, key: null, error: null, olderThanMs: null, youngerThanMs: null }
  const parked = parkedSql('twinbox')
  const figures = {
    'a page': await buffers(database.pool, sql.list.all, { ...none, ...page }),
    'a page of a topic': await buffers(database.pool, sql.list.all, { ...none, ...page, topic: 't3' }),
    'a page of a consumer': await buffers(database.pool, sql.list.consumer, {
      ...none,
      ...page,
      consumer: 'c1',
    }),
    'a page of a key': await buffers(database.pool, sql.list.key, {
      ...{ ...none, ...page, consumer: 'c1', key: 'k70000' },
    }),
    'one by its id': await buffers(database.pool, sql.show, {
      ...{ number: null, id: '00000000-0000-7000-8000-000000000000', payload: false },
    }),
    'looking for what is not there': await step('all', 'count', { error: 'nothing like it' }, ['', -1, 0]),
    'the same far behind': await step('all', 'count', { error: 'nothing like it' }, ['c2', 50_000, 0]),
    'the same in a consumer': await step('consumer', 'count', { consumer: 'c1', error: 'nothing' }, [
      '',
      90_000,
      0,
    ]),
    'redriving 500': await step('all', 'redrive', {}, ['c1', 50_000, 0]),
    'redriving 500 of a key': await step('key', 'redrive', { consumer: 'c0', key: 'one' }, ['', 90_000, 0]),
    'skipping 500': await step('all', 'skip', {}, ['c1', 50_000, 0]),
    'those of a key, searched': await buffers(database.pool, listingSql('twinbox').list.dead, {
      ...{
        consumers: ['', 'c0', 'c1', 'c2'],
        topic: null,
        key: 'k70000',
        error: null,
        look: 5000,
        limit: 100,
      },
    }),
    'an error, searched': await buffers(database.pool, listingSql('twinbox').list.dead, {
      ...{
        consumers: ['', 'c0', 'c1', 'c2'],
        topic: null,
        key: null,
        error: 'needle',
        look: 5000,
        limit: 100,
      },
    }),
    'groups of the latest 5000': await buffers(database.pool, listingSql('twinbox').groups, {
      ...{ consumer: null, look: 5000, limit: 100 },
    }),
    'a page of keys': await buffers(database.pool, parked.list.all, {
      ...{ ...keys, afterConsumer: '', afterLane: -1, afterKey: '', look: 5000, most: 100 },
    }),
    'letting 500 keys go': await buffers(database.pool, parked.step.all.redrive, {
      ...{ ...keys, afterConsumer: 'c1', afterLane: 10, afterKey: '', ...most, ...signature },
    }),
  }
  process.stdout.write(`${JSON.stringify(figures)}\n`)
  // Of 500, each has a row to delete and several to write, with their index entries; of 5000 that are looked at, each
  // is on a page that it shares. All of them would be 9,000 pages to look at, and 2,000,000 to change.
  const changing = /^(redriving|skipping|letting)/
  expect(
    Object.entries(figures).filter(([name, touched]) => touched > (changing.test(name) ? 25_000 : 6000)),
  ).toEqual([])
})

test('the holder of all lanes reads none of the keys that wait for an operator', async () => {
  const lanes = Array.from({ length: 64 }, (_, lane) => lane)
  const { dueKeys } = parkingSql('twinbox')
  // What was tried above and rolled back.
  await database.query('vacuum twinbox.parked')
  expect(await buffers(worker, dueKeys, { consumer: 'c1', lanes, most: 20 })).toBeLessThan(200)
  // A few that are due, and it reads those.
  await worker.query('begin')
  await worker.query(
    `update twinbox.parked set until = now() where consumer = 'c1' and key = any (array(
      select key from twinbox.parked where consumer = 'c1' and lane = 5 order by key limit 30))`,
  )
  const { rows } = await worker.query(dueKeys.text, dueKeys.bind({ consumer: 'c1', lanes, most: 20 }))
  await worker.query('rollback')
  expect(rows).toHaveLength(20)
})

test('all of them are found, listed and redriven', async () => {
  const { letters } = await readDeadLetters(database.url, { error: 'needle' })
  expect(letters).toMatchObject([{ number: 77_777, reason: 'RareError: Needle' }])
  expect((await readDeadLetters(database.url, { errorClass: 'RareError' })).letters).toHaveLength(1)
  let listed = 0
  let after: string | undefined
  do {
    const page = await readDeadLetters(database.url, { consumer: 'c0', key: 'one' }, { limit: 1000, after })
    listed += page.letters.length
    after = page.next ?? undefined
  } while (after !== undefined)
  const [one] = await database.query<{ count: number }>(
    `select count(*)::int from twinbox.dead_letter where consumer = 'c0' and key = 'one'`,
  )
  expect(listed).toBe(one!.count)
  expect(await redriveDeadLetters(database.url, {}, { dryRun: true })).toEqual({ count: many, unknown: [] })
  expect(await redriveDeadLetters(database.url, {})).toEqual({ count: many, unknown: [] })
  const [state] = await database.query(
    `select (select count(*)::int from twinbox.dead_letter) as dead,
      (select count(*)::int from twinbox.parked_message) as waiting,
      (select count(*)::int from twinbox.parked where until = 'infinity') as held,
      (select count(*)::int from twinbox.audit) as audited,
      (select count(*)::int from twinbox.parked_message as m
        where not exists (select from twinbox.parked as p where (p.consumer, p.lane, p.key) = (m.consumer, m.lane, m.key))
      ) as lost`,
  )
  expect(state).toEqual({ dead: 0, waiting: many, held: 0, audited: many, lost: 0 })
  expect((await readParkedKeys(database.url, { consumer: 'c0', key: 'one' })).keys).toMatchObject([
    { waiting: 1001 },
  ])
  expect(await skipParkedKeys(database.url, { consumer: 'c9' })).toBe(0)
})
