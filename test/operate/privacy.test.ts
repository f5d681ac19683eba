import { randomUUID } from 'node:crypto'
import { mkdtemp, readFile, rm, stat } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import {
  createClaimer,
  DeadLetterError,
  eraseMessages,
  exportMessages,
  readParkedKeys,
  type PlacedMessage,
  type Target,
  type Worker,
} from '../../src/index.ts'
import { Command, type Output } from '../support/command.ts'
import { createTestDatabase, type TestDatabase } from '../support/postgres.ts'
import { recordEvents } from '../support/events.ts'
import { until } from '../support/until.ts'

let database: TestDatabase
let workers: Worker[] = []
beforeEach(async () => {
  database = await createTestDatabase()
})
afterEach(async () => {
  await Promise.all(workers.splice(0).map((worker) => worker.stop()))
  await database.drop()
})

const canary = 'canary-4711'
const by = { by: 'op', reason: 'asked for' }

/** The tables in which a text stands anywhere. */
async function holding(text: string): Promise<string[]> {
  const tables = await database.query<{ name: string }>(
    `select relname as name from pg_class where relnamespace = 'twinbox'::regnamespace and relkind = 'r' order by 1`,
  )
  expect(tables.length).toBeGreaterThan(15)
  const found: string[] = []
  for (const { name } of tables) {
    const rows = await database.query(
      `select from twinbox.${name} as t where strpos(t::text, $1) > 0 limit 1`,
      [text],
    )
    if (rows.length > 0) found.push(name)
  }
  return found
}

/** One message in every table, with the text in whatever can hold one. */
async function everywhere(key: string, id: string, text = canary, consumer = 'c'): Promise<void> {
  const content = `headers, payload`
  const values = `json_build_object('h', $2::text), to_json($2::text)`
  const errors = `jsonb_build_array(jsonb_build_object('error', $2::text))`
  const fill = (sql: string): Promise<unknown> =>
    database.query(
      `with p as (select $1::text as key, $2::text as canary, $3::uuid as id, $4::text as consumer) ${sql}`,
      [...[key, text, id, consumer]],
    )
  const lane = 'twinbox.lane_of(key)'
  await fill(
    `insert into twinbox.outbox (lane, id, topic, key, ${content}, errors) select ${lane}, id, 't', key, ${values}, ${errors} from p`,
  )
  await fill(
    `insert into twinbox.inbox (consumer, lane, id, topic, key, ${content}, errors) select consumer, ${lane}, id, 't', key, ${values}, ${errors} from p`,
  )
  await fill(
    `insert into twinbox.deferred (due_at, id, topic, key, dedupe_key, ${content}) select now() + interval '1 hour', id, 't', key, canary, ${values} from p`,
  )
  await fill(
    `insert into twinbox.parked (until, blocker, consumer, lane, key, reason) select 'infinity', 1, consumer, ${lane}, key, canary from p`,
  )
  await fill(
    `insert into twinbox.parked_message (seq, consumer, lane, id, topic, key, ${content}, errors) select 2, consumer, ${lane}, id, 't', key, ${values}, ${errors} from p`,
  )
  await fill(
    `insert into twinbox.unhandled (seq, received_at, consumer, lane, id, topic, key, ${content}, errors) select 3, now(), consumer, ${lane}, id, 't', key, ${values}, ${errors} from p`,
  )
  await fill(
    `insert into twinbox.dead_letter (seq, attempt, consumer, id, topic, key, reason, ${content}, errors) select 1, 1, consumer, id, 't', key, canary, ${values}, ${errors} from p`,
  )
  await fill(
    `insert into twinbox.handled (attempt, consumer, id, topic, key) select 1, consumer, id, 't', key from p`,
  )
  await fill(
    `insert into twinbox.dedupe (expires_at, id, topic, dedupe_key) select now() + interval '1 hour', id, 't', canary from p`,
  )
  await fill(
    `insert into twinbox.audit (action, who, consumer, topic, key, id, reason, errors) select 'skip', 'op', consumer, 't', key, id, canary, ${errors} from p`,
  )
  await fill(
    `insert into twinbox.circuit (probe_at, consumer, topic, reason, error) select now(), consumer, 't', 'Error', 'of ' || key || canary from p`,
  )
  await fill(`insert into twinbox.seen (consumer, id) select consumer, id from p`)
}

const all = [
  ...['audit', 'circuit', 'dead_letter', 'dedupe', 'deferred', 'inbox', 'outbox', 'parked'],
  ...['parked_message', 'unhandled'],
]
const id = '00000000-0000-7000-8000-000000004711'
const targets: [name: string, target: Target][] = [
  ['its key', { key: canary }],
  ['its id', { id }],
  ['its dedupe key', { dedupeKey: canary }],
]

describe.each(targets)('a message by %s', (_, target) => {
  test('is erased from all tables, and the audit says who, why and how many', async () => {
    await everywhere(canary, id)
    await everywhere('other', randomUUID(), 'other', 'd')
    expect(await holding(canary)).toEqual([...all, 'handled'].toSorted())
    const dry = await eraseMessages(database.url, target, { dryRun: true })
    expect(await holding(canary)).toEqual([...all, 'handled'].toSorted())
    const { rows, remembered, schedules } = await eraseMessages(database.url, target, by)
    expect(rows).toEqual({
      ...{ outbox: 1, inbox: 1, deferred: 1, parked_message: 1, unhandled: 1, dead_letter: 1 },
      ...{ handled: 1, dedupe: 1, audit: 1, circuit: 1 },
    })
    expect(dry.rows).toEqual(rows)
    expect({ remembered, schedules }).toEqual({ remembered: 1, schedules: [] })
    expect(await holding(canary)).toEqual([])
    expect(await holding('other')).toEqual([...all, 'handled'].toSorted())
    expect(await database.query(`select * from twinbox.audit where action = 'erase'`)).toMatchObject([
      {
        who: 'op',
        why: 'asked for',
        key: null,
        id: null,
        errors: null,
        reason: expect.stringContaining('inbox 1') as string,
      },
    ])
    expect((await eraseMessages(database.url, target, by)).rows).toMatchObject({
      inbox: 0,
      audit: 0,
      circuit: 0,
    })
  })
})

test('what is elsewhere stays: another consumer, another topic, a schedule', async () => {
  await everywhere(canary, id)
  await database.query(
    `insert into twinbox.schedule (name, cron, time_zone, catch_up, topic, key, payload) values ('s', '* * * * *', 'UTC', 'one', 't', $1, 'null')`,
    [canary],
  )
  expect((await eraseMessages(database.url, { key: canary, consumer: 'd' })).rows.inbox).toBe(0)
  expect((await eraseMessages(database.url, { key: canary, topic: 'u' })).rows.inbox).toBe(0)
  expect((await eraseMessages(database.url, { key: canary, consumer: null })).rows).toMatchObject({
    ...{ outbox: 1, deferred: 1, dedupe: 1, inbox: 0, dead_letter: 0, circuit: 0, handled: 0 },
  })
  const { rows, schedules } = await eraseMessages(database.url, { key: canary })
  expect(rows).toMatchObject({ outbox: 0, inbox: 1, dead_letter: 1, handled: 1 })
  expect(schedules).toEqual(['s'])
  expect(await holding(canary)).toEqual(['schedule'])
})

test('an export has what is erased, whole', async () => {
  await everywhere(canary, id)
  const found: PlacedMessage[] = []
  for await (const message of exportMessages(database.url, { key: canary })) found.push(message)
  expect(found.map(({ state }) => state)).toEqual([
    ...['outbox', 'inbox', 'deferred', 'parked', 'unhandled', 'dead', 'handled'],
  ])
  for (const message of found.slice(0, -1))
    expect(message).toMatchObject({ id, key: canary, headers: { h: canary }, payload: `"${canary}"` })
  expect(found.at(-1)).toMatchObject({ id, key: canary, headers: {} })
  expect(found.at(-1)).not.toHaveProperty('payload')
})

const put = async (payload: string, key: string | null = canary): Promise<string> => {
  const [row] = await database.query<{ id: string }>(
    `insert into twinbox.inbox (consumer, lane, id, topic, key, payload)
    values ('c', coalesce(twinbox.lane_of($1), 64), gen_random_uuid(), 't', $1, to_json($2::text)) returning id`,
    [key, payload],
  )
  return row!.id
}

describe.each([
  ['with a key', canary],
  ['without a key', null],
])('a message %s that a handler has just then', (_, key) => {
  test.each(['ends', 'throws', 'gives it up'])('leaves nothing behind when the handler %s', async (end) => {
    await database.query('create table done (what text)')
    const mine = await put('mine', key)
    const events = recordEvents()
    let entered = (): void => {}
    const running = new Promise<void>((resolve) => (entered = resolve))
    let goOn = (): void => {}
    const erased = new Promise<void>((resolve) => (goOn = resolve))
    const handled: unknown[] = []
    const worker = createClaimer(
      { database: database.url, consumer: 'c', onEvent: events.onEvent, keepHandledMs: 60_000 },
      {
        t: async (message, { client }) => {
          handled.push(message.payload)
          if (message.payload !== 'mine') return
          await client.query(`insert into done values ('mine')`)
          entered()
          await erased
          if (end === 'throws') throw new Error(canary)
          if (end === 'gives it up') throw new DeadLetterError(canary)
        },
      },
    )
    workers.push(worker)
    await worker.start()
    await running
    const { rows } = await eraseMessages(database.url, key === null ? { id: mine } : { key })
    expect(rows.inbox).toBe(1)
    goOn()
    // The key goes on, with this worker.
    await put('next', key)
    await until(() => handled.includes('next'))
    await until(async () => (await database.query(`select from twinbox.inbox`)).length === 0)
    await worker.stop()
    workers = []
    expect(handled).toEqual(['mine', 'next'])
    expect(await database.query('select from done')).toEqual([])
    for (const table of ['dead_letter', 'deferred', 'parked', 'parked_message', 'circuit'])
      expect([table, await database.query(`select * from twinbox.${table}`)]).toEqual([table, []])
    expect(events.all.filter(({ type }) => type === 'dead_letter')).toEqual([])
    expect(events.all.filter(({ type }) => type === 'lease_lost').length).toBeGreaterThan(0)
  })
})

test('a key that was held back behind an erased message goes on', async () => {
  const blocker = await put('blocker')
  const events = recordEvents()
  const handled: unknown[] = []
  const worker = createClaimer(
    { database: database.url, consumer: 'c', onEvent: events.onEvent },
    {
      t: ({ payload }) => {
        if (payload === 'blocker') throw new DeadLetterError(canary)
        handled.push(payload)
      },
    },
  )
  workers.push(worker)
  await worker.start()
  await events.next('dead_letter')
  await put('second')
  await until(async () => (await readParkedKeys(database.url)).keys[0]?.waiting === 1)
  expect((await eraseMessages(database.url, { id: blocker })).rows).toMatchObject({
    dead_letter: 1,
    parked_message: 0,
  })
  await until(() => handled.length === 1)
  expect(handled).toEqual(['second'])
  await until(async () => (await readParkedKeys(database.url)).keys.length === 0)
})

test('a row that somebody is completing just then is waited for without holding anything', async () => {
  await put('mine')
  const client = await database.pool.connect()
  try {
    await client.query('begin')
    await client.query('select from twinbox.inbox for update')
    const erasing = eraseMessages(database.url, { key: canary })
    await until(
      async () =>
        (
          await database.query(
            `select from pg_stat_database where datname = current_database() and xact_rollback > 1`,
          )
        ).length > 0,
    )
    await client.query('delete from twinbox.inbox')
    await client.query('commit')
    expect((await erasing).rows.inbox).toBe(0)
  } finally {
    client.release()
  }
})

describe('the command', () => {
  let folder: string
  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), 'twinbox-privacy-'))
  })
  afterAll(() => rm(folder, { recursive: true, force: true }))
  const twinbox = (...args: string[]): Promise<Output> =>
    new Command(folder, args, { TWINBOX_DATABASE_URL: database.url }).done

  test('erase asks, counts, and says what is left', async () => {
    await everywhere(canary, id)
    const dry = await twinbox('erase', '--key', canary, '--dry-run')
    expect(dry).toMatchObject({ code: 0, stdout: expect.stringContaining('inbox 1') as string })
    const unasked = await twinbox('erase', '--key', canary)
    expect(unasked).toMatchObject({ code: 2, stderr: expect.stringContaining('--yes') as string })
    expect(await holding(canary)).not.toEqual([])
    const done = await twinbox('erase', '--key', canary, '--yes', '--by', 'op', '--json')
    expect(JSON.parse(done.stdout)).toMatchObject({ dryRun: false, rows: { inbox: 1 }, remembered: 1 })
    expect(await holding(canary)).toEqual([])
    expect(await twinbox('erase')).toMatchObject({ code: 2 })
    expect((await twinbox('erase', '--help')).stdout).toContain('$ twinbox erase ')
  })

  test('export writes a file for its owner alone, a message a line', async () => {
    await everywhere(canary, id)
    const out = join(folder, 'out.jsonl')
    expect(await twinbox('export', '--id', id, '--out', out)).toMatchObject({ code: 0 })
    expect((await stat(out)).mode & 0o777).toBe(0o600)
    const lines = (await readFile(out, 'utf8')).trim().split('\n')
    expect(lines.map((line) => (JSON.parse(line) as PlacedMessage).id)).toEqual(Array(7).fill(id))
    expect((await twinbox('export', '--help')).stdout).toContain('$ twinbox export ')
  })
})
