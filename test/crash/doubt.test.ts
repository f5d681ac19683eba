import { afterEach, beforeEach, expect, test } from 'vitest'
import { startProxy, type Proxy } from '../../proof/stage/proxy.ts'
import { Stage, type Actor } from './stage.ts'

/** A worker that cannot show that it lives stops by itself before others believe it dead, and comes back by itself. */
let stage: Stage
let proxy: Proxy
let cutOff: string
beforeEach(async () => {
  stage = await Stage.open()
  const { hostname, port } = new URL(stage.database.url)
  proxy = await startProxy({ host: hostname, port: Number(port === '' ? 5432 : port) })
  cutOff = Object.assign(new URL(stage.database.url), { hostname: '127.0.0.1', port: proxy.port }).toString()
})
afterEach(async () => {
  await stage.close()
  await proxy.close()
})

/** The lease is far longer than any test may take: what is taken over was found and handed over, not left to lapse. */
const options = { leaseMs: 120_000, heartbeatMs: 300, deadAfterMs: 3000 }
const keys = (count: number): (string | null)[] =>
  Array.from({ length: count }, (_, n) => (n % 2 === 0 ? null : `k${n % 40}`))
const idOf = (actor: Actor): number => actor.events.find(({ workerId }) => workerId !== null)!.workerId!

test.each(['both', 'toServer', 'toClient'] as const)(
  'cut off (%s), a claimer and a relay let go before others take over, and come back',
  async (direction) => {
    for (const role of ['receiver', 'relay'] as const) await stage.start({ role, options }).started
    const survivor = stage.start({ role: 'claimer', options, handleMs: 10, locking: true })
    const victims = (['claimer', 'relay'] as const).map((role) =>
      stage.start({ role, options, database: cutOff, handleMs: 10, locking: true }),
    )
    await Promise.all([survivor, ...victims].map(({ started }) => started))
    const [claimer, relay] = victims as [Actor, Actor]
    await stage.publish(keys(300))
    await claimer.next('handled')
    for (const victim of victims) await victim.next('lanes_taken')
    const formerIds = victims.map(idOf)
    proxy.blackHole(direction)
    await stage.publish(keys(100))
    const death = await survivor.next('worker_dead', ({ deadWorkerId }) => deadWorkerId === formerIds[0])
    // If the server still hears it, it hears that the session was given up.
    expect(direction === 'toClient' ? ['lock', 'heartbeat'] : ['heartbeat']).toContain(death.foundBy)
    await stage.drained()
    for (const victim of victims) await victim.next('lease_lost')
    const [letGoAt, foundAt] = [claimer, survivor].map(
      ({ events }, index) => events.find(({ type }) => type === ['lease_lost', 'worker_dead'][index])!.at,
    )
    expect(letGoAt).toBeLessThanOrEqual(foundAt!)

    await proxy.heal()
    for (const [index, victim] of [claimer, relay].entries()) {
      const { workerId } = await victim.next('lanes_taken', (event) => event.workerId !== formerIds[index])
      expect(workerId).toBeGreaterThan(formerIds[index]!)
    }
    await stage.publish(keys(100))
    await stage.drained()
    expect(await stage.faults()).toEqual([])
    for (const victim of victims) expect(await victim.end()).toBe(0)
  },
)

test('a claimer whose event loop stood still says for how long, and has let go of what it held', async () => {
  for (const role of ['receiver', 'relay'] as const) await stage.start({ role, options }).started
  const blocked = stage.start({ role: 'claimer', options, locking: true })
  await blocked.started
  await stage.publish(['a'], 'block')
  await stage.publish([...keys(50), 'a', 'a'])
  await blocked.next('claimed')
  const survivor = stage.start({ role: 'claimer', options, locking: true })
  const death = await survivor.next('worker_dead')
  expect(death).toMatchObject({ foundBy: 'heartbeat', deadWorkerId: idOf(blocked) })
  const { forMs } = await blocked.next('stalled')
  expect(forMs).toBeGreaterThan(options.deadAfterMs)
  await blocked.next('lease_lost')
  await blocked.next('lanes_taken', ({ workerId }) => workerId !== idOf(blocked))
  await stage.drained()
  expect(await stage.faults()).toEqual([])
  // What it wrote after it woke up does not count.
  const [first] = await stage.database.query<{ worker: number }>('select worker from effects where n = 0')
  expect(first!.worker).not.toBe(idOf(blocked))
})
