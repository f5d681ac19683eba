import { setTimeout } from 'node:timers/promises'
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from 'vitest'
import { startProxy } from '../../proof/stage/proxy.ts'
import { readWorkers } from '../../src/index.ts'
import { Stage, type Actor } from '../crash/stage.ts'
import { makeBroker, makeWorker } from '../crash/worker.ts'
import { createTestDatabase } from '../support/postgres.ts'
import { isMissing } from '../support/require.ts'
import { describeWith } from '../support/require.ts'
import { findPgBouncer, type Pooler } from '../support/servers/pgbouncer.ts'
import { findZookeeper, serving, type Ensemble, type ZookeeperNode } from '../support/servers/zookeeper.ts'

const pgbouncer = await findPgBouncer()
const both = isMissing(pgbouncer) ? pgbouncer : await findZookeeper()

/** Sessions of ZooKeeper where Postgres has none to give: real processes behind a pooler, and three servers that are hurt. */
describeWith('zookeeper', both, 'an ensemble of three', (zookeeper) => {
  let ensemble: Ensemble
  let stage: Stage
  let pooler: Pooler
  const stops: (() => Promise<void>)[] = []
  beforeAll(async () => {
    ensemble = await zookeeper.start(3)
  })
  afterAll(() => ensemble.stop())
  beforeEach(async () => {
    const database = await createTestDatabase()
    if (isMissing(pgbouncer)) return
    pooler = await pgbouncer.start(database.url, { size: 40 })
    stage = await Stage.open({ kind: 'postgres' }, { database, url: pooler.url })
  })
  afterEach(async () => {
    for (const stop of stops.splice(0)) await stop()
    await stage.close()
    await pooler.stop()
  })

  /** With a few busy cores, event loop and database answer within half of it. */
  const sessionTimeoutMs = 2500
  /** Nobody's silence is found out before the test is over, unless it says so. */
  const patient = { leaseMs: 120_000, heartbeatMs: 200, deadAfterMs: 60_000 }
  const keys = (count: number): (string | null)[] =>
    Array.from({ length: count }, (_, n) => (n % 2 === 0 ? null : `k${n % 40}`))
  /** The one under which it was heard of last: a busy machine may have cost it the first. */
  const idOf = ({ events }: Actor): number => events.findLast(({ workerId }) => workerId !== null)!.workerId!
  const deathsIn = (actors: readonly Actor[]): string[] =>
    actors.flatMap(({ events }) =>
      events.flatMap((event) => (event.type === 'worker_dead' ? event.foundBy : [])),
    )
  /** How one of them finds that worker dead; if none does, what they saw. */
  async function foundBy(survivors: readonly Actor[], dead: number): Promise<string> {
    const late = new AbortController()
    const death = Promise.any(
      survivors.map((one) => one.next('worker_dead', ({ deadWorkerId }) => deadWorkerId === dead)),
    )
    const found = await Promise.race([death, setTimeout(60_000, null, { signal: late.signal })])
    late.abort()
    if (found !== null) return found.foundBy
    const workers = await stage.database.query('select id, kind, ended_by, sign, beat_at from twinbox.worker')
    const said = survivors.map(({ events }) => events.filter(({ type }) => !/^(claimed|handled)$/.test(type)))
    throw new Error(`Nobody found worker ${dead} dead: ${JSON.stringify({ workers, said })}`)
  }

  /** Claimers that work, with a sign each, and a share of the lanes; a receiver and a relay beside the test. */
  async function crew(count: number, options: object = {}, servers = ensemble.servers): Promise<Actor[]> {
    const all = { ...patient, zookeeper: { servers, sessionTimeoutMs }, ...options }
    const claimers = Array.from({ length: count }, () =>
      stage.start({ role: 'claimer', options: all, handleMs: 5, locking: true }),
    )
    for (const role of ['receiver', 'relay'] as const) {
      const program = stage.describe({ role, options: all })
      const broker = makeBroker(program.broker!, program.database)
      const worker = makeWorker(program, broker, { onEvent: () => {} })
      stops.push(
        () => worker.stop(),
        () => broker.close(),
      )
      await worker.start()
    }
    await Promise.all(claimers.map(({ started }) => started))
    await stage.until(`select count(*) = ${count + 2} as done from twinbox.worker where sign is not null`)
    await shared(count)
    return claimers
  }
  const shared = (count: number): Promise<void> =>
    stage.until(`select count(*) = ${count} as done from (select holder from twinbox.lane
      where consumer <> '' and holder is not null group by holder having count(*) <= ${Math.ceil(72 / count)}) as fair`)

  test('a claimer that is killed is found by its session, one that was frozen comes back as another one', async () => {
    const [killed, frozen, ...survivors] = (await crew(3)) as [Actor, Actor, ...Actor[]]
    await stage.publish(keys(300))
    await killed.next('handled')
    killed.kill('SIGKILL')
    expect(await foundBy([frozen, ...survivors], idOf(killed))).toBe('session')
    frozen.kill('SIGSTOP')
    const former = idOf(frozen)
    expect(await foundBy(survivors, former)).toBe('session')
    await stage.publish(keys(100))
    await stage.drained()
    frozen.kill('SIGCONT')
    const { workerId } = await frozen.next('lanes_taken', (event) => event.workerId !== former)
    await frozen.next('coordination_up', (event) => event.workerId === workerId)
    expect(await stage.faults()).toEqual([])
    const known = await readWorkers(stage.database.url, { kind: 'claimer' })
    expect(
      known
        .filter(({ endedBy }) => endedBy === 'session')
        .map(({ id }) => id)
        .toSorted((a, b) => a - b),
    ).toEqual([idOf(killed), former].toSorted((a, b) => a - b))
    expect(known.filter(({ alive }) => alive).map(({ locked, session }) => [locked, session])).toEqual(
      Array(2).fill([false, true]),
    )
    for (const { events } of survivors)
      for (const event of events) if (event.type === 'takeover') expect(event.foundBy).toBe('session')
  })

  test('who gives no such sign, or is cut off from the servers, is not judged by it', async () => {
    const options = { deadAfterMs: 4000 }
    const [host, port] = ensemble.nodes[0]!.address.split(':')
    const proxy = await startProxy({ host: host!, port: Number(port) })
    try {
      const [killed, survivor] = (await crew(2, options)) as [Actor, Actor]
      const cutOff = stage.start({
        role: 'claimer',
        options: {
          ...patient,
          ...options,
          zookeeper: { servers: `127.0.0.1:${proxy.port}`, sessionTimeoutMs },
        },
      })
      const plain = stage.start({ role: 'claimer', options: { ...patient, ...options } })
      await Promise.all([cutOff.next('coordination_up'), plain.started])
      await shared(4)
      await stage.publish(keys(100))
      await survivor.next('handled')
      proxy.blackHole()
      await cutOff.next('coordination_down')
      await stage.until(`select sign is null as done from twinbox.worker where id = ${idOf(cutOff)}`)
      killed.kill('SIGKILL')
      expect(await foundBy([survivor, cutOff, plain], idOf(killed))).toBe('session')
      // It took as long as the session of the one that is cut off has to be over, too.
      await proxy.heal()
      await nth(cutOff, 'coordination_up', 2)
      plain.kill('SIGKILL')
      expect(await foundBy([survivor, cutOff], idOf(plain))).toBe('heartbeat')
      await stage.drained()
      expect(await stage.faults()).toEqual([])
      expect(deathsIn([survivor, cutOff]).toSorted()).toEqual(['heartbeat', 'session'])
      expect(new Set(cutOff.events.map(({ workerId }) => workerId))).toEqual(new Set([idOf(cutOff)]))
      expect(cutOff.events.filter(({ type }) => type === 'lease_lost')).toEqual([])
    } finally {
      await proxy.close()
    }
  })

  test('a claimer that is cut off from both lets go before others take over, and comes back as another one', async () => {
    const [claimer] = await crew(1)
    const proxies = await Promise.all(
      [pooler.url.replace('postgres:', 'http:'), `http://${ensemble.nodes[0]!.address}`].map((address) => {
        const { hostname: host, port } = new URL(address)
        return startProxy({ host, port: Number(port) })
      }),
    )
    try {
      const [database, server] = proxies.map((proxy) => `127.0.0.1:${proxy.port}`) as [string, string]
      const cutOff = stage.start({
        role: 'claimer',
        database: Object.assign(new URL(pooler.url), { host: database }).toString(),
        options: { ...patient, zookeeper: { servers: server, sessionTimeoutMs } },
        handleMs: 10,
        locking: true,
      })
      await cutOff.next('coordination_up')
      await shared(2)
      await stage.publish(keys(100))
      await cutOff.next('handled')
      const former = idOf(cutOff)
      for (const proxy of proxies) proxy.blackHole()
      expect(await foundBy([claimer!], former)).toBe('session')
      await cutOff.next('lease_lost')
      const [letGoAt, foundAt] = [cutOff, claimer!].map(
        ({ events }, index) => events.find(({ type }) => type === ['lease_lost', 'worker_dead'][index])!.at,
      )
      expect(letGoAt).toBeLessThanOrEqual(foundAt!)
      for (const proxy of proxies) await proxy.heal()
      await cutOff.next('coordination_up', ({ workerId }) => workerId !== former && workerId !== null)
      await stage.drained()
      expect(await stage.faults()).toEqual([])
    } finally {
      await Promise.all(proxies.map((proxy) => proxy.close()))
    }
  })

  test('without a server they go on; without a quorum heartbeats count alone, and then sessions again', async () => {
    const claimers = await crew(3, { deadAfterMs: 4000 })
    const [first, second, survivor] = claimers as [Actor, Actor, Actor]
    const [leader, other] = await byRank()
    await leader.kill()
    await stage.publish(keys(200))
    await serving(other)
    await stage.drained()
    expect(deathsIn(claimers)).toEqual([])

    await other.kill()
    await stage.until('select bool_and(sign is null) as done from twinbox.worker where ended_at is null')
    await Promise.all(claimers.map((actor) => actor.next('coordination_down', () => isAway(actor))))
    first.kill('SIGKILL')
    expect(await foundBy(claimers, idOf(first))).toBe('heartbeat')

    await Promise.all([leader.start(), other.start()])
    await given()
    second.kill('SIGKILL')
    expect(await foundBy([survivor], idOf(second))).toBe('session')
    await stage.publish(keys(50))
    await stage.drained()
    expect(await stage.faults()).toEqual([])
    expect(deathsIn(claimers)).toEqual(['heartbeat', 'session'])
    expect(new Set(survivor.events.map(({ workerId }) => workerId))).toEqual(new Set([idOf(survivor)]))
    await Promise.all(ensemble.nodes.map(serving))
  })

  test('a server that is frozen costs nobody its work', async () => {
    const claimers = await crew(2)
    const [leader] = await byRank()
    leader.freeze()
    await stage.publish(keys(100))
    await stage.drained()
    // Whose session is with it or not: nobody's lives on unless the others elect another leader, and take it over.
    const others = ensemble.nodes.filter((node) => node !== leader)
    while (!(await Promise.all(others.map((node) => node.mode()))).includes('leader')) await setTimeout(20)
    await given()
    leader.thaw()
    const [killed, survivor] = claimers as [Actor, Actor]
    killed.kill('SIGKILL')
    expect(await foundBy([survivor], idOf(killed))).toBe('session')
    expect(deathsIn(claimers)).toEqual(['session'])
    expect(survivor.events.filter(({ type }) => type === 'lease_lost')).toEqual([])
    expect(await stage.faults()).toEqual([])
    await Promise.all(ensemble.nodes.map(serving))
  })

  /** Every worker that lives gives a sign, and has seen since that the others live: from then on, who goes is missed. */
  async function given(): Promise<void> {
    const living = `twinbox.worker where ended_at is null and beat_at > clock_timestamp() - interval '3 seconds'`
    await stage.until(`select bool_and(sign is not null) as done from ${living}`)
    const [count] = await stage.database.query<{ workers: number }>(
      `select count(*)::int as workers from ${living}`,
    )
    while ((await sessions()) < count!.workers) await setTimeout(20)
    const [now] = await stage.database.query<{ at: string }>('select clock_timestamp()::text as at')
    await stage.until(
      `select bool_and(sign is not null and beat_at > '${now!.at}'::timestamptz + interval '1 second') as done from ${living}`,
    )
  }
  const sessions = async (): Promise<number> =>
    (await Promise.all(ensemble.nodes.map((node) => node.sessions()))).reduce((sum, count) => sum + count, 0)
  /** By what it has said last. */
  const isAway = ({ events }: Actor): boolean =>
    events.findLast(({ type }) => type.startsWith('coordination_'))?.type === 'coordination_down'
  async function nth(
    actor: Actor,
    type: 'coordination_up' | 'coordination_down',
    times: number,
  ): Promise<void> {
    let seen = 0
    await actor.next(type, () => ++seen >= times)
  }
  /** The leader first. */
  async function byRank(): Promise<[ZookeeperNode, ZookeeperNode]> {
    await Promise.all(ensemble.nodes.map(serving))
    const modes = await Promise.all(ensemble.nodes.map((node) => node.mode()))
    const leader = ensemble.nodes[modes.indexOf('leader')]!
    return [leader, ensemble.nodes.find((node) => node !== leader)!]
  }
})
