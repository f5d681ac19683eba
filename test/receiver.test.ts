import { randomUUID } from 'node:crypto'
import pg from 'pg'
import { CloudEvent, HTTP } from 'cloudevents'
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from 'vitest'
import type { Broker, IncomingMessage, OnBatch } from '../src/brokers/broker.ts'
import { createReceiver, type ReceiverOptions, type Worker } from '../src/index.ts'
import { startProxy } from './support/proxy.ts'
import { recordEvents, type Recorder } from './support/events.ts'
import { createTestDatabase, type TestDatabase } from './support/postgres.ts'

/** The receiver's own rules, with deliveries as a test wants them. What real brokers deliver is in `brokers/`. */
let database: TestDatabase
let consumer: string
let events: Recorder
let receiver: Worker | null = null
let deliver: OnBatch

const broker: Broker = {
  name: 'told',
  send: async () => [],
  async subscribe(_, onBatch) {
    deliver = onBatch
    return { stop: async () => {} }
  },
  close: async () => {},
}

beforeAll(async () => {
  database = await createTestDatabase()
})
beforeEach(() => {
  consumer = `c${randomUUID().slice(0, 8)}`
  events = recordEvents()
})
afterEach(async () => {
  await receiver?.stop()
  receiver = null
})
afterAll(() => database.drop())

async function start(options: Partial<ReceiverOptions> = {}): Promise<void> {
  receiver = createReceiver({
    database: database.url,
    broker,
    consumer,
    topics: ['#'],
    onEvent: events.onEvent,
    ...options,
  })
  await receiver.start()
}

function incoming(fields: Partial<IncomingMessage> = {}): IncomingMessage {
  return {
    topic: 'order.placed',
    key: null,
    headers: {},
    contentType: 'application/json',
    body: Buffer.from('{"n":1}'),
    position: null,
    redelivered: false,
    ...fields,
  }
}

function cloudEvent(fields: Partial<IncomingMessage> = {}, id: string = randomUUID()): IncomingMessage {
  const headers = {
    ce_specversion: '1.0',
    ce_id: id,
    ce_source: 'twinbox',
    ce_type: 'order.placed',
    tenant: 't1',
  }
  return incoming({ headers, ...fields })
}

const rows = (): Promise<Record<string, unknown>[]> =>
  database.query(
    `select id, topic, key, headers, payload::text as payload, body, content_type from twinbox.inbox
    where consumer = $1 order by seq`,
    [consumer],
  )
const refused = (): Promise<Record<string, unknown>[]> =>
  database.query(
    'select topic, reason, body, attempt from twinbox.dead_letter where consumer = $1 order by number',
    [consumer],
  )

test('a CloudEvent is stored once, however often it is delivered', async () => {
  await start()
  const id = randomUUID()
  await deliver([cloudEvent({ key: 'k' }, id), cloudEvent({ key: 'k' }, id)])
  await deliver([cloudEvent({ key: 'k', redelivered: true }, id.toUpperCase())])
  expect(await rows()).toEqual([
    {
      id,
      topic: 'order.placed',
      key: 'k',
      headers: { tenant: 't1' },
      payload: '{"n":1}',
      body: null,
      content_type: null,
    },
  ])
  expect(events.of('received').map(({ fresh, duplicates }) => [fresh, duplicates])).toEqual([
    [1, 1],
    [0, 1],
  ])
})

test('two consumers each get it', async () => {
  await start()
  const first = deliver
  const mine = consumer
  consumer += 'x'
  const other = createReceiver({ database: database.url, broker, consumer, topics: ['#'] })
  await other.start()
  const event = cloudEvent()
  await first([event])
  await deliver([event])
  await other.stop()
  const counts = await database.query(
    'select consumer, count(*)::int from twinbox.inbox where consumer = any ($1) group by 1 order by 1',
    [[mine, consumer]],
  )
  expect(counts).toEqual([
    { consumer: mine, count: 1 },
    { consumer, count: 1 },
  ])
})

test("another sender's ids count together with their source", async () => {
  await start()
  const of = (source: string, id: string): IncomingMessage =>
    incoming({ headers: { ce_specversion: '1.0', ce_id: id, ce_source: source, ce_type: 'x.y' } })
  await deliver([of('/a', '1'), of('/b', '1'), of('/a', '1'), of('/a', '2')])
  expect((await rows()).map(({ topic }) => topic)).toEqual(['x.y', 'x.y', 'x.y'])
})

test('what the SDK of CloudEvents writes is understood', async () => {
  await start()
  const event = new CloudEvent({
    type: 'order.placed',
    source: '/shop',
    data: { total: 42 },
    partitionkey: 'k1',
  })
  const { headers, body } = HTTP.binary(event)
  // The HTTP binding's prefix stands for that of the broker.
  const renamed = Object.fromEntries(
    Object.entries(headers).map(([name, value]) => [name.replace(/^ce-/, 'ce_'), String(value)]),
  )
  await deliver([incoming({ headers: renamed, body: Buffer.from(body as string) })])
  expect(await rows()).toMatchObject([{ topic: 'order.placed', key: 'k1', payload: '{"total":42}' }])
})

test('a foreign message is identified by message-id, by its position, or by identify', async () => {
  await start()
  const foreign = incoming({ headers: { 'message-id': 'm1' } })
  await deliver([
    foreign,
    foreign,
    incoming({ position: 't/0/5' }),
    incoming({ position: 't/0/5', redelivered: true }),
  ])
  expect(await rows()).toHaveLength(2)
  await receiver!.stop()

  consumer += 'i'
  await start({
    identify: (message) => {
      const { ref, customer } = JSON.parse(Buffer.from(message.body).toString()) as {
        ref: string
        customer: string
      }
      return { id: ref, key: customer, topic: 'foreign.order' }
    },
  })
  const body = Buffer.from('{"ref":"r1","customer":"c1"}')
  await deliver([incoming({ body }), incoming({ body, redelivered: true })])
  expect(await rows()).toMatchObject([{ topic: 'foreign.order', key: 'c1', payload: body.toString() }])
})

test('what has no identity, or cannot be stored as it is, becomes a dead letter, and its neighbours do not', async () => {
  await start({
    identify: (message) => {
      if (message.topic === 'throws') throw new Error('no idea')
      if (message.topic === 'null') return null
      return { id: message.headers['ref'] ?? '' }
    },
  })
  const bad = [
    incoming({ topic: 'throws' }),
    incoming({ topic: 'null' }),
    incoming({ topic: 'empty' }),
    incoming({ topic: 'key', key: 'x'.repeat(300), headers: { ref: '1' } }),
    incoming({ topic: 'nul', headers: { ref: '2', bad: 'a\0b' } }),
    incoming({ topic: 'surrogate', key: '\ud800', headers: { ref: '3' } }),
  ]
  await deliver([cloudEvent(), ...bad, cloudEvent()])
  await deliver(bad)
  expect(await rows()).toHaveLength(2)
  const letters = await refused()
  expect(letters.map(({ topic }) => topic)).toEqual(bad.map(({ topic }) => topic))
  for (const { body, attempt } of letters) expect([body, attempt]).toEqual([Buffer.from('{"n":1}'), 0])
  expect(events.of('refused')).toHaveLength(12)
})

test('a body that is not the JSON it claims to be is kept as bytes', async () => {
  await start()
  const bodies = ['{"broken":', '\u0000', Buffer.from([0xff, 0xfe]), '']
  await deliver(bodies.map((body) => cloudEvent({ body: Buffer.from(body as string) })))
  const stored = await rows()
  expect(stored.map(({ payload }) => payload)).toEqual([null, null, null, null])
  expect(stored.map(({ body }) => body)).toEqual(bodies.map((body) => Buffer.from(body as string)))
})

test('an outage of the database is waited out: nothing is given back to the broker, nothing is lost', async () => {
  const url = new URL(database.url)
  const proxy = await startProxy({ host: url.hostname, port: Number(url.port || 5432) })
  const through = Object.assign(new URL(database.url), {
    hostname: '127.0.0.1',
    port: String(proxy.port),
  }).toString()
  await start({ database: new pg.Pool({ connectionString: through, connectionTimeoutMillis: 1000 }) })
  await proxy.refuse()
  proxy.cut()
  let settled = false
  const delivered = deliver([cloudEvent(), cloudEvent()]).then(() => (settled = true))
  await events.next('database_down')
  expect(settled).toBe(false)
  await proxy.heal()
  await delivered
  expect(await rows()).toHaveLength(2)
  await events.next('database_up')
  await receiver!.stop()
  await proxy.close()
})
