import { once } from 'node:events'
import { createServer, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { afterEach, expect, test } from 'vitest'
import {
  createHealth,
  DeadLetterError,
  diagnose,
  readStatus,
  type ClaimerOptions,
  type Message,
  type Worker,
} from '../../src/index.ts'
import { claimers, consumer, database, deliverAll, events, startClaimer, useInbox } from '../support/inbox.ts'

/** What stands still, and who can see it: a topic that pauses while what its handlers need is away, a handler that does not end. */

useInbox()

let provider: Provider | null = null
afterEach(() => {
  provider?.server.close()
  provider = null
})

const deliver = (keys: readonly (string | null)[], topic = 'order.placed'): Promise<string[]> =>
  deliverAll(keys.map((key, n) => ({ topic, key, n })))

const start = (
  handle: (message: Message) => unknown,
  options: Partial<ClaimerOptions> = {},
): Promise<Worker> => startClaimer({ '#': { transaction: false, handle } }, { maxAttempts: 3, ...options })

interface Provider {
  readonly server: Server
  readonly url: string
  calls: number
  down: boolean
}

/** A service over HTTP. While it is down it ends each connection without an answer. */
async function startProvider(): Promise<Provider> {
  const server = createServer((request, response) => {
    started.calls++
    if (started.down) request.socket.destroy()
    else response.end('ok')
  }).listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as AddressInfo
  const started: Provider = { server, url: `http://127.0.0.1:${port}/`, calls: 0, down: true }
  return started
}

const number = (message: Message): number => (message.payload as { n: number }).n

/** Some of the pause until a message may try is over. */
const passTime = (ms: number): Promise<unknown> =>
  database.query(
    `update twinbox.circuit set opened_at = opened_at - $2 * interval '1 millisecond',
      probe_at = probe_at - $2 * interval '1 millisecond' where consumer = $1`,
    [consumer, ms],
  )

const left = async (): Promise<unknown> =>
  (
    await database.query(
      `select (select count(*)::int from twinbox.inbox where consumer = $1) as inbox,
        (select count(*)::int from twinbox.deferred where consumer = $1) as deferred,
        (select count(*)::int from twinbox.parked where consumer = $1) as parked,
        (select count(*)::int from twinbox.dead_letter where consumer = $1) as dead`,
      [consumer],
    )
  )[0]

test('a provider that is down for ten minutes costs some calls, and no message anything', async () => {
  const service = (provider = await startProvider())
  const keys = Array.from({ length: 2000 }, (_, n) => `k${n % 1000}`)
  await deliver(keys)
  const order = new Map<string, number[]>()
  const handle = async (message: Message): Promise<void> => {
    await fetch(service.url)
    order.set(message.key!, [...(order.get(message.key!) ?? []), number(message)])
  }
  await start(handle)
  await start(handle)
  await events.next('circuit_opened')
  // Ten minutes of the database's time, half a minute at a time.
  const probed = async (): Promise<number> =>
    (
      await database.query<{ probes: number }>('select probes from twinbox.circuit where consumer = $1', [
        consumer,
      ])
    )[0]!.probes
  for (let round = 0; round < 20; round++) {
    const before = await expect.poll(probed, { timeout: 20_000 }).toBeGreaterThanOrEqual(0).then(probed)
    await passTime(30_000)
    // Later pauses are longer than what has passed.
    if (before < 5) await expect.poll(probed, { timeout: 20_000 }).toBeGreaterThan(before)
  }
  expect(service.calls).toBeLessThan(50)
  expect(await left()).toEqual({ inbox: 2000, deferred: 0, parked: 0, dead: 0 })

  const status = await readStatus(database.url)
  const paused = status.consumers.find((box) => box.consumer === consumer)!.paused
  expect(paused).toMatchObject([{ topic: 'order.placed', reason: 'UND_ERR_SOCKET' }])
  const found = (await diagnose(database.url)).filter(({ check }) => check === 'circuits')
  expect(found.map((finding) => finding.found)).toEqual([
    expect.stringMatching(`^${consumer} pauses order.placed: UND_ERR_SOCKET since \\d\\d:\\d\\d`),
  ])
  const health = createHealth(database.url)
  health.watch(claimers[0]!)
  health.onEvent({ type: 'started', kind: 'claimer', consumer, workerId: 1 })
  const report = await health.check()
  await health.close()
  expect(report).toMatchObject({ live: true, ready: false })
  expect(report.problems[0]!.why).toContain('pauses order.placed: UND_ERR_SOCKET since')

  service.down = false
  await passTime(600_000)
  await events.next('handled', () => true, 2000)
  expect(events.of('dead_letter')).toEqual([])
  expect(events.of('parked')).toEqual([])
  for (const numbers of order.values()) expect(numbers).toEqual(numbers.toSorted((a, b) => a - b))
  expect(await left()).toEqual({ inbox: 0, deferred: 0, parked: 0, dead: 0 })
  await expect
    .poll(() => database.query('select from twinbox.circuit where consumer = $1', [consumer]))
    .toEqual([])
  // What was counted is what failed before it opened.
  expect(events.of('message_failed').length).toBeLessThanOrEqual(20)
})

test('messages without a key pause as well, and other topics go on', async () => {
  await deliver(Array<null>(200).fill(null))
  let calls = 0
  let down = true
  await start(({ topic }) => {
    if (topic === 'other') return
    calls++
    if (down) throw Object.assign(new Error('down'), { code: 'ECONNREFUSED' })
  })
  const opened = await events.next('circuit_opened')
  expect(opened).toMatchObject({ topic: 'order.placed', reason: 'ECONNREFUSED' })
  await deliver([...Array<null>(100).fill(null), ...Array.from({ length: 100 }, (_, n) => `k${n}`)], 'other')
  await events.next('handled', ({ topic }) => topic === 'other', 200)
  expect(calls).toBeLessThan(20)
  down = false
  await passTime(60_000)
  await events.next('handled', ({ topic }) => topic === 'order.placed', 200)
  expect(events.of('dead_letter')).toEqual([])
})

test('one bad message opens nothing, nor do some among others that succeed', async () => {
  const bad = Array.from({ length: 8 }, (_, n) => `bad${n}`)
  await deliver([...bad.flatMap((key, n) => [key, `good${n}`]), 'bad0', 'bad0'])
  await start(
    ({ key }) => {
      if (key!.startsWith('bad')) throw new Error('bad')
    },
    { concurrency: 2, onDead: 'skip' },
  )
  await events.next('dead_letter', () => true, bad.length + 2)
  expect(events.of('circuit_opened')).toEqual([])
})

test('a handler that gives messages up is believed, and circuit: false opens nothing', async () => {
  await deliver(Array.from({ length: 20 }, (_, n) => `k${n}`))
  await start(() => {
    throw new DeadLetterError('no')
  })
  await events.next('dead_letter', () => true, 20)
  await deliver(
    Array.from({ length: 20 }, (_, n) => `l${n}`),
    'late',
  )
  await claimers.pop()!.stop()
  await start(
    () => {
      throw new Error('no')
    },
    { circuit: false },
  )
  await events.next('dead_letter', ({ topic }) => topic === 'late', 20)
  expect(events.of('circuit_opened')).toEqual([])
})

test('a claimer that stops while a topic pauses gives all back uncounted, and the next one knows', async () => {
  await deliver(Array.from({ length: 50 }, (_, n) => (n % 2 === 0 ? `k${n}` : null)))
  let down = true
  const attempts: number[] = []
  const handle = (): void => {
    if (down) throw new Error('down')
  }
  const first = await start(handle)
  await events.next('circuit_opened')
  await expect
    .poll(() => database.query('select from twinbox.circuit where consumer = $1', [consumer]))
    .toHaveLength(1)
  await first.stop()
  claimers.splice(0)
  const failed = events.of('message_failed').length
  down = false
  attempts.length = 0
  await start(handle)
  await passTime(60_000)
  await events.next('handled', () => true, 50)
  expect(events.of('message_failed')).toHaveLength(failed)
  expect(events.of('handled').filter(({ attempt }) => attempt > 2)).toEqual([])
})

test('a handler that does not end is told of, by an event and by the doctor', async () => {
  await deliver(['k'])
  let end = (): void => {}
  const ending = new Promise<void>((resolve) => (end = resolve))
  const claimer = await start(() => ending, { stuckAfterMs: 1000 })
  const told = await events.next('handler_stuck')
  expect(told).toMatchObject({ topic: 'order.placed', ids: [expect.any(String)] })
  expect(told.forMs).toBeGreaterThanOrEqual(1000)
  const find = async (): Promise<string[]> =>
    (await diagnose(database.url)).filter(({ check }) => check === 'handlers').map(({ found }) => found)
  await expect
    .poll(find)
    .toEqual([
      expect.stringMatching(
        `^A handler of order.placed has not ended for .* in worker ${claimer.id} of ${consumer}`,
      ),
    ])
  end()
  await events.next('handled')
  await expect.poll(find).toEqual([])
})

test('what may have crashed a claimer waits elsewhere, and looks soon whether its topic goes on', async () => {
  const service = (provider = await startProvider())
  await deliver(['a', 'b', 'c', 'd', 'e', 'f'])
  await start(() => fetch(service.url))
  await events.next('circuit_opened')
  await database.query(
    `insert into twinbox.inbox (consumer, lane, id, topic, key, payload, attempt)
    select $1, twinbox.lane_of('q'), gen_random_uuid(), 'order.placed', 'q', '{}', 1`,
    [consumer],
  )
  // In milliseconds. Others of its key wait as long.
  const waits = async (): Promise<number> =>
    (
      await database.query<{ ms: number }>(
        `select coalesce(max(extract(epoch from until - since)), 0)::float8 * 1000 as ms
        from twinbox.parked where consumer = $1 and key = 'q'`,
        [consumer],
      )
    )[0]!.ms
  await expect.poll(waits, { timeout: 20_000 }).toBeGreaterThan(0)
  expect(await waits()).toBeLessThan(5000)
  service.down = false
  await passTime(600_000)
  await expect.poll(left, { timeout: 20_000 }).toEqual({ inbox: 0, deferred: 0, parked: 0, dead: 0 })
})
