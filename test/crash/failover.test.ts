import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { failoverStrategies } from '../../src/membership/failover.ts'
import { Stage, type Actor } from './stage.ts'

/**
 * Three ways in which a consumer fails, times the ways of handing over its work. In each cell nothing is lost, nothing
 * takes effect twice, and each key keeps its order; and what was to be handed over went where the strategy says.
 */
let stage: Stage
beforeEach(async () => {
  stage = await Stage.open()
})
afterEach(() => stage.close())

/** The lease is far longer than any test may take: what is taken over was found and handed over, not left to lapse. */
const quick = { leaseMs: 120_000, heartbeatMs: 200, deadAfterMs: 2000 }
const keys = (count: number): (string | null)[] =>
  Array.from({ length: count }, (_, n) => (n % 2 === 0 ? null : `k${n % 40}`))

async function crew(options: Record<string, unknown>, handleMs: number): Promise<Actor[]> {
  const others = (['receiver', 'relay'] as const).map((role) => stage.start({ role, options: quick }))
  const claimers = [1, 2, 3, 4].map(() =>
    stage.start({ role: 'claimer', options: { ...quick, ...options }, handleMs, locking: true }),
  )
  await Promise.all([...others, ...claimers].map(({ started }) => started))
  // Everybody has a share, or the first to come would have everything.
  await stage.until(`select count(*) = 4 as done from (
    select holder from twinbox.lane where consumer <> '' and holder is not null group by holder having count(*) >= 17
  ) as fair`)
  return claimers
}

const idOf = (actor: Actor): number => actor.events.find(({ workerId }) => workerId !== null)!.workerId!

/** Which of the survivors has taken over how many lanes and rows of a dead one. */
function assigneesOf(dead: number, survivors: readonly Actor[]): { lanes: number; rows: number }[] {
  return survivors.map(({ events }) => {
    const takeovers = events
      .filter((event) => event.type === 'takeover')
      .filter((event) => event.fromWorkerId === dead)
    return {
      lanes: takeovers.reduce((sum, { lanes }) => sum + lanes.length, 0),
      rows: takeovers.reduce((sum, { rows }) => sum + rows, 0),
    }
  })
}

describe.each(failoverStrategies)('with %s', (failover) => {
  // How a worker has failed is nothing to `sticky`, which deals by rank alone.
  const frozen = failover === 'sticky' ? [] : ([['frozen', 'heartbeat', 'SIGSTOP']] as const)
  test.each([['killed', 'lock', 'SIGKILL'] as const, ...frozen])(
    'a claimer that is %s is found by its %s, and survivors continue',
    async (_, foundBy, signal) => {
      const claimers = await crew({ failover }, 20)
      const [victim, ...survivors] = claimers as [Actor, ...Actor[]]
      await stage.publish(keys(600))
      await victim.next('handled')
      const dead = idOf(victim)
      victim.kill(signal)
      const { workerId, ...death } = await Promise.any(
        survivors.map((survivor) =>
          survivor.next('worker_dead', ({ deadWorkerId }) => deadWorkerId === dead),
        ),
      )
      expect(survivors.map(idOf)).toContain(workerId)
      expect(death).toMatchObject({ foundBy, strategy: failover })
      await stage.publish(keys(200))
      await stage.drained()
      expect(await stage.faults()).toEqual([])

      const assignees = assigneesOf(dead, survivors)
      const lanes = assignees.map((assignee) => assignee.lanes)
      // It held 18 of 72 lanes, and who takes one has it for good.
      expect(lanes.reduce((sum, count) => sum + count, 0)).toBe(18)
      if (failover === 'round-robin') expect(lanes).toEqual([6, 6, 6])
      for (const { events } of survivors) {
        for (const event of events.filter(({ type }) => type === 'takeover')) {
          expect(event).toMatchObject({ foundBy, strategy: failover, fromWorkerId: dead })
        }
      }
      if (signal === 'SIGSTOP') {
        victim.kill('SIGCONT')
        // It comes back by itself, as somebody else, and nothing of what it had in flight takes effect.
        await stage.until(
          `select count(*) = 4 as done from twinbox.worker where kind = 'claimer' and ended_at is null`,
        )
        await victim.next('lanes_taken', (event) => event.workerId !== dead)
        expect(await stage.faults()).toEqual([])
      }
    },
  )

  if (failover === 'sticky') return
  test('a handler that hangs, throws, rejects or ends its process is found out, and its message is handled later', async () => {
    // Each first attempt fails, and nothing is handled between: the topic would pause.
    const options = { failover, handleTimeoutMs: 500, backoffMsMin: 50, circuit: false }
    const claimers = await crew(options, 1)
    await stage.publish(keys(20), 'hang')
    await stage.publish(keys(10), 'throw')
    await stage.publish(keys(10), 'reject')
    await stage.drained()
    expect(claimers.some(({ events }) => events.some(({ type }) => type === 'worker_dead'))).toBe(false)
    await stage.publish([null], 'die')
    await stage.publish(['k1'], 'die')
    await stage.publish(keys(200))
    await Promise.race(claimers.map(({ ended }) => ended))
    // As an orchestrator would.
    const replacement = stage.start({ role: 'claimer', options: { ...quick, ...options }, locking: true })
    await stage.drained()
    expect(await stage.faults()).toEqual([])
    const failures = [...claimers, replacement].flatMap(({ events }) =>
      events.filter((event) => event.type === 'message_failed'),
    )
    const found = (by: string): number =>
      new Set(failures.filter(({ foundBy }) => foundBy === by).map(({ id }) => id)).size
    expect(found('error')).toBe(20)
    // On a busy machine others may run late as well.
    expect(found('timeout')).toBeGreaterThanOrEqual(20)
    expect(failures.every(({ foundBy }) => foundBy === 'error' || foundBy === 'timeout')).toBe(true)
    const [attempts] = await stage.database.query<{ died: number }>(
      `select count(*)::int as died from effects join ledger using (id) where attempt > 1`,
    )
    expect(attempts!.died).toBeGreaterThanOrEqual(42)
  })
})

test.each([
  ['chooses one of them', 'the youngest', 'custom'],
  ['throws', 'throws', 'custom'],
])('a function that %s: survivors continue', async (_, failover, strategy) => {
  const claimers = await crew({ failover }, 20)
  const [victim, ...survivors] = claimers as [Actor, ...Actor[]]
  await stage.publish(keys(400))
  await victim.next('handled')
  const dead = idOf(victim)
  victim.kill('SIGKILL')
  const found = await Promise.any(
    survivors.map((survivor) => survivor.next('worker_dead', ({ deadWorkerId }) => deadWorkerId === dead)),
  )
  expect(found.strategy).toBe(strategy)
  await stage.drained()
  expect(await stage.faults()).toEqual([])
  const youngest = Math.max(...survivors.map(idOf))
  const lanes = assigneesOf(dead, survivors).map((assignee) => assignee.lanes)
  expect(lanes.reduce((sum, count) => sum + count, 0)).toBe(18)
  if (failover === 'throws') {
    const troubles = survivors.flatMap(({ events }) =>
      events.filter((event) => event.type === 'trouble' && event.doing === 'failover'),
    )
    // By the one that declared the death, though others may have looked at the same time.
    expect(troubles).toMatchObject([{ workerId: found.workerId }])
  } else {
    expect(lanes).toEqual(survivors.map((survivor) => (idOf(survivor) === youngest ? 18 : 0)))
  }
})

test('killing all claimers but one leaves it with everything', async () => {
  const claimers = await crew({}, 5)
  const [last, ...victims] = claimers as [Actor, ...Actor[]]
  await stage.publish(keys(400))
  await last.next('handled')
  for (const victim of victims) victim.kill('SIGKILL')
  await stage.until(`select count(*) = 72 and count(distinct holder) = 1 as done
    from twinbox.lane where consumer <> '' and holder = ${idOf(last)}`)
  await stage.publish(keys(100))
  await stage.drained()
  expect(await stage.faults()).toEqual([])
})

test('a claimer that joins gets its share, and nothing of what is in flight changes hands under way', async () => {
  const claimers = await crew({}, 5)
  await stage.publish(keys(400))
  await claimers[0]!.next('handled')
  const newcomer = stage.start({ role: 'claimer', options: quick, locking: true })
  await stage.until(`select count(*) >= 14 as done from twinbox.lane l join twinbox.worker w on w.id = l.holder
    where l.consumer <> '' and w.id = (select max(id) from twinbox.worker)`)
  await newcomer.started
  await stage.drained()
  expect(await stage.faults()).toEqual([])
  expect(await stage.database.query('select distinct attempt from effects')).toEqual([{ attempt: 1 }])
  const lost = claimers.flatMap(({ events }) => events.filter(({ type }) => type === 'lease_lost'))
  expect(lost).toEqual([])
})

test('what was dealt to somebody who dies as well is anybody’s after the grace', async () => {
  const claimers = await crew({ failover: 'round-robin', failoverGraceMs: 500 }, 20)
  const [first, second, ...survivors] = claimers as [Actor, Actor, ...Actor[]]
  await stage.publish(keys(400))
  await first.next('handled')
  // Frozen, it still counts among the living when the other one is found dead.
  second.kill('SIGSTOP')
  first.kill('SIGKILL')
  await Promise.any(survivors.map((survivor) => survivor.next('worker_dead')))
  await stage.drained()
  expect(await stage.faults()).toEqual([])
})

test('avoidLastHolder gives a failed message to another claimer, and to the same one if it is alone', async () => {
  // Each first attempt fails: the topic would pause before all of them have.
  const claimers = await crew({ avoidLastHolder: true, backoffMsMin: 10, circuit: false }, 1)
  await stage.publish(Array<null>(40).fill(null), 'throw')
  await stage.drained()
  expect(await stage.faults()).toEqual([])
  const failed = new Map(
    claimers.flatMap(({ events }) =>
      events
        .filter((event) => event.type === 'message_failed')
        .map(({ id, workerId }): [string, number | null] => [id, workerId]),
    ),
  )
  const handled = await stage.database.query<{ id: string; worker: number }>('select id, worker from effects')
  expect(failed.size).toBe(40)
  expect(handled.filter(({ id, worker }) => failed.get(id) === worker)).toEqual([])

  for (const victim of claimers.slice(1)) await victim.end()
  await stage.publish([null, null], 'throw')
  await stage.drained()
  expect(await stage.faults()).toEqual([])
})

test('a worker that is taken for dead wrongly does no harm, and comes back as somebody else', async () => {
  const claimers = await crew({}, 20)
  const [wronged, ...others] = claimers as [Actor, ...Actor[]]
  await stage.publish(keys(400))
  await wronged.next('handled')
  const id = idOf(wronged)
  // A connection that is lost is opened again at once, and that is no death. So it is cut again and again.
  const cut = `select pg_terminate_backend(pid) from pg_locks
    where locktype = 'advisory' and classid = 'twinbox.worker'::regclass and objid = ${id}`
  let dead = false
  void Promise.any(others.map((other) => other.next('worker_dead'))).then(() => (dead = true))
  while (!dead) {
    await stage.database.query(cut)
    await stage.database.query('select pg_sleep(0.005)')
  }
  const returned = await wronged.next('lanes_taken', ({ workerId }) => workerId !== id)
  expect(returned.workerId).toBeGreaterThan(id)
  await stage.drained()
  expect(await stage.faults()).toEqual([])
  expect(await wronged.end()).toBe(0)
})

test('10,000 rows that one death leaves behind are handed over in bounded batches, and publishing goes on', async () => {
  for (const role of ['receiver', 'relay'] as const) await stage.start({ role, options: quick }).started
  const holder = stage.start({ role: 'claimer', options: { ...quick, concurrency: 1 }, handleMs: 600_000 })
  await holder.started
  await stage.publish(Array<null>(10_000).fill(null))
  await stage.until('select count(*) = 10000 as done from twinbox.inbox')
  // As if it had come to hold them all: it claims ahead only what it handles in a moment.
  await stage.database.query(
    `update twinbox.inbox set holder = $1, lease_until = 'infinity', fence = fence + 1, attempt = attempt + 1`,
    [idOf(holder)],
  )
  const survivors = [1, 2].map(() =>
    stage.start({ role: 'claimer', options: { ...quick, batchSize: 200, concurrency: 20 } }),
  )
  await Promise.all(survivors.map(({ started }) => started))
  holder.kill('SIGKILL')
  let abandoned = true
  const published = (async () => {
    let count = 0
    for (; abandoned; count++) await stage.publish([null])
    return count
  })()
  await stage.until(`select count(*) = 0 as done from twinbox.inbox where holder = ${idOf(holder)}`)
  abandoned = false
  expect(await published).toBeGreaterThan(10)
  await stage.drained()
  expect(await stage.faults()).toEqual([])
  const batches = survivors.flatMap(({ events }) => events.filter((event) => event.type === 'takeover'))
  expect(batches.reduce((sum, { rows }) => sum + rows, 0)).toBe(10_000)
  expect(Math.max(...batches.map(({ rows }) => rows))).toBeLessThanOrEqual(200)
})
