import { randomBytes, randomUUID } from 'node:crypto'
import pg from 'pg'
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { openDatabase } from '../../src/database/database.ts'
import { sqlstate } from '../../src/database/sqlstate.ts'
import { roleNames, type RoleName } from '../../src/database/sql/grants.ts'
import { workerSql } from '../../src/database/sql/worker.ts'
import { examineRights } from '../../src/doctor/rights.ts'
import {
  applyRoles,
  createClaimer,
  createOutbox,
  createSchedules,
  eraseMessages,
  evictWorkers,
  migrate,
  prune,
  readAudit,
  readRoles,
  redriveDeadLetters,
  rolesScript,
  skipDeadLetters,
  unsubscribe,
  type Cancellable,
  type Finding,
} from '../../src/index.ts'
import { recordEvents } from '../support/events.ts'
import { createTestDatabase, serverUrl, type TestDatabase } from '../support/postgres.ts'

/** Somebody logs in with one of our roles, and tries what the role is not for. */

const unique = `a${randomBytes(5).toString('hex')}`
const clients = {} as Record<RoleName, pg.Client>
let database: TestDatabase

const url = (role: RoleName): string =>
  Object.assign(new URL(database.url), { username: `${unique}_${role}`, password: 'secret' }).toString()

beforeAll(async () => {
  database = await createTestDatabase()
  await applyRoles(database.url)
  for (const role of roleNames) {
    await database.query(`create role ${unique}_${role} login password 'secret'`)
    await database.query(`grant twinbox_${role} to ${unique}_${role}`)
    clients[role] = new pg.Client({ connectionString: url(role) })
    await clients[role].connect()
  }
})
afterAll(async () => {
  for (const client of Object.values(clients)) await client.end()
  await database.drop()
  const server = new pg.Client({ connectionString: await serverUrl() })
  await server.connect()
  for (const role of roleNames) await server.query(`drop role if exists ${unique}_${role}`)
  await server.end()
})

/** The SQLSTATE with which a statement fails, or "ok". Nothing of it remains. */
async function outcome(role: RoleName, statement: string): Promise<string> {
  await clients[role].query('begin')
  try {
    await clients[role].query(statement)
    return 'ok'
  } catch (error) {
    return sqlstate(error) ?? 'unknown'
  } finally {
    await clients[role].query('rollback')
  }
}

const [denied, unsound] = ['42501', '23514']
const quote = (text: string): string => `'${text.replaceAll("'", "''")}'`

describe('a publisher that inserts without publish()', () => {
  const sound = {
    outbox: { lane: '0', id: 'gen_random_uuid()', topic: `'t'`, payload: `'1'` },
    deferred: { due_at: 'now()', id: 'gen_random_uuid()', topic: `'t'`, payload: `'1'` },
  }
  const insert = (table: 'outbox' | 'deferred', more: Readonly<Record<string, string>>): string => {
    const row = { ...sound[table], ...more }
    return `insert into twinbox.${table} (${Object.keys(row).join(', ')}) values (${Object.values(row).join(', ')})`
  }
  const both = ['outbox', 'deferred'] as const

  test.each(both)('%s: what publish() lets through goes through', async (table) => {
    for (const more of [
      {},
      {
        key: quote('k'.repeat(255)),
        topic: quote('T'.repeat(249)),
        expires_at: `now() + interval '3650 days'`,
      },
      { headers: quote('{}') },
      { headers: quote('{"a":"b","X-Tenant":"c, d"}') },
      { headers: quote('{"\\u0061" : "\\u00e9 \\"quoted\\""}') },
      { headers: quote(JSON.stringify({ long: 'x'.repeat(16_000) })) },
      { body: `'\\x00'`, payload: 'null', content_type: quote('application/octet-stream') },
    ]) {
      expect([more, await outcome('publisher', insert(table, more))]).toEqual([more, 'ok'])
    }
  })

  const times = [`'infinity'`, `'-infinity'`, `'290000-01-01'`, `'9999-01-02'`, `'1970-01-01'`]
  const headers = [
    '[1]',
    '"abc"',
    'null',
    '1',
    '{"a":1}',
    '{"a":null}',
    '{"a":{"b":"c"}}',
    '{"a":["b"]}',
    '{"cloudEvents:type":"admin.grant"}',
    '{"cloudevents_partitionkey":"k"}',
    '{"a":"b","CloudEvents-type":"x"}',
    '{"a":"b","ce_id":"x"}',
    '{"c\\u0065_id":"x"}',
    '{"Twinbox-id":"x"}',
    '{"x-twinbox-id":"x"}',
    '{"__proto__":"x"}',
    '{"CC":"x"}',
    '{"a b":"x"}',
    '{"":"x"}',
    '{"a":"x\\r\\ny"}',
    '{"a":"\\u0000"}',
    '{"a":"\\ud800"}',
    JSON.stringify({ [`a${'b'.repeat(300)}`]: 'c' }),
    JSON.stringify({ a: 'b'.repeat(16_384) }),
    JSON.stringify({ a: 'b'.repeat(1_000_000) }),
    JSON.stringify(Object.fromEntries(Array.from({ length: 65 }, (_, n) => [`h${n}`, '']))),
  ]
  const topics = ['', '.', '..', 'a\nb', 'a b', 'a\u001b[2J', 'é', 'a'.repeat(250), '#', '*']
  const keys = ['', 'k'.repeat(256), 'k'.repeat(12_000), 'é'.repeat(128)]
  const unsoundRows: readonly Readonly<Record<string, string>>[] = [
    ...times.map((expires_at) => ({ expires_at })),
    ...headers.map((text) => ({ headers: quote(text) })),
    ...topics.map((topic) => ({ topic: quote(topic) })),
    ...keys.map((key) => ({ key: quote(key) })),
    { body: `'\\x00'` },
    { payload: 'null', body: `'\\x00'`, content_type: quote('x/'.padEnd(101, 'y')) },
    { payload: 'null', body: `decode(repeat('00', 17000001), 'hex')` },
  ]
  const of = {
    outbox: [...unsoundRows, ...['9999', '64', '-1'].map((lane) => ({ lane }))],
    deferred: [
      ...unsoundRows,
      ...times.flatMap((time) => [{ due_at: time }, { published_at: time }]),
      ...['', 'd'.repeat(513)].map((key) => ({ dedupe_key: quote(key) })),
    ],
  }
  test.each(both)('%s: what publish() refuses is refused', async (table) => {
    for (const more of of[table]) {
      expect([more, await outcome('publisher', insert(table, more))]).toEqual([more, unsound])
    }
  })

  test('says nothing of a consumer, and may read, change and delete nothing', async () => {
    for (const statement of [
      insert('deferred', { consumer: `'billing'` }),
      insert('deferred', { consumer: `''` }),
      insert('deferred', { attempt: '9' }),
      `${insert('outbox', {})} returning seq`,
      'select from twinbox.dedupe',
      'select dedupe_key from twinbox.dedupe',
      `update twinbox.dedupe set expires_at = '9999-01-01'`,
      'update twinbox.dedupe set id = gen_random_uuid()',
      'delete from twinbox.dedupe',
      `insert into twinbox.dedupe (topic, dedupe_key, id, expires_at) values ('t', 'd', gen_random_uuid(), now())`,
      ...both.flatMap((table) => [
        `select from twinbox.${table}`,
        `select id from twinbox.${table}`,
        `update twinbox.${table} set topic = 'u'`,
        `delete from twinbox.${table}`,
      ]),
    ]) {
      expect([statement, await outcome('publisher', statement)]).toEqual([statement, denied])
    }
  })
})

/** The function behind `publish`, called by hand. */
const publishOne = (more: Readonly<Record<string, string>> = {}): string => {
  const given: Readonly<Record<string, string>> = {
    ...{ id: 'gen_random_uuid()', topic: `'t'`, key: 'null', headers: 'null', payload: `'1'`, body: 'null' },
    ...{ content_type: 'null', lane: `'0'`, dedupe_key: `'mine'`, dedupe_window: `'1 day'` },
    ...{ due_at: 'null', expires_at: 'null', ...more },
  }
  return `select twinbox.publish_one(${Object.entries(given)
    .map(([name, value]) => `${name} => ${value}`)
    .join(', ')}) as id`
}
/** The same for several. */
const publishMany = (keys: readonly string[], more: Readonly<Record<string, string>> = {}): string => {
  const list = (value: string, type: string): string =>
    `array[${keys.map(() => value).join(', ')}]::${type}[]`
  const given: Readonly<Record<string, string>> = {
    ...{ ids: list('gen_random_uuid()', 'uuid'), topics: list(`'t'`, 'text'), keys: 'null', headers: 'null' },
    ...{ payloads: list(`'1'`, 'json'), bodies: 'null', content_types: 'null', first_lane: '0' },
    ...{ dedupe_keys: `array[${keys.map(quote).join(', ')}]`, dedupe_window: `'1 day'`, deliver_at: 'null' },
    ...{ delays_ms: 'null', expires_at: 'null', ...more },
  }
  return `select * from twinbox.publish_many(${Object.entries(given)
    .map(([name, value]) => `${name} => ${value}`)
    .join(', ')})`
}

test('a publisher learns of one dedupe key whether it is taken, and makes none last longer', async () => {
  const id = randomUUID()
  await database.query(`insert into twinbox.dedupe (topic, dedupe_key, id, expires_at)
    values ('t', 'theirs', '${id}', now() + interval '1 hour')`)
  const take = (key: string, time: string): string =>
    publishOne({ dedupe_key: quote(key), dedupe_window: time })
  const { rows } = await clients.publisher.query<{ id: string }>(take('theirs', `'3650 days'`))
  expect(rows).toEqual([{ id }])
  const left = `select expires_at < now() + interval '2 hours' as same from twinbox.dedupe where id = '${id}'`
  expect(await database.query(left)).toEqual([{ same: true }])
  expect(await outcome('publisher', take('mine', `'3650 days'`))).toBe('ok')
  expect(await outcome('publisher', take('mine', `'9999 years'`))).toBe(unsound)
  expect(await outcome('publisher', take('x'.repeat(513), `'1 day'`))).toBe(unsound)
  for (const role of roleNames.filter((name) => name !== 'publisher')) {
    expect([role, await outcome(role, take('mine', `'1 day'`))]).toEqual([role, denied])
    expect([role, await outcome(role, publishMany(['mine']))]).toEqual([role, denied])
  }
})

describe('a publisher takes a dedupe key', () => {
  const left = (): Promise<unknown[]> =>
    database.query(`select 'key' as kind, dedupe_key as what from twinbox.dedupe where topic = 't'
      union all select 'message', key from twinbox.outbox where topic = 't'
      union all select 'later', key from twinbox.deferred where topic = 't' order by 1, 2`)
  beforeEach(async () => {
    await database.query('truncate twinbox.dedupe, twinbox.outbox, twinbox.deferred')
  })

  test('only together with a message that is sent: whoever has the key for it next is told of that one', async () => {
    const [{ rows: one }, { rows: many }] = [
      await clients.publisher.query<{ id: string }>(publishOne({ key: `'one'` })),
      await clients.publisher.query(publishMany(['a', 'b', 'mine'], { keys: `'{a,b,mine}'` })),
    ]
    expect(many).toEqual([{ nr: 3, id: one[0]!.id }])
    expect(await left()).toEqual([
      ...['a', 'b', 'mine'].map((what) => ({ kind: 'key', what })),
      ...['a', 'b', 'one'].map((what) => ({ kind: 'message', what })),
    ])
    expect(await database.query(`select from twinbox.outbox where id = '${one[0]!.id}'`)).toHaveLength(1)
  })

  test('and leaves it where the message is refused, by itself or by what comes after', async () => {
    const [infinite, headers] = [`'infinity'`, `'{"ce_id":"x"}'`]
    expect(await outcome('publisher', publishOne({ payload: 'null' }))).toBe('23502')
    for (const more of [
      { body: `'\\x00'` },
      { headers },
      { topic: quote('a b') },
      { key: quote('k'.repeat(256)) },
      { content_type: quote('x'.repeat(101)) },
      { lane: `'64'` },
      { expires_at: infinite },
      { due_at: infinite },
      { due_at: `now() + interval '9999 years'` },
      { due_at: `now() + interval '1 day'`, expires_at: `'1970-01-01'` },
    ]) {
      expect([more, await outcome('publisher', publishOne(more))]).toEqual([more, unsound])
      const refused = clients.publisher.query(publishOne(more))
      await expect(refused).rejects.toMatchObject({ code: unsound })
    }
    for (const [more, state] of [
      [{ payloads: 'null' }, '23502'],
      [{ headers: `array[${headers}]::json[]` }, unsound],
      [{ topics: `'{a b}'` }, unsound],
      [{ expires_at: `array[${infinite}]::timestamptz[]` }, unsound],
      [{ deliver_at: `array[${infinite}]::timestamptz[]` }, unsound],
      [{ ids: 'null' }, '23502'],
      [{ ids: `'{}'`, topics: 'null', payloads: 'null' }, '23502'],
    ] as const) {
      const refused = clients.publisher.query(publishMany(['x'], more))
      await expect(refused).rejects.toMatchObject({ code: state })
    }
    expect(await left()).toEqual([])
  })

  test('and says neither place, attempts nor the time of what it publishes', async () => {
    const { rows } = await database
      .query<{ names: string[] }>(
        `select array_agg(distinct a order by a) as names from pg_proc, unnest(proargnames) as a
      where pronamespace = 'twinbox'::regnamespace and proname in ('publish_one', 'publish_many')`,
      )
      .then((found) => ({ rows: found }))
    expect(
      rows[0]!.names.filter((name) => /seq|attempt|published|error|consumer|avoid|size/.test(name)),
    ).toEqual([])
    await clients.publisher.query(publishOne({ due_at: `now() + interval '1 hour'` }))
    await clients.publisher.query(publishMany(['d'], { delays_ms: `'{1000}'` }))
    expect(
      await database.query(
        `select distinct consumer, attempt, errors, published_at = due_at as same from twinbox.deferred`,
      ),
    ).toEqual([{ consumer: '', attempt: 0, errors: null, same: true }])
  })

  test('and evades no policy of row-level security that keeps it from a message', async () => {
    const tables = ['outbox', 'deferred']
    const attempts = async (): Promise<string[]> => [
      await outcome('publisher', publishOne()),
      await outcome('publisher', publishMany(['x'])),
      await outcome('publisher', `select twinbox.publish('t', '1', dedupe_key => 'x')`),
    ]
    try {
      for (const table of tables) {
        await database.query(`alter table twinbox.${table} enable row level security`)
        expect(await attempts()).toEqual([denied, denied, denied])
        await database.query(`create policy p on twinbox.${table} for insert with check (topic like 'u%')`)
        expect(await attempts()).toEqual([denied, denied, denied])
        await database.query(`drop policy p on twinbox.${table}`)
        await database.query(`create policy p on twinbox.${table} using (true) with check (true)`)
        expect(await attempts()).toEqual(['ok', 'ok', 'ok'])
      }
    } finally {
      for (const table of tables) {
        await database.query(`drop policy if exists p on twinbox.${table}`)
        await database.query(`alter table twinbox.${table} disable row level security`)
      }
    }
  })
})

test('an operator neither changes nor empties the audit, and says not who was logged in', async () => {
  await database.query(
    `insert into twinbox.audit (action, who, consumer, key) values ('skip', 'ann', 'c', 'k')`,
  )
  for (const statement of [
    `update twinbox.audit set who = 'bob'`,
    `update twinbox.audit set at = '2000-01-01'`,
    'delete from twinbox.audit',
    'truncate twinbox.audit',
    'select from twinbox.audit for update',
    ...['login', 'at', 'number'].map(
      (column) =>
        `insert into twinbox.audit (action, who, consumer, ${column}) overriding system value values ('skip', 'ann', 'c', default)`,
    ),
    'alter table twinbox.audit disable trigger all',
    `alter table twinbox.audit alter login set default 'ann'`,
  ]) {
    for (const role of roleNames)
      expect([role, statement, await outcome(role, statement)]).toEqual([role, statement, denied])
  }
})

test('what an operator does is written down with the name that it chose, and with whose session it was', async () => {
  const as = url('operator')
  const login = `${unique}_operator`
  await database.query('truncate twinbox.audit')
  const letters = `insert into twinbox.dead_letter (consumer, id, topic, key, payload, attempt, reason)
    values ('c', gen_random_uuid(), 't', 'k1', '1', 1, 'no'), ('c', gen_random_uuid(), 't', 'k2', '1', 1, 'no')`
  await database.query(letters)
  const by = { by: 'ann', reason: 'asked for' }
  expect(await skipDeadLetters(as, { key: 'k1' }, by)).toMatchObject({ count: 1 })
  expect(await redriveDeadLetters(as, { key: 'k2', consumer: 'c' }, by)).toMatchObject({ count: 1 })
  const did = async (): Promise<unknown[]> =>
    (await readAudit(database.url)).map(({ action, by: who, login: user, key, reason }) =>
      [action, who, user, key, reason].join(' '),
    )
  expect(await did()).toEqual([`redrive ann ${login} k2 no`, `skip ann ${login} k1 no`])
  await database.query('delete from twinbox.deferred')

  await eraseMessages(as, { key: 'k1' }, by)
  expect(await did()).toEqual([
    `erase ann ${login}  audit 1`,
    `redrive ann ${login} k2 no`,
    `skip ann ${login}  erased by ${login}`,
  ])
  // Whoever leaves the erasing out of account is named in the row itself.
  await clients.operator.query(`select twinbox.erase_audit('k2', '{}', null, null)`)
  expect(await did()).toContain(`redrive ann ${login}  erased by ${login}`)

  // Whoever prunes all is the one who is left.
  expect(await prune(as, 'audit', { olderThanMs: 0, by: 'bob' })).toBe(3)
  expect(await did()).toEqual([`prune bob ${login}  audit 3`])
  expect(await prune(as, 'audit', { olderThanMs: 0, by: 'eve' })).toBe(1)
  expect(await did()).toEqual([`prune eve ${login}  audit 1`])
  await clients.operator.query(`select twinbox.prune_audit(9, '0', null, 'nobody', null)`)
  expect(await did()).toEqual([`prune nobody ${login}  audit 1`])
  expect(await prune(as, 'audit', { olderThanMs: 60_000 })).toBe(0)
  expect(await did()).toHaveLength(1)
})

test('who evicts, unsubscribes, prunes or changes a schedule may write the row of it, and says not who was logged in', async () => {
  const login = (role: RoleName): string => `${unique}_${role}`
  const changes = (role: RoleName): Readonly<Record<string, (id: number) => Promise<unknown>>> => {
    const all = createSchedules({ database: url(role) })
    const by = { by: 'ann', reason: 'asked for' }
    return {
      set: () => all.set({ name: 's', cron: '* * * * *', topic: 't', payload: 1 }, by),
      pause: () => all.pause('s', by),
      resume: () => all.resume('s', by),
      remove: () => all.remove('s', by),
      unsubscribe: () => unsubscribe(url(role), { consumer: 'c', topics: ['invoice.#'], ...by }),
      evict: (id) => evictWorkers(url(role), [id], by),
      prune: () => prune(url(role), 'seen', { olderThanMs: 0, ...by }),
    }
  }
  const state = () =>
    database.query(`select (select json_agg(s) from twinbox.schedule as s) as schedules,
      (select count(*)::int from twinbox.subscription where ended_at is null) as subscriptions,
      (select count(*)::int from twinbox.worker where ended_at is null) as workers,
      (select count(*)::int from twinbox.seen) as seen`)
  // They work on the same rows, and write down what they bury. A relay ends whoever is dead of its own kind.
  const mayToo: Readonly<Record<string, readonly RoleName[]>> = {
    ...{ pause: ['relay'], resume: ['relay'], evict: ['relay'] },
  }
  for (const role of roleNames) {
    for (const [what, change] of Object.entries(changes(role))) {
      await database.query(`truncate twinbox.audit, twinbox.schedule, twinbox.subscription, twinbox.seen;
        insert into twinbox.subscription (consumer, pattern) values ('c', 'invoice.#');
        insert into twinbox.seen (consumer, id) values ('c', gen_random_uuid());
        insert into twinbox.schedule (name, cron, time_zone, catch_up, topic, payload, paused_at)
          values ('s', '* * * * *', 'UTC', 'one', 'u', '1', ${what === 'resume' ? 'now()' : 'null'})`)
      const [{ id }] = (await database.query(
        `insert into twinbox.worker (kind, consumer, host, pid, version, application) values ('relay', '', 'h', 1, '0', 'a')
        returning id`,
      )) as [{ id: number }]
      const before = await state()
      const may = role === 'operator' || mayToo[what]?.includes(role) === true
      expect([role, what, await change(id).then(() => 'ok', sqlstate)]).toEqual([
        role,
        what,
        may ? 'ok' : denied,
      ])
      const rows = await readAudit(database.url)
      if (may) {
        expect(rows).toMatchObject([{ action: what, by: 'ann', why: 'asked for', login: login(role) }])
        expect(await state()).not.toEqual(before)
      } else {
        expect(rows).toEqual([])
        expect(await state()).toEqual(before)
      }
    }
  }
  await database.query(
    'truncate twinbox.audit, twinbox.schedule, twinbox.subscription, twinbox.seen, twinbox.worker',
  )
})

test('an action that nobody does cannot be written down', async () => {
  expect(
    await outcome(
      'operator',
      `insert into twinbox.audit (action, who, consumer) values ('nothing', 'ann', 'c')`,
    ),
  ).toBe(unsound)
})

describe('a canceller', () => {
  test('takes back what waits for its time, and frees its dedupe key', async () => {
    const ids = [randomUUID(), randomUUID()] as const
    await database.query(`insert into twinbox.deferred (due_at, id, topic, payload, dedupe_key) values
      (now() + interval '1 hour', '${ids[0]}', 't', '1', null), (now() + interval '1 hour', '${ids[1]}', 't', '1', 'later');
      insert into twinbox.dedupe (topic, dedupe_key, id, expires_at) values
      ('t', 'later', '${ids[1]}', now() + interval '1 hour'), ('u', 'later', gen_random_uuid(), now() + interval '1 hour')`)
    const cancel = async (which: Cancellable): Promise<boolean> => {
      await clients.canceller.query('begin')
      const { cancelled } = await createOutbox().cancel(clients.canceller, which)
      await clients.canceller.query('commit')
      return cancelled
    }
    expect(await cancel({ id: ids[0] })).toBe(true)
    expect(await cancel({ id: ids[0] })).toBe(false)
    expect(await cancel({ topic: 't', dedupeKey: 'other' })).toBe(false)
    expect(await cancel({ topic: 't', dedupeKey: 'later' })).toBe(true)
    expect(await database.query(`select topic from twinbox.dedupe where dedupe_key = 'later'`)).toEqual([
      { topic: 'u' },
    ])
    expect(await database.query('select from twinbox.deferred')).toEqual([])
  })

  test('takes back all that was published under the id, also by somebody who has taken the id of another one', async () => {
    const id = randomUUID()
    await database.query(`insert into twinbox.deferred (due_at, id, topic, payload) values
      (now() + interval '1 hour', '${id}', 't', '1'), (now() + interval '2 hours', '${id}', 't', '2')`)
    const { rows } = await clients.canceller.query(`select twinbox.cancel('${id}') as cancelled`)
    expect(rows).toEqual([{ cancelled: true }])
    expect(await database.query('select from twinbox.deferred')).toEqual([])
  })

  test('does not touch what a failure has deferred, of a consumer or of the outbox', async () => {
    const ids = [randomUUID(), randomUUID()] as const
    await database.query(`insert into twinbox.deferred (due_at, consumer, attempt, id, topic, payload) values
      (now() + interval '1 hour', 'billing', 1, '${ids[0]}', 't', '1'), (now() + interval '1 hour', '', 1, '${ids[1]}', 't', '1');
      insert into twinbox.dedupe (topic, dedupe_key, id, expires_at) values ('t', 'retried', '${ids[0]}', now() + interval '1 hour')`)
    for (const given of [`'${ids[0]}'`, `'${ids[1]}'`, `topic => 't', dedupe_key => 'retried'`]) {
      const { rows } = await clients.canceller.query(`select twinbox.cancel(${given}) as cancelled`)
      expect(rows).toEqual([{ cancelled: false }])
    }
    expect(await database.query('delete from twinbox.deferred returning 1 as one')).toHaveLength(2)
    expect(
      await database.query(`delete from twinbox.dedupe where dedupe_key = 'retried' returning 1 as one`),
    ).toHaveLength(1)
  })

  test('names one message', async () => {
    for (const given of [
      '',
      `topic => 't'`,
      `dedupe_key => 'd'`,
      `gen_random_uuid(), 't'`,
      `gen_random_uuid(), 't', 'd'`,
    ]) {
      expect([given, await outcome('canceller', `select twinbox.cancel(${given})`)]).toEqual([given, '22023'])
    }
  })
})

describe('a role that Twinbox has not made', () => {
  const schema = `x${randomBytes(5).toString('hex')}`
  const gone = [...roleNames.map((role) => `${schema}_${role}`), `${schema}_mallory`]
  beforeAll(async () => {
    await migrate(database.url, { schema })
    await database.query(`create role ${schema}_mallory login password 'secret'`)
  })
  afterAll(async () => {
    await database.query(`drop schema if exists ${schema} cascade`)
    for (const role of gone) await database.query(`drop role if exists ${role}`)
  })
  const made = (): Promise<unknown[]> =>
    database.query(`select rolname::text as name from pg_roles
      where rolname like '${schema}\\_%' and rolname <> '${schema}_mallory' order by 1`)
  const mine = `${schema}_reader`
  /** What `doctor` says of rights. */
  const examine = async (): Promise<readonly Finding[]> => {
    const { database: own } = openDatabase(database.url, { schema, poolSize: 1 })
    try {
      return await examineRights(own)
    } finally {
      await own.close()
    }
  }

  test.each([
    ['is there', [`create role ${mine}`], ['no comment'], []],
    ['can log in', [`create role ${mine} login password 'secret'`], ['it can log in'], []],
    ['has members', [`create role ${mine}`, `grant ${mine} to ${schema}_mallory`], ['it has members'], []],
    [
      'owns something',
      [
        `create role ${mine}`,
        `create table public.${schema} ()`,
        `alter table public.${schema} owner to ${mine}`,
      ],
      ['it owns something'],
      [`drop table public.${schema}`],
    ],
    [
      'has another comment',
      [`create role ${mine}`, `comment on role ${mine} is 'twinbox role relay of schema ${schema}'`],
      ['no comment'],
      [],
    ],
  ])('and %s is refused before anything changes', async (_, prepare, says, after) => {
    for (const statement of prepare) await database.query(statement)
    const [before] = await database.query(
      `select nspacl::text as acl from pg_namespace where nspname = '${schema}'`,
    )
    for (const apply of [
      () => applyRoles(database.url, { schema }),
      // Without a transaction around it, as in psql.
      () => database.query(rolesScript(schema)),
    ]) {
      await expect(apply()).rejects.toMatchObject({
        code: '42710',
        message: expect.stringMatching(
          new RegExp(`The role ${mine} was not made by Twinbox.*${says[0]}`),
        ) as string,
        hint: expect.stringContaining(
          `comment on role ${mine} is 'twinbox role reader of schema ${schema}'`,
        ) as string,
      })
    }
    expect(await made()).toEqual([{ name: mine }])
    expect(
      (await database.query(`select nspacl::text as acl from pg_namespace where nspname = '${schema}'`))[0],
    ).toEqual(before)
    const status = await readRoles(database.url, { schema })
    expect(status.find(({ name }) => name === mine)).toMatchObject({ exists: true, ours: false })
    const findings = await examine()
    expect(findings).toContainEqual(
      expect.objectContaining({
        level: 'note',
        found: expect.stringContaining(`${mine} was not made`) as string,
      }),
    )
    for (const statement of [...after, `drop role ${mine}`]) await database.query(statement)
  })

  test('is told from ours, which are applied again and again, and may have members', async () => {
    await applyRoles(database.url, { schema })
    await database.query(`grant ${mine} to ${schema}_mallory`)
    await applyRoles(database.url, { schema })
    await database.query(rolesScript(schema))
    expect((await readRoles(database.url, { schema })).every(({ ours }) => ours)).toBe(true)
    const about = async (): Promise<string[]> =>
      (await examine())
        .filter(({ found, level }) => level !== 'ok' && found.includes(mine))
        .map(({ found, level }) => `${level} ${found}`)
    expect(await about()).toEqual([])
    await database.query(`alter role ${mine} login`)
    expect(await about()).toEqual([expect.stringMatching(/^note Somebody can log in as/)])
    // It has its rights already: then it is more than a note.
    await database.query(`comment on role ${mine} is null`)
    expect(await about()).toEqual([expect.stringMatching(/^wrong .* was not made by Twinbox/)])
    await expect(applyRoles(database.url, { schema })).rejects.toMatchObject({ code: '42710' })
    // What the hint says is what helps.
    await database.query(`comment on role ${mine} is 'twinbox role reader of schema ${schema}'`)
    await applyRoles(database.url, { schema })
  })
})

/** A session under an application_name, which counts what ends it. */
async function session(
  role: RoleName,
  application: string,
): Promise<{ ended: () => Promise<boolean>; close: () => Promise<void> }> {
  const client = new pg.Client({ connectionString: url(role), application_name: application })
  client.on('error', () => {})
  await client.connect()
  return {
    // A session that is told to end answers nothing more.
    ended: () =>
      client.query('select 1').then(
        () => false,
        () => true,
      ),
    close: () => client.end().catch(() => {}),
  }
}

/** The row of a worker that never beats, written by this user. */
const dead = (by: Pick<TestDatabase, 'query'>, application: string): Promise<unknown> =>
  by.query(
    `insert into twinbox.worker (kind, consumer, host, pid, version, application) values ('claimer', 'kill', 'h', 1, '0', $1)`,
    [application],
  )

test('a row of a worker ends no session of another application, nor of another user', async () => {
  // The name of a living claimer's sessions is no secret: whoever may write a row can say it.
  const untagged = await session('claimer', 'billing-api')
  const forged = await session('claimer', 'api twinbox 0123abcd')
  const left = await session('claimer', 'api twinbox 4567cdef')
  await dead(clients.claimer, 'billing-api')
  await dead(database, 'api twinbox 0123abcd')
  // Its own, and found last, so that the others have been decided on when it ends.
  await dead(clients.claimer, 'api twinbox 4567cdef')
  const seen = recordEvents()
  const claimer = createClaimer(
    {
      database: url('claimer'),
      consumer: 'kill',
      onEvent: seen.onEvent,
      heartbeatMs: 100,
      deadAfterMs: 1000,
    },
    { '#': () => {} },
  )
  await claimer.start()
  try {
    await seen.next('worker_dead', () => true, 3)
    await claimer.stop()
    expect([await untagged.ended(), await forged.ended(), await left.ended()]).toEqual([false, false, true])
  } finally {
    await claimer.stop()
    for (const each of [untagged, forged, left]) await each.close()
  }
})

test('a session that began after the verdict is not ended: it is of the life after it', async () => {
  const application = 'api twinbox 89abef01'
  await dead(clients.claimer, application)
  const [row] = await database.query<{
    id: number
  }>(`update twinbox.worker set ended_at = clock_timestamp(), ended_by = 'heartbeat'
    where application = '${application}' returning id`)
  const late = await session('claimer', application)
  const disconnect = async (): Promise<number> => {
    const statement = workerSql('twinbox').disconnect
    const { rows } = await clients.claimer.query<{ closed: string }>(
      statement.text,
      statement.bind({ worker: row!.id }),
    )
    return Number(rows[0]!.closed)
  }
  expect(await disconnect()).toBe(0)
  expect(await late.ended()).toBe(false)
  await database.query(`update twinbox.worker set ended_at = null, ended_by = null where id = ${row!.id}`)
  expect(await disconnect()).toBe(0)
  await database.query(`update twinbox.worker set ended_at = clock_timestamp() where id = ${row!.id}`)
  expect(await disconnect()).toBe(1)
  expect(await late.ended()).toBe(true)
  await late.close()
})

test('nobody registers, ends or deletes workers of a kind whose work it may not do', async () => {
  const kinds = ['relay', 'receiver', 'claimer'] as const
  const ids: Record<string, number> = {}
  for (const kind of kinds) {
    const [row] = await database.query<{ id: number }>(
      `insert into twinbox.worker (kind, consumer, host, pid, version, application) values ('${kind}', 'c', 'h', 1, '0', '') returning id`,
    )
    ids[kind] = row!.id
  }
  for (const role of [...kinds, 'operator'] as const) {
    for (const kind of kinds) {
      const of = `where id = ${ids[kind]}`
      const may = role === kind || role === 'operator' ? 'ok' : denied
      for (const statement of [
        `update twinbox.worker set ended_at = now(), ended_by = 'evict' ${of}`,
        `update twinbox.worker set ended_at = null, ended_by = null ${of}`,
        `update twinbox.worker set reserved_until = now() ${of}`,
      ])
        expect([role, statement, await outcome(role, statement)]).toEqual([role, statement, may])
      const register = `insert into twinbox.worker (kind, consumer, host, pid, version, application) values ('${kind}', 'c', 'h', 1, '0', '')`
      expect([role, kind, await outcome(role, register)]).toEqual([role, kind, role === kind ? 'ok' : denied])
      const forget = `delete from twinbox.worker ${of}`
      const may2 = role === 'operator' || (role === 'relay' && kind === 'relay') ? 'ok' : denied
      expect([role, kind, await outcome(role, forget)]).toEqual([role, kind, may2])
    }
  }
  // Those that have ended are pruned by relays, whatever they were.
  await database.query(`update twinbox.worker set ended_at = now(), ended_by = 'stop' where consumer = 'c'`)
  for (const kind of kinds)
    expect(await outcome('relay', `delete from twinbox.worker where id = ${ids[kind]}`)).toBe('ok')
})
