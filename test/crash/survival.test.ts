import { afterEach, beforeEach, expect, test } from 'vitest'
import { Stage } from './stage.ts'

/** What survivors owe to those who die, freeze or are cut off, while messages keep coming. */
let stage: Stage
beforeEach(async () => {
  stage = await Stage.open()
})
afterEach(() => stage.close())

test('each key is handled in commit order while a claimer and a relay are killed under load', async () => {
  const receiver = stage.start({ role: 'receiver' })
  await receiver.started
  const relays = [stage.start({ role: 'relay' }), stage.start({ role: 'relay' })]
  const claimers = [1, 2, 3].map(() => stage.start({ role: 'claimer' }))
  await Promise.all([...relays, ...claimers].map(({ started }) => started))
  // 20 keys, of which one carries 90 % of the messages.
  const key = (): string => (Math.random() < 0.9 ? 'hot' : `k${Math.floor(Math.random() * 19)}`)
  const publishers = [1, 2, 3, 4].map(async () => {
    for (let batch = 0; batch < 40; batch++) {
      // Publishers of one key have to agree on an order: here by the lock that a business row would be.
      await stage.publishLocked(Array.from({ length: 10 }, key))
    }
  })
  await claimers[0]!.next('handled')
  await relays[0]!.next('sent')
  claimers[0]!.kill('SIGKILL')
  relays[0]!.kill('SIGKILL')
  await Promise.all(publishers)
  await stage.drained()
  expect(await stage.faults()).toEqual([])
  expect(await stage.database.query('select count(*)::int as count from effects')).toEqual([{ count: 1600 }])
  const takeover = await Promise.any(claimers.slice(1).map((claimer) => claimer.next('takeover')))
  expect(takeover.fromWorkerId).toBe(claimers[0]!.events[0]!.workerId)
  for (const actor of [receiver, relays[1]!, claimers[1]!, claimers[2]!]) expect(await actor.end()).toBe(0)
})

test('a claimer that was frozen past its lease changes nothing and says so', async () => {
  const options = { leaseMs: 2000, heartbeatMs: 200, deadAfterMs: 1000 }
  for (const role of ['receiver', 'relay'] as const) await stage.start({ role }).started
  const frozen = stage.start({ role: 'claimer', options, handleMs: 400 })
  await frozen.started
  await stage.publish(['a', 'a', null, null, 'b'])
  await frozen.next('claimed')
  frozen.kill('SIGSTOP')
  const survivor = stage.start({ role: 'claimer', options })
  await stage.drained()
  const before = await stage.database.query('select id, worker from effects order by at')
  frozen.kill('SIGCONT')
  const lost = await frozen.next('lease_lost', ({ ids }) => ids.length > 0)
  expect(lost.ids.length).toBeGreaterThan(0)
  await frozen.end()
  expect(await stage.database.query('select id, worker from effects order by at')).toEqual(before)
  expect(await stage.faults()).toEqual([])
  const death = await survivor.next('worker_dead')
  expect(death.foundBy).toBe('heartbeat')
})

test('a claimer that is stopped gives back what it holds, and nothing is handled twice', async () => {
  for (const role of ['receiver', 'relay'] as const) await stage.start({ role }).started
  const leaving = stage.start({ role: 'claimer', handleMs: 50 })
  await leaving.started
  await stage.publish(Array.from({ length: 300 }, (_, n) => (n % 3 === 0 ? null : `k${n % 7}`)))
  await leaving.next('handled')
  const staying = stage.start({ role: 'claimer' })
  await staying.started
  expect(await leaving.end()).toBe(0)
  await stage.drained()
  expect(await stage.faults()).toEqual([])
  // No attempt was wasted: what was in flight and not begun counts as never claimed.
  expect(await stage.database.query('select distinct attempt from effects')).toEqual([{ attempt: 1 }])
  expect(staying.events.some(({ type }) => type === 'worker_dead')).toBe(false)
})

test('terminating every connection of every worker ends no process and loses nothing', async () => {
  const actors = (['receiver', 'relay', 'relay', 'claimer', 'claimer'] as const).map((role) =>
    stage.start({ role }),
  )
  await Promise.all(actors.map(({ started }) => started))
  for (let round = 0; round < 5; round++) {
    await stage.publish(Array.from({ length: 60 }, (_, n) => (n % 4 === 0 ? null : `k${n % 5}`)))
    await stage.database.query(`select pg_terminate_backend(pid) from pg_stat_activity
      where datname = current_database() and application_name like 'twinbox%'`)
  }
  await stage.drained()
  expect(await stage.faults()).toEqual([])
  for (const actor of actors) expect(await actor.end()).toBe(0)
})

test('a message that kills its worker becomes a dead letter, and the others are handled', async () => {
  for (const role of ['receiver', 'relay'] as const) await stage.start({ role }).started
  await stage.publish(['a', null, 'b', null])
  const deadly = await stage.publishDeadly()
  const options = { maxAttempts: 3, onDead: 'skip' }
  const pool: ReturnType<Stage['start']>[] = []
  // As an orchestrator would: a new one for each that dies.
  let alive = true
  const replace = async (): Promise<void> => {
    while (alive) {
      const actor = stage.start({ role: 'claimer', options, deadly: true })
      pool.push(actor)
      await actor.ended
    }
  }
  void replace()
  await stage.until(`select count(*) = ${deadly} as done from twinbox.dead_letter`)
  await stage.until(`select count(*) = 4 as done from effects`)
  alive = false
  const killed = pool.length - 1
  expect(killed).toBeGreaterThanOrEqual(3)
  const dead = await stage.database.query<{ attempt: number }>('select attempt from twinbox.dead_letter')
  for (const { attempt } of dead) expect(attempt).toBeGreaterThan(3)
})
