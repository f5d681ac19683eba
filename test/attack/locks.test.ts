import { randomBytes } from 'node:crypto'
import { Kysely, Migrator, PostgresDialect } from 'kysely'
import pg from 'pg'
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest'
import { startEmbeddedServer } from '../../proof/stage/postgres.ts'
import { postgres } from '../../src/brokers/postgres/postgres.ts'
import { crowded } from '../../src/database/sql/sleep.ts'
import {
  createOutbox,
  createRelay,
  diagnose,
  migrate,
  migrationFiles,
  twinboxMigrations,
  withTransaction,
  type Finding,
} from '../../src/index.ts'
import { recordEvents } from '../support/events.ts'
import { createTestDatabase, serverUrl, type TestDatabase } from '../support/postgres.ts'

/** A user without any right takes what Postgres lets everybody have: advisory locks, and room in the queue of notifications. */

const mallory = `l${randomBytes(5).toString('hex')}_mallory`
let database: TestDatabase
const sessions: pg.Client[] = []

beforeAll(async () => {
  database = await createTestDatabase()
  await database.query(`create role ${mallory} login password 'secret'`)
})
afterEach(async () => {
  for (const session of sessions.splice(0)) await session.end()
})
afterAll(async () => {
  await database.drop()
  const server = new pg.Client({ connectionString: await serverUrl() })
  await server.connect()
  await server.query(`drop role ${mallory}`)
  await server.end()
})

/** A session without a right on the schema. It names tables by their numbers, which everybody may look up. */
async function intruder(application = 'nightly-report'): Promise<pg.Client> {
  const url = Object.assign(new URL(database.url), { username: mallory, password: 'secret' }).toString()
  const client = new pg.Client({ connectionString: url, application_name: application })
  await client.connect()
  sessions.push(client)
  return client
}
const pidOf = async (client: pg.Client): Promise<number> =>
  (await client.query<{ pid: number }>('select pg_backend_pid() as pid')).rows[0]!.pid
const spaceOf = (table: string): string =>
  `(select c.oid::int from pg_class as c join pg_namespace as n on n.oid = c.relnamespace
    where n.nspname = 'twinbox' and c.relname = '${table}')`
const migrateLock = `select pg_advisory_lock(hashtextextended('twinbox migrate "twinbox"', 0))`
const locksSaid = async (): Promise<Finding[]> =>
  (await diagnose(database.url)).filter(({ check }) => check === 'locks')

describe('the lock by which migrations take turns', () => {
  const named = async (client: pg.Client) => ({
    code: 'SCHEMA_BUSY',
    message: expect.stringMatching(
      `pid ${await pidOf(client)} \\(application "nightly-report", user ${mallory}, .*pg_terminate_backend`,
    ) as string,
  })

  test('keeps migrate waiting for no longer than it is told to, and who holds it is named', async () => {
    const client = await intruder()
    await client.query(migrateLock)
    await expect(migrate(database.url, { waitMs: 0 })).rejects.toMatchObject(await named(client))
    expect(await locksSaid()).toMatchObject([
      {
        level: 'wrong',
        found: expect.stringMatching(`user ${mallory}.*nightly-report.*migrate waits for it`),
      },
    ])
    await client.query('select pg_advisory_unlock_all()')
    expect(await migrate(database.url, { waitMs: 0 })).toEqual([])
    expect(await locksSaid()).toMatchObject([{ level: 'ok' }])
  })

  test('keeps the user’s own Migrator waiting for some seconds at most', async () => {
    const client = await intruder()
    await client.query(migrateLock)
    const db = new Kysely<unknown>({
      dialect: new PostgresDialect({ pool: new pg.Pool({ connectionString: database.url, max: 2 }) }),
    })
    const migrator = new Migrator({ db, provider: twinboxMigrations() })
    expect((await migrator.migrateToLatest()).error).toMatchObject(await named(client))
    await client.query('select pg_advisory_unlock_all()')
    expect((await migrator.migrateToLatest()).error).toBeUndefined()
    await db.destroy()
  })
})

describe('the locks of workers', () => {
  test('in the hands of somebody else are named, also under a name like ours; those of workers are not', async () => {
    const relay = createRelay({ database: database.url, broker: postgres({ database: database.url }) })
    await relay.start()
    try {
      expect(await locksSaid()).toMatchObject([{ level: 'ok' }])
      const [blind, loud] = [await intruder(), await intruder('shop twinbox 0123abcd')]
      await blind.query(
        `select pg_advisory_lock(${spaceOf('worker')}, n) from generate_series(1000, 1019) as n`,
      )
      await loud.query(`select pg_advisory_lock(${spaceOf('migration')}, hashtext('billing'))`)
      await loud.query(`select pg_advisory_lock(${spaceOf('outbox')}, 5)`)
      const said = (await locksSaid()).map(({ found }) => found).toSorted()
      expect(said).toHaveLength(3)
      expect(said).toContainEqual(
        expect.stringMatching(`${await pidOf(blind)} .*20 locks.*found dead by their heartbeat`),
      )
      expect(said).toContainEqual(expect.stringMatching(`${await pidOf(loud)} .*whoever publishes notifies`))
      expect(said).toContainEqual(expect.stringMatching(`${await pidOf(loud)} .*orderingLock`))
    } finally {
      await relay.stop()
    }
  })

  test('in the hands of a worker’s user that is no worker are named as well', async () => {
    const client = await database.pool.connect()
    try {
      await client.query(`select pg_advisory_xact_lock_shared(${spaceOf('migration')}, hashtext(''))`)
      await client.query(`select pg_advisory_lock(${spaceOf('worker')}, 77)`)
      expect(await locksSaid()).toMatchObject([{ found: expect.stringContaining('holds a lock of Twinbox') }])
    } finally {
      client.release(true)
    }
  })

  test('a worker whose lock is taken works all the same', async () => {
    const client = await intruder()
    await client.query(`select pg_advisory_lock(${spaceOf('worker')}, n) from generate_series(1, 500) as n`)
    await client.query(`select pg_advisory_lock(${spaceOf('migration')}, hashtext(''))`)
    const events = recordEvents()
    const relay = createRelay({
      database: database.url,
      broker: postgres({ database: database.url }),
      onEvent: events.onEvent,
    })
    await relay.start()
    try {
      await events.next('lock_unavailable')
      await withTransaction(database.pool, (trx) => createOutbox().publish(trx, { topic: 't', payload: 1 }))
      await expect.poll(() => database.query('select from twinbox.outbox')).toEqual([])
    } finally {
      await relay.stop()
    }
  })
})

test('a queue of notifications that fills up behind somebody who does not read fails nobody who publishes', async () => {
  // The least that the server takes, half a megabyte: by default it is 8 GB.
  const server = await startEmbeddedServer({ settings: ['max_notify_queue_pages=64'] })
  const { url } = server
  const [stuck, storm, watcher] = await Promise.all(
    [0, 1, 2].map(async () => {
      const client = new pg.Client({ connectionString: url })
      await client.connect()
      return client
    }),
  )
  const pool = new pg.Pool({ connectionString: url })
  try {
    await migrate(url)
    await stuck!.query('listen gossip')
    await stuck!.query('begin')
    await stuck!.query('select 1')
    // As a sleeping relay does: whoever publishes has to notify.
    await watcher!.query(`select pg_advisory_lock('twinbox.migration'::regclass::oid::int, hashtext(''))`)
    const full = (async () => {
      for (;;) await storm!.query(`select pg_notify('gossip', repeat('x', 7000) || random()::text)`)
    })()
    await expect(full).rejects.toThrow('too many notifications')
    const [usage] = (await pool.query<{ usage: number }>('select pg_notification_queue_usage() as usage'))
      .rows
    expect(usage!.usage).toBeGreaterThan(0.9)
    const message = { topic: 't', payload: 1 }
    await withTransaction(pool, (client) => createOutbox().publish(client, message))
    await withTransaction(pool, (client) => createOutbox().publishMany(client, [message, message]))
    await pool.query(`select twinbox.publish('t', '1'::json)`)
    expect((await pool.query('select from twinbox.outbox')).rowCount).toBe(4)
    const said = (await diagnose(url)).filter(({ check }) => check === 'notify')
    expect(said).toMatchObject([{ level: 'wrong', found: expect.stringMatching(/notifies no more/) }])
    // Who sleeps looks by himself.
    await watcher!.query('select pg_advisory_unlock_all()')
    const relay = createRelay({ database: url, broker: postgres({ database: url }) })
    await relay.start()
    await expect.poll(async () => (await pool.query('select from twinbox.outbox')).rows).toEqual([])
    await relay.stop()
  } finally {
    for (const client of [stuck, storm, watcher]) await client!.end()
    await pool.end()
    await server.stop()
  }
})

test('publish() in SQL notifies up to the same share of the queue', () => {
  expect(migrationFiles()[0]!.sql).toContain(`pg_notification_queue_usage() < ${crowded}::float8`)
})
