import { inspect } from 'node:util'
import * as fc from 'fast-check'
import type pg from 'pg'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { postgres } from '../src/brokers/postgres/postgres.ts'
import {
  createClaimer,
  createOutbox,
  createReceiver,
  createRelay,
  MessageError,
  migrate,
  migrationFiles,
  OptionError,
  TwinboxError,
  twinboxMigrations,
  type NewMessage,
  type PublishOptions,
} from '../src/index.ts'
import { tombstone } from '../src/message/tombstone.ts'
import { numberOptions, type NumberOptionName } from '../src/base/options.ts'
import { createTestDatabase, type TestDatabase } from './support/postgres.ts'

/** Stands for what nobody may find in a log. It is part of every refused value that can hold a text. */
const canary = 'c4n4ry'

let database: TestDatabase
let client: pg.PoolClient
beforeAll(async () => {
  database = await createTestDatabase()
  client = await database.pool.connect()
})
afterAll(async () => {
  client.release()
  await database.drop()
})

const outbox = createOutbox()
const megabyte = 1024 * 1024

const circular: Record<string, unknown> = { canary }
circular.self = { back: [circular] }
const nested = (levels: number): unknown => (levels === 0 ? canary : [nested(levels - 1)])
/** Forty objects, and a million million ways through them. */
const bomb = Array.from({ length: 40 }).reduce<object>((inner) => ({ a: inner, b: inner }), {})
/** Each of its forms has yet another form. */
class Endless {
  toJSON(): unknown {
    return { canary, next: new Endless() }
  }
}
const shared = { a: { b: 1 } }
class Secretive {
  readonly #canary = canary
  reveal(): string {
    return this.#canary
  }
}
const throwing = (): never => {
  throw new RangeError(canary)
}
const revoked = Proxy.revocable({}, {})
revoked.revoke()

interface Refused {
  readonly what: string
  /** Beside or instead of the topic and the payload of a sound message. */
  readonly given: unknown
  readonly code: string
  readonly path: string
  /** The limit, and what was found. */
  readonly says: readonly (string | number)[]
}

const row = (
  what: string,
  given: unknown,
  code: string,
  path: string,
  ...says: (string | number)[]
): Refused => ({
  what,
  given,
  code,
  path,
  says,
})

const refused: readonly Refused[] = [
  row('no object', undefined, 'INVALID_MESSAGE', 'message'),
  row('null', null, 'INVALID_MESSAGE', 'message'),
  row('a text', canary, 'INVALID_MESSAGE', 'message'),
  row('a revoked proxy', revoked.proxy, 'INVALID_MESSAGE', 'message'),
  row('a misspelt field', { dedupekey: canary }, 'UNKNOWN_OPTION', 'dedupekey', 'dedupeKey'),
  row('a field of other libraries', { ttl: 5 }, 'UNKNOWN_OPTION', 'ttl'),

  row('no topic', { topic: undefined }, 'INVALID_TOPIC', 'topic', 249, 'undefined'),
  row('a topic of the wrong type', { topic: [canary] }, 'INVALID_TOPIC', 'topic', 249, 'object'),
  row('an empty topic', { topic: '' }, 'INVALID_TOPIC', 'topic', 249, '0 characters'),
  row('a topic one too long', { topic: 'c'.repeat(250) }, 'INVALID_TOPIC', 'topic', 249, '250 characters'),
  row('a topic with a space', { topic: `${canary} x` }, 'INVALID_TOPIC', 'topic'),
  row('a topic with a slash', { topic: `${canary}/x` }, 'INVALID_TOPIC', 'topic'),
  row('a topic with a wildcard', { topic: `${canary}.*` }, 'INVALID_TOPIC', 'topic'),
  row('a topic with a hash', { topic: `${canary}.#` }, 'INVALID_TOPIC', 'topic'),
  row('a topic with a line break at its end', { topic: `${canary}\n` }, 'INVALID_TOPIC', 'topic'),
  row('a topic with NUL', { topic: `${canary}\0` }, 'INVALID_TOPIC', 'topic'),
  row('a topic beyond ASCII', { topic: `${canary}ü` }, 'INVALID_TOPIC', 'topic'),
  row('the topic "."', { topic: '.' }, 'INVALID_TOPIC', 'topic', 'Kafka'),
  row('the topic ".."', { topic: '..' }, 'INVALID_TOPIC', 'topic', 'Kafka'),

  row('an empty key', { key: '' }, 'INVALID_KEY', 'key', 'empty'),
  row('a key of the wrong type', { key: 7 }, 'INVALID_KEY', 'key', 'number'),
  row('an object as a key', { key: { canary } }, 'INVALID_KEY', 'key', 'object'),
  row('a key one byte too long', { key: 'c'.repeat(256) }, 'INVALID_KEY', 'key', 255, 256),
  row('a key too long in bytes only', { key: 'ü'.repeat(128) }, 'INVALID_KEY', 'key', 255, 256),
  row('a key of 10 kB', { key: canary.repeat(2000) }, 'INVALID_KEY', 'key', 255, 12_000),
  row('NUL in a key', { key: `${canary}\0` }, 'INVALID_TEXT', 'key', 'NUL'),
  row('half a surrogate pair in a key', { key: `${canary}\ud83d` }, 'INVALID_TEXT', 'key', 'surrogate'),

  row('an empty dedupe key', { dedupeKey: '' }, 'INVALID_DEDUPE_KEY', 'dedupeKey', 'empty'),
  row('null as a dedupe key', { dedupeKey: null }, 'INVALID_DEDUPE_KEY', 'dedupeKey', 'object'),
  row('a number as a dedupe key', { dedupeKey: 5 }, 'INVALID_DEDUPE_KEY', 'dedupeKey', 'number'),
  row('an object as a dedupe key', { dedupeKey: { canary } }, 'INVALID_DEDUPE_KEY', 'dedupeKey', 'object'),
  row(
    'a dedupe key of 4,002',
    { dedupeKey: canary.repeat(667) },
    'INVALID_DEDUPE_KEY',
    'dedupeKey',
    512,
    4002,
  ),
  row(
    'a dedupe key one too long',
    { dedupeKey: 'ü'.repeat(257) },
    'INVALID_DEDUPE_KEY',
    'dedupeKey',
    512,
    514,
  ),
  row('NUL in a dedupe key', { dedupeKey: `${canary}\0` }, 'INVALID_TEXT', 'dedupeKey', 'NUL'),
  row(
    'a lone surrogate in a dedupe key',
    { dedupeKey: `\udc00${canary}` },
    'INVALID_TEXT',
    'dedupeKey',
    'surrogate',
  ),

  row('no payload', { payload: undefined }, 'PAYLOAD_REQUIRED', 'payload', 'undefined'),
  row('a function', { payload: () => canary }, 'PAYLOAD_TYPE', 'payload', 'function'),
  row('a symbol', { payload: Symbol(canary) }, 'PAYLOAD_TYPE', 'payload', 'symbol'),
  row(
    'a function inside',
    { payload: { a: [{ f: () => canary }] } },
    'PAYLOAD_TYPE',
    'payload.a[0].f',
    'function',
  ),
  row('a BigInt', { payload: 5n }, 'PAYLOAD_TYPE', 'payload', 'BigInt'),
  row(
    'a BigInt inside',
    { payload: { lines: [1, { price: 5n }] } },
    'PAYLOAD_TYPE',
    'payload.lines[1].price',
  ),
  row('a boxed BigInt', { payload: [Object(5n)] }, 'PAYLOAD_TYPE', 'payload[0]', 'BigInt'),
  row('NaN', { payload: { a: Number.NaN } }, 'PAYLOAD_LOSSY', 'payload.a', 'NaN'),
  row('infinity', { payload: [-Infinity] }, 'PAYLOAD_LOSSY', 'payload[0]', '-Infinity'),
  row('a boxed NaN', { payload: [Object(Number.NaN)] }, 'PAYLOAD_LOSSY', 'payload[0]', 'NaN'),
  row('undefined in an array', { payload: [1, undefined] }, 'PAYLOAD_LOSSY', 'payload[1]', 'undefined'),
  row('a hole in an array', { payload: new Array(3) }, 'PAYLOAD_LOSSY', 'payload[0]', 'undefined'),
  row(
    'nothing for JSON in an array',
    { payload: [{ toJSON: () => undefined }] },
    'PAYLOAD_LOSSY',
    'payload[0]',
  ),
  row('a Map', { payload: new Map([[canary, canary]]) }, 'PAYLOAD_LOSSY', 'payload', 'Map'),
  row('a Set inside', { payload: { a: new Set([canary]) } }, 'PAYLOAD_LOSSY', 'payload.a', 'Set'),
  row('a regular expression', { payload: /c4n4ry/ }, 'PAYLOAD_LOSSY', 'payload', 'RegExp'),
  row('a promise', { payload: Promise.resolve(canary) }, 'PAYLOAD_LOSSY', 'payload', 'Promise'),
  row(
    'an error',
    { payload: { error: new RangeError(canary) } },
    'PAYLOAD_LOSSY',
    'payload.error',
    'RangeError',
  ),
  row('a blob', { payload: new Blob([canary]) }, 'PAYLOAD_LOSSY', 'payload', 'Blob'),
  row('private fields only', { payload: new Secretive() }, 'PAYLOAD_LOSSY', 'payload', 'Secretive'),
  row(
    'shared memory',
    { payload: new SharedArrayBuffer(8) },
    'PAYLOAD_LOSSY',
    'payload',
    'SharedArrayBuffer',
  ),
  row('bytes inside', { payload: { a: new Uint8Array(3) } }, 'PAYLOAD_LOSSY', 'payload.a', 'Uint8Array'),
  row('a Buffer inside', { payload: { a: Buffer.from(canary) } }, 'PAYLOAD_LOSSY', 'payload.a', 'binary'),
  row('a Buffer from toJSON', { payload: { toJSON: () => Buffer.from(canary) } }, 'PAYLOAD_LOSSY', 'payload'),
  row('an invalid date', { payload: { at: new Date(Number.NaN) } }, 'INVALID_DATE', 'payload.at', 'invalid'),
  row(
    'a toJSON that throws',
    { payload: { a: { toJSON: throwing } } },
    'PAYLOAD_SERIALIZE',
    'payload.a',
    'toJSON',
  ),
  row(
    'a toJSON without a result',
    { payload: { toJSON: () => undefined } },
    'PAYLOAD_TYPE',
    'payload',
    'toJSON',
  ),
  row(
    'a getter that throws',
    { payload: { a: Object.defineProperty({}, 'b', { get: throwing, enumerable: true }) } },
    'PAYLOAD_SERIALIZE',
    'payload.a.b',
  ),
  row('a revoked proxy inside', { payload: [revoked.proxy] }, 'PAYLOAD_SERIALIZE', 'payload[0]'),
  row('a revoked proxy as the payload', { payload: revoked.proxy }, 'INVALID_MESSAGE', 'message'),
  row(
    'a circle',
    { payload: circular },
    'PAYLOAD_CIRCULAR',
    expect.stringMatching(/^payload\.self\.back\[0]/) as string,
  ),
  row(
    '101 levels',
    { payload: nested(101) },
    'PAYLOAD_TOO_DEEP',
    expect.stringMatching(/^payload\[0]/) as string,
    100,
  ),
  row(
    'forms without end',
    { payload: new Endless() },
    'PAYLOAD_TOO_DEEP',
    expect.stringMatching(/^payload\.n/) as string,
  ),
  row('a graph with countless ways', { payload: bomb }, 'PAYLOAD_TOO_LARGE', 'payload', megabyte),
  row(
    'a text one byte too long',
    { payload: 'c'.repeat(megabyte - 1) },
    'PAYLOAD_TOO_LARGE',
    'payload',
    megabyte,
    1048577,
  ),
  row(
    'too long in bytes only',
    { payload: 'ü'.repeat(megabyte / 2) },
    'PAYLOAD_TOO_LARGE',
    'payload',
    megabyte,
    1048578,
  ),
  row(
    'many small ones',
    { payload: new Array(600_000).fill(1) },
    'PAYLOAD_TOO_LARGE',
    'payload',
    megabyte,
    1200001,
  ),
  row(
    'one byte too many',
    { payload: new Uint8Array(megabyte + 1) },
    'PAYLOAD_TOO_LARGE',
    'payload',
    megabyte,
    1048577,
  ),
  row(
    '256 MiB of text',
    { payload: canary.repeat(44_739_243) },
    'PAYLOAD_TOO_LARGE',
    'payload',
    megabyte,
    268435460,
  ),

  row('a tombstone without a key', { ...tombstone, key: undefined }, 'INVALID_KEY', 'key', 'tombstone'),
  row(
    'a tombstone with a body',
    { ...tombstone, payload: Buffer.from(canary), key: 'k' },
    'PAYLOAD_TYPE',
    'payload',
    'tombstone',
  ),
  row('a content type that JSON has not', { contentType: `text/${canary}` }, 'PAYLOAD_TYPE', 'contentType'),
  ...['', canary, `a/${canary}\r\nx: y`, `a/${'c'.repeat(99)}`, 5].map((contentType) =>
    row(
      `bytes of the type ${JSON.stringify(contentType).slice(0, 20)}`,
      { payload: new Uint8Array(1), contentType },
      'INVALID_TEXT',
      'contentType',
      100,
      typeof contentType === 'string' ? contentType.length : 'number',
    ),
  ),

  row('null as headers', { headers: null }, 'INVALID_HEADERS', 'headers'),
  row('an array as headers', { headers: [canary] }, 'INVALID_HEADERS', 'headers'),
  row('a Map as headers', { headers: new Map([['a', canary]]) }, 'INVALID_HEADERS', 'headers'),
  row('Headers as headers', { headers: new Headers({ a: canary }) }, 'INVALID_HEADERS', 'headers'),
  row('a number in a header', { headers: { a: 1 } }, 'INVALID_HEADERS', 'headers["a"]', 'number'),
  row('a function in a header', { headers: { a: throwing } }, 'INVALID_HEADERS', 'headers["a"]', 'function'),
  row('undefined in a header', { headers: { a: undefined } }, 'INVALID_HEADERS', 'headers["a"]', 'undefined'),
  row('a header without a name', { headers: { '': canary } }, 'INVALID_HEADERS', 'headers[""]', 100),
  row('a header with a space', { headers: { 'a b': canary } }, 'INVALID_HEADERS', 'headers["a b"]'),
  row(
    'a header with NUL in its name',
    { headers: { 'a\0': canary } },
    'INVALID_HEADERS',
    'headers["a\\u0000"]',
  ),
  row(
    'a header named __proto__',
    { headers: JSON.parse(`{"__proto__":"${canary}"}`) as object },
    'INVALID_HEADERS',
    'headers["__proto__"]',
  ),
  row('a header of CloudEvents', { headers: { ce_id: canary } }, 'HEADER_RESERVED', 'headers["ce_id"]'),
  row('a header of ours', { headers: { 'Twinbox-Id': canary } }, 'HEADER_RESERVED', 'headers["Twinbox-Id"]'),
  row('a header that routes copies', { headers: { CC: canary } }, 'HEADER_RESERVED', 'headers["CC"]'),
  row('one that does so in secret', { headers: { BCC: canary } }, 'HEADER_RESERVED', 'headers["BCC"]'),
  row(
    'a header of AMQP events',
    { headers: { 'cloudEvents:id': canary } },
    'INVALID_HEADERS',
    'headers["cloudEvents:id"]',
  ),
  row('NUL in a header', { headers: { a: `${canary}\0` } }, 'INVALID_TEXT', 'headers["a"]', 'NUL'),
  row('a lone surrogate in a header', { headers: { a: `${canary}\ud800` } }, 'INVALID_TEXT', 'headers["a"]'),
  row(
    'a line break in a header',
    { headers: { a: `${canary}\r\nb: c` } },
    'INVALID_TEXT',
    'headers["a"]',
    'line break',
  ),
  row(
    '65 headers',
    { headers: Object.fromEntries(Array.from({ length: 65 }, (_, index) => [`h${index}`, canary])) },
    'HEADERS_TOO_LARGE',
    'headers',
    64,
    65,
  ),
  row(
    '16 KiB of headers',
    { headers: { a: 'c'.repeat(16_384) } },
    'HEADERS_TOO_LARGE',
    'headers',
    16_384,
    16_385,
  ),
  row(
    'a header that cannot be read',
    { headers: Object.defineProperty({}, 'a', { get: throwing, enumerable: true }) },
    'INVALID_MESSAGE',
    'message',
  ),
]

/** A sound message with what is given in place of its parts. */
function withPart(given: unknown): NewMessage {
  const isPart = typeof given === 'object' && given !== null && given !== revoked.proxy
  const message: unknown = isPart ? { topic: 't', payload: 1, ...given } : given
  return message as NewMessage
}

describe('publish', () => {
  beforeAll(() => client.query('begin'))
  afterAll(() => client.query('rollback'))

  test.each(refused)('refuses $what with $code', async ({ given, code, path, says }) => {
    const error = await rejection(outbox.publish(client, withPart(given)))
    expect(error).toBeInstanceOf(MessageError)
    expect(error).toMatchObject({ name: 'MessageError', code, path })
    for (const said of says) expect(error.message).toContain(String(said))
    expect(error.message).not.toContain(canary)
    expect(error.message.length).toBeLessThan(500)
    expect((error as MessageError).path).not.toContain(canary)
    expect(await usable()).toBe(true)
  })

  test.each(refused)('publishMany says where: $what', async ({ given, code, path }) => {
    const error = await rejection(outbox.publishMany(client, [withPart({}), withPart(given)]))
    const inside = path === 'message' ? 'messages[1]' : undefined
    expect(error).toMatchObject({ name: 'MessageError', code })
    const found = (error as MessageError).path
    expect(found).toMatch(/^messages\[1]/)
    expect(inside ?? found.slice('messages[1].'.length)).toEqual(inside ?? path)
    expect(error.message).toContain(found.slice(0, 60))
    expect(error.message).not.toContain(canary)
    expect(await usable()).toBe(true)
  })

  test('nothing of all that was written', async () => {
    expect(
      (await client.query('select from twinbox.outbox union all select from twinbox.dedupe')).rowCount,
    ).toBe(0)
  })

  test.each([
    ['no array', canary, 'INVALID_MESSAGE', 'messages'],
    ['more than one statement can hold', tooMany(), 'PAYLOAD_TOO_LARGE', 'messages'],
  ])('publishMany refuses %s', async (_what, messages, code, path) => {
    const error = await rejection(outbox.publishMany(client, messages as NewMessage[]))
    expect(error).toMatchObject({ name: 'MessageError', code, path })
    expect(error.message).not.toContain(canary)
    expect(await usable()).toBe(true)
  })

  test.each([
    ['unknown', { deduplicate: true }, 'deduplicate'],
    ['misspelt', { autoCommit: true }, 'autoCommit'],
    ['a text as orderingLock', { orderingLock: canary }, 'orderingLock'],
    ['a text as autocommit', { autocommit: 'false' }, 'autocommit'],
    ['null instead of options', null, 'options'],
  ])('refuses an option that is %s', async (_what, options, option) => {
    const error = await rejection(outbox.publish(client, withPart({}), options as PublishOptions))
    expect(error).toMatchObject({ name: 'OptionError', code: 'INVALID_OPTION', option })
    expect(error.message).not.toContain(canary)
    expect(await usable()).toBe(true)
  })

  test.each<[string, unknown]>([
    ['a topic of 249 characters', { topic: 'a'.repeat(249) }],
    ['a key of 255 bytes', { key: 'k'.repeat(255) }],
    ['no key', { key: null }],
    ['a dedupe key of 512 bytes', { dedupeKey: 'ü'.repeat(256) }],
    [
      '64 headers',
      { headers: Object.fromEntries(Array.from({ length: 64 }, (_, index) => [`h${index}`, ''])) },
    ],
    ['headers that are nearly RabbitMQ’s', { headers: { cc: 'a', 'X-CC': 'b' } }],
    ['16 KiB of headers', { headers: { a: 'x'.repeat(16_383) } }],
    ['exactly 1 MiB of text', { payload: 'x'.repeat(megabyte - 2) }],
    ['exactly 1 MiB of two-byte text', { payload: 'ü'.repeat(megabyte / 2 - 1) }],
    ['exactly 1 MiB of numbers', { payload: new Array((megabyte - 4) / 2).fill(1).concat(10) }],
    ['exactly 1 MiB of names', { payload: { ['n'.repeat(megabyte - 6)]: 1 } }],
    ['exactly 1 MiB of bytes', { payload: new Uint8Array(megabyte) }],
    ['100 levels', { payload: nested(100) }],
    [
      'properties that are left out',
      { payload: { ['u'.repeat(megabyte)]: undefined, a: { toJSON: () => undefined } } },
    ],
    ['one object twice', { payload: Array.from({ length: 2 }, () => shared) }],
    ['a class instance with fields', { payload: Object.assign(new Secretive(), { a: 1 }) }],
    ['boxed values', { payload: [Object(1), Object('a'), Object(true)] }],
    ['a toJSON whose result has one too', { payload: { toJSON: () => ({ a: 1, toJSON: 'no function' }) } }],
  ])('takes %s', async (_what, given) => {
    const { id } = await outbox.publish(client, withPart(given))
    const { rows } = await client.query<{ payload: string | null }>(
      'select payload::text from twinbox.outbox where id = $1',
      [id],
    )
    const { payload } = withPart(given)
    expect(rows).toEqual([{ payload: payload instanceof Uint8Array ? null : JSON.stringify(payload) }])
  })

  test('a limit of your own is kept to the byte', async () => {
    const small = createOutbox({ maxPayloadBytes: 10 })
    await small.publish(client, { topic: 't', payload: '12345678' })
    const error = await rejection(small.publish(client, { topic: 't', payload: '123456789' }))
    expect(error).toMatchObject({ code: 'PAYLOAD_TOO_LARGE' })
    expect(error.message).toMatch(/\b11\b.*\b10\b/)
  })

  test('256 MiB are refused without being serialised', async () => {
    const payload = 'x'.repeat(256 * megabyte)
    const startedAt = performance.now()
    await rejection(outbox.publish(client, { topic: 't', payload }))
    // Serialising them takes seconds.
    expect(performance.now() - startedAt).toBeLessThan(200)
  })
})

describe('options', () => {
  const broker = postgres({ database: 'postgres://nobody@127.0.0.1:1/none' })
  const base = { database: 'postgres://nobody@127.0.0.1:1/none' }
  const handlers = { t: () => {} }
  type Options = Record<string, unknown>
  const create = {
    createOutbox: (options: Options) => createOutbox(options),
    createRelay: (options: Options) => createRelay({ ...base, broker, ...options }),
    createReceiver: (options: Options) =>
      createReceiver({ ...base, broker, consumer: 'billing', topics: ['t'], ...options }),
    createClaimer: (options: Options) =>
      createClaimer({ ...base, consumer: 'billing', ...options }, handlers),
  }
  const numbersOf: Record<keyof typeof create, NumberOptionName[]> = {
    createOutbox: ['maxPayloadBytes', 'dedupeWindowMs'],
    createRelay: [
      'leaseMs',
      'heartbeatMs',
      'deadAfterMs',
      'stopTimeoutMs',
      'pollMs',
      'pollMsMax',
      'batchSize',
      'maxAttempts',
      'backoffMsMin',
      'backoffMsMax',
      'failoverGraceMs',
    ],
    createReceiver: ['heartbeatMs', 'deadAfterMs', 'stopTimeoutMs'],
    createClaimer: [
      'leaseMs',
      'concurrency',
      'batchSize',
      'maxAttempts',
      'handleTimeoutMs',
      'keyWindow',
      'runSize',
      'backoffMsMin',
      'backoffMsMax',
      'pollMs',
      'pollMsMax',
      'failoverGraceMs',
    ],
  }
  const names = Object.keys(create) as (keyof typeof create)[]
  const cases = names.flatMap((name) => numbersOf[name].map((option) => ({ name, option })))

  test.each(cases)('$name refuses what $option cannot be, with its range', ({ name, option }) => {
    const { min, max } = numberOptions[option]
    for (const value of [
      min - 1,
      max + 1,
      min + 0.5,
      -1,
      Number.NaN,
      Infinity,
      1e20,
      '5s',
      `${min}`,
      {},
      5n,
    ]) {
      const error = thrown(() => create[name]({ [option]: value }))
      expect(error).toMatchObject({ name: 'OptionError', code: 'INVALID_OPTION', option })
      expect(error.message).toContain(option)
      expect(error.message).toContain(String(min))
      expect(error.message).toContain(String(max))
      expect(error.message).toContain(typeof value === 'number' ? String(value) : `of type ${typeof value}`)
    }
  })

  test.each(names)('%s refuses an option that it has not', (name) => {
    const error = thrown(() => create[name]({ leaseMS: 5 }))
    expect(error).toMatchObject({ name: 'OptionError', option: 'leaseMS' })
    expect(error.message).toContain(name)
  })

  test('options that contradict each other are refused with the reason', () => {
    expect(thrown(() => create.createRelay({ pollMs: 200, pollMsMax: 100 })).message).toMatch(/200.*100/)
    expect(thrown(() => create.createClaimer({ backoffMsMin: 2000, backoffMsMax: 1000 })).message).toMatch(
      /2000.*1000/,
    )
    for (const name of ['createRelay', 'createReceiver', 'createClaimer'] as const) {
      const error = thrown(() => create[name]({ heartbeatMs: 1000, deadAfterMs: 1999 }))
      expect(error).toMatchObject({ code: 'INVALID_OPTION', option: 'deadAfterMs' })
      expect(error.message).toMatch(/1999.*1000.*twice/)
    }
  })

  test.each(['createRelay', 'createClaimer'] as const)('%s refuses a strategy that there is not', (name) => {
    for (const failover of ['roundrobin', '', 1, null, true]) {
      const error = thrown(() => create[name]({ failover }))
      expect(error).toMatchObject({ code: 'INVALID_OPTION', option: 'failover' })
      expect(error.message).toMatch(/first-free, round-robin, random, least-work/)
    }
    expect(thrown(() => create.createClaimer({ avoidLastHolder: 'false' }))).toMatchObject({
      option: 'avoidLastHolder',
    })
  })

  test.each([
    ['a handler that is no function', { t: canary }],
    ['a handler object without a function', { t: { handle: canary } }],
    ['no handler', {}],
    ['a topic that none can have', { ['x'.repeat(250)]: () => {} }],
    ['a topic with a space', { 'a b': () => {} }],
    ['a handler with an unknown option', { t: { handle: () => {}, retries: 5 } }],
    ['a handler with a number out of range', { t: { handle: () => {}, maxAttempts: 0 } }],
  ])('createClaimer refuses %s', (_what, given) => {
    const error = thrown(() => createClaimer({ ...base, consumer: 'billing' }, given as never))
    expect(error).toBeInstanceOf(OptionError)
    expect(error.message).not.toContain(canary)
  })

  test.each(['', 'a b', 'x'.repeat(101), 'ü', 'a/b', 5, null, undefined])('%j is no consumer', (consumer) => {
    expect(thrown(() => create.createClaimer({ consumer }))).toMatchObject({
      name: 'OptionError',
      option: 'consumer',
    })
    expect(thrown(() => create.createReceiver({ consumer }))).toMatchObject({
      name: 'OptionError',
      option: 'consumer',
    })
  })

  test.each([
    `mysql://user:${canary}@host/db`,
    `http://${canary}`,
    canary,
    '',
    `postgres://user:${canary}@host:notaport/db`,
    `postgres://user:${canary}%zz@[::1/db`,
    5,
    null,
    undefined,
    { connectionString: `redis://user:${canary}@host` },
    { connectionString: `postgres://user:${canary}@host:99999999/db` },
  ])('a database that cannot be one is refused without a word of it: %#', (given) => {
    for (const name of ['createRelay', 'createReceiver', 'createClaimer'] as const) {
      const error = thrown(() => create[name]({ database: given }))
      expect(error).toMatchObject({ name: 'OptionError', option: 'database' })
      expect(everythingOf(error)).not.toContain(canary)
    }
  })

  const badSchemas = [
    '',
    'a"b; drop schema public;--',
    "a'b",
    'Upper',
    'ünder',
    'a b',
    'a.b',
    '1st',
    'pg_catalog',
    'pg_mine',
    'information_schema',
    'x'.repeat(52),
    'x'.repeat(64),
    'new\nline',
    'end\n',
    5,
  ] as string[]
  test.each(badSchemas)('%j is no schema, and nothing is run', async (schema) => {
    const noSchema = {
      name: 'OptionError',
      option: 'schema',
      message: expect.stringContaining('51') as string,
    }
    for (const name of names) expect(thrown(() => create[name]({ schema }))).toMatchObject(noSchema)
    expect(await rejection(migrate(database.url, { schema }))).toMatchObject(noSchema)
    expect(thrown(() => migrationFiles(schema))).toMatchObject(noSchema)
    expect(thrown(() => twinboxMigrations(schema))).toMatchObject(noSchema)
    expect(
      await database.query("select nspname from pg_namespace where nspname !~ '^(pg_|information_schema)'"),
    ).toEqual(expect.arrayContaining([{ nspname: 'twinbox' }, { nspname: 'public' }]))
  })

  test.each(['_', 'order', 'user', 'twinbox_2', 'x'.repeat(51)])('%s is a schema', (schema) => {
    expect(() => createOutbox({ schema })).not.toThrow()
    expect(migrationFiles(schema)[0]!.sql).toContain(`create table "${schema}".outbox`)
  })
})

describe('whatever is published', () => {
  const runs = 2000
  const seed = Number(process.env['TWINBOX_TEST_SEED'] ?? Date.now() % 0x7fffffff)

  const anyText = fc.oneof(
    fc.string({ maxLength: 300 }),
    fc.string({ unit: 'binary', maxLength: 300 }),
    // Halves of surrogate pairs, and NUL.
    fc.string({ unit: fc.nat(0xffff).map((unit) => String.fromCharCode(unit)), maxLength: 20 }),
    fc.string({
      unit: fc.constantFrom('{', '}', '"', '\\', ',', 'NULL', '\n', "'", '$1', ' '),
      maxLength: 20,
    }),
  )
  const anything = fc.anything({
    withBigInt: true,
    withBoxedValues: true,
    withDate: true,
    withMap: true,
    withSet: true,
    withNullPrototype: true,
    withObjectString: true,
    withSparseArray: true,
    withTypedArray: true,
  })
  const payload = fc.oneof(
    { weight: 4, arbitrary: fc.jsonValue({ stringUnit: 'binary' }) },
    { weight: 3, arbitrary: fc.uint8Array() },
    { weight: 2, arbitrary: anyText },
    { weight: 2, arbitrary: anything },
    { weight: 1, arbitrary: fc.double() },
    { weight: 1, arbitrary: anything.map((inner) => ({ toJSON: () => inner })) },
    {
      weight: 1,
      arbitrary: anyText.map((text) => Object.defineProperty({}, 'x', { get: () => text, enumerable: true })),
    },
    { weight: 1, arbitrary: anything.map((inner) => new Proxy({ inner }, {})) },
  )
  const usually = <Value>(
    sound: fc.Arbitrary<Value>,
    ...others: fc.Arbitrary<unknown>[]
  ): fc.Arbitrary<unknown> => fc.oneof({ weight: 20, arbitrary: sound }, ...others)
  const message = fc.record(
    {
      topic: usually(fc.stringMatching(/^[A-Za-z0-9._-]{1,249}$/), anyText, anything),
      payload,
      key: usually(fc.oneof(anyText, fc.constant(null), fc.constant(undefined)), anything),
      headers: usually(
        fc.dictionary(fc.stringMatching(/^[a-z0-9-]{1,20}$/), fc.string({ unit: 'binary' }), { maxKeys: 5 }),
        fc.dictionary(anyText, anyText),
        fc.dictionary(anyText, anything),
        anything,
      ),
      contentType: fc.oneof(
        { weight: 20, arbitrary: fc.constant(undefined) },
        fc.constant('text/plain'),
        anyText,
      ),
      dedupeKey: usually(fc.oneof(anyText, fc.constant(undefined)), anything),
    },
    { requiredKeys: ['topic', 'payload'] },
  )
  const options = fc.oneof(
    {
      weight: 20,
      arbitrary: fc.record({ orderingLock: fc.boolean(), autocommit: fc.boolean() }, { requiredKeys: [] }),
    },
    fc.dictionary(fc.constantFrom('orderingLock', 'autocommit', 'other'), anything),
    anything,
  )

  test(
    'it comes out byte for byte, or is refused as a TwinboxError and harms nothing',
    { timeout: 120_000 },
    async () => {
      console.info(`bad-input property: seed ${seed}, ${runs} runs`)
      const outcomes = { stored: 0, refused: 0 }
      await fc.assert(
        fc.asyncProperty(
          fc.oneof({ weight: 20, arbitrary: message }, anything),
          options,
          async (given, how) => {
            await client.query('begin')
            try {
              const outcome = await outbox
                .publish(client, given as NewMessage, how as PublishOptions)
                .catch((error: unknown) => {
                  if (!(error instanceof TwinboxError)) throw error
                  return null
                })
              expect(client.getTransactionStatus()).toBe('T')
              outcomes[outcome === null ? 'refused' : 'stored']++
              expect(await allStored()).toEqual(
                outcome === null ? [] : [formOf(outcome.id, given as NewMessage)],
              )
            } finally {
              await client.query('rollback')
            }
          },
        ),
        { numRuns: runs, seed },
      )
      // A property about what never gets through, or about nothing but soundness, would say little.
      expect(outcomes.stored).toBeGreaterThan(runs / 5)
      expect(outcomes.refused).toBeGreaterThan(runs / 5)
    },
  )

  async function allStored(): Promise<unknown[]> {
    const { rows } = await client.query(
      'select id, topic, key, headers::text, payload::text, body, lane from twinbox.outbox',
    )
    return rows
  }

  /** What has to be in the table. */
  function formOf(id: string, { topic, payload: content, key, headers }: NewMessage): object {
    const bytes = ArrayBuffer.isView(content)
      ? Buffer.from(content.buffer, content.byteOffset, content.byteLength)
      : null
    const entries = Object.entries(headers ?? {})
    return {
      id,
      topic,
      key: key ?? null,
      headers: entries.length === 0 ? null : JSON.stringify(Object.fromEntries(entries)),
      payload: bytes === null ? JSON.stringify(content) : null,
      body: bytes,
      lane: expect.any(Number) as number,
    }
  }
})

/** Whether the transaction goes on: a statement that failed in it would have ended it. */
async function usable(): Promise<boolean> {
  const { rows } = await client.query<{ one: number }>('select 1 as one')
  return rows[0]!.one === 1 && client.getTransactionStatus() === 'T'
}

async function rejection(promise: Promise<unknown>): Promise<Error> {
  const error = await promise.then(
    () => null,
    (reason: unknown) => reason,
  )
  if (!(error instanceof Error)) throw new Error('It was not refused.')
  return error
}

/** As a logger prints it, with all its properties and causes. */
const everythingOf = (error: unknown): string => inspect(error, { depth: 10, showHidden: true })

function thrown(work: () => unknown): Error {
  try {
    work()
  } catch (error) {
    if (error instanceof Error) return error
  }
  throw new Error('It was not refused.')
}

function tooMany(): NewMessage[] {
  return new Array<NewMessage>(140).fill({ topic: 't', payload: canary + 'x'.repeat(1_000_000) })
}
