import { randomUUID } from 'node:crypto'
import { CloudEvent, HTTP } from 'cloudevents'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import type { DeliveredEvent, ForeignMessage, IncomingMessage } from '../src/brokers/broker.ts'
import {
  createClaimer,
  createReceiver,
  isTombstone,
  tombstone,
  type Message,
  type ReceiverOptions,
} from '../src/index.ts'
import type { Worker } from '../src/index.ts'
import { newMessageId } from '../src/message/message.ts'
import { recordEvents, type Recorder } from './support/events.ts'
import { createTestDatabase, type TestDatabase } from './support/postgres.ts'
import { incoming as delivery, toldBroker } from './support/told.ts'

/** Messages of other systems, from the delivery to the handler. What real brokers deliver is in `brokers/`. */
let database: TestDatabase
let consumer: string
let events: Recorder
const workers: Worker[] = []
const { broker, deliver } = toldBroker('twinbox')

beforeAll(async () => {
  database = await createTestDatabase()
})
beforeEach(() => {
  consumer = `c${randomUUID().slice(0, 8)}`
  events = recordEvents()
})
afterEach(() => Promise.all(workers.splice(0).map((worker) => worker.stop())))
afterAll(() => database.drop())

async function start(options: Partial<ReceiverOptions> = {}): Promise<void> {
  const { onEvent } = events
  const receiver = createReceiver({
    database: database.url,
    broker,
    consumer,
    topics: ['#'],
    onEvent,
    ...options,
  })
  workers.push(receiver)
  await receiver.start()
}

/** What a handler gets of these. */
async function handled(...deliveries: readonly Partial<IncomingMessage>[]): Promise<Message[]> {
  await start()
  await deliver(deliveries.map(incoming))
  return claimed(deliveries.length)
}

async function claimed(count: number): Promise<Message[]> {
  const got: Message[] = []
  const { onEvent } = events
  // With one key, all in their order.
  const claimer = createClaimer(
    { database: database.url, consumer, onEvent },
    { '#': (message) => void got.push(message) },
  )
  workers.push(claimer)
  await claimer.start()
  await events.next('handled', () => true, count)
  return got
}

const incoming = (fields: Partial<IncomingMessage> = {}): IncomingMessage =>
  delivery({ topic: 'shop', key: 'k', ...fields })
const letters = (): Promise<Record<string, unknown>[]> =>
  database.query('select reason, body from twinbox.dead_letter where consumer = $1 order by number', [
    consumer,
  ])

const binary = (attributes: Readonly<Record<string, string>>): Record<string, string> =>
  Object.fromEntries(Object.entries(attributes).map(([name, value]) => [`ce_${name}`, value]))
const attributes = {
  ...{ specversion: '1.0', id: '7', source: '/shop', type: 'order.placed', subject: 'order/7' },
  ...{ time: '2026-01-01T00:00:00.123456789+02:00', dataschema: 'https://a.example/schema', traceid: 'x' },
}
const structured = (
  event: object | string,
  contentType = 'application/cloudevents+json',
): Partial<IncomingMessage> => ({
  ...{ contentType, body: Buffer.from(typeof event === 'string' ? event : JSON.stringify(event)) },
})

describe('attributes', () => {
  test('all of a CloudEvent reach its handler as they came, extensions and nanoseconds included', async () => {
    const [message] = await handled({ headers: { ...binary(attributes), tenant: 't1' } })
    expect(message!.attributes).toEqual(attributes)
    expect(message!.headers).toMatchObject({ tenant: 't1' })
  })

  test('the properties of AMQP do, and a header that looks like one does not pass for it', async () => {
    const properties = { 'amqp-correlation-id': 'c', 'amqp-type': 't', 'amqp-reply-to': 'r' }
    const headers = { 'message-id': '1', 'amqp-user-id': 'root', 'amqp-other': 'mine' }
    const [message] = await handled({ headers, properties })
    expect(message!.attributes).toEqual(properties)
    expect(message!.headers).toMatchObject({
      'x-amqp-user-id': 'root',
      'message-id': '1',
      'amqp-other': 'mine',
    })
  })

  test('a message of our own that nobody has touched stores none, whatever its broker adds', async () => {
    await start()
    const id = newMessageId()
    const time = '2026-01-01T00:00:00.000Z'
    const own = { specversion: '1.0', id, source: 'twinbox', type: 'shop', time, partitionkey: 'k' }
    const properties = { 'amqp-message-id': id, 'amqp-timestamp': '1764400000', 'amqp-delivery-mode': '2' }
    await deliver([incoming({ headers: binary(own), properties })])
    expect(await database.query('select headers from twinbox.inbox where consumer = $1', [consumer])).toEqual(
      [{ headers: null }],
    )
    expect((await claimed(1))[0]).toMatchObject({ id, attributes: {}, headers: {} })
  })

  test('identify and topicOf see them', async () => {
    const seen: (ForeignMessage | DeliveredEvent)[] = []
    await start({
      topics: ['order.*'],
      from: ['shop'],
      identify: (message) => {
        seen.push(message)
        return { id: message.attributes['amqp-correlation-id']! }
      },
      topicOf: (event) => {
        seen.push(event)
        return event.attributes['amqp-type'] ?? event.attributes['type']!
      },
    })
    const properties = { 'amqp-correlation-id': 'c', 'amqp-type': 'order.paid' }
    // One without an id is no event, and what it has of one counts all the same.
    const { id: _, ...partial } = attributes
    await deliver([
      incoming({ headers: binary(partial), properties }),
      incoming(structured({ ...attributes, data: 1 })),
    ])
    expect(seen.map((given) => given.attributes)).toEqual([
      { ...partial, ...properties },
      { ...partial, ...properties },
      attributes,
    ])
    expect((await claimed(2)).map(({ topic }) => topic)).toEqual(['order.paid', 'order.placed'])
  })
})

describe('structured mode', () => {
  test('what the SDK of CloudEvents writes is the same message as in binary mode', async () => {
    const event = new CloudEvent({ ...attributes, time: '2026-01-01T00:00:00.000Z', data: { total: 42 } })
    const { body, headers } = HTTP.structured(event)
    const [message] = await handled(structured(body as string, String(headers['content-type'])))
    expect(message).toMatchObject({ payload: { total: 42 }, contentType: 'application/json', topic: 'shop' })
    expect(message!.attributes).toMatchObject({ ...attributes, time: event.time })
    expect(message!.publishedAt).toEqual(new Date(event.time!))
    // In binary mode it has the same id: it has been seen.
    await deliver([incoming({ headers: binary(attributes), body: Buffer.from('{"total":42}') })])
    expect(events.of('received').at(-1)).toMatchObject({ fresh: 0, duplicates: 1, collisions: 0 })
  })

  const bytes = Buffer.from([0xff, 0, 1])
  test.each<[string, Record<string, unknown> | string, Partial<Message>]>([
    ['data of JSON', { data: [1, null] }, { payload: [1, null], contentType: 'application/json' }],
    ['data of null', { data: null }, { payload: null }],
    [
      'text',
      { data: 'a\nb', datacontenttype: 'text/plain' },
      { payload: Buffer.from('a\nb'), contentType: 'text/plain' },
    ],
    ['text that is JSON', { data: 'a', datacontenttype: 'application/x+json' }, { payload: 'a' }],
    [
      'no text where some is said',
      { data: { a: 1 }, datacontenttype: 'text/xml' },
      { payload: Buffer.from('{"a":1}') },
    ],
    [
      'bytes',
      { data_base64: bytes.toString('base64'), datacontenttype: 'a/b' },
      { payload: bytes, contentType: 'a/b' },
    ],
    [
      'bytes of no type',
      { data_base64: '' },
      { payload: Buffer.alloc(0), contentType: 'application/octet-stream' },
    ],
    ['nothing', {}, { payload: Buffer.alloc(0) }],
    [
      'names that stand twice, or are quoted',
      `\n{ "id" : "0", "da\\u0074a" : 1, "x":"}", "y":"\\\\\\"", "data" :[ {"id":"}"} , "]" ] ,"id":"7","source":"/shop","specversion":"1.0"} `,
      { payload: [{ id: '}' }, ']'] },
    ],
  ])('%s', async (_, given, expected) => {
    const { id, source, specversion } = attributes
    const event = typeof given === 'string' ? given : { id, source, specversion, ...given }
    const [message] = await handled(structured(event))
    expect(message).toMatchObject(expected)
    expect(message!.attributes).toMatchObject({ id, source, specversion })
  })

  test('numbers stay as they were sent, and attributes that are none are text', async () => {
    const data = '{"n":12345678901234567890}'
    await start()
    const event = `{"specversion":"1.0","id":"7","count":12345678901234567890,"on":true,"data":${data}}`
    await deliver([incoming(structured(event))])
    const rows = await database.query('select payload::text from twinbox.inbox where consumer = $1', [
      consumer,
    ])
    expect(rows).toEqual([{ payload: data }])
    const [message] = await claimed(1)
    expect(message!.attributes).toMatchObject({ count: '12345678901234567890', on: 'true' })
  })

  test.each([
    ['no JSON', '{"specversion":"1.0","id":"7"', /no identity/],
    ['no object', '["specversion","id"]', /no identity/],
    ['no id', '{"specversion":"1.0","data":1}', /no identity/],
    ['both kinds of data', '{"specversion":"1.0","id":"7","data":1,"data_base64":"AA=="}', /both data/],
    ['no base64', '{"specversion":"1.0","id":"7","data_base64":"%%"}', /no base64/],
    [
      'data that is too deep',
      `{"specversion":"1.0","id":"7","data":${'['.repeat(5000)}${']'.repeat(5000)}}`,
      /nested/,
    ],
    [
      'more attributes than headers are received',
      `{"specversion":"1.0","id":"7"${Array.from({ length: 20_000 }, (_, n) => `,"a${n}":1`).join('')}}`,
      /more than 1024 attributes/,
    ],
    ['a NUL in an attribute', '{"specversion":"1.0","id":"7","a":"\\u0000"}', /NUL/],
  ])('%s is set aside with its bytes, and what is behind it arrives', async (_, text, reason) => {
    await start()
    await deliver([incoming(structured(text)), incoming(structured({ ...attributes, data: 1 }))])
    expect(events.of('received').at(-1)).toMatchObject({ fresh: 1 })
    expect(await letters()).toEqual([
      { reason: expect.stringMatching(reason) as string, body: Buffer.from(text) },
    ])
  })
})

test('a handler tells a tombstone from an empty body, from null, and from what only calls itself one', async () => {
  const id = (n: number): Record<string, string> => ({ 'message-id': String(n) })
  const messages = await handled(
    { headers: id(1), contentType: tombstone.contentType, body: Buffer.alloc(0) },
    { headers: id(2), contentType: null, body: Buffer.alloc(0) },
    { headers: id(3), body: Buffer.from('null') },
    { headers: id(4), contentType: tombstone.contentType, body: Buffer.from('1') },
  )
  expect(messages.map(isTombstone)).toEqual([true, false, false, false])
})

describe('JSON', () => {
  test.each([
    ['application/vnd.shop.order+json', true],
    ['Application/Problem+JSON; charset=utf-8', true],
    ['text/json', true],
    ['application/json', false],
    ['application/json; charset="utf-8"', false],
  ])('is known by %s, and a handler sees more than that it is JSON', async (contentType, told) => {
    const [message] = await handled({ contentType, headers: { 'message-id': '1' } })
    expect(message).toMatchObject({ payload: { n: 1 }, contentType: 'application/json' })
    expect(message!.attributes).toEqual(told ? { datacontenttype: contentType } : {})
  })

  test('is known by an attribute where the broker has not said it', async () => {
    const headers = binary({ ...attributes, datacontenttype: 'application/x+json' })
    const [message] = await handled({ contentType: null, headers })
    expect(message).toMatchObject({
      payload: { n: 1 },
      attributes: { datacontenttype: 'application/x+json' },
    })
  })

  test.each(['application/json-seq', 'application/x-json', 'json', '+json', 'application/+json'])(
    'is not known by %s',
    async (contentType) => {
      const [message] = await handled({ contentType, headers: { 'message-id': '1' } })
      expect(message).toMatchObject({ payload: Buffer.from('{"n":1}'), contentType })
    },
  )
})
