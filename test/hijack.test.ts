import pg from 'pg'
import { afterAll, beforeAll, expect, test } from 'vitest'
import {
  createClaimer,
  createOutbox,
  createReceiver,
  createRelay,
  diagnose,
  migrate,
  migrationFiles,
  readStatus,
} from '../src/index.ts'
import { postgres } from '../src/brokers/postgres/postgres.ts'
import { catalogue } from '../src/database/sql/catalogue.ts'
import { recordEvents } from './support/events.ts'
import { createTestDatabase, type TestDatabase } from './support/postgres.ts'

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

let database: TestDatabase
beforeAll(async () => {
  database = await createTestDatabase({ migrated: false })
  const array = (values: readonly string[]): string =>
    `array[${values.map((value) => `'${value}'`).join(', ')}]::text[]`
  const script = Object.entries({ types, few, arrays, names: names() }).reduce(
    (text, [name, values]) => text.replaceAll(`$${name}`, () => array(values)),
    traps,
  )
  await database.query(script)
}, 120_000)
afterAll(() => database.drop())

const calls = async (): Promise<boolean> =>
  (await database.query<{ called: boolean }>('select is_called as called from trap.calls'))[0]!.called

test('the traps are there, and spring', async () => {
  const [{ count }] = (await database.query<{ count: number }>(
    `select (select pg_catalog.count(*) from pg_operator where oprnamespace = 'public'::regnamespace::oid)::int as count`,
  )) as [{ count: number }]
  expect(count).toBeGreaterThan(1000)
  for (const text of [
    'select 5::bigint % 2::int',
    'select 5::bigint | 2',
    `select hashtextextended('a'::text, 0)`,
  ])
    await expect(database.query(text)).rejects.toThrow('hijacked')
  await database.query(`select setval('trap.calls', 1, false)`)
  expect(await calls()).toBe(false)
}, 60_000)

test('nothing that we run calls anything outside of pg_catalog and our schema', async () => {
  const { url } = database
  await migrate(url)
  const outbox = createOutbox({ preparedStatements: true })
  const broker = postgres({ database: url })
  const events = recordEvents()
  const topics = ['order.#']
  await using receiver = createReceiver({ database: url, broker, consumer: 'c', topics })
  await receiver.start()
  const client = new pg.Client({ connectionString: url })
  await client.connect()
  await client.query('begin')
  const of = (key: string | null) => ({ topic: 'order.placed', key, payload: { n: 1 } })
  await outbox.publish(client, of('a'))
  await outbox.publish(client, of(null), { orderingLock: true })
  await outbox.publish(client, of('b'), { orderingLock: true })
  await outbox.publishMany(client, [of('a'), of('b'), of(null)], { orderingLock: true })
  await outbox.publishMany(client, [of('c'), of(null)])
  await outbox.publish(client, { ...of('d'), dedupeKey: 'once' })
  await outbox.publish(client, { ...of('d'), dedupeKey: 'later', delayMs: 60_000 })
  await outbox.publish(client, { ...of('d'), expiresAt: new Date(Date.now() + 60_000) })
  expect(await outbox.cancel(client, { topic: 'order.placed', dedupeKey: 'later' })).toEqual({
    cancelled: true,
  })
  await client.query(
    `select twinbox.publish('order.sql'::text, '{}'::json, 'k'::text, dedupe_key => 'x'::text)`,
  )
  await client.query(
    `select twinbox.publish('order.sql'::text, body => '\\x00'::bytea, delay => '1 day'::interval)`,
  )
  await client.query('commit')
  await client.end()
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
  await expect.poll(() => database.query(left), { timeout: 30_000 }).toEqual([])
  expect((await readStatus(url)).outbox.deferred.count).toBe(1)
  await diagnose(url)
  await Promise.all([relay.stop(), claimer.stop(), receiver.stop()])
  await broker.close()
  expect(events.all.filter((event) => 'error' in event && /hijacked/.test(String(event.error)))).toEqual([])
  expect(await calls()).toBe(false)
}, 120_000)
