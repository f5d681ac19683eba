import pg from 'pg'
import { afterAll, afterEach, beforeAll, beforeEach, expect, test, vi } from 'vitest'
import type { Broker, SendOutcome } from '../src/brokers/broker.ts'
import {
  BrokerError,
  createOutbox,
  createRelay,
  evictWorkers,
  redriveDeadLetters,
  type OutgoingMessage,
  type RelayOptions,
  type TwinboxEvent,
  type Worker,
} from '../src/index.ts'
import { recordEvents, type Recorder } from './support/events.ts'
import { createTestDatabase, type TestDatabase } from './support/postgres.ts'
import { until } from './support/until.ts'

/**
 * The relay's own rules, with a broker that does what a test tells it to. What real brokers do is in `brokers/`.
 */
let database: TestDatabase
let events: Recorder
let relays: Worker[] = []
/** What the broker has taken responsibility for, in its order. */
let sent: OutgoingMessage[]
let decide: (message: OutgoingMessage, batch: readonly OutgoingMessage[]) => SendOutcome

const broker: Broker = {
  name: 'told',
  async send(batch) {
    return batch.map((message) => {
      const outcome = decide(message, batch)
      if (outcome.status === 'sent') sent.push(message)
      return outcome
    })
  },
  subscribe: async () => ({ stop: async () => {} }),
  close: async () => {},
}
const ok: SendOutcome = { status: 'sent' }
const refused = (kind: 'config' | 'poison'): SendOutcome => ({
  status: 'rejected',
  error: new BrokerError(kind, 'no'),
})

beforeAll(async () => {
  database = await createTestDatabase()
})
beforeEach(() => {
  events = recordEvents()
  sent = []
  decide = () => ok
})
afterEach(async () => {
  await Promise.all(relays.map((relay) => relay.stop()))
  relays = []
  await database.query(
    'truncate twinbox.outbox, twinbox.deferred, twinbox.parked, twinbox.parked_message, twinbox.dead_letter, twinbox.dedupe',
  )
})
afterAll(() => database.drop())

async function start(options: Partial<RelayOptions> = {}): Promise<Worker> {
  const relay = createRelay({
    database: database.url,
    broker,
    backoffMsMin: 5,
    backoffMsMax: 20,
    onEvent: events.onEvent,
    ...options,
  })
  relays.push(relay)
  await relay.start()
  return relay
}

async function publish(keys: readonly (string | null)[], topic = 't', from = 0): Promise<void> {
  await database.transaction((client) =>
    createOutbox().publishMany(
      client,
      keys.map((key, index) => ({ topic, key, payload: from + index })),
    ),
  )
}

const numbers = (): number[] => sent.map(({ content }) => Number(content))
const ascending = (list: readonly number[]): number[] => list.toSorted((a, b) => a - b)
const count = async (table: string): Promise<number> =>
  (await database.query<{ count: number }>(`select count(*)::int as count from twinbox.${table}`))[0]!.count

/** A promise, and what resolves it. */
function gateway(): { readonly promise: Promise<void>; readonly resolve: () => void } {
  let resolve = (): void => {}
  const promise = new Promise<void>((done) => (resolve = done))
  return { promise, resolve }
}

test('what the broker has confirmed leaves the outbox, and nothing before that', async () => {
  decide = () => ({ status: 'failed', error: new BrokerError('retry', 'not now') })
  await publish(['a', null])
  await start()
  await events.next('broker_down')
  expect(await count('outbox')).toBe(2)
  decide = () => ok
  await until(async () => (await count('outbox')) === 0)
  expect(ascending(numbers())).toEqual([0, 1])
})

test('a broker that is down costs no attempts, and the relay resumes by itself and in order', async () => {
  let tries = 0
  decide = () => (tries++ < 12 ? { status: 'unknown', error: new BrokerError('unknown', 'gone') } : ok)
  await publish(['a', 'a', 'a'])
  await start({ maxAttempts: 1 })
  await events.next('broker_up')
  await until(async () => (await count('outbox')) === 0)
  expect(numbers()).toEqual([0, 1, 2])
  expect(events.of('message_failed')).toEqual([])
  expect(events.of('broker_down')).toHaveLength(1)
  expect(await count('dead_letter')).toBe(0)
})

test('what is held for somebody who is away waits apart with its key, uncounted; all else goes on, however much there is', async () => {
  let away = true
  decide = ({ topic }) =>
    away && topic === 'away'
      ? { status: 'held', error: new BrokerError('reconnect', 'shipping is away'), retryInMs: 20 }
      : ok
  // More than a read brings, before anything else.
  await publish([...Array.from({ length: 40 }, (_, index) => `k${index}`), null, null], 'away')
  await publish(['k0', 'k0'], 'away', 100)
  await publish(['other', null], 't', 102)
  await start({ maxAttempts: 1, batchSize: 5 })
  await until(() => [102, 103].every((number) => numbers().includes(number)))
  await events.next('trouble')
  // Each has been tried several times by now.
  await until(async () => (await count('parked')) === 40)
  expect(events.of('message_failed')).toEqual([])
  expect(events.of('broker_down')).toEqual([])
  const reasons = await database.query('select distinct reason from twinbox.parked')
  expect(reasons).toEqual([{ reason: expect.stringContaining('shipping is away') }])
  const attempts = `select distinct attempt, errors from (
    select attempt, errors from twinbox.parked_message union all select attempt, errors from twinbox.deferred) as m`
  expect(await database.query(attempts)).toEqual([{ attempt: 0, errors: null }])
  away = false
  await until(() => sent.length === 46)
  const ofKey = sent.filter(({ key }) => key === 'k0').map(({ content }) => Number(content))
  expect(ofKey).toEqual([0, 100, 101])
  expect(await count('dead_letter')).toBe(0)
})

test('a message that the broker refuses fails alone; without a key it is tried again later', async () => {
  let refusals = 0
  decide = (message) => (message.content === '1' && refusals++ < 2 ? refused('config') : ok)
  await publish([null, null, null])
  await start()
  await until(() => sent.length === 3)
  expect(ascending(numbers().slice(0, 2))).toEqual([0, 2])
  expect(numbers()[2]).toBe(1)
  expect(events.of('message_failed').map(({ attempt }) => attempt)).toEqual([1, 2])
})

test('the later messages of its key wait for a refused one, those of other keys do not', async () => {
  let refusals = 0
  decide = (message) => (message.content === '0' && refusals++ < 2 ? refused('config') : ok)
  // One message per key in a batch: the promise is for those behind it that have not been sent.
  await start({ strictSend: true, backoffMsMin: 200, backoffMsMax: 400 })
  await publish(['a', 'a', 'b', 'a', 'b'])
  await until(() => sent.length === 5)
  const order = numbers()
  expect(order.filter((n) => n === 0 || n === 1 || n === 3)).toEqual([0, 1, 3])
  expect(order.indexOf(4)).toBeLessThan(order.indexOf(0))
  await until(async () => (await count('parked')) === 0)
})

test('what follows a message that a strict topic leaves is left as well, of whatever topic', async () => {
  await start({ strictSend: ['t'] })
  await database.transaction((client) =>
    createOutbox().publishMany(
      client,
      ['t', 't', 'loose', 't', 'loose'].map((topic, n) => ({ topic, key: 'a', payload: n })),
    ),
  )
  await until(() => sent.length === 5)
  expect(numbers()).toEqual([0, 1, 2, 3, 4])
})

test('a message that will never be accepted is a dead letter at once, and its key is parked', async () => {
  decide = (message) => (message.content === '0' ? refused('poison') : ok)
  await start({ strictSend: ['t'] })
  await publish(['a', 'a', 'b'])
  await events.next('dead_letter')
  await until(() => sent.length === 1)
  expect(numbers()).toEqual([2])
  expect(await database.query('select consumer, key, attempt, reason from twinbox.dead_letter')).toEqual([
    { consumer: '', key: 'a', attempt: 1, reason: 'BrokerError: no' },
  ])
  await until(async () => (await count('parked_message')) === 1)
  await database.query('update twinbox.parked set until = now()')
  await until(() => sent.length === 2)
  expect(numbers()).toEqual([2, 1])
})

test('with onDead: skip the key goes on after a dead letter', async () => {
  decide = (message) => (message.content === '0' ? refused('config') : ok)
  await start({ strictSend: true, maxAttempts: 2, onDead: 'skip' })
  await publish(['a', 'a'])
  await events.next('dead_letter')
  await until(() => sent.length === 1)
  expect(numbers()).toEqual([1])
  // Parked for the backoff of the first attempt, and not since.
  await until(async () => (await count('parked')) === 0)
})

test('relays share the lanes, and a lane is never with two', async () => {
  await Promise.all([start(), start(), start()])
  const share = async (): Promise<number[]> =>
    (
      await database.query<{ lanes: number }>(
        `select count(*)::int as lanes from twinbox.lane where consumer = '' and holder is not null group by holder`,
      )
    ).map(({ lanes }) => lanes)
  await until(async () => {
    const lanes = await share()
    return lanes.length === 3 && Math.max(...lanes) <= 22 && lanes.reduce((sum, n) => sum + n, 0) === 64
  })
  await publish(Array.from({ length: 300 }, (_, n) => `k${n % 30}`))
  await until(() => sent.length >= 300)
  await until(async () => (await count('outbox')) === 0)
  // Nobody died, so nothing was sent twice, and every key kept its order.
  expect(sent).toHaveLength(300)
  const last = new Map<string, number>()
  for (const { key, content } of sent) {
    expect(Number(content)).toBeGreaterThan(last.get(key!) ?? -1)
    last.set(key!, Number(content))
  }
  await relays[0]!.stop()
  await relays[1]!.stop()
  await until(async () => (await share())[0] === 64)
})

test('a broker that throws instead of answering is an outage, not the end', async () => {
  let throws = 0
  await publish(['a'])
  decide = () => {
    if (throws++ < 3) throw new Error('a defect')
    return ok
  }
  await start()
  await until(async () => (await count('outbox')) === 0)
  expect(events.of('trouble').length).toBeGreaterThanOrEqual(3)
})

test('a stop lets the batch under way be confirmed and deleted', async () => {
  let confirm = (): void => {}
  const waiting = new Promise<void>((resolve) => (confirm = resolve))
  const began = new Promise<void>((resolve) => {
    relays.push(
      createRelay({
        database: database.url,
        onEvent: events.onEvent,
        broker: {
          ...broker,
          async send(batch) {
            resolve()
            await waiting
            sent.push(...batch)
            return batch.map(() => ok)
          },
        },
      }),
    )
  })
  await relays[0]!.start()
  await publish(['a', 'b', null])
  await began
  const stopped = relays[0]!.stop()
  confirm()
  await stopped
  expect(sent).toHaveLength(3)
  expect(await count('outbox')).toBe(0)
  expect(await database.query(`select from twinbox.lane where consumer = '' and holder is not null`)).toEqual(
    [],
  )
})

test('of a key that comes back while the next read is under way, nothing goes ahead', async () => {
  const lanes = await database.query<{ key: string; lane: number }>(
    `select key, twinbox.lane_of(key) as lane from (select 'other ' || n as key from generate_series(1, 300) as n
      union all select 'K') as k`,
  )
  const ofKey = lanes.find(({ key }) => key === 'K')!.lane
  // Another lane of the same half, whose batch is under way when the key has come back.
  const other = lanes.find(({ lane }) => lane !== ofKey && lane % 2 === ofKey % 2)!.key
  let refusals = 0
  const reached = gateway()
  const gate = gateway()
  const slow: Broker = {
    ...broker,
    send: async (batch, context) => {
      if (batch.some(({ key }) => key === other)) {
        reached.resolve()
        await gate.promise
      }
      return broker.send(batch, context)
    },
  }
  decide = ({ content }) => (content === '1' && refusals++ === 0 ? refused('config') : ok)
  await start({ broker: slow, backoffMsMin: 1000, backoffMsMax: 1000 })
  await publish(['K'], 't', 1)
  await events.next('parked')
  await publish([other], 't', 0)
  await reached.promise
  const locker = await database.transaction(async (client) => {
    // The next read deletes it first, and waits.
    await client.query('select from twinbox.outbox where key = $1 for update', [other])
    await publish(['K'], 't', 2)
    gate.resolve()
    await until(async () => (await count('parked')) === 0)
    return true
  })
  expect(locker).toBe(true)
  await until(() => sent.length === 3)
  expect(numbers()).toEqual([0, 1, 2])
})

test('of a key that is refused, the rest of the batch waits untried, and stays behind its dead letter', async () => {
  let takes = false
  decide = ({ key }) => (takes || key === 'L' ? ok : refused('config'))
  await publish(['K', 'K', 'K'])
  await start({ maxAttempts: 3, backoffMsMin: 50, backoffMsMax: 60 })
  await events.next('dead_letter')
  takes = true
  await publish(['L', 'K'], 't', 3)
  await until(() => sent.length === 1)
  expect(numbers()).toEqual([3])
  expect(events.of('message_failed').map(({ id, attempt }) => [id, attempt])).toEqual(
    [1, 2, 3].map((attempt) => [events.of('dead_letter')[0]!.id, attempt]),
  )
  await until(async () => (await count('parked_message')) === 3)
  expect(
    await database.query(
      `select p.until = 'infinity' as ever, d.seq = p.blocker as behind, (select max(attempt) from twinbox.parked_message) as attempt
      from twinbox.parked as p, twinbox.dead_letter as d`,
    ),
  ).toEqual([{ ever: true, behind: true, attempt: 0 }])
  // Redriven, it goes first.
  await redriveDeadLetters(database.url, { consumer: null })
  await until(() => sent.length === 5)
  expect(numbers()).toEqual([3, 0, 1, 2, 4])
})

test.each([
  ['without a key', null, 'park', 'poison'],
  ['with a key that goes on', 'K', 'skip', 'poison'],
  ['that is put off', null, 'park', 'config'],
  ['whose key is held back', 'K', 'park', 'config'],
] as const)('who has lost the lane settles nothing of a message %s', async (_, key, onDead, kind) => {
  const reached = gateway()
  const gate = gateway()
  const asked = gateway()
  const answer = gateway()
  const late: Broker = {
    ...broker,
    send: async (batch) => {
      reached.resolve()
      await gate.promise
      return batch.map(() => refused(kind))
    },
  }
  const other: Broker = {
    ...broker,
    send: async (batch, context) => {
      asked.resolve()
      await answer.promise
      return broker.send(batch, context)
    },
  }
  const loser = recordEvents()
  const first = await start({ broker: late, onDead, onEvent: loser.onEvent })
  await publish([key])
  await reached.promise
  await start({ broker: other, onDead })
  await evictWorkers(database.url, [first.id!])
  // It comes back under a new id, and may be the one that gets the lane: then it is evicted once more.
  const again = setInterval(() => {
    if (first.id !== null) void evictWorkers(database.url, [first.id]).catch(() => {})
  }, 5000)
  await asked.promise.finally(() => clearInterval(again))
  gate.resolve()
  await loser.next('lease_lost')
  await first.stop()
  answer.resolve()
  await until(async () => (await count('outbox')) === 0)
  expect(numbers()).toEqual([0])
  expect(loser.of('dead_letter')).toEqual([])
  expect(loser.of('message_failed')).toEqual([])
  for (const table of ['dead_letter', 'deferred', 'parked', 'parked_message']) {
    expect([table, await count(table)]).toEqual([table, 0])
  }
})

test.each([
  ['without keys', () => null],
  ['with a key each', (round: number, n: number) => `${round}.${n}`],
])(
  '3,000 refusals %s take hardly more statements than sending 3,000, and little more CPU',
  async (_, keyOf) => {
    let round = 0
    const queries = vi.spyOn(pg.Client.prototype, 'query')
    /** Reads of the outbox, and what is written of what they have brought. */
    const statements = (): number =>
      queries.mock.calls.filter(([query]) =>
        /\.(outbox\.step|waiting\.\w+Outbox|parking\.parkOutbox)$/.test(
          (query as unknown as { name?: string }).name ?? '',
        ),
      ).length
    const refusal = refused('config')
    const costOf = async (outcome: SendOutcome): Promise<{ statements: number; cpuMs: number }> => {
      let left = 3000
      const counting: Broker = { ...broker, send: async (batch) => batch.map(() => outcome) }
      const onEvent = (event: TwinboxEvent): void => {
        if (event.type === 'sent') left -= event.ids.length
        if (event.type === 'message_failed') left--
      }
      round++
      await publish(Array.from({ length: 3000 }, (__, n) => keyOf(round, n)))
      const [before, from] = [statements(), process.cpuUsage()]
      const options = { broker: counting, onEvent, backoffMsMin: 300_000, backoffMsMax: 300_000 }
      const relay = await start(options)
      await until(() => left === 0)
      await relay.stop()
      const { user, system } = process.cpuUsage(from)
      expect(await count('outbox')).toBe(0)
      return { statements: statements() - before, cpuMs: (user + system) / 1000 }
    }
    await costOf(ok)
    const sending = await costOf(ok)
    await costOf(refusal)
    const refusing = await costOf(refusal)
    queries.mockRestore()
    // Some reads of either find nothing, on a busy machine more of them. One by one it was a statement for each.
    expect(refusing.statements).toBeLessThan(3 * sending.statements + 20)
    // Of a broker that takes no time itself. One by one it was 14 and 24 times as much; on a busy machine it is noisy.
    expect(refusing.cpuMs).toBeLessThan(7 * sending.cpuMs + 50)
  },
)
