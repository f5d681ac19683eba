import type pg from 'pg'
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest'
import { z } from 'zod'
import {
  createOutbox,
  createRelay,
  createSchedules,
  DeadLetterError,
  defineTopics,
  inTransaction,
  readMessages,
  redriveParkedKeys,
  RetryLaterError,
  withTransaction,
  type LibraryConsumerConfig,
  type Message,
  type TransactionContext,
} from '../../src/index.ts'
import { postgres } from '../../src/brokers/postgres/postgres.ts'
import {
  createTestSchema,
  handle,
  published,
  testContext,
  testMessage,
  type TestSchema,
} from '../../src/testing/testing.ts'
import { createTestDatabase, type TestDatabase } from '../support/postgres.ts'

const topics = defineTopics({
  'order.placed': {
    schema: z.object({ id: z.string(), total: z.number(), at: z.coerce.date().optional() }),
    key: ({ id }) => id,
  },
  'order.shipped': {
    schema: z.object({ id: z.string(), by: z.string() }),
    version: 2,
    upcast: { 1: (old) => ({ ...(old as { id: string }), by: 'post' }) },
  },
})

/** A busy machine may take its time: what is waited for comes, and nothing here asserts when. */
const timeoutMs = 60_000
let database: TestDatabase
let kit: TestSchema<typeof topics>
let outbox: ReturnType<typeof createOutbox<typeof topics>>
beforeAll(async () => {
  database = await createTestDatabase({ migrated: false })
  await database.query('create table effects (what text)')
  await database.query('create table parent (id int primary key)')
  await database.query('create table child (parent int references parent deferrable initially deferred)')
  kit = await createTestSchema({ database: database.pool, topics })
  outbox = createOutbox({ schema: kit.schema, topics })
})
afterEach(async () => {
  await kit.reset()
  await database.query('truncate effects')
})
afterAll(async () => {
  await kit?.close()
  await database.drop()
})

const place = (id: string, more: object = {}): Promise<unknown> =>
  withTransaction(database.pool, (client) =>
    outbox.publish(client, { topic: 'order.placed', payload: { id, total: 1 }, ...more }),
  )
const effects = async (): Promise<string[]> =>
  (await database.query<{ what: string }>('select what from effects order by what')).map(({ what }) => what)
const writes = async (what: string, { client }: TransactionContext<unknown>): Promise<void> => {
  await client.query('insert into effects values ($1)', [what])
}

describe('published', () => {
  test('tells what this transaction has published, before it is rolled back', async () => {
    await place('other')
    const client = await database.pool.connect()
    try {
      await client.query('begin')
      expect(await kit.published(client)).toEqual([])
      const deliverAt = new Date('2036-05-04T03:02:01.234Z')
      const { id } = await outbox.publish(client, {
        ...{ topic: 'order.placed', payload: { id: 'a', total: 2 }, headers: { who: 'me' } },
      })
      await outbox.publish(client, { topic: 'order.placed', payload: { id: 'b', total: 3 }, deliverAt })
      await client.query('savepoint s')
      await outbox.publish(client, { topic: 'order.placed', payload: { id: 'gone', total: 4 } })
      await client.query('rollback to s')
      await client.query('savepoint t')
      await outbox.publish(client, { topic: 'order.shipped', payload: { id: 'c', by: 'sea' } })
      await client.query('release t')
      // Of a transaction that has begun later and committed before: neither ours, nor below our number.
      await place('meanwhile')
      const all = await kit.published(client)
      expect(all.map(({ payload }) => payload.id)).toEqual(['a', 'b', 'c'])
      expect(all[0]).toEqual({
        ...{ id, topic: 'order.placed', key: 'a', contentType: 'application/json', headers: { who: 'me' } },
        ...{ payload: { id: 'a', total: 2 }, deliverAt: null, expiresAt: null },
      })
      expect(all[1]!.deliverAt).toEqual(deliverAt)
      const [shipped] = await kit.published(client, 'order.shipped')
      expect(shipped!.payload.by satisfies string).toBe('sea')
      expect((await kit.published(client, 'order.*')).length).toBe(3)
      // @ts-expect-error no topic is called so
      expect(await kit.published(client, 'nothing.here')).toEqual([])
      expect(
        (await published(client, 'order.placed', { schema: kit.schema, topics }))[0]!.payload.total,
      ).toBe(2)
      await outbox.cancel(client, { id: all[1]!.id })
      expect((await kit.published(client)).map(({ payload }) => payload.id)).toEqual(['a', 'c'])
    } finally {
      await client.query('rollback')
      client.release()
    }
  })

  test('keeps bytes, times and the order of one call', async () => {
    const plain = createOutbox({ schema: kit.schema })
    await withTransaction(database.pool, async (client) => {
      const expiresAt = new Date(Date.now() + 5_000_000)
      await plain.publishMany(client, [
        { topic: 'b', payload: new Uint8Array([0, 255]), contentType: 'image/png', expiresAt },
        { topic: 'a', payload: null },
      ])
      const [bytes, nothing] = await published(client, undefined, { schema: kit.schema })
      expect(bytes).toMatchObject({ payload: Buffer.from([0, 255]), contentType: 'image/png', expiresAt })
      expect(nothing).toMatchObject({ topic: 'a', payload: null, key: null, headers: {} })
    })
  })

  test('refuses what is in no transaction, and what is no topic', async () => {
    await expect(kit.published(database.pool as never)).rejects.toMatchObject({ code: 'NO_TRANSACTION' })
    await expect(published({} as never, 'a b')).rejects.toMatchObject({ code: 'INVALID_TOPIC' })
    await expect(published({} as never, 'a', { shema: 'x' } as never)).rejects.toThrow(
      'shema is not an option',
    )
  })
})

describe('handle', () => {
  const placed = { topic: 'order.placed', payload: { id: 'o1', total: 5, at: '2030-01-01' } }

  test('runs the handler as a claimer would, rolls it back, and tells what it published', async () => {
    let seen: Message | undefined
    const result = await kit.handle(
      {
        'order.*': async (message, context) => {
          seen = message
          if (message.topic === 'order.placed')
            expect(message.payload.at satisfies Date | undefined).toBeInstanceOf(Date)
          await writes('x', context)
          expect([context.attempt, context.idempotencyKey, context.signal.aborted]).toEqual([
            3,
            `billing:${message.id}`,
            false,
          ])
          await outbox.publish(context.trx, { topic: 'order.shipped', payload: { id: 'o1', by: 'air' } })
        },
      },
      placed,
      { attempt: 3, consumer: 'billing' },
    )
    expect(result).toMatchObject({ outcome: 'completed', published: [{ payload: { id: 'o1', by: 'air' } }] })
    expect(seen).toMatchObject({ topic: 'order.placed', key: 'o1', payload: { at: new Date('2030-01-01') } })
    expect(await effects()).toEqual([])
    expect(await readMessages(database.pool, {}, { schema: kit.schema })).toEqual([])
  })

  test('keeps what the handler has done if it is told to', async () => {
    await kit.handle({ 'order.placed': (_, context) => writes('kept', context) }, placed, { keep: true })
    expect(await effects()).toEqual(['kept'])
  })

  test('tells when it is tried again, and when it is a dead letter, and publishes nothing then', async () => {
    const error = new Error('no')
    const throwing = (thrown: unknown, how = {}) =>
      kit.handle(
        {
          'order.placed': async (_, { client }) => {
            await outbox.publish(client, { topic: 'order.shipped', payload: { id: 'o1', by: 'air' } })
            throw thrown
          },
        },
        placed,
        how,
      )
    const first = await throwing(error, { backoffMsMin: 100, backoffMsMax: 1000 })
    expect(first).toMatchObject({ outcome: 'retry', error, published: [] })
    expect((first as { retryInMs: number }).retryInMs).toBeGreaterThanOrEqual(100)
    expect((first as { retryInMs: number }).retryInMs).toBeLessThanOrEqual(200)
    expect(await throwing(error, { attempt: 2, maxAttempts: 2 })).toMatchObject({
      ...{ outcome: 'dead_letter', error, reason: 'Error: no' },
    })
    expect(await throwing(new DeadLetterError('enough'))).toMatchObject({ outcome: 'dead_letter' })
    expect(await throwing(new RetryLaterError({ afterMs: 7 }))).toMatchObject({ retryInMs: 7 })
    await expect(throwing(error, { attempt: 3, maxAttempts: 2 })).rejects.toThrow('attempt is 3')
  })

  test('reads the payload as a claimer does: what does not fit, what is older, what is newer', async () => {
    const bodies: unknown[] = []
    const handlers = { 'order.shipped': (message: Message) => void bodies.push(message.payload) }
    expect(await kit.handle(handlers, { topic: 'order.shipped', payload: { id: 1 } })).toMatchObject({
      ...{ outcome: 'dead_letter', error: { path: 'payload.id' } },
      reason: expect.stringMatching(/^invalid: payload\.id does not fit/) as string,
    })
    await kit.handle(handlers, { topic: 'order.shipped', payload: { id: '1', by: 'sea' } })
    await kit.handle(handlers, {
      topic: 'order.shipped',
      payload: { id: '2' },
      headers: { dataversion: '1' },
    })
    expect(bodies).toEqual([
      { id: '1', by: 'sea' },
      { id: '2', by: 'post' },
    ])
    const newer = { topic: 'order.shipped', payload: {}, headers: { dataversion: '3' } }
    expect(await kit.handle(handlers, newer)).toMatchObject({ outcome: 'retry', retryInMs: 60_000 })
  })

  test('takes what was published, what has expired and what nobody handles', async () => {
    const client = await database.pool.connect()
    await client.query('begin')
    await outbox.publish(client, {
      topic: 'order.placed',
      payload: { id: 'p', total: 1 },
      headers: { a: 'b' },
    })
    const [message] = await kit.published(client)
    await client.query('rollback')
    client.release()
    let seen: Message | undefined
    await kit.handle({ 'order.placed': (given) => void (seen = given) }, message!)
    expect(seen).toMatchObject({ id: message!.id, key: 'p', headers: { a: 'b' } })
    const late = { ...placed, expiresAt: new Date(1) }
    expect(await kit.handle({ 'order.placed': () => {} }, late)).toMatchObject({
      reason: 'expired',
      error: null,
    })
    const others = { 'order.shipped': () => {} }
    expect(await kit.handle(others, placed)).toEqual({ outcome: 'unhandled', published: [] })
    expect(await kit.handle(others, placed, { unknown: 'drop' })).toEqual({
      outcome: 'dropped',
      published: [],
    })
    expect(await kit.handle(others, placed, { unknown: 'fail' })).toMatchObject({ outcome: 'retry' })
  })

  test('meets at the end what a commit would meet', async () => {
    const orphan = async (_: unknown, { client }: TransactionContext<unknown>): Promise<void> => {
      await client.query('insert into child values (1)')
    }
    expect(await kit.handle({ 'order.placed': orphan }, placed)).toMatchObject({ error: { code: '23503' } })
    const swallowed = async (_: unknown, { client }: TransactionContext<unknown>): Promise<void> => {
      await client.query('select 1/0').catch(() => {})
    }
    expect(await kit.handle({ 'order.placed': swallowed }, placed)).toMatchObject({
      error: { code: 'TRANSACTION_ABORTED' },
    })
    const ended = (_: unknown, { client }: TransactionContext<unknown>): unknown => client.query('commit')
    expect(await kit.handle({ 'order.placed': ended }, placed)).toMatchObject({
      error: { code: 'TRANSACTION_ENDED' },
    })
    const slow = { 'order.placed': { handleTimeoutMs: 5, handle: () => new Promise(() => {}) } }
    expect(await kit.handle(slow, placed)).toMatchObject({ error: { code: 'HANDLE_TIMEOUT' } })
  })

  test('in the transaction of a library, and without one', async () => {
    const transaction = inTransaction<pg.PoolClient>((run) => withTransaction(database.pool, run))
    const handler = async (_: unknown, { tx }: { tx: pg.PoolClient }): Promise<void> => {
      await tx.query(`insert into effects values ('library')`)
      await outbox.publish(tx, { topic: 'order.shipped', payload: { id: 'o1', by: 'rail' } })
    }
    const how = { transaction }
    expect(await kit.handle<unknown, pg.PoolClient>({ 'order.placed': handler }, placed, how)).toMatchObject({
      ...{ outcome: 'completed', published: [{ payload: { by: 'rail' } }] },
    })
    expect(await effects()).toEqual([])
    await kit.handle<unknown, pg.PoolClient>({ 'order.placed': handler }, placed, { ...how, keep: true })
    expect(await effects()).toEqual(['library'])
    const failing = { 'order.placed': () => Promise.reject(new Error('x')) }
    expect(await kit.handle<unknown, pg.PoolClient>(failing, placed, how)).toMatchObject({ outcome: 'retry' })
    const orphan = {
      'order.placed': (_: unknown, { tx }: { tx: pg.PoolClient }) => tx.query('insert into child values (1)'),
    }
    expect(await kit.handle<unknown, pg.PoolClient>(orphan, placed, { ...how, keep: true })).toMatchObject({
      outcome: 'retry',
      error: { code: '23503' },
    })
    expect(await kit.handle<unknown, pg.PoolClient>(orphan, placed, how)).toMatchObject({
      outcome: 'retry',
      error: { code: '23503' },
    })
    let batch: readonly Message[] = []
    const handlers = {
      'order.placed': {
        transaction: false,
        batch: true,
        handle: (all: readonly Message[]) => void (batch = all),
      },
    } as const
    expect(await kit.handle(handlers, placed)).toEqual({ outcome: 'completed', published: [] })
    expect(batch).toHaveLength(1)
  })

  test('refuses what cannot be tried, and says when the database is away', async () => {
    const handlers = { 'order.placed': () => {} }
    await expect(kit.handle(null as never, placed)).rejects.toThrow('handlers by topic')
    await expect(kit.handle({}, placed)).rejects.toThrow('handlers is empty')
    await expect(kit.handle(handlers, placed, { kep: true } as never)).rejects.toThrow('kep is not an option')
    await expect(kit.handle(handlers, { ...placed, topic: '' })).rejects.toMatchObject({
      code: 'INVALID_TOPIC',
    })
    await expect(kit.handle(handlers, { ...placed, id: 'x' })).rejects.toThrow('UUID')
    const away = { database: 'postgres://127.0.0.1:1/none', topics }
    await expect(handle(handlers, placed, away)).rejects.toMatchObject({ code: 'ECONNREFUSED' })
  })
})

describe('messages and contexts', () => {
  test('are complete, and typed', async () => {
    const message = testMessage({ topic: 'order.placed', payload: { id: 'a', total: 1 }, key: 'k' })
    message satisfies Message<{ id: string; total: number }, 'order.placed'>
    const seen: Message[] = []
    await handle({ '#': (real) => void seen.push(real) }, message, {
      database: database.pool,
      schema: kit.schema,
    })
    expect(Object.keys(message).toSorted()).toEqual(Object.keys(seen[0]!).toSorted())
    expect(message).toEqual({ ...seen[0], publishedAt: message.publishedAt, receivedAt: message.receivedAt })
    // @ts-expect-error no message has such a field
    expect(() => testMessage({ topic: 'a', payload: 1, pri: 1 })).toThrow('pri is not an option')
    expect(() => testMessage({ topic: 'a b', payload: 1 })).toThrow('topic must be')
    const controller = new AbortController()
    const plain = await testContext({ attempt: 2, message, consumer: 'c', signal: controller.signal })
    expect({ ...plain }).toMatchObject({ attempt: 2, idempotencyKey: `c:${message.id}`, fence: 1 })
    controller.abort(new Error('enough'))
    expect(plain.signal.reason).toMatchObject({ message: 'enough' })
    await expect(testContext({ attempt: 0 })).rejects.toThrow('attempt is 0')
    await withTransaction(database.pool, async (client) => {
      const context = await testContext<{ effects: { what: string } }>({ client })
      await context.trx.insertInto('effects').values({ what: 'by trx' }).execute()
      expect(context.client).toBe(client)
    })
    expect(await effects()).toEqual(['by trx'])
  })
})

describe('settle', () => {
  const billing = (handlers: object, more: object = {}) =>
    ({ consumers: { billing: { handlers, ...more } }, timeoutMs }) as never

  test('handles in the transactions of a library', async () => {
    await place('a')
    const consumer: LibraryConsumerConfig<pg.PoolClient, typeof topics> = {
      topics: ['order.*'],
      transaction: inTransaction((run) => withTransaction(database.pool, run)),
      handlers: {
        'order.placed': async ({ payload: { id } }, { tx }) => {
          await tx.query('insert into effects values ($1)', [`library ${id}`])
        },
      },
    }
    const settled = await kit.settle({ consumers: { billing: consumer }, timeoutMs })
    expect(settled).toMatchObject({ sent: 1, handled: 1 })
    expect(await effects()).toEqual(['library a'])
  })

  test('sends, receives and handles all, with what handlers publish, for every consumer', async () => {
    await place('a')
    await place('b')
    const first = {
      'order.placed': async (message: Message<{ id: string }>, context: TransactionContext<unknown>) => {
        await writes(`billed ${message.payload.id}`, context)
        await outbox.publish(context.client, {
          topic: 'order.shipped',
          payload: { id: message.payload.id, by: 'air' },
        })
      },
    }
    const second = {
      'order.#': (message: Message<{ id: string }>, context: TransactionContext<unknown>) =>
        writes(`saw ${message.topic} ${message.payload.id}`, context),
    }
    const settled = await kit.settle({
      consumers: { billing: { handlers: first }, mail: { handlers: second } },
      timeoutMs,
    })
    expect(await effects()).toEqual([
      ...['billed a', 'billed b'],
      ...['saw order.placed a', 'saw order.placed b', 'saw order.shipped a', 'saw order.shipped b'],
    ])
    const nothing = { delayed: [], retrying: [], parked: [], dead: [], unhandled: [], elsewhere: [] }
    expect(settled).toEqual({ sent: 4, handled: 6, failed: [], unsubscribed: [], left: nothing })
    expect(await kit.settle(billing(first))).toMatchObject({ sent: 0, handled: 0 })
  })

  test('throws what a handler threw, itself or all together; what waits for its next attempt waits in the tables', async () => {
    await place('a')
    const calls: number[] = []
    const error = new Error('card refused')
    const handlers = {
      'order.placed': (_: Message, { attempt }: TransactionContext<unknown>) => {
        calls.push(attempt)
        if (attempt === 1) throw error
      },
    }
    const how = billing(handlers, { backoffMsMin: 3_600_000, backoffMsMax: 3_600_000 })
    await expect(kit.settle(how)).rejects.toBe(error)
    expect(await kit.settle(how)).toMatchObject({
      ...{ handled: 0, left: { retrying: [{ topic: 'order.placed', consumer: 'billing', count: 1 }] } },
    })
    await kit.advance(3_600_000)
    expect(await kit.settle(how)).toMatchObject({ handled: 1, left: { retrying: [] } })
    expect(calls).toEqual([1, 2])
  })

  test('names each of several failures', async () => {
    await place('a')
    await place('b')
    await withTransaction(database.pool, (client) =>
      outbox.publish(client, { topic: 'order.shipped', key: null, payload: { id: 'c', by: 'air' } }),
    )
    const boom = (message: Message<{ id: string }>): never => {
      throw new DeadLetterError(`boom ${message.payload.id}`)
    }
    const thrown = (await kit
      .settle(billing({ '#': boom }))
      .catch((error: unknown) => error)) as AggregateError
    expect(thrown).toBeInstanceOf(AggregateError)
    expect(thrown.errors.map(({ message }: Error) => message).toSorted()).toEqual([
      'boom a',
      'boom b',
      'boom c',
    ])
    expect(thrown.message).toMatch(
      /^3 messages failed:\n- order\.\w+ [0-9a-f-]{36} \(consumer "billing", attempt 1, a dead letter now\): DeadLetterError: boom/,
    )
    await place('a')
    await place('d')
    const report = await kit.settle({ ...(billing({ '#': boom }) as object), rethrow: false } as never)
    expect(report.failed).toMatchObject([{ consumer: 'billing', attempt: 1, retryInMs: null }])
    // What is behind the dead letter in its key is held back.
    expect(report.left).toMatchObject({ dead: [{ count: 3 }, { count: 1 }], parked: [{ count: 1 }] })
    await redriveParkedKeys(
      database.pool,
      { consumer: 'billing' },
      {
        schema: kit.schema,
        by: 'me',
      },
    )
    const well = await kit.settle(billing({ '#': () => {} }))
    expect(well.left.parked).toEqual([])
  })

  test('tells what is left where: delayed, unsubscribed, unhandled, elsewhere', async () => {
    await place('later', { delayMs: 3_600_000 })
    await withTransaction(database.pool, (client) =>
      outbox.publish(client, { topic: 'order.shipped', payload: { id: 's', by: 'air' } }),
    )
    const handlers = { 'order.placed': () => {} }
    expect(await kit.settle(billing(handlers))).toMatchObject({
      ...{ sent: 1, handled: 0, unsubscribed: [{ topic: 'order.shipped', count: 1 }] },
      left: { delayed: [{ topic: 'order.placed', consumer: null, count: 1 }] },
    })
    await withTransaction(database.pool, (client) =>
      outbox.publish(client, { topic: 'order.shipped', payload: { id: 's', by: 'air' } }),
    )
    const wide = billing(handlers, { topics: ['#'] })
    expect((await kit.settle(wide)).left.unhandled).toEqual([
      { topic: 'order.shipped', consumer: 'billing', count: 1 },
    ])
    await kit.advance(3_600_000)
    const other = await kit.settle({
      consumers: { other: { handlers: { 'order.shipped': () => {} } } },
      timeoutMs,
    })
    expect(other.left).toMatchObject({
      delayed: [],
      unhandled: [{ topic: 'order.shipped', consumer: 'billing', count: 1 }],
      elsewhere: [{ topic: 'order.placed', consumer: 'billing', count: 1 }],
    })
    const both = { ...handlers, 'order.shipped': () => {} }
    expect(await kit.settle(billing(both))).toMatchObject({
      handled: 2,
      left: { unhandled: [], elsewhere: [] },
    })
  })

  test('recurring messages come due', async () => {
    const schedules = createSchedules({ database: database.pool, schema: kit.schema })
    await schedules.set({
      name: 'daily',
      cron: '0 5 * * *',
      topic: 'order.shipped',
      payload: { id: 't', by: 'x' },
      headers: { dataversion: '2' },
    })
    const handlers = { 'order.shipped': () => {} }
    expect(await kit.settle(billing(handlers))).toMatchObject({ handled: 0 })
    await kit.advance(24 * 3_600_000)
    expect((await kit.settle(billing(handlers))).handled).toBe(1)
  })

  test('never hangs: says what still waits and why', async () => {
    await place('a')
    const stuck = { consumers: { billing: { handlers: { 'order.placed': () => new Promise(() => {}) } } } }
    await expect(kit.settle({ ...stuck, timeoutMs: 900 })).rejects.toThrow(
      /still waited after timeoutMs, 900 ms; \d were sent and 0 handled[\s\S]*1 of "order.placed"[^(]*\(in the (in|out)box: /,
    )
    const echo = {
      'order.placed': (
        { payload }: Message<{ id: string; total: number }>,
        { client }: TransactionContext<unknown>,
      ) => outbox.publish(client, { topic: 'order.placed', payload }),
    }
    await expect(
      kit.settle({ consumers: { billing: { handlers: echo } }, timeoutMs: 900 }),
    ).rejects.toMatchObject({ code: 'NOT_SETTLED' })
    // All has been stopped, and what was under way is there.
    expect(await kit.settle(billing({ 'order.placed': () => {} }))).toMatchObject({ handled: 1 })
  })

  test('waits for what is at the broker, by whatever broker', async () => {
    // Hands on what it was given long after it has confirmed it, as a broker may.
    const real = postgres({ database: database.pool, schema: kit.schema })
    let free: () => void = () => {}
    const freed = new Promise<void>((resolve) => (free = resolve))
    const late: Promise<unknown>[] = []
    const broker = {
      name: 'late',
      send: async (batch: never, context: never) => {
        late.push(freed.then(() => real.send(batch, context)))
        return (batch as unknown[]).map(() => ({ status: 'sent' as const }))
      },
      subscribe: real.subscribe.bind(real),
      close: async () => {},
    }
    await place('a')
    let isSettled = false
    const settling = kit.settle({ ...(billing({ 'order.placed': () => {} }) as object), broker } as never)
    void settling.then(() => (isSettled = true))
    while (late.length === 0 || (await database.query(`select from "${kit.schema}".outbox`)).length > 0)
      await new Promise((resolve) => setTimeout(resolve, 20))
    // Several looks at an empty outbox and an empty inbox.
    await new Promise((resolve) => setTimeout(resolve, 200))
    expect(isSettled).toBe(false)
    free()
    expect(await settling).toMatchObject({ sent: 1, handled: 1 })
    await real.close()
  })

  test('refuses what it cannot do', async () => {
    await expect(kit.settle({} as never)).rejects.toThrow('settle needs consumers')
    await expect(kit.settle({ consumers: { a: {} } } as never)).rejects.toThrow('"a" needs handlers')
    await expect(kit.settle({ consumers: {}, timeout: 1 } as never)).rejects.toThrow(
      'timeout is not an option',
    )
    for (const ms of [0, -1, 1.5, NaN, Infinity, '5', null, 1e15])
      await expect(kit.advance(ms as never)).rejects.toMatchObject({ code: 'INVALID_OPTION' })
  })
})

describe('a test schema', () => {
  test('is one test’s alone, and goes with it', async () => {
    const one = await createTestSchema({ database: database.url })
    const two = await createTestSchema({ database: database.url })
    expect(one.schema).not.toBe(two.schema)
    const client = await database.pool.connect()
    await client.query('begin')
    await createOutbox({ schema: one.schema }).publish(client, { topic: 'a', payload: 1 })
    expect(await one.published(client)).toHaveLength(1)
    expect(await two.published(client)).toHaveLength(0)
    await client.query('rollback')
    client.release()
    await Promise.all([one.close(), two.close(), one.close()])
    const left = await database.query(
      `select from pg_namespace where nspname in ('${one.schema}', '${two.schema}')`,
    )
    expect(left).toEqual([])
    await expect(createTestSchema({ database: database.url, schema: 'Bad Name' })).rejects.toThrow(
      'schema must be',
    )
    await expect(createTestSchema({} as never)).rejects.toThrow('database is required')
  })

  test('that is there stays, if it is empty; one that is used is refused', async () => {
    await database.query(`create schema mine; comment on schema mine is 'my own'`)
    await (await createTestSchema({ database: database.url, schema: 'mine' })).close()
    const [{ comment }] = (await database.query(
      `select obj_description('mine'::regnamespace, 'pg_namespace') as comment`,
    )) as [{ comment: string }]
    expect(comment).toBe('my own; twinbox test schema')
    // As somebody finds it who restores a dump of production.
    await database.query(`comment on schema mine is null; insert into mine.outbox (id, lane, topic, payload)
      values (gen_random_uuid(), 0, 'real.message', '1')`)
    await expect(createTestSchema({ database: database.url, schema: 'mine' })).rejects.toMatchObject({
      code: 'NOT_A_TEST_SCHEMA',
    })
    expect(await database.query('select from mine.outbox')).toHaveLength(1)
  })

  test('is handled, moved and emptied only where nobody is at work, and never in production', async () => {
    const relay = createRelay({
      database: database.url,
      schema: kit.schema,
      broker: postgres({ database: database.pool, schema: kit.schema }),
    })
    await relay.start()
    const settle = () => kit.settle({ consumers: { a: { handlers: { 'order.placed': () => {} } } } })
    try {
      await expect(settle()).rejects.toMatchObject({ code: 'WORKERS_ALIVE' })
      await expect(kit.reset()).rejects.toMatchObject({ code: 'WORKERS_ALIVE' })
      // It is of this process, and sees no more than that time has passed.
      await kit.advance(1)
      await database.query(`update "${kit.schema}".worker set pid = 1`)
      await expect(kit.advance(1)).rejects.toMatchObject({ code: 'WORKERS_ALIVE' })
    } finally {
      await relay.stop()
    }
    const before = process.env['NODE_ENV']
    process.env['NODE_ENV'] = 'production'
    try {
      await expect(settle()).rejects.toMatchObject({ code: 'IN_PRODUCTION' })
      await expect(kit.advance(1)).rejects.toMatchObject({ code: 'IN_PRODUCTION' })
      await expect(kit.reset()).rejects.toMatchObject({ code: 'IN_PRODUCTION' })
    } finally {
      process.env['NODE_ENV'] = before
    }
    await database.query(`comment on schema "${kit.schema}" is 'something else'`)
    await expect(kit.reset()).rejects.toMatchObject({ code: 'NOT_A_TEST_SCHEMA' })
    await database.query(`comment on schema "${kit.schema}" is 'twinbox test schema'`)
  })

  test('forgets all by reset, and its next messages are seen', async () => {
    await place('a')
    const handlers = { 'order.placed': () => {} }
    const how = { consumers: { billing: { handlers } }, timeoutMs }
    await kit.settle(how)
    await place('b', { dedupeKey: 'once' })
    await place('c', { delayMs: 3_600_000 })
    await kit.reset()
    expect(await readMessages(database.pool, {}, { schema: kit.schema })).toEqual([])
    await place('b', { dedupeKey: 'once' })
    expect(await kit.settle(how)).toMatchObject({ sent: 1, handled: 1 })
  })
})
