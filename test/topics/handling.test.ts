import { type as ark } from 'arktype'
import { inspect } from 'node:util'
import * as v from 'valibot'
import { describe, expect, test } from 'vitest'
import { z } from 'zod'
import { receive } from '../../src/database/inbox.ts'
import {
  createClaimer,
  defineTopics,
  OptionError,
  readDeadLetters,
  showDeadLetter,
  type,
  type ClaimerOptions,
  type HandlerEntry,
  type StandardSchema,
  type Topics,
  type Worker,
} from '../../src/index.ts'
import { claimers, consumer, database, events, inbox, startClaimer, useInbox } from '../support/inbox.ts'
import { inboxMessage } from '../support/messages.ts'

/** What comes off the wire and is none of its topic: a dead letter at once, which no handler sees and nobody else pays for. */

useInbox()

interface Delivery {
  readonly topic?: string
  readonly key?: string | null
  readonly payload: unknown
  readonly headers?: Readonly<Record<string, string>>
}

async function deliver(deliveries: readonly Delivery[]): Promise<string[]> {
  const messages = deliveries.map(({ topic = 'order.placed', key = null, payload, headers }) =>
    inboxMessage({
      consumer,
      topic,
      key,
      ...(payload instanceof Uint8Array
        ? { payload: null, body: Buffer.from(payload), contentType: 'application/octet-stream' }
        : { payload: JSON.stringify(payload) }),
      headers: headers === undefined ? null : JSON.stringify(headers),
      publishedAt: new Date(),
    }),
  )
  await receive(inbox, messages)
  return messages.map(({ id }) => id)
}

/** Starts a claimer with handlers that the compiler knows nothing of: what is sent here fits no type. */
function start(
  topics: Topics,
  handlers: Readonly<Record<string, HandlerEntry<unknown, never>>>,
  options: Partial<ClaimerOptions> = {},
): Promise<Worker> {
  return startClaimer(handlers as never, { ...options, topics })
}

/** Messages and stacks of errors included. */
const said = (told: unknown): string => inspect(told, { depth: 12, showHidden: true })

const dead = async () => (await readDeadLetters(database.url, { consumer })).letters

const schemas: [string, StandardSchema][] = [
  ['zod', z.object({ id: z.string(), lines: z.array(z.object({ price: z.number() })) })],
  ['valibot', v.object({ id: v.string(), lines: v.array(v.object({ price: v.number() })) })],
  ['arktype', ark({ id: 'string', lines: ark({ price: 'number' }).array() })],
  [
    'an async schema',
    z.object({
      id: z.string().refine(async (id) => Promise.resolve(id !== '')),
      lines: z.array(z.object({ price: z.number() })),
    }),
  ],
]
const good = { id: 'o1', lines: [{ price: 1 }] }
const bad = { id: 'o2', lines: [{ price: 1 }, { price: 'secret-4711' }] }

/** The ways in which a message comes to a handler. */
type Way = (seen: unknown[]) => HandlerEntry<unknown, never>
const ways: [string, Way][] = [
  [
    'in a transaction',
    (seen) =>
      ({ payload }: { payload: unknown }) =>
        void seen.push(payload),
  ],
  [
    'at once',
    (seen) => ({
      transaction: false,
      handle: ({ payload }: { payload: unknown }) => void seen.push(payload),
    }),
  ],
  [
    'without a transaction, and async',
    (seen) => ({
      transaction: false,
      handle: async ({ payload }: { payload: unknown }) => Promise.resolve(seen.push(payload)),
    }),
  ],
  [
    'in a batch',
    (seen) => ({
      batch: true,
      handle: (messages: readonly { payload: unknown }[]) =>
        void seen.push(...messages.map(({ payload }) => payload)),
    }),
  ],
]
const cells = schemas.flatMap(([library, schema]) =>
  ways.map(([how, way]) => ({ library, schema, how, way })),
)

test.each(cells)(
  '$library, $how: the one that does not fit is dead, and the others are handled',
  async (cell) => {
    const ids = await deliver([{ payload: good }, { payload: bad }, { payload: good }])
    const seen: unknown[] = []
    await start(defineTopics({ 'order.placed': { schema: cell.schema } }), { 'order.placed': cell.way(seen) })
    const letter = await events.next('dead_letter')
    await expect.poll(() => seen).toEqual([good, good])
    expect(letter).toMatchObject({ id: ids[1], attempt: 1 })
    expect(letter.reason).toMatch(
      /^invalid: payload\.lines\[1\]\.price does not fit the schema of its topic\.$/,
    )
    expect(events.of('message_failed')).toMatchObject([
      {
        id: ids[1],
        foundBy: 'schema',
        retryInMs: null,
        error: { path: 'payload.lines[1].price', code: 'DEAD_LETTER' },
      },
    ])
    const [stored] = await dead()
    expect(stored).toMatchObject({ id: ids[1], reason: letter.reason, attempt: 1 })
    const details = await showDeadLetter(database.url, stored!.number)
    expect(said([details.map(({ errors, reason }) => [errors, reason]), events.all])).not.toContain(
      'secret-4711',
    )
  },
)

test('with a key, what follows waits behind it; with onDead skip it goes on', async () => {
  const topics = defineTopics({ 'order.placed': { schema: z.object({ n: z.number() }) } })
  const seen: unknown[] = []
  await deliver([
    { key: 'a', payload: { n: 1 } },
    { key: 'a', payload: { n: 'x' } },
    { key: 'a', payload: { n: 3 } },
    { key: 'b', payload: { n: 4 } },
  ])
  const handler = ({ payload }: { payload: { n: number } }) => void seen.push(payload.n)
  await start(topics, { 'order.placed': handler })
  await events.next('dead_letter')
  await expect.poll(() => seen.length).toBe(2)
  expect(seen.map(String).toSorted()).toEqual(['1', '4'])
  const parked = await database.query<{ key: string }>('select key from twinbox.parked where consumer = $1', [
    consumer,
  ])
  expect(parked).toEqual([{ key: 'a' }])

  await deliver([
    { key: 'c', payload: { n: 'x' } },
    { key: 'c', payload: { n: 6 } },
  ])
  await claimers.splice(0)[0]!.stop()
  await start(topics, { 'order.placed': { transaction: false, handle: handler, onDead: 'skip' } })
  await expect.poll(() => seen).toContain(6)
})

// Or whoever may send to a topic could have it pause, and all that is good in it wait.
test('however many do not fit, nothing pauses and nobody waits', async () => {
  const topics = defineTopics({ 'order.placed': { schema: z.object({ n: z.number() }) } })
  const seen: unknown[] = []
  const deliveries = Array.from({ length: 300 }, (_, n) => ({
    key: n % 3 === 0 ? `k${n}` : null,
    payload: { n: n % 50 === 0 ? n : 'x' },
  }))
  await deliver(deliveries)
  await start(
    topics,
    {
      '#': {
        transaction: false,
        handle: ({ payload }: { payload: { n: number } }) => void seen.push(payload.n),
      },
    },
    { onDead: 'skip' },
  )
  await events.next('dead_letter', () => true, 294)
  await expect.poll(() => seen.length).toBe(6)
  expect(events.of('circuit_opened')).toEqual([])
  expect(
    events.of('message_failed').every(({ attempt, retryInMs }) => attempt === 1 && retryInMs === null),
  ).toBe(true)
})

test('what a schema throws is a failed attempt like a handler’s own', async () => {
  let broken = true
  const validate = (value: unknown): { value: unknown } => {
    if (broken) throw Object.assign(new Error('the service of the schema is away'), { code: 'ECONNREFUSED' })
    return { value }
  }
  const schema: StandardSchema = { '~standard': { version: 1, vendor: 'x', validate } }
  const seen: unknown[] = []
  const handler = ({ payload }: { payload: unknown }) => void seen.push(payload)
  await deliver([{ payload: 1 }])
  await start(defineTopics({ 'order.placed': { schema } }), {
    'order.placed': { transaction: false, handle: handler },
  })
  const failed = await events.next('message_failed')
  expect(failed).toMatchObject({ foundBy: 'error', attempt: 1, error: { code: 'ECONNREFUSED' } })
  expect(failed.retryInMs).not.toBeNull()
  broken = false
  await expect.poll(() => seen).toEqual([1])
  expect(events.of('dead_letter')).toEqual([])
})

test('each attempt is given what the schema makes of what was published', async () => {
  const schema = z.object({ n: z.number().transform((n) => n * 2) })
  const seen: unknown[] = []
  await deliver([{ payload: { n: 2 } }])
  await start(defineTopics({ 'order.placed': { schema } }), {
    'order.placed': ({ payload }: { payload: { n: number } }) => {
      seen.push(payload.n)
      payload.n = 99
      if (seen.length < 3) throw new Error('again')
    },
  })
  await expect.poll(() => seen).toEqual([4, 4, 4])
  await events.next('handled')
})

test('bytes are given to the schema as they are', async () => {
  const seen: unknown[] = []
  await deliver([{ payload: new Uint8Array([1, 2]) }, { payload: { id: 'x' } }])
  const schema = z.union([z.object({ id: z.string() }), z.instanceof(Uint8Array)])
  await start(defineTopics({ 'order.placed': { schema } }), {
    '#': ({ payload }: { payload: unknown }) => void seen.push(payload),
  })
  await expect.poll(() => seen.length).toBe(2)
  expect(seen).toEqual(expect.arrayContaining([Buffer.from([1, 2]), { id: 'x' }]))
})

describe('versions', () => {
  const schema = z.object({ name: z.string(), total: z.number() })
  const seen: unknown[] = []
  const handle = ({ payload }: { payload: unknown }) => void seen.push(payload)
  const topics = defineTopics({
    'order.placed': {
      schema,
      version: 3,
      upcast: {
        1: (old: { n: string }) => ({ name: old.n.toUpperCase() }),
        2: async (old: { name: string }) => Promise.resolve({ ...old, total: 0 }),
      },
    },
    'order.paid': { schema, version: 2 },
  })

  test('an old payload goes up one version after the other, and then through the schema', async () => {
    seen.length = 0
    await deliver([
      { payload: { n: 'a' } },
      { payload: { n: 'b' }, headers: { dataversion: '1' } },
      { payload: { name: 'c' }, headers: { dataversion: '2' } },
      { payload: { name: 'd', total: 1 }, headers: { dataversion: '3' } },
      // As another system says it: an attribute of a CloudEvent.
      { payload: { name: 'e' }, headers: { ce_dataversion: '2' } },
    ])
    await start(topics, { 'order.*': { transaction: false, handle } })
    await expect.poll(() => seen.length).toBe(5)
    expect(seen).toEqual(
      expect.arrayContaining([
        { name: 'A', total: 0 },
        { name: 'B', total: 0 },
        { name: 'c', total: 0 },
        { name: 'd', total: 1 },
        { name: 'e', total: 0 },
      ]),
    )
  })

  test.each<[string, Delivery]>([
    ['payload is of version 1, and its upcast threw TypeError.', { payload: { no: 'secret-4711' } }],
    [
      'payload is of version 1, from which there is no upcast.',
      { topic: 'order.paid', payload: { name: 'x' } },
    ],
    ['dataversion is no version of a payload', { payload: 1, headers: { dataversion: 'secret-4711' } }],
    ['dataversion is no version of a payload', { payload: 1, headers: { dataversion: '0' } }],
    ['dataversion is no version of a payload', { payload: 1, headers: { dataversion: '1e3' } }],
    ['dataversion is no version of a payload', { payload: 1, headers: { dataversion: '99999999' } }],
    ['payload.total does not fit', { payload: { name: 'x', total: 'y' }, headers: { dataversion: '3' } }],
    ['payload.name does not fit', { payload: { name: 5 }, headers: { dataversion: '2' } }],
  ])('what cannot be brought up is dead: %s', async (why, delivery) => {
    await deliver([delivery])
    await start(topics, { '#': handle })
    const { reason } = await events.next('dead_letter')
    expect(reason.slice(0, why.length + 9)).toBe(`invalid: ${why}`)
    expect(said([events.all, (await dead()).map(({ reason: told }) => told)])).not.toContain('secret-4711')
  })

  // While a new version of the application is deployed, the old one gets messages of it.
  test('a newer one is left for later, without a dead letter and without a pause of its topic', async () => {
    seen.length = 0
    await deliver([
      ...Array.from({ length: 8 }, (_, n) => ({ key: `k${n}`, payload: {}, headers: { dataversion: '4' } })),
      { key: 'good', payload: { name: 'd', total: 1 }, headers: { dataversion: '3' } },
    ])
    await start(topics, { '#': { transaction: false, handle } })
    const failed = await events.next('message_failed', () => true, 8)
    expect(failed.retryInMs).toBeGreaterThanOrEqual(60_000)
    expect((failed.error as Error).message).toContain('is of version 4')
    await expect.poll(() => seen).toEqual([{ name: 'd', total: 1 }])
    expect([...events.of('circuit_opened'), ...events.of('dead_letter')]).toEqual([])
  })
})

test('a topic that is not defined waits for somebody who knows it', async () => {
  const seen: unknown[] = []
  const handle = ({ topic }: { topic: string }) => void seen.push(topic)
  await deliver([
    { topic: 'order.placed', payload: 1 },
    { topic: 'order.paid', payload: 2 },
  ])
  const one = defineTopics({ 'order.placed': { schema: type() } })
  const two = defineTopics({ 'order.placed': { schema: type() }, 'order.paid': { schema: type() } })
  await start(one, { 'order.*': { transaction: false, handle } })
  await events.next('set_aside', ({ topic }) => topic === 'order.paid')
  await expect.poll(() => seen).toEqual(['order.placed'])
  await start(two, { 'order.*': { transaction: false, handle } })
  await expect.poll(() => seen).toEqual(['order.placed', 'order.paid'])
})

test('what can never handle anything is refused', () => {
  const topics = defineTopics({ 'order.placed': { schema: type() } })
  const create =
    (handlers: object, given: unknown = topics) =>
    (): unknown =>
      createClaimer({ database: database.url, consumer, topics: given as Topics }, handlers as never)
  expect(create({ 'order.plced': () => {} })).toThrow(OptionError)
  expect(create({ 'order.plced': () => {} })).toThrow(
    '"order.plced" that none of the defined topics has or matches',
  )
  expect(create({ 'mail.*': () => {} })).toThrow('"mail.*" that none')
  expect(create({ '#': () => {} }, ['order.*'])).toThrow('must be what defineTopics gives')
  expect(create({ '*.placed': () => {}, '#': () => {} })).not.toThrow()
})

test('paths are cut and shown without what commands a terminal: keys of a record are the sender’s', async () => {
  const schema = z.record(z.string(), z.number())
  const key = `\u001b[31m${'x'.repeat(500)}\n`
  await deliver([{ payload: { [key]: 'y', 'a b': 'z', ok: 1 } }])
  await start(defineTopics({ 'order.placed': { schema } }), { '#': () => {} })
  const { reason } = await events.next('dead_letter')
  expect(reason.length).toBeLessThan(400)
  // eslint-disable-next-line no-control-regex
  expect(reason).not.toMatch(/[\u0000-\u001f]/)
  expect(reason).toContain('["a b"]')
})

test('what is told of it passes redactError', async () => {
  await deliver([{ payload: { n: 'x' } }])
  await start(
    defineTopics({ 'order.placed': { schema: z.object({ n: z.number() }) } }),
    { '#': () => {} },
    { redactError: () => 'withheld' },
  )
  expect((await events.next('dead_letter')).reason).toBe('invalid: withheld')
})

test('a schema that does not end is told of as a handler is', async () => {
  let go: () => void = () => {}
  const wait = new Promise<void>((resolve) => (go = resolve))
  const seen: unknown[] = []
  const [id] = await deliver([{ payload: 1 }])
  const schema = z.number().refine(async () => wait.then(() => true))
  await start(
    defineTopics({ 'order.placed': { schema } }),
    { '#': ({ payload }: { payload: unknown }) => void seen.push(payload) },
    { stuckAfterMs: 1000 },
  )
  expect(await events.next('handler_stuck')).toMatchObject({ ids: [id] })
  expect(seen).toEqual([])
  go()
  await expect.poll(() => seen).toEqual([1])
})
