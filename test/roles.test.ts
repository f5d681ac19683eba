import pg from 'pg'
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest'
import { sqlstate } from '../src/database/sqlstate.ts'
import { rightsSql } from '../src/database/sql/rights.ts'
import { roleNames, type RoleName } from '../src/database/sql/grants.ts'
import {
  applyRoles,
  BrokerError,
  createClaimer,
  createOutbox,
  createRelay,
  type Broker,
  readRoles,
  readStatus,
  readWorkers,
  rolesScript,
} from '../src/index.ts'
import { firstTo, Stage } from './crash/stage.ts'
import { recordEvents } from './support/events.ts'
import { serverUrl, type TestDatabase } from './support/postgres.ts'

let database: TestDatabase
let stage: Stage
const users: string[] = []
const unique = `t${process.pid}${Date.now() % 1_000_000}`

beforeAll(async () => {
  stage = await Stage.open()
  database = stage.database
  await applyRoles(database.url)
})
afterAll(async () => {
  const server = new pg.Client({ connectionString: await serverUrl() })
  await stage.close()
  await server.connect()
  // Roles belong to the whole server, where another run may need them.
  for (const role of [...users, ...roleNames.map((name) => `twinbox_${name}`)]) {
    await server.query(`drop role if exists ${role}`).catch(() => {})
  }
  await server.end()
})

/** A user who logs in as somebody with these roles, and with a right to the tests' own tables. */
async function user(...roles: RoleName[]): Promise<string> {
  const name = `${unique}_${users.length}`
  users.push(name)
  await database.query(`create role ${name} login password 'secret'`)
  for (const role of roles) await database.query(`grant twinbox_${role} to ${name}`)
  await database.query(`grant select, insert, update on ledger, effects, touched to ${name}`)
  await database.query(`grant usage on sequence ledger_at_seq, effects_at_seq to ${name}`)
  return Object.assign(new URL(database.url), { username: name, password: 'secret' }).toString()
}

/** The SQLSTATE with which a statement fails for a role, or "ok". Nothing of it remains. */
async function outcome(role: RoleName, statement: string): Promise<string> {
  const client = await database.pool.connect()
  try {
    await client.query('begin')
    await client.query(`set local role twinbox_${role}`)
    await client.query(statement)
    return 'ok'
  } catch (error) {
    return sqlstate(error) ?? 'unknown'
  } finally {
    await client.query('rollback')
    client.release()
  }
}

const denied = '42501'

/** What each role may do to every column, function and sequence, `test/attack/allowed.test.ts` tries. */
describe('what a role may do', () => {
  test('everybody else may nothing, and no function runs as its owner', async () => {
    expect(await database.query(rightsSql('twinbox').public.text)).toEqual([])
    const definers = await database.query(`
      select proname, proconfig from pg_proc
      where pronamespace = 'twinbox'::regnamespace and prosecdef
        and not coalesce(array_to_string(proconfig, ',') ~ 'search_path=.*pg_temp"?$', false)`)
    expect(definers).toEqual([])
  })

  test('the script can be run again, and takes back what is too much', async () => {
    await database.query('grant select on twinbox.inbox to twinbox_publisher')
    await database.query('grant execute on function twinbox.lane_of to public')
    await database.query(rolesScript())
    expect(await outcome('publisher', 'select id from twinbox.inbox')).toBe(denied)
    expect(await database.query(rightsSql('twinbox').public.text)).toEqual([])
  })
})

describe('under their roles', () => {
  afterEach(async () => {
    await database.query(
      'truncate ledger, effects, twinbox.dead_letter, twinbox.parked, twinbox.parked_message',
    )
  })

  test('an application publishes: deduped, in order, in bulk, and from SQL', async () => {
    const pool = new pg.Pool({ connectionString: await user('publisher'), max: 1 })
    const client = await pool.connect()
    try {
      await client.query('begin')
      const message = { topic: 't', key: 'k', payload: 1, dedupeKey: 'd' }
      const outbox = createOutbox()
      const first = await outbox.publish(client, message, { orderingLock: true })
      expect(await outbox.publish(client, message)).toEqual({ id: first.id, duplicate: true })
      await outbox.publishMany(client, [
        { topic: 't', payload: 2 },
        { topic: 't', payload: new Uint8Array(3), headers: { a: 'b' } },
      ])
      const { rows } = await client.query<{ duplicate: boolean }>(
        `select duplicate from twinbox.publish('t', '1', key => 'k', dedupe_key => 'd')`,
      )
      expect(rows).toEqual([{ duplicate: true }])
      await outbox.publish(client, { topic: 't', payload: 4, delayMs: 3_600_000, dedupeKey: 'later' })
      await client.query(`select twinbox.publish('t', '5', delay => '1 hour')`)
      // To ask whether there is a transaction wants no further right.
      await outbox.publish(
        { query: (text, values) => client.query(text, values) },
        { topic: 't', payload: 6 },
      )
      await client.query('commit')
    } finally {
      client.release()
      await pool.end()
    }
    expect(await database.query('delete from twinbox.outbox returning 1')).toHaveLength(4)
    expect(await database.query('select from twinbox.deferred')).toHaveLength(2)
    const canceller = new pg.Client({ connectionString: await user('publisher', 'canceller') })
    await canceller.connect()
    await canceller.query('begin')
    const cancelled = await createOutbox().cancel(canceller, { topic: 't', dedupeKey: 'later' })
    await canceller.query('commit')
    await canceller.end()
    expect(cancelled).toEqual({ cancelled: true })
    await database.query('truncate twinbox.deferred')
    await database.query('delete from twinbox.dedupe')
  })

  test.each(['SIGKILL', 'SIGSTOP'] as const)(
    'workers relay, receive, claim, fail, park and take over after %s, and none meets a refusal',
    async (signal) => {
      const options = { heartbeatMs: 100, deadAfterMs: 1000 }
      const start = (role: 'relay' | 'receiver' | 'claimer', url: string, more = {}) =>
        stage.start({
          role,
          database: url,
          options: { ...options, ...more },
          ...(role === 'claimer' ? { handleMs: 20 } : {}),
        })
      const quick = { backoffMsMin: 10, backoffMsMax: 50 }
      const receiver = start('receiver', await user('receiver'))
      // Without a broker, the relay writes to the inbox.
      const relays = [
        start('relay', await user('relay', 'receiver'), quick),
        start('relay', await user('relay', 'receiver'), quick),
      ] as const
      const claimers = [
        start('claimer', await user('claimer'), quick),
        start('claimer', await user('claimer'), quick),
      ] as const
      const actors = [receiver, ...relays, ...claimers]
      try {
        for (const actor of actors) await actor.started
        await stage.publish(['a', 'b', null, 'a', null], 'throw')
        await stage.publish(Array.from({ length: 60 }, (_, n) => (n % 3 === 0 ? null : `k${n % 7}`)))
        const [victim, survivor] = await firstTo('handled', claimers)
        victim.kill(signal)
        relays[0].kill(signal)
        await survivor!.next('worker_dead')
        await relays[1].next('worker_dead')
        await stage.drained(30_000)
        expect(await stage.faults()).toEqual([])
        for (const actor of [receiver, relays[1], survivor!]) {
          expect(actor.events.filter(({ type }) => type === 'trouble')).toEqual([])
        }
      } finally {
        for (const actor of actors) await actor.end('SIGKILL')
      }
    },
  )

  test.each([0, 60_000])(
    'a frozen transaction does not hold its message, even from one who logs in as somebody else (keepHandledMs %i)',
    async (keepHandledMs) => {
      const options = { heartbeatMs: 100, deadAfterMs: 1000, keepHandledMs }
      const receiver = stage.start({ role: 'receiver', database: await user('receiver') })
      const relay = stage.start({ role: 'relay', database: await user('relay', 'receiver') })
      const frozen = stage.start({
        role: 'claimer',
        database: await user('claimer'),
        options,
        dieAt: { point: 'claimer.before_settle', hit: 3, signal: 'SIGSTOP' },
      })
      for (const actor of [receiver, relay, frozen]) await actor.started
      await stage.publish(['a', null, 'b', null, 'a', 'b', null])
      await stage.until(`select exists (select from twinbox.worker where kind = 'claimer' and ended_at is null
        and beat_at < clock_timestamp() - interval '500 ms') as done`)
      const survivor = stage.start({ role: 'claimer', database: await user('claimer'), options })
      try {
        await stage.drained(40_000)
        expect(await stage.faults()).toEqual([])
        expect(survivor.events).toContainEqual(
          expect.objectContaining({ type: 'worker_dead', foundBy: 'heartbeat' }),
        )
        // The other messages of its lanes do not wait for that one.
        expect(survivor.events.filter(({ type }) => type === 'trouble')).toEqual([])
      } finally {
        for (const actor of [receiver, relay, frozen, survivor]) await actor.end('SIGKILL')
      }
    },
  )

  test('what fails for good is buried and parked, in outbox and inbox', async () => {
    const seen = recordEvents()
    const refuses: Broker = {
      name: 'own',
      send: async (batch) =>
        batch.map(() => ({ status: 'rejected', error: new BrokerError('config', 'Not this one.') })),
      subscribe: async () => ({ stop: async () => {} }),
      close: async () => {},
    }
    const options = { onEvent: seen.onEvent, maxAttempts: 2, backoffMsMin: 6000, backoffMsMax: 6000 }
    const relay = createRelay({ ...options, database: await user('relay'), broker: refuses })
    const claimer = createClaimer(
      { ...options, database: await user('claimer'), consumer: 'failing' },
      {
        '#': () => {
          throw new Error('on purpose')
        },
      },
    )
    await relay.start()
    await claimer.start()
    try {
      await database.transaction((client) =>
        createOutbox().publishMany(
          client,
          ['a', 'a', null].map((key) => ({ topic: 'failing', key, payload: 1 })),
        ),
      )
      await database.query(`insert into twinbox.inbox (consumer, lane, id, topic, key, payload)
        select 'failing', case when key is null then 64 else twinbox.lane_of(key) end, gen_random_uuid(), 'failing', key, '1'
        from unnest(array['a', 'a', null]) as key`)
      // A key that fails for longer is parked, and what has none is deferred; then both are due at once.
      await seen.next('parked', ({ kind }) => kind === 'relay')
      await seen.next('parked', ({ kind }) => kind === 'claimer')
      await seen.next('message_failed', ({ key }) => key === null, 2)
      await database.query(
        `update twinbox.parked set until = now(); update twinbox.deferred set due_at = now()`,
      )
      await seen.next('dead_letter', () => true, 4)
      expect(seen.of('trouble')).toEqual([])
    } finally {
      await relay.stop()
      await claimer.stop()
      await database.query('truncate twinbox.outbox, twinbox.inbox, twinbox.deferred')
    }
  })

  test('an operator and a reader see the status; the reader cannot evict', async () => {
    const reader = await user('reader')
    expect((await readStatus(reader)).schema).toBe('twinbox')
    expect(await readWorkers(reader)).toEqual(expect.any(Array))
    expect((await readStatus(await user('operator'))).outbox.depth).toBe(0)
    expect(await outcome('reader', `update twinbox.worker set ended_by = 'evict'`)).toBe(denied)
  })

  test('who has which role is told', async () => {
    const url = await user('claimer', 'publisher')
    const name = new URL(url).username
    const roles = await readRoles(database.url)
    expect(roles.filter(({ members }) => members.includes(name)).map(({ role }) => role)).toEqual([
      'publisher',
      'claimer',
    ])
    expect(roles.every(({ exists }) => exists)).toBe(true)
    const none = await readRoles(database.url, { schema: 'elsewhere' })
    expect(none.map(({ exists }) => exists)).toEqual(roleNames.map(() => false))
  })
})
