import { randomBytes } from 'node:crypto'
import pg from 'pg'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { postgres } from '../../src/brokers/postgres/postgres.ts'
import { roleNames } from '../../src/database/sql/grants.ts'
import { sqlstate } from '../../src/database/sqlstate.ts'
import {
  applyRoles,
  createClaimer,
  createOutbox,
  createRelay,
  diagnose,
  readRoles,
  rolesScript,
} from '../../src/index.ts'
import { firstTo, Stage } from '../crash/stage.ts'
import { createTestDatabase, serverUrl, type TestDatabase } from '../support/postgres.ts'

/** Somebody logs in with the roles of one consumer, and tries to get at what is another one's. */

const unique = `n${randomBytes(5).toString('hex')}`
/** Roles are the server's, so names of consumers are of this run. */
const [billing, shipping] = [`${unique}_b`, `${unique}_s`]
const users: string[] = []
let stage: Stage
let database: TestDatabase

beforeAll(async () => {
  stage = await Stage.open()
  database = stage.database
  await applyRoles(database.url, { consumers: [billing, shipping] })
})
afterAll(async () => {
  await stage.close()
  const server = new pg.Client({ connectionString: await serverUrl() })
  await server.connect()
  for (const name of users) await server.query(`drop role if exists ${name}`)
  for (const consumer of [billing, shipping, 'crash']) {
    for (const kind of ['receiver', 'claimer'])
      await server.query(`drop role if exists twinbox_${kind}_${consumer}`)
  }
  await server.end()
})

async function user(...roles: string[]): Promise<string> {
  const name = `${unique}_${users.length}`
  users.push(name)
  await database.query(`create role ${name} login password 'secret'`)
  for (const role of roles) await database.query(`grant twinbox_${role} to ${name}`)
  await database.query(`grant select, insert, update on ledger, effects, touched to ${name}`)
  await database.query(`grant usage on sequence ledger_at_seq, effects_at_seq to ${name}`)
  return Object.assign(new URL(database.url), { username: name, password: 'secret' }).toString()
}

/** With what a statement ends: how many rows it found or changed, or its SQLSTATE. Nothing of it remains. */
async function outcome(client: pg.Client, statement: string): Promise<number | string> {
  await client.query('begin')
  try {
    const { rowCount } = await client.query(statement)
    return rowCount ?? 0
  } catch (error) {
    return sqlstate(error) ?? 'unknown'
  } finally {
    await client.query('rollback')
  }
}

async function login(...roles: string[]): Promise<pg.Client> {
  const client = new pg.Client({ connectionString: await user(...roles) })
  await client.connect()
  return client
}

const withConsumers = async (): Promise<string[]> =>
  (
    await database.query<{ name: string }>(`select c.relname::text as name from pg_class as c
      join pg_attribute as a on a.attrelid = c.oid and a.attname = 'consumer'
      where c.relnamespace = 'twinbox'::regnamespace and c.relkind = 'r' order by 1`)
  ).map(({ name }) => name)

/** A row of each table that has a consumer, with as little as it takes. */
const rowsOf = (consumer: string): Readonly<Record<string, string>> => {
  const message = { consumer: `'${consumer}'`, id: 'gen_random_uuid()', topic: `'t'` }
  const content = { ...message, payload: `'1'` }
  const of = (row: Readonly<Record<string, string>>): string =>
    `(${Object.keys(row).join(', ')}) values (${Object.values(row).join(', ')})`
  return {
    audit: of({ action: `'skip'`, who: `'me'`, consumer: message.consumer }),
    circuit: of({
      consumer: message.consumer,
      topic: `'t'`,
      probe_at: 'now()',
      reason: `'no'`,
      error: `'no'`,
    }),
    dead_letter: of({ ...content, attempt: '1', reason: `'no'` }),
    deferred: of({ ...content, due_at: 'now()' }),
    handled: of({ ...message, attempt: '1', received_at: 'now()' }),
    inbox: of({ ...content, lane: '64' }),
    lane: of({ consumer: message.consumer, lane: '0' }),
    parked: of({ consumer: message.consumer, lane: '0', key: `'k'`, until: 'now()', reason: `'no'` }),
    parked_message: of({ ...content, lane: '0', key: `'k'`, seq: '1' }),
    seen: of({ consumer: message.consumer, id: message.id }),
    subscription: of({ consumer: message.consumer, pattern: `'t'` }),
    unhandled: of({ ...content, lane: '64', seq: '1', received_at: 'now()' }),
    worker: of({
      consumer: message.consumer,
      kind: `'claimer'`,
      host: `'h'`,
      pid: '1',
      version: `'1'`,
      application: `'a'`,
    }),
  }
}

describe('a role of one consumer', () => {
  let clients: pg.Client[]
  beforeAll(async () => {
    for (const consumer of [billing, shipping]) {
      for (const [table, row] of Object.entries(rowsOf(consumer))) {
        try {
          await database.query(`insert into twinbox.${table} ${row}`)
        } catch (error) {
          throw new Error(`A row of ${table}: ${String(error)}`, { cause: error })
        }
      }
    }
    clients = [await login(`claimer_${billing}`), await login(`receiver_${billing}`)]
  })
  afterAll(async () => {
    for (const client of clients) await client.end()
    for (const table of await withConsumers())
      await database.query(`delete from twinbox.${table} where consumer like '${unique}%'`)
  })

  test('has a policy on every table that says of which consumer a row is', async () => {
    expect(await withConsumers()).toEqual(Object.keys(rowsOf(billing)))
    const narrowed = await database.query<{ name: string }>(
      `select tablename::text as name from pg_policies where policyname = 'twinbox_claimer_${billing}' order by 1`,
    )
    expect(narrowed.map(({ name }) => name)).toEqual(await withConsumers())
  })

  test('may do what its kind may, and sees and changes the rows of its consumer alone', async () => {
    const [everybody, owner] = [
      await login('claimer', 'receiver'),
      new pg.Client({ connectionString: database.url }),
    ]
    await owner.connect()
    const found: Record<string, unknown> = {}
    const expected: Record<string, unknown> = {}
    for (const table of await withConsumers()) {
      const own = `twinbox.${table} where consumer = '${billing}'`
      const others = `twinbox.${table} where consumer = '${shipping}'`
      for (const [number, client] of clients.entries()) {
        const kind = ['claimer', 'receiver'][number]
        for (const [doing, statement] of Object.entries({
          sees: 'select from',
          changes: 'update',
          deletes: 'delete from',
        })) {
          const set =
            statement === 'update'
              ? (text: string) => text.replace(' where', ` set consumer = '${billing}' where`)
              : String
          const may = await outcome(owner, `set local role twinbox_${kind}; ${set(`${statement} ${own}`)}`)
          const name = `${kind} ${doing} ${table}`
          expected[name] = may === '42501' ? ['42501', '42501'] : [1, 0]
          found[name] = [
            await outcome(client, set(`${statement} ${own}`)),
            await outcome(client, set(`${statement} ${others}`)),
          ]
        }
      }
      found[`all see ${table}`] = [await outcome(owner, `select from ${others}`)]
      expected[`all see ${table}`] = [1]
      const seen = await outcome(everybody, `select from ${others}`)
      if (seen !== '42501') expect([table, seen]).toEqual([table, 1])
    }
    await everybody.end()
    await owner.end()
    expect(found).toEqual(expected)
    expect(Object.values(expected).filter((each) => JSON.stringify(each) === '[1,0]').length).toBeGreaterThan(
      20,
    )
  })

  test('writes no row for another consumer, and none of its own over to one', async () => {
    const [claimer] = clients as [pg.Client]
    for (const [table, row] of Object.entries(rowsOf(shipping))) {
      expect([table, await outcome(claimer, `insert into twinbox.${table} ${row}`)]).toEqual([table, '42501'])
      expect([table, await outcome(claimer, `update twinbox.${table} set consumer = '${shipping}'`)]).toEqual(
        [table, '42501'],
      )
    }
  })

  test('becomes no wider one', async () => {
    for (const client of clients) {
      for (const other of ['claimer', 'receiver', 'operator', `claimer_${shipping}`]) {
        expect(await outcome(client, `set role twinbox_${other}`)).toBe('42501')
      }
      for (const statement of [
        `drop policy twinbox_claimer_${billing} on twinbox.inbox`,
        'alter table twinbox.inbox disable row level security',
        `comment on policy twinbox_claimer_${billing} on twinbox.inbox is 'twinbox consumer x'`,
      ]) {
        expect(await outcome(client, statement)).toBe('42501')
      }
      // It hides nothing less, it refuses to be switched off.
      expect(await outcome(client, 'set local row_security = off; select from twinbox.lane')).toBe('42501')
    }
  })
})

describe('workers of one consumer', () => {
  test('receive, claim, fail and take over under its roles', async () => {
    const beats = { heartbeatMs: 100, deadAfterMs: 1000 }
    const quick = { ...beats, backoffMsMin: 10, backoffMsMax: 50 }
    // The stage's consumer.
    await applyRoles(database.url, { consumers: ['crash'] })
    const claiming = await user('claimer_crash')
    const start = (role: 'relay' | 'receiver' | 'claimer', url: string) =>
      stage.start({
        role,
        database: url,
        options: role === 'receiver' ? beats : quick,
        ...(role === 'claimer' ? { handleMs: 20 } : {}),
      })
    const receiver = start('receiver', await user('receiver_crash'))
    const relay = start('relay', await user('relay', 'receiver'))
    const claimers = [start('claimer', claiming), start('claimer', claiming)] as const
    const actors = [receiver, relay, ...claimers]
    try {
      for (const actor of actors) await actor.started
      await stage.publish(['a', 'b', null, 'a', null], 'throw')
      await stage.publish(Array.from({ length: 60 }, (_, n) => (n % 3 === 0 ? null : `k${n % 7}`)))
      const [victim, survivor] = await firstTo('handled', claimers)
      victim.kill('SIGKILL')
      await survivor!.next('worker_dead')
      await stage.drained(30_000)
      expect(await stage.faults()).toEqual([])
      for (const actor of [receiver, relay, survivor!])
        expect(actor.events.filter(({ type }) => type === 'trouble')).toEqual([])
    } finally {
      for (const actor of actors) await actor.end('SIGKILL')
    }
  })

  test('do not start for another consumer, or with the roles of two', async () => {
    for (const [roles, consumer] of [
      [[`claimer_${billing}`], shipping],
      [[`claimer_${billing}`, 'claimer'], shipping],
      [[`claimer_${billing}`, `claimer_${shipping}`], billing],
    ] as const) {
      const claimer = createClaimer({ database: await user(...roles), consumer }, { '#': () => {} })
      await expect(claimer.start()).rejects.toMatchObject({
        code: 'ROW_SECURITY',
        message: expect.stringContaining(`the consumer "${billing}"`) as string,
      })
    }
    const broker = postgres({ database: await user(`receiver_${billing}`) })
    const relay = createRelay({ database: await user('relay'), broker })
    await expect(relay.start()).rejects.toMatchObject({ kind: 'config' })
    await broker.close()
    const wrong = (await diagnose(database.url))
      .filter(({ level }) => level === 'wrong')
      .map(({ found }) => found)
    expect(wrong.filter((found) => found.includes(unique))).toEqual([
      expect.stringMatching(new RegExp(`roles of the consumers ${billing}, ${shipping}`)),
    ])
    await database.query(`revoke twinbox_claimer_${shipping} from ${users.at(-3)}`)
    expect(
      (await diagnose(database.url)).filter(({ check, level }) => check === 'row security' && level !== 'ok'),
    ).toEqual([])
  })
})

test('a publisher publishes with dedupe keys and delays as before, and the tables check it', async () => {
  const client = await login('publisher')
  await client.query('begin')
  const outbox = createOutbox()
  for (const more of [{}, { dedupeKey: 'd' }, { delayMs: 60_000 }, { dedupeKey: 'e', delayMs: 60_000 }])
    await outbox.publish(client, { topic: 't', payload: 1, ...more })
  await client.query('commit')
  await client.end()
  expect(await database.query(`delete from twinbox.deferred where consumer = '' returning 1`)).toHaveLength(2)
  expect(await database.query(`delete from twinbox.outbox returning 1`)).toHaveLength(2)
})

describe('the script', () => {
  test('tells of the roles, and may be run again: a new table and a new right are narrowed as well', async () => {
    await database.query(`create table twinbox.later (consumer text not null)`)
    try {
      await database.query(
        `grant delete on twinbox.inbox to twinbox_claimer_${billing}, twinbox_receiver_${billing}`,
      )
      await database.query(rolesScript('twinbox', [billing]))
      expect(
        await database.query(
          `select from pg_policies where tablename = 'later' and policyname like '%${unique}%'`,
        ),
      ).toHaveLength(4)
      expect(
        await database.query(`select has_table_privilege('twinbox_claimer_${billing}', 'twinbox.inbox', 'delete') as may,
          has_table_privilege('twinbox_receiver_${billing}', 'twinbox.inbox', 'delete') as "mayNot"`),
      ).toEqual([{ may: true, mayNot: false }])
    } finally {
      await database.query('drop table twinbox.later')
    }
    const known = (await readRoles(database.url)).filter(({ consumer }) => consumer?.startsWith(unique))
    expect(known.map(({ name, exists, ours }) => [name, exists, ours])).toEqual(
      [billing, shipping].flatMap((consumer) =>
        ['claimer', 'receiver'].map((kind) => [`twinbox_${kind}_${consumer}`, true, true]),
      ),
    )
  })

  test('is asked for again by the doctor, if somebody has taken a policy away or switched them off', async () => {
    const told = async (): Promise<string[]> =>
      (await diagnose(database.url)).flatMap(({ found }) =>
        found.includes(`the consumer ${billing} alone`) ? [found.replace(/.* of all in /, '')] : [],
      )
    expect(await told()).toEqual([])
    await database.query(`drop policy twinbox_claimer_${billing} on twinbox.inbox`)
    await database.query('alter table twinbox.lane disable row level security')
    expect((await told()).toSorted()).toEqual(['inbox, lane.', 'lane.'])
    await applyRoles(database.url)
    expect(await told()).toEqual([])
  })

  // Roles are the server's: that a consumer has some elsewhere is no reason to put policies on these tables.
  test('narrows nothing in another database, unless it is told to', async () => {
    const other = await createTestDatabase()
    try {
      await applyRoles(other.url)
      expect(await other.query('select from pg_policies')).toEqual([])
      expect((await readRoles(other.url)).map(({ consumer }) => consumer)).toEqual(roleNames.map(() => null))
      await applyRoles(other.url, { consumers: [billing] })
      expect((await readRoles(other.url)).map(({ consumer }) => consumer)).toEqual([
        ...roleNames.map(() => null),
        ...[billing, billing],
      ])
    } finally {
      await other.drop()
    }
  })

  test('opens nothing that policies of others close, and changes nothing then', async () => {
    const consumer = `${unique}_x`
    await database.query('create policy theirs on twinbox.seen using (false)')
    try {
      await expect(applyRoles(database.url, { consumers: [consumer] })).rejects.toMatchObject({
        code: '42710',
      })
      expect(await database.query(`select from pg_roles where rolname like '%${consumer}'`)).toEqual([])
    } finally {
      await database.query('drop policy theirs on twinbox.seen')
    }
  })

  test('waits for no lock longer than it was told, names who is in the way, and changes nothing', async () => {
    const consumer = `${unique}_y`
    const holder = new pg.Client({ connectionString: database.url, application_name: 'holder' })
    await holder.connect()
    await holder.query('begin')
    await holder.query('select from twinbox.inbox')
    try {
      await expect(applyRoles(database.url, { consumers: [consumer], waitMs: 1 })).rejects.toMatchObject({
        code: 'SCHEMA_BUSY',
        message: expect.stringContaining('holder') as string,
      })
      // What makes no policy wants no lock.
      await applyRoles(database.url, { consumers: [billing], waitMs: 1 })
      expect(await database.query(`select from pg_roles where rolname like '%${consumer}'`)).toEqual([])
    } finally {
      await holder.end()
    }
  })

  test('takes no name that Postgres would cut, and none that is no consumer', async () => {
    const long = 'c'.repeat(60)
    await expect(applyRoles(database.url, { consumers: [long] })).rejects.toMatchObject({
      name: 'OptionError',
      message: expect.stringContaining('63') as string,
    })
    expect(() => rolesScript('twinbox', [`x'; drop table y`])).toThrow('consumer must be')
  })
})
