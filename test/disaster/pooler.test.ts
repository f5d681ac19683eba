import { planned } from '../../src/database/sql/statement.ts'
import { setTimeout } from 'node:timers/promises'
import pg from 'pg'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { Database } from '../../src/database/database.ts'
import { postgres } from '../../src/brokers/postgres/postgres.ts'
import { createOutbox, createRelay, diagnose, withTransaction } from '../../src/index.ts'
import { Stage } from '../crash/stage.ts'
import { Host } from '../dashboard/host.ts'
import { pages } from '../dashboard/pages.ts'
import { Scene } from '../dashboard/scene.ts'
import { findPgBouncer, type Pooler } from '../support/servers/pgbouncer.ts'
import { createTestDatabase } from '../support/postgres.ts'
import { describeWith } from '../support/require.ts'
import { until } from '../support/until.ts'

/** Everything through PgBouncer in transaction mode: no session locks, no settings of a session, no prepared statements. */
describeWith('pgbouncer', await findPgBouncer(), 'a pooler that shares sessions', (pgbouncer) => {
  let stage: Stage
  let pooler: Pooler
  beforeEach(async () => {
    const database = await createTestDatabase()
    pooler = await pgbouncer.start(database.url)
    stage = await Stage.open({ kind: 'postgres' }, { database, url: pooler.url })
  })
  afterEach(async () => {
    await stage.close()
    await pooler.stop()
  })

  test.each([true, false])(
    'is noticed, whether it ignores our settings or not: %s',
    async (ignoresOptions) => {
      const other = await pgbouncer.start(stage.database.url, { ignoresOptions })
      try {
        const database = new Database(other.url)
        await database.probe()
        expect([database.sessions, database.preparedStatements]).toEqual([false, false])
        await database.close()
      } finally {
        await other.stop()
      }
    },
  )

  test('keeps prepared statements, or is named at start if it does not', async () => {
    const [major, minor] = pgbouncer.version.split('.').map(Number) as [number, number]
    const keeps = major > 1 || minor >= 21
    const url = pooler.url
    const worker = createRelay({
      database: url,
      preparedStatements: true,
      broker: postgres({ database: url }),
    })
    if (keeps) {
      await worker.start()
      await worker.stop()
    } else {
      const text = /^preparedStatements is true, but the pooler .* PgBouncer 1\.21/
      for (let attempt = 0; attempt < 3; attempt++) {
        await expect(worker.start()).rejects.toMatchObject({
          option: 'preparedStatements',
          message: expect.stringMatching(text),
        })
      }
    }
    const database = new Database(url, { preparedStatements: false })
    await database.probe()
    expect(database.preparedStatements).toBe(false)
    await database.close()
  })

  test('is noticed beside the transactions of others, each time', async () => {
    const idle = new AbortController()
    const others = [1, 2].map(async (pauseMs) => {
      const client = new pg.Client(pooler.url)
      await client.connect()
      while (!idle.signal.aborted) {
        await client.query('select 1')
        await setTimeout(Math.random() * 2 * pauseMs)
      }
      await client.end()
    })
    const taken: boolean[] = []
    for (let probe = 0; probe < 300; probe++) {
      const database = new Database(pooler.url)
      await database.probe()
      taken.push(database.sessions)
      await database.close()
    }
    idle.abort()
    await Promise.all(others)
    expect(taken.filter(Boolean)).toEqual([])
  })

  test('is used as what it is if it gives each connection a session', async () => {
    const other = await pgbouncer.start(stage.database.url, { mode: 'session' })
    const database = new Database(other.url)
    try {
      await database.probe()
      expect([database.sessions, database.preparedStatements]).toEqual([true, true])
      const text = `select current_setting('datestyle') || ' ' || current_setting('synchronous_commit') as set`
      await stage.database.query(
        `alter database ${stage.database.url.split('/').at(-1)} set datestyle = 'German'`,
      )
      expect(await database.keep(planned({}, text))).toEqual([{ set: 'ISO, MDY off' }])
      expect(await database.query(planned({}, text))).toEqual([{ set: 'ISO, MDY on' }])
      const found = await diagnose(other.url)
      expect(found.find(({ check }) => check === 'session')).toMatchObject({ level: 'note' })
      const session = await database.openSession()
      expect((await session.query(text)).rows).toEqual([{ set: 'ISO, MDY off' }])
      await session.end()
    } finally {
      await database.close()
      await other.stop()
    }
  })

  test('is named when it is full, and when it refuses what the user asks for', async () => {
    const other = await pgbouncer.start(stage.database.url, { mode: 'session', size: 1 })
    const full = new Database(other.url)
    await expect(full.probe()).rejects.toMatchObject({ code: 'POOLER_FULL' })
    await full.close()
    await other.stop()
    for (const wish of ['statement_timeout=1000', 'options=-c%20search_path%3Dshop']) {
      const wishing = new Database(`${pooler.url}?${wish}`)
      const [name] = wish.split('=')
      await expect(wishing.probe()).rejects.toThrow(
        `database sets ${name}, which the pooler in between refuses`,
      )
      await wishing.close()
    }
  })

  test('any number of applications publish through it', async () => {
    const pools = Array.from({ length: 3 }, () => new pg.Pool({ connectionString: pooler.url, max: 5 }))
    const outbox = createOutbox()
    const publishing = pools.flatMap((pool) =>
      Array.from({ length: 40 }, (_, n) =>
        withTransaction(pool, (client) => outbox.publish(client, { topic: 't', key: `k${n}`, payload: n })),
      ),
    )
    await Promise.all(publishing)
    await Promise.all(pools.map((pool) => pool.end()))
    expect(await stage.database.query('select count(*)::int as count from twinbox.outbox')).toEqual([
      { count: 120 },
    ])
  })

  test('the dashboard reads and acts through one session of many, and leaves it as it was', async () => {
    const narrow = await pgbouncer.start(stage.database.url, { size: 1 })
    const scene = await Scene.open(stage.database)
    const host = await Host.open({ database: narrow.url })
    try {
      for (const { path } of await pages(stage.database)) {
        const { status, text } = await host.read(path)
        expect([path, status, /class="flash bad".*/.exec(text)?.[0]]).toEqual([path, 200, undefined])
      }
      expect((await host.read('/')).text).toContain('inbox of billing')
      const job = await host.startJob('/dead/change?does=redrive&box=shipping', {
        reason: 'mended',
        rate: '',
      })
      await until(async () => (await host.read(job)).text.includes('Redriven: 26.'))
      // Whatever a page sets for itself would be everybody's from then on.
      const client = new pg.Client(narrow.url)
      await client.connect()
      const { rows } = await client.query(
        `select name, setting from pg_settings where source = 'session' and name !~ '^(application_name|transaction_.*)$'`,
      )
      await client.end()
      expect(rows).toEqual([])
    } finally {
      await host.close()
      await scene.close()
      await narrow.stop()
    }
  })

  test('messages flow, and a killed claimer is found by its heartbeat', async () => {
    const options = { heartbeatMs: 200, deadAfterMs: 1500, leaseMs: 60_000 }
    const receiver = stage.start({ role: 'receiver', options })
    await receiver.started
    const relays = [1, 2].map(() => stage.start({ role: 'relay', options }))
    const [victim, survivor] = [1, 2].map(() => stage.start({ role: 'claimer', options, handleMs: 5 })) as [
      ReturnType<Stage['start']>,
      ReturnType<Stage['start']>,
    ]
    const workers = [receiver, ...relays, victim, survivor]
    await Promise.all(workers.map(({ started }) => started))
    await Promise.all(workers.map((worker) => worker.next('lock_unavailable')))

    const publishers = [1, 2].map(async (publisher) => {
      for (let batch = 0; batch < 20; batch++) {
        await stage.publish(
          Array.from({ length: 20 }, (_, n) => (n % 4 === 0 ? null : `${publisher}.k${n % 7}`)),
        )
      }
    })
    await victim.next('handled')
    victim.kill('SIGKILL')
    const id = victim.events[0]!.workerId
    const death = await survivor.next('worker_dead', ({ deadWorkerId }) => deadWorkerId === id)
    expect(death.foundBy).toBe('heartbeat')
    await Promise.all(publishers)
    await stage.drained()

    expect(await stage.faults()).toEqual([])
    expect(await stage.database.query('select count(*)::int as count from effects')).toEqual([{ count: 800 }])
    for (const worker of [receiver, ...relays, survivor]) {
      expect(worker.events.filter(({ type }) => type === 'trouble')).toEqual([])
      expect(await worker.end()).toBe(0)
    }
  })
})
