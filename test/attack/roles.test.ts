import { randomBytes, randomUUID } from 'node:crypto'
import pg from 'pg'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { sqlstate } from '../../src/database/sqlstate.ts'
import { roleNames, type RoleName } from '../../src/database/sql/roles.ts'
import { applyRoles, createClaimer } from '../../src/index.ts'
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

  const times = [
    `'infinity'`,
    `'-infinity'`,
    `'290000-01-01'`,
    `now() + interval '3700 days'`,
    `'1970-01-01'`,
  ]
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

test('a publisher learns of one dedupe key whether it is taken, and makes none last longer', async () => {
  const id = randomUUID()
  await database.query(`insert into twinbox.dedupe (topic, dedupe_key, id, expires_at)
    values ('t', 'theirs', '${id}', now() + interval '1 hour')`)
  const take = (key: string, time: string): string =>
    `select k.id from twinbox.take_dedupe_keys('{t}', array['${key}'], array[gen_random_uuid()], ${time}) as k`
  const { rows } = await clients.publisher.query<{ id: string }>(take('theirs', `'3650 days'`))
  expect(rows).toEqual([{ id }])
  const left = `select expires_at < now() + interval '2 hours' as same from twinbox.dedupe where id = '${id}'`
  expect(await database.query(left)).toEqual([{ same: true }])
  expect(await outcome('publisher', take('mine', `'3650 days'`))).toBe('ok')
  expect(await outcome('publisher', take('mine', `'9999 years'`))).toBe(unsound)
  expect(await outcome('publisher', take('x'.repeat(513), `'1 day'`))).toBe(unsound)
  for (const role of roleNames.filter((name) => name !== 'publisher')) {
    expect([role, await outcome(role, take('mine', `'1 day'`))]).toEqual([role, denied])
  }
})

test('a row of a worker ends no session of another application', async () => {
  await clients.claimer.query(`set application_name = 'billing-api'`)
  const bystander = new pg.Client({ connectionString: url('claimer'), application_name: 'billing-api' })
  const tagged = new pg.Client({ connectionString: url('claimer'), application_name: 'api twinbox 0123abcd' })
  const ended: string[] = []
  bystander.on('error', () => ended.push('bystander'))
  const gone = new Promise<void>((resolve) => tagged.on('end', resolve))
  tagged.on('error', () => ended.push('tagged'))
  await bystander.connect()
  await tagged.connect()
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
  // What carries our tag is found last, so that the other one has been decided on when it ends.
  for (const application of ['billing-api', 'api twinbox 0123abcd']) {
    await clients.receiver.query(
      `insert into twinbox.worker (kind, consumer, host, pid, version, application, beat_at)
      values ('claimer', 'kill', 'h', 1, '0', $1, '2000-01-01')`,
      [application],
    )
  }
  await claimer.start()
  try {
    await seen.next('worker_dead', () => true, 2)
    await gone
    await claimer.stop()
    expect((await bystander.query('select 1 as one')).rows).toEqual([{ one: 1 }])
    expect(ended).not.toContain('bystander')
  } finally {
    await claimer.stop()
    await bystander.end().catch(() => {})
  }
})
