import { randomBytes } from 'node:crypto'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import pg from 'pg'
import { afterEach, beforeEach, expect, test } from 'vitest'
import type { Broker } from '../../src/brokers/broker.ts'
import {
  applyRoles,
  BrokerError,
  createOutbox,
  createRelay,
  eraseMessages,
  exportMessages,
  SchemaError,
  type PlacedMessage,
} from '../../src/index.ts'
import { namesOf } from '../../src/message/row.ts'
import { Command } from '../support/command.ts'
import { recordEvents } from '../support/events.ts'
import { createTestDatabase, type TestDatabase } from '../support/postgres.ts'
import { until } from '../support/until.ts'

/** Erasing while others are at the same rows, under the rights of an operator, and in whatever table is added. */

let database: TestDatabase
beforeEach(async () => {
  database = await createTestDatabase()
})
afterEach(() => database.drop())

const canary = 'canary-4711'
const put = (table: 'inbox' | 'outbox', key: string): Promise<unknown> =>
  database.query(
    table === 'inbox'
      ? `insert into twinbox.inbox (consumer, lane, id, topic, key, payload) values ('c', twinbox.lane_of($1), gen_random_uuid(), 't', $1, to_json($1))`
      : `insert into twinbox.outbox (lane, id, topic, key, payload) values (twinbox.lane_of($1), gen_random_uuid(), 't', $1, to_json($1))`,
    [key],
  )
/** A try has found rows that are taken, and given up. */
const untilTried = async (): Promise<void> => {
  const count = async (): Promise<number> => {
    const [row] = await database.query<{ count: number }>(
      `select xact_rollback::int as count from pg_stat_database where datname = current_database()`,
    )
    return row!.count
  }
  const before = await count()
  await until(async () => (await count()) > before)
}

/** Texts of a message, and all of it that can say something: one that is added is among them. */
const texts = namesOf(['text']).join(', ')
const said = namesOf(['text', 'json', 'bytes'])

/** Columns that can hold text, and of them those that hold nothing of a message: who, when, names of ours. */
const names = {
  audit: ['action', 'who', 'login', 'why', 'consumer', 'topic'],
  circuit: ['consumer', 'topic', 'reason'],
  dead_letter: ['consumer', 'topic'],
  dedupe: ['topic'],
  deferred: ['consumer', 'topic'],
  handled: ['consumer', 'topic'],
  inbox: ['consumer', 'topic'],
  lane: ['consumer'],
  outbox: ['topic'],
  parked: ['consumer'],
  parked_message: ['consumer', 'topic'],
  // An id and a hash, which a redelivery is known by.
  seen: ['consumer', 'digest'],
  subscription: ['consumer', 'pattern', 'broker'],
  unhandled: ['consumer', 'topic'],
  worker: [
    'kind',
    'consumer',
    'host',
    'version',
    'application',
    'login',
    'ended_by',
    'sign',
    'topics',
    'busy_topics',
    'stuck_topic',
    'broker_error',
  ],
} as Readonly<Record<string, readonly string[]>>

/** Columns that hold something of a message, and lose it. */
const erased = {
  audit: ['key', 'reason', 'errors'],
  circuit: ['error'],
  dead_letter: [...said, 'reason', 'errors'],
  dedupe: ['dedupe_key'],
  deferred: [...said, 'dedupe_key', 'errors'],
  handled: ['key'],
  inbox: [...said, 'errors'],
  outbox: [...said, 'errors'],
  parked: ['key', 'reason'],
  parked_message: [...said, 'errors'],
  unhandled: [...said, 'errors'],
} as Readonly<Record<string, readonly string[]>>

test('no table holds anything of a message that erasing does not know', async () => {
  const columns = await database.query<{ table: string; column: string }>(
    `select c.relname as table, a.attname as column
    from pg_class as c join pg_attribute as a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
      join pg_type as t on t.oid = a.atttypid
    where c.relnamespace = 'twinbox'::regnamespace and c.relkind in ('r', 'p', 'm')
      and format_type(case when t.typtype = 'd' then t.typbasetype else t.oid end, null) ~ '^(text|json|jsonb|bytea|character|name|uuid\\[\\]|text\\[\\]|jsonb\\[\\])'
      -- Named by erasing, and removed by an operator; and what says of a migration or of this database itself.
      and c.relname not in ('schedule', 'migration', 'incarnation')`,
  )
  expect(columns.length).toBeGreaterThan(40)
  const unknown = columns.filter(
    ({ table, column }) => !names[table]?.includes(column) && !erased[table]?.includes(column),
  )
  expect(unknown).toEqual([])
  // One row in each, with it in every one of these columns: then it is nowhere.
  const key = canary
  const content = `json_build_object('h', $1::text), jsonb_build_array(jsonb_build_object('error', $1::text))`
  const lane = 'twinbox.lane_of($1)'
  const id = `'00000000-0000-7000-8000-000000004711'::uuid`
  for (const body of [false, true]) {
    const [where, what] = body ? ['body', `convert_to($1, 'UTF8')`] : ['payload', 'to_json($1::text)']
    const shared = `id, topic, ${texts}, headers, errors, ${where}`
    const values = `${id}, 't', ${texts.replaceAll(/\w+/g, '$1')}, ${content}, ${what}`
    for (const sql of [
      `insert into twinbox.outbox (lane, ${shared}) values (${lane}, ${values})`,
      `insert into twinbox.inbox (consumer, lane, ${shared}) values ('c', ${lane}, ${values})`,
      `insert into twinbox.deferred (due_at, dedupe_key, ${shared}) values (now() + interval '1 hour', $1, ${values})`,
      `insert into twinbox.parked_message (seq, consumer, lane, ${shared}) values (2 + ${body ? 10 : 0}, 'c', ${lane}, ${values})`,
      `insert into twinbox.unhandled (seq, received_at, consumer, lane, ${shared}) values (3 + ${body ? 10 : 0}, now(), 'c', ${lane}, ${values})`,
      `insert into twinbox.dead_letter (seq, attempt, consumer, reason, ${shared}) values (1 + ${body ? 10 : 0}, 1, 'c', $1, ${values})`,
    ])
      await database.query(sql, [key])
  }
  for (const sql of [
    `insert into twinbox.parked (until, blocker, consumer, lane, key, reason) values ('infinity', 1, 'c', ${lane}, $1, $1)`,
    `insert into twinbox.handled (attempt, consumer, id, topic, key) values (1, 'c', ${id}, 't', $1)`,
    `insert into twinbox.dedupe (expires_at, id, topic, dedupe_key) values (now() + interval '1 hour', ${id}, 't', $1)`,
    `insert into twinbox.circuit (probe_at, consumer, topic, reason, error) values (now(), 'c', 't', 'Error', $1)`,
    `insert into twinbox.audit (action, who, consumer, topic, key, id, reason, errors) values ('skip', 'op', 'c', 't', $1, ${id}, $1, jsonb_build_array($1::text))`,
  ])
    await database.query(sql, [key])
  const holding = async (): Promise<string[]> => {
    const found: string[] = []
    for (const { table, column } of columns) {
      const text = column === 'body' ? `convert_from(body, 'UTF8')` : `${column}::text`
      const rows = await database.query(
        `select from twinbox.${table} where strpos(${text}, $1) > 0 limit 1`,
        [canary],
      )
      if (rows.length > 0) found.push(`${table}.${column}`)
    }
    return found.toSorted()
  }
  const all = Object.entries(erased).flatMap(([table, of]) => of.map((column) => `${table}.${column}`))
  expect(await holding()).toEqual(all.toSorted())
  const found: PlacedMessage[] = []
  for await (const message of exportMessages(database.url, { key })) found.push(message)
  // What can be handed out is: a message for each row that has one.
  expect(found.map(({ payload }) => (payload === undefined ? '' : String(payload))).toSorted()).toEqual(
    ['', ...Array<string>(6).fill(`"${canary}"`), ...Array<string>(6).fill(canary)].toSorted(),
  )
  await eraseMessages(database.url, { key })
  expect(await holding()).toEqual([])
})

test('an operator may do it, and needs no other right', async () => {
  const role = `o${randomBytes(5).toString('hex')}`
  await applyRoles(database.url)
  await database.query(`create role ${role} login password 'secret'`)
  try {
    await database.query(`grant twinbox_operator to ${role}`)
    const url = Object.assign(new URL(database.url), { username: role, password: 'secret' }).toString()
    await put('inbox', canary)
    await put('outbox', canary)
    await database.query(
      `insert into twinbox.audit (action, who, consumer, key, reason) values ('skip', 'op', 'c', $1, $1)`,
      [canary],
    )
    await database.query(`insert into twinbox.lane (consumer, lane) select 'c', twinbox.lane_of($1)`, [
      canary,
    ])
    await database.query(
      `insert into twinbox.parked (until, blocker, consumer, lane, key, reason) values ('infinity', 1, 'c', twinbox.lane_of($1), $1, $1)`,
      [canary],
    )
    const found: PlacedMessage[] = []
    for await (const message of exportMessages(url, { key: canary })) found.push(message)
    expect(found.map(({ state }) => state)).toEqual(['outbox', 'inbox'])
    expect((await eraseMessages(url, { key: canary }, { dryRun: true })).rows).toMatchObject({
      inbox: 1,
      outbox: 1,
    })
    expect((await eraseMessages(url, { key: canary })).rows).toMatchObject({ inbox: 1, outbox: 1, audit: 1 })
    expect(await database.query(`select key, reason from twinbox.audit where action = 'skip'`)).toEqual([
      { key: null, reason: `erased by ${role}` },
    ])
    expect(await database.query('select from twinbox.parked')).toEqual([])
  } finally {
    await database.query(`drop owned by ${role}`)
    await database.query(`drop role ${role}`)
  }
})

/** Has some rows until it is told to give them back. */
async function hold(statement: string, values: string[]): Promise<() => Promise<void>> {
  const client = new pg.Client({ connectionString: database.url, application_name: 'the holder' })
  await client.connect()
  await client.query('begin')
  await client.query(statement, values)
  return async () => {
    await client.query('rollback')
    await client.end()
  }
}

test('rows that others do not give back are named in the end, and by whom they are held; nothing was erased', async () => {
  for (const key of ['in a row', 'in a lane', 'shared']) {
    await put('inbox', key)
    await database.query(
      `insert into twinbox.lane (consumer, lane) select 'c', twinbox.lane_of($1) on conflict do nothing`,
      [key],
    )
  }
  const releases = [
    await hold(`select from twinbox.inbox where key = $1 for update`, ['in a row']),
    await hold(`select from twinbox.lane where lane = twinbox.lane_of($1) for update`, ['in a lane']),
    await hold(`select from twinbox.inbox where key = $1 for share`, ['shared']),
    await hold(`select from twinbox.inbox where key = $1 for share`, ['shared']),
  ]
  try {
    const fails = async (key: string): Promise<unknown> =>
      eraseMessages(database.url, { key }).then(
        () => expect.fail('It should have failed.'),
        (error: unknown) => error,
      )
    const [row, lane, shared] = (await Promise.all(
      ['in a row', 'in a lane', 'shared'].map((key) => fails(key)),
    )) as SchemaError[]
    for (const error of [row, lane, shared]) {
      expect(error).toBeInstanceOf(SchemaError)
      expect(error).toMatchObject({
        code: 'SCHEMA_BUSY',
        message: expect.stringMatching(/^Nothing was erased: /) as string,
      })
      expect(error!.message).toContain('pg_terminate_backend')
    }
    const holder =
      /by pid \d+ \(application "the holder", user \w+, idle in transaction, its transaction began [\d.]+ s ago/
    expect(row!.message).toMatch(new RegExp(`rows of inbox ${holder.source}`))
    expect(lane!.message).toMatch(new RegExp(`rows of lane ${holder.source}`))
    // What several hold together does not say whose it is.
    expect(shared!.message).toContain('Whose they are cannot be seen')
    expect(await database.query('select from twinbox.inbox')).toHaveLength(3)
    expect(await database.query('select from twinbox.audit')).toEqual([])
  } finally {
    for (const release of releases) await release()
  }
  expect((await eraseMessages(database.url, { key: 'in a row' })).rows.inbox).toBe(1)
})

test('a signal ends it while it waits, and nothing was erased', async () => {
  await put('inbox', canary)
  const release = await hold(`select from twinbox.inbox for update`, [])
  const stop = new AbortController()
  const reason = new Error('enough')
  try {
    const erasing = eraseMessages(database.url, { key: canary }, { signal: stop.signal })
    await untilTried()
    stop.abort(reason)
    await expect(erasing).rejects.toBe(reason)
  } finally {
    await release()
  }
  await expect(eraseMessages(database.url, { key: canary }, { signal: stop.signal })).rejects.toBe(reason)
  expect(await database.query('select from twinbox.inbox')).toHaveLength(1)
})

test('Ctrl-C ends the command in words', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'twinbox-erasing-'))
  await put('inbox', canary)
  const release = await hold(`select from twinbox.inbox for update`, [])
  try {
    const command = new Command(folder, ['erase', '--key', canary, '--yes'], {
      TWINBOX_DATABASE_URL: database.url,
    })
    await untilTried()
    command.process.kill('SIGINT')
    expect(await command.done).toEqual({ code: 1, stdout: '', stderr: 'Stopped. Nothing was changed.\n' })
  } finally {
    await release()
    await rm(folder, { recursive: true, force: true })
  }
  expect(await database.query('select from twinbox.inbox')).toHaveLength(1)
})

test.each([
  ['confirms', { status: 'sent' }],
  ['refuses for good', { status: 'rejected', error: new BrokerError('poison', canary) }],
  ['refuses for now', { status: 'rejected', error: new BrokerError('retry', canary) }],
] as const)(
  'what a relay is just sending is erased at once and said, and the broker %s it',
  async (_, outcome) => {
    const events = recordEvents()
    let entered = (): void => {}
    const sending = new Promise<void>((resolve) => (entered = resolve))
    let answer = (): void => {}
    const answered = new Promise<void>((resolve) => (answer = resolve))
    const arrived: unknown[] = []
    const broker: Broker = {
      name: 'slow',
      async send(batch) {
        entered()
        await answered
        arrived.push(...batch.map(({ content }) => JSON.parse(String(content)) as unknown))
        return batch.map(({ content }) => (content === '"mine"' ? outcome : { status: 'sent' }))
      },
      subscribe: () => Promise.resolve({ stop: () => Promise.resolve() }),
      close: () => Promise.resolve(),
    }
    const relay = createRelay({ database: database.url, broker, onEvent: events.onEvent })
    const publish = (payload: string): Promise<unknown> =>
      database.transaction((client) => createOutbox().publish(client, { topic: 't', key: canary, payload }))
    try {
      await publish('mine')
      await relay.start()
      await sending
      const { rows, sending: onTheWay } = await eraseMessages(database.url, { key: canary })
      expect([rows.outbox, onTheWay]).toEqual([1, 1])
      await publish('next')
      answer()
      // The key goes on, and of what was erased nothing is written down.
      await until(
        async () =>
          arrived.includes('next') && (await database.query('select from twinbox.outbox')).length === 0,
      )
      expect(arrived.filter((payload) => payload === 'mine')).toEqual(['mine'])
      for (const table of ['dead_letter', 'deferred', 'parked', 'parked_message'])
        expect([table, await database.query(`select * from twinbox.${table}`)]).toEqual([table, []])
      expect(events.of('dead_letter')).toEqual([])
      expect(events.of('trouble')).toEqual([])
      // Nobody sends it now.
      await relay.stop()
      await publish('last')
      expect(await eraseMessages(database.url, { key: canary })).toMatchObject({
        sending: 0,
        rows: { outbox: 1 },
      })
    } finally {
      answer()
      await relay.stop()
    }
  },
)
