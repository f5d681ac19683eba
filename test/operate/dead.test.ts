import { randomUUID } from 'node:crypto'
import { afterAll, beforeAll, beforeEach, afterEach, expect, test } from 'vitest'
import {
  BrokerError,
  createClaimer,
  createOutbox,
  createRelay,
  DeadLetterError,
  exportDeadLetters,
  readDeadLetters,
  readParkedKeys,
  redriveDeadLetters,
  redriveParkedKeys,
  showDeadLetter,
  skipDeadLetters,
  skipParkedKeys,
  type Broker,
  type Message,
  type Worker,
} from '../../src/index.ts'
import { Database } from '../../src/database/database.ts'
import { receive } from '../../src/database/inbox.ts'
import { createTestDatabase, type TestDatabase } from '../support/postgres.ts'
import { recordEvents } from '../support/events.ts'
import { until } from '../support/until.ts'
import { inboxMessage } from '../support/messages.ts'

let database: TestDatabase
let own: Database
beforeAll(async () => {
  database = await createTestDatabase()
  own = new Database(database.url)
})
afterAll(async () => {
  await own.close()
  await database.drop()
})

/** Each test has a consumer of its own. */
let consumer = ''
let handled: string[] = []
let broken = new Set<string>()
let workers: Worker[] = []
beforeEach(() => {
  consumer = `c${randomUUID().slice(0, 8)}`
  handled = []
  broken = new Set()
})
afterEach(async () => {
  await Promise.all(workers.splice(0).map((worker) => worker.stop()))
})

const name = ({ key, payload }: Pick<Message, 'key' | 'payload'>): string => `${key ?? '-'}${String(payload)}`

/** Puts messages into the inbox: `a1` is the message 1 of the key a, `-1` is one without a key. */
async function inbox(...names: string[]): Promise<void> {
  await receive(
    own,
    names.map((each) =>
      inboxMessage({
        consumer,
        topic: each.startsWith('-') ? 'free' : 'keyed',
        key: each.startsWith('-') ? null : each[0]!,
        payload: each.slice(1),
      }),
    ),
  )
}

async function claim(onDead: 'park' | 'skip' = 'park'): Promise<ReturnType<typeof recordEvents>> {
  const events = recordEvents()
  const worker = createClaimer(
    { database: database.url, consumer, onEvent: events.onEvent, onDead },
    {
      '#': (message) => {
        if (broken.has(name(message))) throw new DeadLetterError(`${name(message)} is broken`)
        handled.push(name(message))
      },
    },
  )
  workers.push(worker)
  await worker.start()
  return events
}

const letters = async (): Promise<string[]> =>
  (
    await database.query<{ key: string; payload: number }>(
      'select key, payload from twinbox.dead_letter where consumer = $1 order by number',
      [consumer],
    )
  ).map(name)
const left = async (): Promise<number> =>
  (
    await database.query<{ count: number }>(
      `select (select count(*) from twinbox.inbox where consumer = $1)::int
        + (select count(*) from twinbox.parked_message where consumer = $1)::int
        + (select count(*) from twinbox.deferred where consumer = $1)::int
        + (select count(*) from twinbox.parked where consumer = $1)::int as count`,
      [consumer],
    )
  )[0]!.count

test('a redriven message goes before the later ones of its key, which have waited', async () => {
  broken.add('a2')
  await inbox('a1', 'a2', 'a3', 'b1')
  const events = await claim()
  await events.next('dead_letter')
  await inbox('a4', 'b2')
  await until(() => handled.length === 3)
  expect(handled.toSorted()).toEqual(['a1', 'b1', 'b2'])
  await until(async () => (await readParkedKeys(database.url, { consumer })).keys[0]?.waiting === 2)
  const { keys } = await readParkedKeys(database.url, { consumer })
  const { letters: found } = await readDeadLetters(database.url, { consumer })
  expect(found).toMatchObject([
    { consumer, topic: 'keyed', key: 'a', attempt: 1, reason: 'DeadLetterError: a2 is broken' },
  ])
  expect(keys).toMatchObject([
    { consumer, key: 'a', until: null, letter: found[0]!.number, reason: 'DeadLetterError: a2 is broken' },
  ])
  expect(await showDeadLetter(database.url, found[0]!.number)).toMatchObject([
    {
      holdsKey: true,
      errors: [{ attempt: 1, class: 'DeadLetterError', error: 'DeadLetterError: a2 is broken' }],
    },
  ])
  broken.clear()
  handled = []
  expect(await redriveDeadLetters(database.url, { consumer }, { by: 'ann', reason: 'repaired' })).toEqual({
    count: 1,
    unknown: [],
  })
  await until(() => handled.length === 3)
  expect(handled).toEqual(['a2', 'a3', 'a4'])
  await until(async () => (await left()) === 0)
  expect(await letters()).toEqual([])
  expect(
    await database.query(
      'select action, who, why, key, attempt, reason from twinbox.audit where consumer = $1',
      [consumer],
    ),
  ).toEqual([
    {
      action: 'redrive',
      who: 'ann',
      why: 'repaired',
      key: 'a',
      attempt: 1,
      reason: 'DeadLetterError: a2 is broken',
    },
  ])
})

test('attempts start anew, and the history of the earlier life is kept', async () => {
  broken.add('a1')
  await inbox('a1')
  const events = await claim()
  const { id } = await events.next('dead_letter')
  const [first] = (await readDeadLetters(database.url, { consumer })).letters
  await redriveDeadLetters(database.url, { ids: [id] })
  await events.next('dead_letter', undefined, 2)
  await until(async () => (await letters()).length === 1)
  const [details] = await showDeadLetter(database.url, id, { payload: true })
  expect(details).toMatchObject({
    attempt: 1,
    payload: '1',
    errors: [{ attempt: 1, worker: workers[0]!.id }],
    interventions: [{ action: 'redrive', attempt: 1, errors: [{ attempt: 1 }] }],
  })
  expect(details!.errors![0]!.stack).toMatch(/^\s+at /)
  expect(details!.number).toBeGreaterThan(first!.number)
})

test('what a key is held back behind decides: redriving an older letter of it does not let it go', async () => {
  await inbox('a1', 'a2', 'a3', 'a4')
  broken = new Set(['a1', 'a3'])
  const events = await claim()
  await events.next('dead_letter')
  // a1 is left behind, a2 goes on, a3 fails.
  expect(await skipParkedKeys(database.url, { consumer, key: 'a' })).toBe(1)
  await events.next('dead_letter', undefined, 2)
  await until(async () => (await letters()).length === 2)
  expect(handled).toEqual(['a2'])
  broken.clear()
  const [latest, oldest] = (await readDeadLetters(database.url, { consumer })).letters
  await redriveDeadLetters(database.url, { numbers: [oldest!.number] })
  expect(await readParkedKeys(database.url, { consumer })).toMatchObject({
    keys: [{ letter: latest!.number, until: null }],
  })
  await redriveDeadLetters(database.url, { numbers: [latest!.number] })
  await until(() => handled.length === 4)
  expect(handled).toEqual(['a2', 'a1', 'a3', 'a4'])
})

test('skipping a dead letter deletes it, and its key goes on', async () => {
  broken.add('a1')
  await inbox('a1', 'a2')
  const events = await claim()
  await events.next('dead_letter')
  await until(async () => (await letters()).length === 1)
  const [letter] = (await readDeadLetters(database.url, { consumer })).letters
  expect(
    await skipDeadLetters(database.url, { numbers: [letter!.number, 999_999] }, { reason: 'of no use' }),
  ).toEqual({
    count: 1,
    unknown: [999_999],
  })
  await until(() => handled.length === 1)
  expect(handled).toEqual(['a2'])
  expect(await letters()).toEqual([])
  expect(
    await database.query(`select why, errors from twinbox.audit where consumer = $1`, [consumer]),
  ).toMatchObject([{ why: 'of no use', errors: [{ attempt: 1 }] }])
})

test('messages without a key are redriven too, in batches and not faster than asked for', async () => {
  const names = Array.from({ length: 30 }, (_, n) => `-${n}`)
  broken = new Set(names)
  await inbox(...names)
  await claim()
  await until(async () => (await letters()).length === 30)
  broken.clear()
  expect(await redriveDeadLetters(database.url, { consumer }, { dryRun: true })).toEqual({
    count: 30,
    unknown: [],
  })
  expect(await letters()).toHaveLength(30)
  const progress: number[] = []
  const startedAt = performance.now()
  const done = await redriveDeadLetters(
    database.url,
    { consumer, error: 'IS broken', errorClass: 'DeadLetterError', topic: 'free' },
    { perSecond: 10, limit: 25, onProgress: (count) => progress.push(count) },
  )
  expect(done.count).toBe(25)
  expect(progress).toEqual([10, 20, 25])
  // Not faster: the last batch may only follow two full seconds.
  expect(performance.now() - startedAt).toBeGreaterThan(1990)
  await until(() => handled.length === 25)
  expect(await redriveDeadLetters(database.url, { consumer, errorClass: 'Dead' })).toMatchObject({ count: 0 })
  expect(await redriveDeadLetters(database.url, { consumer, olderThanMs: 3_600_000 })).toMatchObject({
    count: 0,
  })
  expect(await redriveDeadLetters(database.url, { consumer, youngerThanMs: 3_600_000 })).toMatchObject({
    count: 5,
  })
  await until(() => handled.length === 30)
  expect(new Set(handled).size).toBe(30)
})

test('a key that waits for its backoff goes on at once when redriven, and without its blocker when skipped', async () => {
  const events = recordEvents()
  let failing = true
  const worker = createClaimer(
    {
      database: database.url,
      consumer,
      onEvent: events.onEvent,
      backoffMsMin: 3_600_000,
      backoffMsMax: 3_600_000,
    },
    {
      '#': (message) => {
        if (failing && name(message).endsWith('1')) throw new TypeError('not yet')
        handled.push(name(message))
      },
    },
  )
  workers.push(worker)
  await worker.start()
  await inbox('a1', 'a2', 'b1', 'b2')
  await events.next('parked', undefined, 2)
  const keys = await readParkedKeys(database.url, { consumer })
  expect(keys.keys.toSorted((a, b) => (a.key < b.key ? -1 : 1))).toMatchObject([
    { key: 'a', until: expect.any(Date) as Date, letter: null },
    { key: 'b', until: expect.any(Date) as Date, letter: null },
  ])
  // Without a key those are left alone.
  expect(await skipParkedKeys(database.url, { consumer })).toBe(0)
  failing = false
  expect(await redriveParkedKeys(database.url, { consumer, key: 'a' })).toBe(1)
  expect(await skipParkedKeys(database.url, { consumer, key: 'b' }, { by: 'bob' })).toBe(1)
  await until(() => handled.length === 3)
  expect(handled.filter((each) => each.startsWith('a'))).toEqual(['a1', 'a2'])
  expect(handled.filter((each) => each.startsWith('b'))).toEqual(['b2'])
  expect((await readDeadLetters(database.url, { consumer })).letters).toMatchObject([
    { key: 'b', reason: 'skipped by bob', attempt: 1 },
  ])
})

test('a letter of a key that is not parked goes before what nobody has in flight', async () => {
  broken.add('a1')
  await inbox('a1', 'a2')
  const events = await claim('skip')
  await events.next('dead_letter')
  await until(() => handled.length === 1)
  broken.clear()
  await Promise.all(workers.splice(0).map((worker) => worker.stop()))
  await inbox('a3')
  await redriveDeadLetters(database.url, { consumer })
  await claim('skip')
  await until(() => handled.length === 3)
  expect(handled).toEqual(['a2', 'a1', 'a3'])
  await until(async () => (await left()) === 0)
})

test('what is claimed while its key is being parked is held back with the others', async () => {
  broken.add('a1')
  const events = await claim()
  const holder = await database.pool.connect()
  await holder.query('begin')
  // Parking waits for this, reading and claiming do not.
  await holder.query('lock table twinbox.parked in share mode')
  await inbox('a1', 'a2')
  await until(
    async () =>
      (
        await database.query(
          `select from pg_locks where not granted and relation = 'twinbox.parked'::regclass`,
        )
      ).length > 0,
  )
  const claimed = (): number => events.of('claimed').flatMap(({ ids }) => ids).length
  await inbox('a3')
  await until(() => claimed() === 3)
  await holder.query('commit')
  holder.release()
  await events.next('dead_letter')
  await until(async () => (await readParkedKeys(database.url, { consumer })).keys[0]?.waiting === 2)
  expect(handled).toEqual([])
  broken.clear()
  await redriveDeadLetters(database.url, { consumer })
  await until(() => handled.length === 3)
  expect(handled).toEqual(['a1', 'a2', 'a3'])
})

test('a higher maxAttempts brings no dead letter back', async () => {
  broken.add('a1')
  broken.add('-1')
  await inbox('a1', 'a2', '-1')
  const events = await claim()
  await events.next('dead_letter', undefined, 2)
  await Promise.all(workers.splice(0).map((worker) => worker.stop()))
  broken.clear()
  const again = createClaimer(
    { database: database.url, consumer, maxAttempts: 100, onEvent: events.onEvent },
    { '#': (message) => void handled.push(name(message)) },
  )
  workers.push(again)
  await again.start()
  await inbox('b1')
  await until(() => handled.includes('b1'))
  expect(handled).toEqual(['b1'])
  expect(await letters()).toHaveLength(2)
})

test('dead letters of the outbox are redriven in order as well', async () => {
  const sent: string[] = []
  let taking = false
  const broker: Broker = {
    name: 'picky',
    send: async (batch) =>
      batch.map((message) => {
        if (!taking && message.content === '1')
          return { status: 'rejected', error: new BrokerError('poison', 'never') }
        sent.push(`${message.key}${String(message.content)}`)
        return { status: 'sent' }
      }),
    subscribe: async () => ({ stop: async () => {} }),
    close: async () => {},
  }
  const events = recordEvents()
  const relay = createRelay({
    database: database.url,
    broker,
    onEvent: events.onEvent,
    strictSend: true,
  })
  workers.push(relay)
  await relay.start()
  await database.transaction((client) =>
    createOutbox().publishMany(
      client,
      [1, 2, 3].map((payload) => ({ topic: 'keyed', key: 'k', payload })),
    ),
  )
  await events.next('dead_letter')
  await until(async () => (await readParkedKeys(database.url, { consumer: null })).keys[0]?.waiting === 2)
  expect(sent).toEqual([])
  taking = true
  expect(await redriveDeadLetters(database.url, { consumer: null, key: 'k' })).toMatchObject({ count: 1 })
  await until(() => sent.length === 3)
  expect(sent).toEqual(['k1', 'k2', 'k3'])
})

test('a delivery that was no message is handed to the handler as it came', async () => {
  await database.query(
    `insert into twinbox.dead_letter (consumer, id, topic, key, body, content_type, attempt, reason)
    values ($1, gen_random_uuid(), 'raw', 'a', '\\x0102', 'text/x', 0, 'It has no identity.'),
      ($1, gen_random_uuid(), 'raw', repeat('k', 300), '\\x0304', 'text/x', 0, 'Its key has more than 255 bytes.')`,
    [consumer],
  )
  const seen: Message[] = []
  const claimer = createClaimer(
    { database: database.url, consumer },
    { raw: (message) => void seen.push(message) },
  )
  workers.push(claimer)
  await claimer.start()
  expect(await redriveDeadLetters(database.url, { consumer })).toMatchObject({ count: 2 })
  await until(() => seen.length === 2)
  expect(seen.map(({ key, payload }) => [key, Buffer.from(payload as Uint8Array).toString('hex')])).toEqual(
    expect.arrayContaining([
      ['a', '0102'],
      [null, '0304'],
    ]),
  )
})

test('export writes letters whole', async () => {
  broken.add('-7')
  await inbox('-7')
  await claim()
  await until(async () => (await letters()).length === 1)
  const exported = []
  for await (const letter of exportDeadLetters(database.url, { consumer })) exported.push(letter)
  expect(exported).toMatchObject([{ consumer, payload: '7', bytes: 1, headers: {}, topic: 'free' }])
})

test.each([
  [{ consumer: 'no good' }, /consumer must be/],
  [{ topics: 'x' }, /topics is not an option of a filter of dead letters/],
  [{ key: '' }, /key must be text/],
  [{ error: 'a\0b' }, /error must be text/],
  [{ olderThanMs: -1 }, /olderThanMs is -1/],
  [{ numbers: [] }, /numbers must be an array of 1 to 1000/],
  [{ numbers: [1.5] }, /numbers must be/],
  [{ ids: ['x'] }, /ids must be an array of 1 to 1000 UUIDs/],
])('a filter that cannot be one is refused before any SQL: %j', async (filter, says) => {
  const nowhere = 'postgres://127.0.0.1:1/x'
  await expect(redriveDeadLetters(nowhere, filter as never)).rejects.toThrow(says)
  await expect(readDeadLetters(nowhere, filter as never)).rejects.toThrow(says)
})
