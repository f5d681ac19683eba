import { randomBytes, randomUUID } from 'node:crypto'
import pg from 'pg'
import { CloudEvent, HTTP } from 'cloudevents'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import type { IncomingMessage } from '../src/brokers/broker.ts'
import { newMessageId } from '../src/message/message.ts'
import { createReceiver, type ReceiverOptions, type Worker } from '../src/index.ts'
import { startProxy } from '../proof/stage/proxy.ts'
import { recordEvents, type Recorder } from './support/events.ts'
import { createTestDatabase, type TestDatabase } from './support/postgres.ts'
import { incoming, toldBroker } from './support/told.ts'

/** The receiver's own rules, with deliveries as a test wants them. What real brokers deliver is in `brokers/`. */
let database: TestDatabase
let consumer: string
let events: Recorder
let receiver: Worker | null = null

const { broker, deliver, last } = toldBroker()

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

function cloudEvent(fields: Partial<IncomingMessage> = {}, id: string = newMessageId()): IncomingMessage {
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
  await start({ sources: ['twinbox'] })
  const id = newMessageId()
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
  const first = last()
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
  expect(await rows()).toHaveLength(3)
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
  // The topic was made again.
  await deliver([
    incoming({ position: 't/0/5', placedAt: '1764400000000' }),
    incoming({ position: 't/0/5', body: Buffer.from('{"n":2}') }),
    incoming({ position: 't/0/5', placedAt: '1764400000000' }),
  ])
  expect(await rows()).toHaveLength(4)
  const bad = { contentType: 'a\0b', position: 't/0/6' }
  await deliver([incoming(bad), incoming({ ...bad, placedAt: '1764400000000' }), incoming(bad)])
  expect(await refused()).toHaveLength(2)
  await receiver!.stop()

  consumer += 'i'
  await start({
    identify: (message) => {
      const { ref, customer } = JSON.parse(Buffer.from(message.body).toString()) as {
        ref: string
        customer: string
      }
      return { id: ref, key: customer }
    },
  })
  const body = Buffer.from('{"ref":"r1","customer":"c1"}')
  await deliver([incoming({ body }), incoming({ body, redelivered: true })])
  expect(await rows()).toMatchObject([{ topic: 'order.placed', key: 'c1', payload: body.toString() }])
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
  await deliver(bad.map((message) => ({ ...message, redelivered: true })))
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

test('refused deliveries that look alike stay several, and one that comes again stays one', async () => {
  await start()
  const tick = incoming({ topic: 'tick', body: Buffer.from('1') })
  await deliver([tick, tick, tick])
  expect(await refused()).toHaveLength(3)
  await deliver([{ ...tick, redelivered: true }, tick])
  expect(await refused()).toHaveLength(4)
  // The first delivery of these was never stored.
  const tock = incoming({ topic: 'tock', redelivered: true })
  await deliver([tock, tock])
  await deliver([tock])
  expect(await refused()).toHaveLength(6)
})

const withHeaders = (more: Record<string, string>): IncomingMessage => {
  const event = cloudEvent()
  return { ...event, headers: { ...event.headers, ...more } }
}
const many = (count: number, name: (index: number) => string, value: string): Record<string, string> =>
  Object.fromEntries(Array.from({ length: count }, (_, index) => [name(index), value]))
const deep = (open: string, close: string): Buffer =>
  Buffer.from(open.repeat(20_000) + '1' + close.repeat(20_000))

describe('what Postgres would refuse is set aside by itself', () => {
  const bad: Record<string, () => IncomingMessage> = {
    'JSON nested 20,000 deep': () => cloudEvent({ body: deep('[', ']') }),
    'objects nested 20,000 deep': () => cloudEvent({ body: deep('{"]":', '}') }),
    'a content type with a NUL': () => cloudEvent({ contentType: 'text/plain\0', body: Buffer.from('abc') }),
    'the same without an identity': () => incoming({ contentType: 'text/plain\0' }),
    'a content type of half a character': () => cloudEvent({ contentType: 'a/\udc00' }),
    'a content type of 10,000 bytes': () => cloudEvent({ contentType: `a/${'b'.repeat(10_000)}` }),
    'a key of 10,000 random characters': () => cloudEvent({ key: randomBytes(5000).toString('hex') }),
    'a key of 10,000 halves of characters': () => cloudEvent({ key: '\ud800'.repeat(10_000) }),
    'a topic of 100,000 characters': () =>
      incoming({ topic: 'é'.repeat(100_000), headers: { 'message-id': '1' } }),
    'more than 1,024 headers': () => withHeaders(many(1100, (index) => `h${index}`, 'v')),
    'headers of more than 64 KiB': () => withHeaders(many(10, (index) => `h${index}`, 'v'.repeat(10_000))),
    'a header name with a NUL': () => withHeaders({ 'a\0b': '1' }),
    'a body above maxPayloadBytes': () => cloudEvent({ body: randomBytes(300_000) }),
    'what the adapter could not read': () => ({ ...cloudEvent(), refused: 'It is nested too deep.' }),
  }
  test.each(Object.keys(bad))('%s', async (name) => {
    await start({ maxPayloadBytes: 200_000 })
    const message = bad[name]!()
    await deliver([message, cloudEvent()])
    await deliver([{ ...message, redelivered: true }, cloudEvent()])
    expect(await rows()).toHaveLength(2)
    const letters = await refused()
    expect(letters).toHaveLength(1)
    const kept = message.body.byteLength > 200_000 ? message.body.subarray(0, 65_536) : message.body
    expect(letters[0]!['body']).toEqual(Buffer.from(kept))
    expect(events.of('refused')).toHaveLength(2)
  })

  test('the reason tells how much was cut', async () => {
    await start({ maxPayloadBytes: 100 })
    await deliver([incoming({ key: 'k'.repeat(10_000), body: Buffer.alloc(70_000) })])
    const [letter] = await refused()
    expect(letter!['reason']).toMatch(
      /has 70000 bytes, but the limit is 100 .*a key of 10000 bytes.*a body of 70000 bytes/,
    )
  })
})

describe('what can be kept arrives', () => {
  const good: Record<string, [() => IncomingMessage, Record<string, unknown>]> = {
    'JSON nested 1,000 deep': [
      () => cloudEvent({ body: Buffer.from('['.repeat(1000) + ']'.repeat(1000)) }),
      {},
    ],
    'brackets in a text': [
      () => cloudEvent({ body: Buffer.from(JSON.stringify(`\\"${'['.repeat(20_000)}`)) }),
      { body: null },
    ],
    'a time before Postgres': [
      () => withHeaders({ ce_time: '-005000-01-01T00:00:00Z' }),
      { published: '-004712' },
    ],
    'an expiry before Postgres': [
      () => withHeaders({ ce_expirytime: '-005000-01-01T00:00:00Z' }),
      { expires: '-004712' },
    ],
    'the last time of Date': [
      () => withHeaders({ ce_time: '+275760-09-13T00:00:00.000Z' }),
      { published: '+275760' },
    ],
    'a time beyond Date': [() => withHeaders({ ce_time: '+275760-09-14T00:00:00Z' }), { published: null }],
    'a time that nobody can read': [
      () => withHeaders({ ce_time: 'infinity', ce_expirytime: 'tomorrow' }),
      { published: null, expires: null },
    ],
    'an empty content type': [
      () => cloudEvent({ contentType: '', body: Buffer.from('x') }),
      { content_type: '' },
    ],
    'a topic of 20 kB': [() => cloudEvent({ topic: 't'.repeat(20_000) }), { topic: 't'.repeat(20_000) }],
    'a body of 5 MiB': [() => cloudEvent({ body: Buffer.from(`"${'x'.repeat(5 << 20)}"`) }), { body: null }],
    'no bytes': [() => cloudEvent({ contentType: 'a/b', body: Buffer.alloc(0) }), { body: Buffer.alloc(0) }],
  }
  test.each(Object.keys(good))('%s', async (name) => {
    await start()
    const [make, expected] = good[name]!
    await deliver([make(), cloudEvent()])
    const stored = await database.query<
      Record<string, unknown> & { published: Date | null; expires: Date | null }
    >(
      `select topic, body, content_type, published_at as published, expires_at as expires from twinbox.inbox
      where consumer = $1 order by seq`,
      [consumer],
    )
    expect(stored).toHaveLength(2)
    const year = (time: Date | null): string | null => time && time.toISOString().replace(/-\d\d-\d\dT.*/, '')
    const { published, expires, ...rest } = stored[0]!
    expect({ ...rest, published: year(published), expires: year(expires) }).toMatchObject(expected)
    expect(await refused()).toEqual([])
  })
})

test('what an identify function makes up is refused, and stops nobody', async () => {
  const made: unknown[] = [{ id: 1 }, { id: 'b', key: {} }, 'text', { id: '' }]
  await start({
    identify: ({ headers }) => {
      const index = headers['made']
      return index === undefined ? { id: randomUUID() } : (made[Number(index)] as { id: string })
    },
  })
  await deliver([...made.map((_, index) => incoming({ headers: { made: String(index) } })), incoming()])
  expect(await refused()).toHaveLength(made.length)
  expect(await rows()).toHaveLength(1)
})

test('what fails in the database by its content is found among 300 and set aside, whatever the error is', async () => {
  await start({ sources: ['twinbox'] })
  await database.query(`
    create function refuse() returns trigger language plpgsql as $$ begin
      if new.topic like 'bad.%' then
        raise exception 'no' using errcode = split_part(new.topic, '.', 2);
      end if;
      return new;
    end $$;
    create trigger refuse before insert on twinbox.inbox for each row execute function refuse()`)
  try {
    const states = ['22P02', '22008', '23514', '54000', '54001']
    const bad = states.map((state) =>
      cloudEvent({ topic: `bad.${state}`, headers: withHeaders({ ce_type: `bad.${state}` }).headers }),
    )
    const batch = Array.from({ length: 300 }, (_, n) => bad[n / 60] ?? cloudEvent({ key: 'k' }))
    await deliver(batch)
    expect((await refused()).map(({ topic }) => topic)).toEqual(states.map((state) => `bad.${state}`))
    const good = batch.filter(({ key }) => key === 'k').map(({ headers }) => headers['ce_id'])
    expect((await rows()).map(({ id }) => id)).toEqual(good)
    expect(events.of('database_down')).toEqual([])
    expect(events.of('received').at(-1)).toMatchObject({ fresh: 295, duplicates: 0 })
  } finally {
    await database.query('drop function refuse cascade')
  }
})

test('a dead letter that the database refuses as well is kept without what is to blame, and stops nobody', async () => {
  await start()
  await database.query(`
    create function refuse() returns trigger language plpgsql as $$ begin
      if new.headers::text like '%bad%' or new.topic = 'bad' then raise exception 'no' using errcode = '22P02'; end if;
      return new;
    end $$;
    create trigger refuse before insert on twinbox.dead_letter for each row execute function refuse()`)
  try {
    await deliver([
      incoming({ topic: 'one' }),
      incoming({ topic: 'two', headers: { bad: '1' } }),
      incoming({ topic: 'bad' }),
      cloudEvent(),
    ])
    const letters = await refused()
    expect(letters.map(({ topic, body }) => [topic, String(body)])).toEqual([
      ['one', '{"n":1}'],
      ['two', '{"n":1}'],
      ['unknown', ''],
    ])
    for (const { reason } of letters.slice(1))
      expect(reason).toMatch(/It has no identity.* The database does not keep more of it: .*no/)
    expect(await rows()).toHaveLength(1)
    expect(events.of('refused').map(({ topic }) => topic)).toEqual(['one', 'two', 'bad'])
  } finally {
    await database.query('drop function refuse cascade')
  }
})

test('40 MiB in one batch go in, in statements of 8 MiB', async () => {
  const statements: number[] = []
  await start({
    telemetry: {
      begin: (_, messages) => {
        statements.push(messages.reduce((sum, { bytes }) => sum + bytes, 0))
        return { carried: [], run: (work) => work(), end: () => {} }
      },
    },
  })
  const body = Buffer.alloc(1 << 20)
  await deliver(Array.from({ length: 40 }, () => cloudEvent({ contentType: 'a/b', body, key: 'k' })))
  const [sum] = await database.query(
    'select count(*)::int, sum(octet_length(body))::int as bytes from twinbox.inbox where consumer = $1',
    [consumer],
  )
  expect(sum).toEqual({ count: 40, bytes: 40 << 20 })
  expect(Math.max(...statements)).toBeLessThanOrEqual(8 << 20)
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

describe('topicOf', () => {
  const typed = (type: string): IncomingMessage => ({
    ...cloudEvent({ topic: 'shop-events' }),
    headers: { ...cloudEvent().headers, ce_type: type, ce_id: newMessageId() },
  })

  test('chooses among the topics of the receiver, and what it gives beside them is a dead letter', async () => {
    await start({
      topics: ['order.*'],
      from: ['shop-events'],
      topicOf: ({ topic, attributes }) => {
        expect(topic).toBe('shop-events')
        if (attributes['type'] === 'throw') throw new Error('no idea')
        return attributes['type']!
      },
    })
    await deliver(['order.placed', 'admin.grant', 'throw', 'order.paid'].map(typed))
    await deliver([{ ...typed(''), headers: { 'message-id': '1' } }])
    expect((await rows()).map(({ topic }) => topic)).toEqual(['order.placed', 'order.paid'])
    expect((await refused()).map(({ topic, reason }) => [topic, reason])).toEqual([
      ['shop-events', expect.stringContaining('"admin.grant", which is none that the receiver takes')],
      ['shop-events', expect.stringContaining('topicOf threw: Error: no idea')],
      ['shop-events', expect.stringContaining('topicOf threw: TypeError: It gave no text')],
    ])
    const subscribed = await database.query('select pattern from twinbox.subscription where consumer = $1', [
      consumer,
    ])
    expect(subscribed).toEqual([{ pattern: 'shop-events' }])
  })

  test('is needed by from, which may not name what is no topic', async () => {
    const make = (options: Partial<ReceiverOptions>) => () =>
      createReceiver({ database: database.url, broker, consumer, topics: ['#'], ...options })
    expect(make({ from: ['a'] })).toThrow(/from needs topicOf/)
    expect(make({ from: ['a b'], topicOf: () => 'a' })).toThrow(/topics must be names/)
    expect(make({ topicOf: 'type' as never })).toThrow(/topicOf must be a function/)
  })
})

test('a handler sees the attributes of others, and of ours what nothing else says', async () => {
  await start({ sources: ['twinbox'] })
  const own = cloudEvent()
  const others = {
    ...own.headers,
    ce_source: '/shop',
    ce_id: '7',
    ce_subject: 's',
    ce_time: '2026-01-01T00:00:00Z',
  }
  await deliver([own, cloudEvent({ topic: 'eu.order.placed' }), cloudEvent({ headers: others })])
  expect((await rows()).map(({ headers }) => headers)).toEqual([
    { tenant: 't1' },
    { tenant: 't1', ce_type: 'order.placed' },
    { ...others, tenant: 't1', ce_specversion: undefined },
  ])
})

test('an id is kept if an outbox of ours has made it', async () => {
  await start({ sources: ['/eu', '/us'], broker: { ...broker, source: '/own' } })
  const id = newMessageId()
  const of = (source: string, ofId: string): IncomingMessage =>
    cloudEvent({
      headers: { ...cloudEvent().headers, ce_source: source, ce_id: ofId },
      body: Buffer.from('1'),
    })
  await deliver([
    of('/other', id),
    of('/own', randomUUID()),
    of('/own', id),
    of('/us', id),
    of('/eu', newMessageId()),
  ])
  const ids = (await rows()).map((row) => row['id'] as string)
  expect(ids.map((one) => one[14])).toEqual(['8', '8', '7', '7'])
  expect(ids[2]).toBe(id)
})

describe('another message with the identity of one', () => {
  const id = newMessageId()
  const of = (text: string): IncomingMessage =>
    cloudEvent({ topic: 'order.placed', body: Buffer.from(text) }, id)
  const counts = (): number[][] =>
    events.of('received').map(({ fresh, duplicates, collisions }) => [fresh, duplicates, collisions])

  test('becomes one dead letter, in the same batch or later', async () => {
    await start({ sources: ['twinbox'] })
    await deliver([of('1'), of('2'), of('1')])
    await deliver([of('3')])
    await deliver([{ ...of('3'), redelivered: true }, of('1')])
    expect((await rows()).map(({ payload }) => payload)).toEqual(['1'])
    expect((await refused()).map(({ body, reason }) => [String(body), reason])).toEqual([
      ['2', expect.stringMatching(/^collision: /)],
      ['3', expect.stringMatching(/^collision: /)],
    ])
    expect(counts()).toEqual([
      [1, 1, 1],
      [0, 0, 1],
      [0, 1, 1],
    ])
  })

  test('is a duplicate if the receiver is told so', async () => {
    await start({ sources: ['twinbox'], collisions: 'drop' })
    await deliver([of('1'), of('2')])
    await deliver([of('3')])
    expect(await rows()).toHaveLength(1)
    expect(await refused()).toEqual([])
    expect(counts()).toEqual([
      [1, 1, 0],
      [0, 1, 0],
    ])
  })
})
