import { randomUUID } from 'node:crypto'
import { gzipSync } from 'node:zlib'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import type { IncomingMessage } from '../../src/brokers/broker.ts'
import { createClaimer, createReceiver, type ReceiverOptions, type Worker } from '../../src/index.ts'
import { newMessageId } from '../../src/message/message.ts'
import { recordEvents, type Recorder } from '../support/events.ts'
import { createTestDatabase, type TestDatabase } from '../support/postgres.ts'
import { incoming, toldBroker } from '../support/told.ts'

/**
 * Broker → receiver: what a producer may write who has a topic to itself, and what an adapter may hand over that is not
 * one of ours. It becomes a message or a dead letter by itself, each once, and what is behind it arrives.
 */

let database: TestDatabase
let consumer: string
let events: Recorder
let receiver: Worker
const { broker, deliver } = toldBroker('twinbox')
beforeAll(async () => {
  database = await createTestDatabase()
})
beforeEach(async () => {
  consumer = `c${randomUUID().slice(0, 8)}`
  events = recordEvents()
  await start()
})
afterEach(() => receiver.stop())
afterAll(() => database.drop())

async function start(options: Partial<ReceiverOptions> = {}): Promise<void> {
  const { onEvent } = events
  const given = { database: database.url, broker, consumer, topics: ['#'], onEvent, ...options }
  receiver = createReceiver(given)
  await receiver.start()
}

const event = (
  attributes: Readonly<Record<string, string>> = {},
  fields: Partial<IncomingMessage> = {},
): IncomingMessage =>
  incoming({
    headers: { ce_specversion: '1.0', ce_id: randomUUID(), ce_source: 'shop', ...attributes },
    ...fields,
  })

const rows = (): Promise<Record<string, unknown>[]> =>
  database.query(
    `select id, topic, key, headers, payload::text as payload, body, content_type, published_at, expires_at
    from twinbox.inbox where consumer = $1 order by seq`,
    [consumer],
  )
const letters = (): Promise<{ topic: string; reason: string; body: Buffer }[]> =>
  database.query('select topic, reason, body from twinbox.dead_letter where consumer = $1 order by number', [
    consumer,
  ])
const good = (): IncomingMessage => event({}, { topic: 'good' })
/** How many of these have become messages and dead letters; a good one behind them has arrived. */
async function take(...batch: readonly unknown[]): Promise<{ messages: number; letters: number }> {
  await deliver([...(batch as IncomingMessage[]), good()])
  const all = await rows()
  expect(all.filter(({ topic }) => topic === 'good')).toHaveLength(1)
  return { messages: all.length - 1, letters: (await letters()).length }
}

describe('who wants to be taken for somebody else', () => {
  const ours = { ce_source: 'twinbox' }
  test('an id of ours in capitals is the same message, and is handled once', async () => {
    const id = newMessageId()
    const copies = [id, id.toUpperCase()].map((ce_id) => event({ ...ours, ce_id }))
    expect(await take(...copies)).toEqual({ messages: 1, letters: 0 })
  })

  test.each([
    ['a source that looks like ours', { ce_source: 'twinb\u043ex' }],
    ['a source with a space behind it', { ce_source: 'twinbox ' }],
    ['a source in capitals', { ce_source: 'TWINBOX' }],
    ['no source', { ce_source: '' }],
  ])('%s is another one: it makes no message of ours vanish', async (_, attributes) => {
    const ce_id = newMessageId()
    const honest = event({ ...ours, ce_id }, { body: Buffer.from('"honest"') })
    expect(await take(event({ ...attributes, ce_id }), honest)).toEqual({ messages: 2, letters: 0 })
    expect((await rows()).find(({ payload }) => payload === '"honest"')!['id']).toBe(ce_id)
  })

  test.each([
    ['in braces', (id: string) => `{${id}}`],
    ['as a URN', (id: string) => `urn:uuid:${id}`],
    ['without its dashes', (id: string) => id.replaceAll('-', '')],
    ['with another version', (id: string) => `${id.slice(0, 14)}4${id.slice(15)}`],
    ['as a time before 1970', (id: string) => `ffffffff-ffff-7${id.slice(15)}`],
  ])('an id of ours %s takes the place of none', async (_, form) => {
    const ce_id = newMessageId()
    const taken = await take(
      event({ ...ours, ce_id: form(ce_id) }),
      event({ ...ours, ce_id }, { body: Buffer.from('2') }),
    )
    expect(taken).toEqual({ messages: 2, letters: 0 })
  })

  test('attributes twice, by both prefixes and in other cases, make one message of one delivery', async () => {
    const twice = event({ 'cloudEvents:id': 'other', CE_ID: 'third', Ce_Source: 'x', 'ce-id': 'fourth' })
    expect(await take(twice, twice)).toEqual({ messages: 1, letters: 0 })
    expect((await rows())[0]!['headers']).toMatchObject({ CE_ID: 'third', 'ce-id': 'fourth' })
  })

  test('names of methods as attributes and headers are names like any other', async () => {
    const names = ['__proto__', 'constructor', 'hasOwnProperty', 'toString', 'then', 'toJSON']
    const headers = Object.fromEntries(
      names.flatMap((name) => [
        [`ce_${name}`, 'a'],
        [name, 'b'],
      ]),
    )
    expect(await take(event(headers))).toEqual({ messages: 1, letters: 0 })
    expect(Object.keys({})).toEqual([])
    expect(({} as Record<string, unknown>)['b']).toBeUndefined()
  })

  test('a topic that looks like one of ours chooses no handler of it', async () => {
    const called: string[] = []
    await using claimer = createClaimer(
      { database: database.url, consumer, onEvent: events.onEvent },
      { 'order.placed': ({ topic }) => void called.push(topic), good: () => {} },
    )
    await claimer.start()
    const likes = [
      'order.pl\u0430ced',
      'order.placed ',
      'Order.placed',
      'order..placed',
      'order.*',
      '*.placed',
      '#',
    ]
    await take(...likes.map((topic) => event({}, { topic })))
    await events.next('set_aside', () => true)
    await events.next('handled', ({ topic }) => topic === 'good')
    expect(called).toEqual([])
  })
})

describe('identities of which something is lost', () => {
  // A client decodes bytes that are no UTF-8 to U+FFFD: 0x80 and 0x81 become the same text.
  const unclear = (byte: number): string => Buffer.from([0x61, byte]).toString()
  test.each([
    ['the id of an event', (id: string) => event({ ce_id: id })],
    ['a message-id', (id: string) => incoming({ headers: { 'message-id': id } })],
  ])('%s: what two senders meant as two does not vanish as one', async (_, of) => {
    const taken = await take(of(unclear(0x80)), of(unclear(0x81)))
    expect(taken.messages + taken.letters).toBe(2)
  })
})

describe('what does not fit its label', () => {
  test.each<[string, Partial<IncomingMessage>]>([
    ['packed bytes that are called JSON', { body: gzipSync('{"n":1}') }],
    [
      'JSON of another encoding',
      { contentType: 'application/json; charset=utf-16', body: Buffer.from('{"n":1}', 'utf16le') },
    ],
    ['two JSON texts in one', { body: Buffer.from('{"n":1}{"n":2}') }],
    ['JSON behind a mark of its byte order', { body: Buffer.from('\ufeff{"n":1}') }],
    ['a record separator inside', { body: Buffer.from('"a\u001eb"') }],
    ['names that stand twice', { body: Buffer.from('{"a":1,"a":2,"__proto__":{"b":1}}') }],
    ['a number without end', { body: Buffer.from(`1${'0'.repeat(100_000)}`) }],
    ['an exponent without end', { body: Buffer.from('[1e99999999999999999999, -1e-99999999999999]') }],
    ['half a character as an escape', { body: Buffer.from(String.raw`"\ud800"`) }],
    ['NUL as an escape', { body: Buffer.from(String.raw`"\u0000"`) }],
    ['nothing', { body: Buffer.alloc(0) }],
  ])('%s: it is kept as it came, and a handler gets it', async (_, fields) => {
    const got: unknown[] = []
    const { body } = { ...incoming(), ...fields }
    expect(await take(event({}, fields))).toEqual({ messages: 1, letters: 0 })
    await using claimer = createClaimer(
      { database: database.url, consumer, onEvent: events.onEvent },
      { '#': ({ topic, payload }) => void (topic === 'good' || got.push(payload)) },
    )
    await claimer.start()
    await events.next('handled', () => true, 2)
    const [payload] = got
    if (payload instanceof Uint8Array) expect(Buffer.from(payload)).toEqual(body)
    else expect(payload).toEqual(JSON.parse(body.toString().replace(/^\ufeff/, '')))
  })

  test.each([
    ...['1e99', '-1', '99999999999999999999', 'now', 'infinity', '-infinity', 'epoch', '2026-02-31', ''],
    ...['+275760-09-13T00:00:00.001Z', '-271821-04-20T00:00:00Z', '2026-01-01T25:00:00Z', '24:00', '\u0661'],
    ...["2026-01-01'; drop table twinbox.inbox; --", '0000-00-00', 'T', 'Z', '2026-01-01T00:00:00+99:99'],
  ])('the time %j, and what is behind it arrives', async (time) => {
    const taken = await take(event({ ce_time: time }), event({ ce_expirytime: time }))
    expect(taken.messages + taken.letters).toBe(2)
  })

  test('headers that others live by have no effect here', async () => {
    const headers = {
      ...{ 'x-death': '[{"count":99999}]', 'x-delivery-count': '99999', 'x-first-death-reason': 'rejected' },
      ...{ traceparent: '00-zz', tracestate: '=,=', 'content-encoding': 'gzip', 'content-length': '-1' },
      ...{
        'twinbox-attempt': '99',
        attempt: '99',
        'message-id': 'x',
        host: 'evil',
        authorization: 'Bearer x',
      },
    }
    expect(await take(event(headers))).toEqual({ messages: 1, letters: 0 })
    expect(
      await database.query('select distinct attempt from twinbox.inbox where consumer = $1', [consumer]),
    ).toEqual([{ attempt: 0 }])
  })

  test('500 deliveries in one batch that differ in nothing but their content are one message and 499 collisions', async () => {
    const batch = Array.from({ length: 499 }, (_, n) =>
      event({ ce_id: 'one' }, { body: Buffer.from(String(n)) }),
    )
    expect(await take(...batch)).toEqual({ messages: 1, letters: 498 })
    for (const { reason } of await letters()) expect(reason).toMatch(/^collision/)
  })
})

describe('an adapter that is not one of ours', () => {
  const broken: Readonly<Record<string, object>> = {
    'no body': { body: undefined },
    'a text as its body': { body: '{"n":1}' },
    'an array as its body': { body: [1, 2] },
    'no headers': { headers: null },
    'a number as a header': { headers: { ce_specversion: '1.0', ce_id: 'x', a: 1 } },
    'null as a header': { headers: { ce_specversion: '1.0', ce_id: 'x', a: null } },
    'an object as a header': { headers: { ce_specversion: '1.0', ce_id: { toString: () => 'x' } } },
    'no topic': { topic: undefined },
    'a number as its topic': { topic: 1 },
    'a number as its key': { key: 1 },
    'an object as its content type': { contentType: {} },
    'a symbol as its position': { position: Symbol('place') },
  }
  test.each(Object.keys(broken))(
    'hands over a delivery with %s: it is set aside, and what is behind it arrives',
    async (name) => {
      const taken = await take({ ...event(), ...broken[name] })
      expect(taken.messages + taken.letters).toBe(1)
      expect(events.of('database_down')).toEqual([])
    },
  )

  test.each([
    ['null', null],
    ['a text', 'delivery'],
    [
      'a proxy that throws',
      new Proxy(
        {},
        {
          get: () => {
            throw new Error('no')
          },
        },
      ),
    ],
  ])(
    'hands over %s instead of a delivery: it is set aside, and what is behind it arrives',
    async (_, delivery) => {
      const taken = await take(delivery)
      expect(taken).toEqual({ messages: 0, letters: 1 })
    },
  )
})
