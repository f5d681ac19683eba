import { randomBytes } from 'node:crypto'
import pg from 'pg'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { roleNames, type RoleName } from '../../src/database/sql/grants.ts'
import { applyRoles } from '../../src/index.ts'
import { createTestDatabase, serverUrl, type TestDatabase } from '../support/postgres.ts'

/**
 * What each role may do, written down once more and apart from what grants it. Somebody logs in as each role and tries everything
 * on every column, function and sequence that the catalog has: what is not written here has to be refused, and what is new is in
 * no list, which fails.
 *
 * s select, i insert, u update, d delete; in parentheses the only columns, or all but those with a minus.
 */
type Rights = Partial<Record<RoleName, string>>

const registered = 'id kind consumer host pid version application locked_on topics'
const ending = 'ended_at ended_by lane_assignees row_assignees reserved_until'
const member = `s i(${registered}) u(beat_at in_flight busy_topics busy_rates locked_on sign stuck_topic stuck_since broker_error broker_down_since ${ending})`
const audited = 'i(action who why consumer topic key id seq died_at attempt reason errors)'
const message = 'id topic key headers payload body content_type expires_at'
const unseen = 's(-payload -body -headers -dedupe_key)'

const tables: Readonly<Record<string, Rights>> = {
  outbox: { publisher: `i(lane ${message})`, relay: 's i u d', operator: 's i u d', reader: unseen },
  dedupe: { relay: 's i d', operator: 's i u d' },
  inbox: { receiver: 'i', claimer: 's i u d', operator: 's i u d', reader: unseen },
  seen: { receiver: 's i d', operator: 's i u d', reader: 's(seen_at id consumer)' },
  subscription: { receiver: 's i u', operator: 's i u d', reader: 's' },
  worker: {
    relay: `${member} d`,
    receiver: member,
    claimer: member,
    operator: `s u(${ending}) d`,
    reader: 's',
  },
  lane: { relay: 's i u', receiver: 's i', claimer: 's i u', operator: 's i u d', reader: 's' },
  deferred: {
    publisher: `i(due_at published_at dedupe_key ${message})`,
    relay: 's i u d',
    claimer: 's i u d',
    operator: 's i u d',
    reader: unseen,
  },
  parked: { relay: 's i u d', claimer: 's i u d', operator: 's i u d', reader: unseen },
  parked_message: { relay: 's i d', claimer: 's i d', operator: 's i u d', reader: unseen },
  unhandled: { claimer: 's i u d', operator: 's i u d', reader: unseen },
  circuit: { claimer: 's i u d', operator: 's i u d', reader: 's' },
  incarnation: { relay: 's i', receiver: 's i', claimer: 's i' },
  dead_letter: { relay: 's i d', receiver: 'i', claimer: 's i d', operator: 's i u d', reader: unseen },
  audit: { relay: audited, claimer: audited, operator: `s ${audited}`, reader: 's' },
  handled: { claimer: 's i d', operator: 's i u d', reader: 's' },
  schedule: { relay: 's u', operator: 's i u d', reader: unseen },
  migration: { relay: 's', receiver: 's', claimer: 's', operator: 's', reader: 's' },
}

const functions: Readonly<Record<string, readonly RoleName[]>> = {
  cancel: ['canceller'],
  complete_one: ['claimer'],
  complete_many: ['claimer'],
  each_header_is_sound: ['publisher', 'relay', 'claimer', 'operator'],
  erase_audit: ['operator'],
  incarnation: ['relay', 'receiver', 'claimer'],
  lane_of: ['publisher', 'relay', 'receiver', 'claimer', 'operator', 'reader'],
  mend_sequences: ['relay', 'receiver', 'claimer'],
  new_id: ['publisher'],
  own_kind: [],
  pending: ['publisher'],
  prune_audit: ['operator'],
  publish: ['publisher'],
  publish_many: ['publisher'],
  publish_one: ['publisher'],
  refuse_policies: [],
  sound_headers: ['publisher', 'relay', 'claimer', 'operator'],
}

/** n nextval, s select, u setval. Numbers of rows that are inserted want no right. */
const sequences: Readonly<Record<string, Rights>> = {
  audit_number_seq: {},
  dead_letter_number_seq: {},
  deferred_seq_seq: {},
  handled_number_seq: {},
  inbox_seq_seq: { claimer: 's' },
  outbox_seq_seq: { relay: 's' },
  worker_id_seq: { relay: 'n', receiver: 'n', claimer: 'n' },
}

const unique = `l${randomBytes(5).toString('hex')}`
const clients = {} as Record<RoleName, pg.Client>
let database: TestDatabase
let outsider: pg.Client

async function login(name: string, role: RoleName | null): Promise<pg.Client> {
  await database.query(`create role ${unique}_${name} login password 'secret'`)
  if (role !== null) await database.query(`grant twinbox_${role} to ${unique}_${name}`)
  const url = Object.assign(new URL(database.url), { username: `${unique}_${name}`, password: 'secret' })
  const client = new pg.Client({ connectionString: url.toString() })
  await client.connect()
  await client.query(`create function pg_temp.outcome(statement text) returns text language plpgsql as $$
    begin
      execute statement;
      raise exception using errcode = 'TW000';
    exception when others then
      return case sqlstate when 'TW000' then 'ok' else sqlstate end;
    end $$`)
  return client
}

beforeAll(async () => {
  database = await createTestDatabase()
  await applyRoles(database.url)
  for (const role of roleNames) clients[role] = await login(role, role)
  outsider = await login('outsider', null)
})
afterAll(async () => {
  for (const client of [...Object.values(clients), outsider]) await client.end()
  await database.drop()
  const server = new pg.Client({ connectionString: await serverUrl() })
  await server.connect()
  for (const name of [...roleNames, 'outsider']) await server.query(`drop role if exists ${unique}_${name}`)
  await server.end()
})

const denied = '42501'

/** With what each statement ends: "ok", or its SQLSTATE. Nothing of any remains. */
async function outcomes(client: pg.Client, statements: readonly string[]): Promise<string[]> {
  const { rows } = await client.query<{ outcome: string }>(
    'select pg_temp.outcome(s) as outcome from unnest($1::text[]) with ordinality as a(s, nr) order by nr',
    [statements],
  )
  return rows.map(({ outcome }) => outcome)
}

const relations = (kinds: string): Promise<{ name: string; columns: string[] }[]> =>
  database.query(`select c.relname::text as name, array_agg(a.attname::text order by a.attnum) as columns
    from pg_class as c join pg_attribute as a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
    where c.relnamespace = 'twinbox'::regnamespace and c.relkind in (${kinds}) group by 1 order by 1`)

/** Of a list such as `s i(a b) u(-c)`, whether a column is in it under that letter. */
function allows(rights: string | undefined, letter: string, column: string): boolean {
  const found = (rights ?? '').match(new RegExp(`\\b${letter}(?:\\(([^)]*)\\))?(?= |$)`))
  if (found === null) return false
  const columns = found[1]?.split(' ') ?? []
  if (columns.length === 0) return true
  return columns[0]!.startsWith('-') ? !columns.includes(`-${column}`) : columns.includes(column)
}

test('every table, sequence and function is in a list', async () => {
  expect((await relations(`'r', 'p', 'v', 'm', 'f'`)).map(({ name }) => name)).toEqual(
    Object.keys(tables).toSorted(),
  )
  expect((await relations(`'S'`)).map(({ name }) => name)).toEqual(Object.keys(sequences).toSorted())
  const known = await database.query<{ name: string }>(
    `select distinct proname::text as name from pg_proc where pronamespace = 'twinbox'::regnamespace order by 1`,
  )
  expect(known.map(({ name }) => name)).toEqual(Object.keys(functions).toSorted())
})

test('a list is read as it is meant', () => {
  expect(['s', 'i', 'u', 'd'].map((letter) => allows('s i(a b) u(-c)', letter, 'c'))).toEqual([
    ...[true, false, false, false],
  ])
  expect(['s', 'i', 'u', 'd'].map((letter) => allows('s i(a b) u(-c)', letter, 'a'))).toEqual([
    ...[true, true, true, false],
  ])
})

// Privileges are checked when a plan is made ready, so nothing has to be run.
const tries = (table: string, column: string): Readonly<Record<'s' | 'i' | 'u' | 'd', string>> => ({
  s: `explain select ${column} from twinbox.${table}`,
  i: `explain insert into twinbox.${table} (${column}) overriding system value values (default)`,
  u: `explain update twinbox.${table} set ${column} = default`,
  d: `explain delete from twinbox.${table}`,
})

test.each(roleNames)('%s may do to each column what is written down, and nothing else', async (role) => {
  const cases = (await relations(`'r'`)).flatMap(({ name, columns }) =>
    columns.flatMap((column) =>
      Object.entries(tries(name, column)).map(([letter, statement]) => ({
        statement,
        expected: allows(tables[name]![role], letter, column) ? 'ok' : denied,
      })),
    ),
  )
  const found = await outcomes(
    clients[role],
    cases.map(({ statement }) => statement),
  )
  expect(cases.length).toBeGreaterThan(500)
  expect(cases.map(({ statement }, index) => `${found[index]} ${statement}`)).toEqual(
    cases.map(({ statement, expected }) => `${expected} ${statement}`),
  )
})

const calls = async (): Promise<{ name: string; statement: string }[]> =>
  // Arguments of a subquery, or a strict function of nulls would not so much as be called.
  database.query(`select p.proname::text as name, format('select twinbox.%I(%s) from (select %s offset 0) as a', p.proname,
      string_agg('a.a' || t.nr, ', ' order by t.nr), coalesce(string_agg(format('null::%s as a%s', t.type::regtype, t.nr), ', '
      order by t.nr) filter (where t.nr is not null), '1')) as statement
    from pg_proc as p left join lateral unnest(p.proargtypes::oid[]) with ordinality as t(type, nr) on true
    where p.pronamespace = 'twinbox'::regnamespace group by p.oid, p.proname order by 1`)

test.each(roleNames)('%s may call what is written down, and set no sequence', async (role) => {
  const all = await calls()
  const found = await outcomes(
    clients[role],
    all.map(({ statement }) => statement),
  )
  expect(all.filter((_, index) => found[index] !== denied).map(({ name }) => name)).toEqual(
    all.map(({ name }) => name).filter((name) => functions[name]!.includes(role)),
  )
  for (const [name, rights] of Object.entries(sequences)) {
    const letters = {
      n: `select nextval('${name}')`,
      s: `select last_value from ${name}`,
      u: `select setval('${name}', 1)`,
    }
    const results = await outcomes(
      clients[role],
      Object.values(letters).map((text) => text.replace(name, `twinbox.${name}`)),
    )
    expect([name, results]).toEqual([
      name,
      Object.keys(letters).map((letter) => (rights[role] === letter ? 'ok' : denied)),
    ])
  }
})

test.each(roleNames)('%s owns nothing: empties, makes, alters and drops no table', async (role) => {
  const names = Object.keys(tables)
  const statements = [
    ...names.flatMap((name) => [
      `truncate twinbox.${name}`,
      `drop table twinbox.${name} cascade`,
      `alter table twinbox.${name} disable trigger all`,
      `alter table twinbox.${name} enable row level security`,
      `create trigger t before insert on twinbox.${name} for each row execute function pg_catalog.suppress_redundant_updates_trigger()`,
      `create policy p on twinbox.${name}`,
      `create index on twinbox.${name} ((1))`,
    ]),
    'create table twinbox.mine (id int)',
    'create function twinbox.mine() returns int language sql as $f$select 1$f$',
    'drop schema twinbox cascade',
    ...roleNames.filter((other) => other !== role).map((other) => `set role twinbox_${other}`),
    `set session authorization ${unique}_outsider`,
  ]
  const found = await outcomes(clients[role], statements)
  expect(statements.filter((_, index) => found[index] !== denied)).toEqual([])
  expect(
    await database.query(`select c.relname from pg_class as c cross join lateral aclexplode(c.relacl) as acl
      where c.relnamespace = 'twinbox'::regnamespace and (acl.grantee = 0 or acl.is_grantable and acl.grantee <> c.relowner
        or acl.privilege_type in ('TRUNCATE', 'REFERENCES', 'TRIGGER', 'MAINTAIN') and acl.grantee <> c.relowner)`),
  ).toEqual([])
})

test('whoever has none of the roles may nothing at all', async () => {
  const statements = [
    ...(await relations(`'r'`)).flatMap(({ name, columns }) => Object.values(tries(name, columns[0]!))),
    ...(await calls()).map(({ statement }) => statement),
    ...Object.keys(sequences).map((name) => `select nextval('twinbox.${name}')`),
  ]
  expect(new Set(await outcomes(outsider, statements))).toEqual(new Set([denied]))
})
