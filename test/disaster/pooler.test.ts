import { afterEach, beforeEach, expect, test } from 'vitest'
import { Database } from '../../src/database/database.ts'
import { Stage } from '../crash/stage.ts'
import { findPgBouncer, type Pooler } from '../support/pgbouncer.ts'
import { createTestDatabase } from '../support/postgres.ts'
import { describeWith } from '../support/require.ts'

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
        const insisting = new Database(other.url, { preparedStatements: true })
        await insisting.probe()
        expect([insisting.sessions, insisting.preparedStatements]).toEqual([false, true])
        await Promise.all([database.close(), insisting.close()])
      } finally {
        await other.stop()
      }
    },
  )

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
