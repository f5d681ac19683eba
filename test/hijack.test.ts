import { randomUUID } from 'node:crypto'
import pg from 'pg'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import {
  createClaimer,
  createOutbox,
  createReceiver,
  createRelay,
  createSchedules,
  diagnose,
  evictWorkers,
  migrate,
  migrationFiles,
  prune,
  readAudit,
  readStatus,
  unsubscribe,
  withTransaction,
} from '../src/index.ts'
import { postgres } from '../src/brokers/postgres/postgres.ts'
import { printedFiles } from '../src/database/migrate.ts'
import { catalogue } from '../src/database/sql/catalogue.ts'
import { inboxSql } from '../src/database/sql/inbox.ts'
import { currentXid, transactionStatus } from '../src/database/sql/server.ts'
import { recordEvents } from './support/events.ts'
import { createTestDatabase, type TestDatabase } from './support/postgres.ts'
import { describeWith } from './support/require.ts'
import { findPgBouncer } from './support/servers/pgbouncer.ts'

/**
 * Postgres takes an operator or a function whose types fit exactly before one that needs a conversion, in whatever schema of
 * the search_path it stands (CVE-2018-1058). Here, `public` has a trap for each operator of pg_catalog with each pair of types
 * for which pg_catalog has none, and the same for each function that our SQL names.
 */
const types = [
  ...['smallint', 'integer', 'bigint', 'numeric', 'float8', 'text', 'uuid', 'oid', 'regclass', 'boolean'],
  ...['timestamptz', 'interval', 'json', 'jsonb', 'bytea', 'name', 'xid8'],
]
const few = ['smallint', 'integer', 'bigint', 'numeric', 'float8', 'text', 'timestamptz', 'regclass', 'bytea']
const arrays = ['smallint[]', 'integer[]', 'bigint[]', 'text[]', 'uuid[]', 'bytea[]']

const traps = `do $$
declare
  each record;
  body text;
begin
  create schema trap;
  create sequence trap.calls;
  grant usage on schema trap to public;
  grant all on sequence trap.calls to public;
  for each in
    select o.name, l.type as l, r.type as r, o.compares
    from (select distinct oprname as name, bool_or(oprresult = 'bool'::regtype) as compares
      from pg_operator where oprname in ('+', '-', '*', '/', '%', '^', '&', '|', '||', '=', '<>', '<', '>', '<=', '>=', '<<', '>>')
      group by oprname) as o
    cross join unnest($types) as l(type) cross join unnest($types) as r(type)
    where to_regoperator(format('pg_catalog.%s(%s,%s)', o.name, l.type, r.type)) is null
  loop
    body := format('begin perform pg_catalog.nextval(''trap.calls''); raise exception using message = %L; end', 'hijacked ' || each::text);
    execute format('create function public.trap_%s(a %s, b %s) returns %s language plpgsql as %L',
      md5(each::text), each.l, each.r, case when each.compares then 'boolean' else each.l end, body);
    execute format('create operator public.%s (leftarg = %s, rightarg = %s, function = public.trap_%s)',
      each.name, each.l, each.r, md5(each::text));
  end loop;
  for each in
    select f.name, s.args
    from (select distinct p.proname as name from pg_proc as p
      where p.pronamespace = 'pg_catalog'::regnamespace and p.proname = any ($names)) as f
    cross join (
      select a as args from unnest($types || $arrays) as a
      union all select a || ',' || b from unnest($few) as a cross join unnest($few) as b
      union all select 'text,text,' || c from unnest($few) as c
    ) as s
    where to_regprocedure(format('pg_catalog.%I(%s)', f.name, s.args)) is null
  loop
    body := format('begin perform pg_catalog.nextval(''trap.calls''); raise exception using message = %L; end', 'hijacked ' || each::text);
    execute format('create function public.%I(%s) returns text language plpgsql as %L', each.name, each.args, body);
  end loop;
end $$`

/**
 * What stands before pg_catalog in a search_path that says so, is taken even if pg_catalog's own fits exactly. So `evil` has
 * each operator of pg_catalog, each function that our SQL names, with each of its signatures, and each type.
 */
const shadows = `do $$
declare
  each record;
  body text;
begin
  create schema evil;
  grant usage on schema evil to public;
  for each in
    select o.oprname as name, o.oprleft::regtype::text as l, o.oprright::regtype::text as r, o.oprresult::regtype::text as result
    from pg_operator as o where o.oprnamespace = 'pg_catalog'::regnamespace and o.oprleft <> 0
  loop
    body := format('begin perform pg_catalog.nextval(''trap.calls''); raise exception using message = %L; end', 'hijacked ' || each::text);
    begin
      execute format('create function evil.shadow_%s(a %s, b %s) returns %s language plpgsql as %L',
        md5(each::text), each.l, each.r, each.result, body);
      execute format('create operator evil.%s (leftarg = %s, rightarg = %s, function = evil.shadow_%s)',
        each.name, each.l, each.r, md5(each::text));
    -- Of a type that no function may be written for.
    exception when invalid_function_definition or feature_not_supported or datatype_mismatch then null;
    end;
  end loop;
  for each in
    select distinct p.proname as name, array(
      select case when t = '"any"'::regtype then 'anyelement' else t::text end
      from unnest(p.proargtypes::oid[]::regtype[]) with ordinality as u(t, nr) order by nr)::text[] as args
    from pg_proc as p
    where p.pronamespace = 'pg_catalog'::regnamespace and p.proname = any ($names)
  loop
    body := format('begin perform pg_catalog.nextval(''trap.calls''); raise exception using message = %L; end', 'hijacked ' || each::text);
    begin
      execute format('create function evil.%I(%s) returns pg_catalog.text language plpgsql as %L',
        each.name, array_to_string(each.args, ', '), body);
    exception when invalid_function_definition or feature_not_supported or datatype_mismatch or duplicate_function then null;
    end;
  end loop;
  for each in
    select t.typname as name from pg_type as t
    where t.typnamespace = 'pg_catalog'::regnamespace and t.typtype = 'b' and t.typcategory <> 'A' and t.typname !~ '^pg_|"'
  loop
    execute format('create type evil.%I as (hijacked pg_catalog.int4)', each.name);
  end loop;
end $$`

/** Words that stand before a parenthesis in our SQL: among them every function that it names. */
function names(): string[] {
  const texts = [
    ...[...catalogue('twinbox').values()].map(({ text }) => text),
    ...migrationFiles().map(({ sql }) => sql),
  ]
  return [
    ...new Set(texts.flatMap((text) => [...text.matchAll(/\b([a-z_]\w*)\(/g)].map(([, name]) => name!))),
  ]
}

const array = (values: readonly string[]): string =>
  `array[${values.map((value) => `'${value}'`).join(', ')}]::text[]`
const filled = (script: string): string =>
  Object.entries({ types, few, arrays, names: names() }).reduce(
    (text, [name, values]) => text.replaceAll(`$${name}`, () => array(values)),
    script,
  )
let database: TestDatabase
/** Sessions of the tests' own, on which nothing is in the way. */
let admin: pg.Pool
const query = async <Row>(text: string): Promise<Row[]> => (await admin.query(text)).rows as Row[]
beforeAll(async () => {
  database = await createTestDatabase({ migrated: false })
  admin = new pg.Pool({ connectionString: database.url, options: '-c search_path=pg_catalog' })
  // With `public` in its path, the script falls into its own traps when Postgres plans a line of it anew, as it does under load.
  await query(filled(traps))
  await query(filled(shadows))
}, 120_000)
afterAll(async () => {
  await admin.end()
  await database.drop()
})

const calls = async (): Promise<boolean> =>
  (await query<{ called: boolean }>('select is_called as called from trap.calls'))[0]!.called

/** Each new session of this database looks there first, unless it says something else itself. */
const lookFirst = (path: string): Promise<unknown> =>
  query(`alter database ${new URL(database.url).pathname.slice(1)} set search_path = ${path}`)

test('the traps are there, and spring', async () => {
  const counts = await query<{ public: number; evil: number; functions: number }>(
    `select pg_catalog.count(*) filter (where oprnamespace = 'public'::regnamespace::oid)::int as public,
      pg_catalog.count(*) filter (where oprnamespace = 'evil'::regnamespace::oid)::int as evil,
      (select pg_catalog.count(*) from pg_proc where pronamespace = 'evil'::regnamespace::oid)::int as functions
    from pg_operator`,
  )
  expect(counts[0]!.public).toBeGreaterThan(1000)
  expect(counts[0]!.evil).toBeGreaterThan(600)
  expect(counts[0]!.functions - counts[0]!.evil).toBeGreaterThan(150)
  const spring = async (path: string, texts: readonly string[]): Promise<void> => {
    for (const text of texts) {
      await expect(
        withTransaction(admin, async (client) => {
          await client.query(`set local search_path = ${path}`)
          await client.query(text)
        }),
      ).rejects.toThrow(/hijacked|evil|record/)
    }
  }
  await spring('public', [
    'select 5::bigint % 2::int',
    'select 5::bigint | 2',
    `select hashtextextended('a'::text, 0)`,
  ])
  await spring('evil, pg_catalog', [
    'select 5 + 2',
    'select 1 where 5 = 5',
    'select clock_timestamp()',
    `select from pg_catalog.pg_class where relname in ('a', 'b')`,
    `select nullif('a'::pg_catalog.text, '')`,
    `select 'a'::uuid`,
    `select pg_notify('a', 'b')`,
  ])
  await query(`select setval('trap.calls', 1, false)`)
  expect(await calls()).toBe(false)
}, 60_000)

/** From the publisher to the handler, over everything that runs on a connection of the user's. */
async function work(url: string): Promise<void> {
  const label = randomUUID()
  const outbox = createOutbox(url === database.url ? { preparedStatements: true } : {})
  const broker = postgres({ database: url })
  const events = recordEvents()
  const topics = ['order.#']
  await using receiver = createReceiver({ database: url, broker, consumer: 'c', topics })
  await receiver.start()
  const pool = new pg.Pool({ connectionString: url, max: 2 })
  await withTransaction(pool, async (client) => {
    const of = (key: string | null) => ({ topic: 'order.placed', key, payload: { n: 1 } })
    await outbox.publish(client, of('a'))
    await outbox.publish(client, of(null), { orderingLock: true })
    await outbox.publish(client, of('b'), { orderingLock: true })
    await outbox.publishMany(client, [of('a'), of('b'), of(null)], { orderingLock: true })
    await outbox.publishMany(client, [of('c'), of(null)])
    // So many keys take another way through the statement.
    const many = Array.from({ length: 600 }, (_, n) => of(`k${n}`))
    await outbox.publishMany(client, many, { orderingLock: true })
    await outbox.publish(client, { ...of('d'), dedupeKey: label })
    const duplicate = await outbox.publish(client, { ...of('d'), dedupeKey: label })
    expect(duplicate).toMatchObject({ duplicate: true })
    await outbox.publish(client, { ...of('d'), dedupeKey: `later ${label}`, delayMs: 60_000 })
    await outbox.publish(client, { ...of('d'), expiresAt: new Date(Date.now() + 60_000) })
    const cancelled = await outbox.cancel(client, { topic: 'order.placed', dedupeKey: `later ${label}` })
    expect(cancelled).toEqual({ cancelled: true })
    await client.query(
      `select twinbox.publish('order.sql'::pg_catalog.text, '{}'::pg_catalog.json, 'k'::pg_catalog.text, dedupe_key => '${label}'::pg_catalog.text)`,
    )
    await client.query(
      `select twinbox.publish('order.sql'::pg_catalog.text, body => ''::pg_catalog.bytea, delay => '1 day'::interval)`,
    )
    // What is asked after a commit that was cut off, and of a handler whose transaction reads from a snapshot.
    const { rows } = await client.query<{ xid: string }>(currentXid)
    await client.query(transactionStatus.text, transactionStatus.bind(rows[0]!))
    const { hold } = inboxSql('twinbox')
    await client.query(hold.text, hold.bind({ consumer: 'c', lanes: [64], seqs: [1], fences: [1] }))
  })
  await pool.end()
  await using relay = createRelay({ database: url, broker })
  await using claimer = createClaimer(
    { database: url, consumer: 'c', maxAttempts: 1, onDead: 'skip', onEvent: events.onEvent },
    {
      'order.placed': async () => {},
      'order.sql': async () => {
        throw new Error('no')
      },
    },
  )
  await Promise.all([relay.start(), claimer.start()])
  await events.next('dead_letter')
  const left = 'select from twinbox.outbox union all select from twinbox.inbox'
  await expect.poll(() => query(left), { timeout: 40_000 }).toEqual([])
  expect((await readStatus(url)).outbox.deferred.count).toBeGreaterThan(0)
  expect((await diagnose(url)).filter(({ found }) => sprung.test(found))).toEqual([])
  await Promise.all([relay.stop(), claimer.stop(), receiver.stop()])
  await operate(url)
  await broker.close()
  const errors = events.all.flatMap((event) => ('error' in event ? [String(event.error)] : []))
  expect(errors.filter((error) => sprung.test(error))).toEqual([])
}

/** What an operator does to workers, schedules, subscriptions and what is remembered, each with its row of the audit. */
async function operate(url: string): Promise<void> {
  const [{ id }] = (await query(
    `insert into twinbox.worker (kind, consumer, host, pid, version, application) values ('relay', '', 'h', 1, '0', 'a') returning id`,
  )) as [{ id: number }]
  const schedules = createSchedules({ database: url })
  expect(await schedules.set({ name: 's', cron: '0 6 * * *', topic: 't', payload: 1 })).toEqual({
    changed: true,
  })
  expect(await schedules.pause('s')).toBe(true)
  expect(await schedules.resume('s')).toBe(true)
  expect(await schedules.remove('s')).toBe(true)
  expect(await evictWorkers(url, [id])).toMatchObject({ evicted: [id] })
  expect(await unsubscribe(url, { consumer: 'c', topics: ['order.#'] })).toMatchObject({
    unsubscribed: ['order.#'],
  })
  expect(await prune(url, 'seen', { olderThanMs: 0 })).toBeGreaterThan(0)
  const did = (await readAudit(url, { limit: 7 })).map(({ action }) => action).toReversed()
  expect(did).toEqual(['set', 'pause', 'resume', 'remove', 'evict', 'unsubscribe', 'prune'])
}

const sprung = /hijack|evil|record literal/

test('nothing that we run calls anything outside of pg_catalog and our schema', async () => {
  await migrate(database.url)
  await work(database.url)
  expect(await calls()).toBe(false)
}, 120_000)

describe('on sessions that look elsewhere before pg_catalog', () => {
  beforeAll(() => lookFirst('evil, pg_catalog'))

  test('nothing is called by the SQL that migrate prints, in a transaction or not', async () => {
    const client = new pg.Client({ connectionString: database.url })
    await client.connect()
    for (const inTransaction of [true, false]) {
      await query('drop schema if exists twinbox cascade')
      if (inTransaction) await client.query('begin')
      for (const { sql } of printedFiles()) await client.query(sql)
      expect((await client.query('show search_path')).rows).toEqual([{ search_path: 'evil, pg_catalog' }])
      if (inTransaction) await client.query('commit')
    }
    await client.end()
    expect(await calls()).toBe(false)
    expect(await migrate(database.url)).toEqual([])
  }, 60_000)

  test('nothing is called by migrate, by publishers, workers and handlers', async () => {
    await query('drop schema twinbox cascade')
    await migrate(database.url)
    await work(database.url)
    expect(await calls()).toBe(false)
  }, 120_000)
})

describeWith('pgbouncer', await findPgBouncer(), 'behind a pooler that shares such sessions', (pgbouncer) => {
  test('nothing is called either', async () => {
    await query('drop schema if exists twinbox cascade')
    // Whether it has come up is asked with a plain statement, on a session that it keeps.
    await lookFirst('default')
    const pooler = await pgbouncer.start(database.url)
    await lookFirst('evil, pg_catalog')
    await query(`select pg_terminate_backend(pid) from pg_stat_activity
      where datname = current_database() and backend_type = 'client backend' and pid <> pg_backend_pid()`)
    const pathOf = async (): Promise<unknown> => {
      const client = new pg.Client({ connectionString: pooler.url })
      client.on('error', () => {})
      await client.connect()
      const found = await client.query<{ search_path: string }>('show search_path').catch(() => null)
      await client.end()
      return found?.rows[0]!.search_path
    }
    try {
      await expect.poll(pathOf).toBe('evil, pg_catalog')
      await migrate(pooler.url)
      await work(pooler.url)
      expect(await calls()).toBe(false)
    } finally {
      await pooler.stop()
    }
  }, 120_000)
})
