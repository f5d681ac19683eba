import { type as ark } from 'arktype'
import fc from 'fast-check'
import type pg from 'pg'
import * as v from 'valibot'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { z } from 'zod'
import {
  createOutbox,
  defineTopics,
  MessageError,
  OptionError,
  tombstone,
  type,
  type Outbox,
  type StandardSchema,
  type TopicDefinition,
  type Topics,
} from '../../src/index.ts'
import { readReceived } from '../../src/topics/reading.ts'
import { createTestDatabase, type TestDatabase } from '../support/postgres.ts'

/** What a typed outbox lets through: checked before any SQL, and such that the same schema takes it again from the wire. */

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
beforeEach(() => client.query('begin'))
afterEach(() => client.query('rollback'))

interface Row {
  readonly topic: string
  readonly key: string | null
  readonly headers: string | null
  readonly payload: string | null
}
const stored = async (): Promise<Row[]> =>
  (
    await client.query<Row>(
      'select topic, key, headers::text, payload::text from twinbox.outbox order by lane, seq',
    )
  ).rows

/** A transaction that counts its statements. */
function counting(): { query: pg.PoolClient['query']; statements: () => number } {
  let statements = 0
  const query = ((...args: Parameters<typeof client.query>) => {
    statements++
    return client.query(...args)
  }) as pg.PoolClient['query']
  return { query, statements: () => statements }
}

/** As whoever has no types would call it. */
const anyhow = (outbox: unknown): Outbox => outbox as Outbox

async function refusal(outbox: unknown, message: object): Promise<MessageError> {
  const trx = counting()
  const error: unknown = await anyhow(outbox)
    .publish(trx, message as never)
    .catch((thrown: unknown) => thrown)
  expect(error).toBeInstanceOf(MessageError)
  expect(trx.statements()).toBe(0)
  expect(await stored()).toEqual([])
  return error as MessageError
}

const schemas = {
  zod: z.object({ id: z.string(), lines: z.array(z.object({ price: z.number() })) }),
  valibot: v.object({ id: v.string(), lines: v.array(v.object({ price: v.number() })) }),
  arktype: ark({ id: 'string', lines: ark({ price: 'number' }).array() }),
}

describe.each(Object.entries(schemas))('with %s', (_, schema: StandardSchema) => {
  const outbox = createOutbox({
    topics: defineTopics({
      'order.placed': { schema, key: (payload) => (payload as { id: string }).id },
    }),
  })
  const payload = { id: 'o1', lines: [{ price: 1 }, { price: 2 }] }

  test('what fits is published as it is, with its key', async () => {
    await anyhow(outbox).publish(client, { topic: 'order.placed', payload })
    expect(await stored()).toEqual([
      { topic: 'order.placed', key: 'o1', headers: null, payload: JSON.stringify(payload) },
    ])
  })

  test('what does not is refused before any SQL, with its path and without its value', async () => {
    const bad = { id: 'o1', lines: [{ price: 1 }, { price: 'secret-4711' }] }
    const error = await refusal(outbox, { topic: 'order.placed', payload: bad })
    expect(error).toMatchObject({ code: 'PAYLOAD_INVALID', path: 'payload.lines[1].price' })
    expect(error.message).toMatch(/^payload\.lines\[1\]\.price does not fit the schema of its topic/)
    expect(JSON.stringify([error.message, error.stack, error.cause])).not.toContain('secret-4711')
  })

  test('one of many has them all refused, and its index is told', async () => {
    const trx = counting()
    const messages = [
      { topic: 'order.placed', payload },
      { topic: 'order.placed', payload: { id: 5, lines: 'secret-4711' } },
    ]
    const error: unknown = await anyhow(outbox)
      .publishMany(trx, messages)
      .catch((thrown: unknown) => thrown)
    expect(error).toMatchObject({ code: 'PAYLOAD_INVALID', path: 'messages[1].payload.id' })
    expect(String(error)).toContain('messages[1].payload.id does not fit')
    expect(String(error)).not.toContain('secret-4711')
    expect(trx.statements()).toBe(0)
    await anyhow(outbox).publishMany(client, [messages[0]!, { ...messages[0]!, key: 'own' }])
    expect(new Set((await stored()).map(({ key }) => key))).toEqual(new Set(['o1', 'own']))
  })
})

const topicsOf = (definition: TopicDefinition): Topics => defineTopics({ t: definition })

test('a topic that is not defined is refused', async () => {
  const outbox = createOutbox({ topics: topicsOf({ schema: type() }) })
  expect(await refusal(outbox, { topic: 'other', payload: 1 })).toMatchObject({
    code: 'UNKNOWN_TOPIC',
    path: 'topic',
    message: expect.stringContaining('t.') as string,
  })
})

test('what is checked is what a handler will get: the JSON, read back', async () => {
  const dated = createOutbox({ topics: topicsOf({ schema: z.object({ at: z.date() }) }) })
  expect(await refusal(dated, { topic: 't', payload: { at: new Date() } })).toMatchObject({
    code: 'PAYLOAD_INVALID',
    path: 'payload.at',
  })
  const text = createOutbox({ topics: topicsOf({ schema: z.object({ at: z.iso.datetime() }) }) })
  await anyhow(text).publish(client, { topic: 't', payload: { at: new Date(0) } })
  expect((await stored())[0]!.payload).toBe('{"at":"1970-01-01T00:00:00.000Z"}')
})

// Sent as the schema gives it, it would be doubled twice.
test('what is sent is what was published: a transformation is made where it is handled, and once', async () => {
  const schema = z.object({ n: z.number().transform((n) => n * 2), by: z.string().default('nobody') })
  const topics = defineTopics({ t: { schema, key: ({ n, by }) => `${by}${n}` } })
  await createOutbox({ topics }).publish(client, { topic: 't', payload: { n: 2 } })
  expect(await stored()).toEqual([{ topic: 't', key: 'nobody4', headers: null, payload: '{"n":2}' }])
  expect(readReceived('t', topics.definitions.get('t')!, { n: 2 }, undefined)).toEqual({
    value: { n: 4, by: 'nobody' },
  })
})

test('a schema is waited for, and what it throws is no SQL either', async () => {
  const schema = z.object({ id: z.string().refine(async (id) => Promise.resolve(id !== 'taken')) })
  const outbox = createOutbox({ topics: topicsOf({ schema }) })
  expect(await refusal(outbox, { topic: 't', payload: { id: 'taken' } })).toMatchObject({
    path: 'payload.id',
  })
  await anyhow(outbox).publish(client, { topic: 't', payload: { id: 'free' } })
  expect(await stored()).toHaveLength(1)
  await client.query('rollback; begin')
  const broken = (validate: () => never): Outbox =>
    anyhow(
      createOutbox({ topics: topicsOf({ schema: { '~standard': { version: 1, vendor: 'x', validate } } }) }),
    )
  const cause = new Error('broken')
  const throwing = broken(() => {
    throw cause
  })
  expect(await refusal(throwing, { topic: 't', payload: 1 })).toMatchObject({
    code: 'PAYLOAD_INVALID',
    cause,
  })
  const rejecting = broken(() => Promise.reject(cause) as never)
  expect(await refusal(rejecting, { topic: 't', payload: 1 })).toMatchObject({
    code: 'PAYLOAD_INVALID',
    cause,
  })
})

test('bytes are given to the schema as they are', async () => {
  const schema = z.union([z.object({ id: z.string() }), z.instanceof(Uint8Array)])
  const outbox = createOutbox({ topics: topicsOf({ schema }) })
  await anyhow(outbox).publish(client, { topic: 't', key: 'k', ...tombstone })
  expect(await stored()).toMatchObject([{ key: 'k', payload: null }])
  await client.query('rollback; begin')
  const json = createOutbox({ topics: topicsOf({ schema: z.object({ id: z.string() }) }) })
  expect(await refusal(json, { topic: 't', key: 'k', ...tombstone })).toMatchObject({
    code: 'PAYLOAD_INVALID',
  })
})

describe('the key', () => {
  const keyed = (key: (payload: never) => unknown): Outbox =>
    anyhow(createOutbox({ topics: topicsOf({ schema: type(), key: key as () => string }) }))

  test('of the message counts before that of its topic, null too', async () => {
    const outbox = keyed(() => 'of-topic')
    await outbox.publish(client, { topic: 't', payload: 1, key: 'own' })
    await outbox.publish(client, { topic: 't', payload: 1, key: null })
    await outbox.publish(client, { topic: 't', payload: 1, key: undefined })
    expect(new Set((await stored()).map(({ key }) => key))).toEqual(new Set(['of-topic', 'own', null]))
  })

  test.each([
    ['', 'may not be empty'],
    [5, 'must be a string'],
    ['x'.repeat(256), 'the limit is 255'],
    ['\0', 'NUL'],
  ])('that a topic makes is checked as any other: %j', async (key, why) => {
    const error = await refusal(
      keyed(() => key),
      { topic: 't', payload: 1 },
    )
    expect(error).toMatchObject({ path: 'key' })
    expect(error.message).toContain(why)
  })

  test('that throws is an error of the message', async () => {
    const cause = new Error('no')
    const outbox = keyed(() => {
      throw cause
    })
    expect(await refusal(outbox, { topic: 't', payload: 1 })).toMatchObject({ code: 'INVALID_KEY', cause })
  })

  test('may be none', async () => {
    await keyed(() => undefined).publish(client, { topic: 't', payload: 1 })
    expect(await stored()).toMatchObject([{ key: null }])
  })
})

describe('the version', () => {
  const outbox = createOutbox({ topics: topicsOf({ schema: type(), version: 2 }) })

  test('stands in a header, beside others', async () => {
    await anyhow(outbox).publish(client, { topic: 't', payload: 1, headers: { a: 'b' } })
    await anyhow(outbox).publish(client, { topic: 't', payload: 1 })
    const headers = (await stored()).map((row) => JSON.parse(row.headers!) as object)
    expect(headers).toHaveLength(2)
    expect(headers).toEqual(expect.arrayContaining([{ a: 'b', dataversion: '2' }, { dataversion: '2' }]))
  })

  test('is the definition’s to say', async () => {
    const error = await refusal(outbox, { topic: 't', payload: 1, headers: { dataversion: '1' } })
    expect(error).toMatchObject({ code: 'HEADER_RESERVED', path: 'headers["dataversion"]' })
  })

  test('takes the room of a header', async () => {
    const headers = Object.fromEntries(Array.from({ length: 64 }, (_, n) => [`h${n}`, 'x']))
    expect(await refusal(outbox, { topic: 't', payload: 1, headers })).toMatchObject({
      code: 'HEADERS_TOO_LARGE',
    })
  })

  test('goes with a trace', async () => {
    const carried = { traceparent: '00-1-2-01' }
    const traced = createOutbox({
      topics: topicsOf({ schema: type(), version: 3 }),
      telemetry: { begin: () => ({ carried: [carried], run: (work) => work(), end: () => {} }) },
    })
    await anyhow(traced).publish(client, { topic: 't', payload: 1 })
    expect(JSON.parse((await stored())[0]!.headers!)).toEqual({ ...carried, dataversion: '3' })
  })
})

test.each<[string, unknown]>([
  ['at least one topic', {}],
  ['an object of definitions', null],
  ['an object of definitions', 'order.placed'],
  ['no name of a topic', { 'order *': { schema: type() } }],
  ['no name of a topic', { 'order.*': { schema: type() } }],
  ['needs a definition', { t: z.string() }],
  ['needs a definition', { t: null }],
  ['Standard Schema', { t: {} }],
  ['Standard Schema', { t: { schema: { '~standard': { version: 2, validate: () => ({}) } } } }],
  ['sumary is not an option', { t: { schema: type(), sumary: 'x' } }],
  ['summary that is no text', { t: { schema: type(), summary: 5 } }],
  ['key that is no function', { t: { schema: type(), key: 'id' } }],
  ['whole number from 1', { t: { schema: type(), version: 0 } }],
  ['whole number from 1', { t: { schema: type(), version: 1.5 } }],
  ['but is itself of version 2', { t: { schema: type(), version: 2, upcast: { 2: () => 1 } } }],
  ['but is itself of version 2', { t: { schema: type(), version: 2, upcast: { v1: () => 1 } } }],
  ['no function', { t: { schema: type(), version: 2, upcast: { 1: 'x' } } }],
  ['none from version 2', { t: { schema: type(), version: 3, upcast: { 1: () => 1 } } }],
  ['upcast that is no object', { t: { schema: type(), version: 3, upcast: () => 1 } }],
  ['jsonSchema that is no object', { t: { schema: type(), jsonSchema: 'x' } }],
])('a definition that cannot work is refused: %s', (why, definitions) => {
  const define = (): unknown => defineTopics(definitions as never)
  expect(define).toThrow(OptionError)
  expect(define).toThrow(why)
})

test('topics that are no topics are refused', () => {
  for (const topics of [['order.*'], {}, null, 'x'])
    expect(() => createOutbox({ topics: topics as never })).toThrow('must be what defineTopics gives')
})

// Whatever is published, the same schema takes it from the wire, and gives what it has given when it was published.
test('what an outbox lets through, a claimer does not refuse', async () => {
  const schema = z.object({
    id: z.string().optional(),
    at: z.coerce.date().optional(),
    more: z.record(z.string(), z.union([z.number(), z.string(), z.null()])).optional(),
  })
  const topics = defineTopics({ t: { schema } })
  const outbox = anyhow(createOutbox({ topics }))
  let published = 0
  const payloads = fc.record(
    {
      id: fc.oneof(fc.string(), fc.integer()),
      at: fc.oneof(fc.date({ noInvalidDate: true }), fc.string()),
      more: fc.dictionary(fc.string(), fc.oneof(fc.string(), fc.double(), fc.constant(null))),
      extra: fc.anything(),
    },
    { requiredKeys: [] },
  )
  await fc.assert(
    fc.asyncProperty(payloads, async (payload) => {
      await client.query('savepoint s')
      try {
        await outbox.publish(client, { topic: 't', payload })
        const [row] = await stored()
        const reading = await readReceived(
          't',
          topics.definitions.get('t')!,
          JSON.parse(row!.payload!),
          undefined,
        )
        expect(reading.wrong).toBeUndefined()
        published++
      } catch (error) {
        if (!(error instanceof MessageError)) throw error
      }
      await client.query('rollback to s')
    }),
    { numRuns: 300 },
  )
  expect(published).toBeGreaterThan(20)
})
