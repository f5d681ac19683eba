import { randomUUID } from 'node:crypto'
import { EventEmitter, once } from 'node:events'
import type { Generated } from 'kysely'
import pg from 'pg'
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from 'vitest'
import { Database } from '../src/database/database.ts'
import { receive } from '../src/database/inbox.ts'
import {
  createClaimer,
  DeadLetterError,
  RetryLaterError,
  type ClaimerOptions,
  type Handlers,
  type Message,
  type Worker,
} from '../src/index.ts'
import { recordEvents, type Recorder } from './support/events.ts'
import { createTestDatabase, type TestDatabase } from './support/postgres.ts'
import { toFields } from '../src/message/row.ts'
import { inboxMessage, messageRow } from './support/messages.ts'

interface Tables {
  effects: { at: Generated<number>; n: number; key: string | null; attempt: number }
}

let database: TestDatabase
let inbox: Database
let consumer: string
let events: Recorder
let claimer: Worker | null = null

beforeAll(async () => {
  database = await createTestDatabase()
  inbox = new Database(database.url)
  await database.query('create table effects (at bigserial, n int, key text, attempt int)')
})
beforeEach(async () => {
  consumer = `c${randomUUID().slice(0, 8)}`
  events = recordEvents()
  await database.query('truncate effects')
})
afterEach(async () => {
  await claimer?.stop()
  claimer = null
})
afterAll(async () => {
  await inbox.close()
  await database.drop()
})

async function deliver(
  keys: readonly (string | null)[],
  topic = 'order.placed',
  from = 0,
): Promise<string[]> {
  const messages = keys.map((key, index) =>
    inboxMessage({
      ...{ consumer, topic, key, headers: '{"tenant":"t1"}' },
      payload: JSON.stringify({ n: from + index }),
      publishedAt: new Date(),
    }),
  )
  await receive(inbox, messages)
  return messages.map(({ id }) => id)
}

async function start(handlers: Handlers<Tables>, options: Partial<ClaimerOptions> = {}): Promise<void> {
  claimer = createClaimer<Tables>(
    {
      database: database.url,
      consumer,
      backoffMsMin: 1,
      backoffMsMax: 20,
      onEvent: events.onEvent,
      ...options,
    },
    handlers,
  )
  await claimer.start()
}

const number = (payload: unknown): number => (payload as { n: number }).n
const effects = async (): Promise<number[]> =>
  (await database.query<{ n: number }>('select n from effects order by at')).map(({ n }) => n)
const left = (): Promise<unknown[]> =>
  database.query(
    `select 'inbox' as table, key from twinbox.inbox where consumer = $1
    union all select 'deferred', key from twinbox.deferred where consumer = $1
    union all select 'parked_message', key from twinbox.parked_message where consumer = $1
    union all select 'dead_letter', key from twinbox.dead_letter where consumer = $1`,
    [consumer],
  )

test('a handler has the message and its transaction, as Kysely and as pg', async () => {
  const [id] = await deliver(['k'])
  let seen: unknown
  await start({
    'order.placed': async (message, { trx, client, attempt, fence, idempotencyKey, signal }) => {
      seen = {
        ...message,
        publishedAt: null,
        receivedAt: null,
        attempt,
        fence: typeof fence,
        idempotencyKey,
        aborted: signal.aborted,
      }
      await trx.insertInto('effects').values({ n: 1, key: message.key, attempt }).execute()
      const { rows } = await client.query<{ n: number }>('select n from effects')
      // One transaction: what one wrote, the other sees before the commit.
      expect(rows).toEqual([{ n: 1 }])
      expect(await database.query('select from effects')).toEqual([])
    },
  })
  await events.next('handled')
  // Of a column that is added, null.
  expect(seen).toEqual({
    ...toFields(messageRow()),
    id,
    topic: 'order.placed',
    key: 'k',
    headers: { tenant: 't1' },
    attributes: {},
    payload: { n: 0 },
    contentType: 'application/json',
    publishedAt: null,
    receivedAt: null,
    expiresAt: null,
    attempt: 1,
    fence: 'number',
    idempotencyKey: `${consumer}:${id}`,
    aborted: false,
  })
  expect(await effects()).toEqual([1])
  expect(await left()).toEqual([])
})

test.each(['k', null])('a failed attempt leaves no effect and is tried again (key %s)', async (key) => {
  await deliver([key])
  await start({
    'order.*': async (message, { client, attempt }) => {
      await client.query('insert into effects (n, key, attempt) values ($1, $2, $3)', [
        attempt,
        message.key,
        attempt,
      ])
      if (attempt < 3) throw new Error('not yet')
    },
  })
  await events.next('handled')
  expect(await effects()).toEqual([3])
  expect(events.of('message_failed').map(({ attempt }) => attempt)).toEqual([1, 2])
  expect(await left()).toEqual([])
})

test.each(['k', null])(
  'after maxAttempts a message is a dead letter with its history (key %s)',
  async (key) => {
    await deliver([key])
    await start(
      {
        '#': () => {
          throw new Error('never')
        },
      },
      { maxAttempts: 3 },
    )
    await events.next('dead_letter')
    const [letter] = await database.query<{
      attempt: number
      reason: string
      errors: { attempt: number; error: string }[]
      payload: unknown
    }>('select attempt, reason, errors, payload from twinbox.dead_letter where consumer = $1', [consumer])
    expect(letter).toMatchObject({ attempt: 3, reason: 'Error: never', payload: { n: 0 } })
    expect(letter!.errors.map(({ attempt, error }) => [attempt, error])).toEqual([
      [1, 'Error: never'],
      [2, 'Error: never'],
      [3, 'Error: never'],
    ])
    expect(await database.query('select from twinbox.inbox where consumer = $1', [consumer])).toEqual([])
  },
)

test('DeadLetterError gives up at once, RetryLaterError asks for a time', async () => {
  await deliver([null, null])
  await start({
    '#': (message, { attempt }) => {
      if (number(message.payload) === 0) throw new DeadLetterError('hopeless')
      if (attempt === 1) throw new RetryLaterError({ afterMs: 5 })
    },
  })
  await events.next('dead_letter')
  await events.next('handled')
  const failures = events.of('message_failed')
  expect(failures.find(({ retryInMs }) => retryInMs === null)?.attempt).toBe(1)
  expect(failures.find(({ retryInMs }) => retryInMs === 5)?.attempt).toBe(1)
  expect(
    await database.query('select reason from twinbox.dead_letter where consumer = $1', [consumer]),
  ).toEqual([{ reason: 'DeadLetterError: hopeless' }])
})

const insert: Handlers<Tables>[string] = async (message, { trx, attempt }) => {
  await trx
    .insertInto('effects')
    .values({ n: number(message.payload), key: message.key, attempt })
    .execute()
}

test('later messages of a key wait for a failed one, other keys do not', async () => {
  await deliver(['a', 'a', 'b', 'a', 'b'])
  let failures = 0
  await start({
    '#': async (message, context) => {
      if (number(message.payload) === 0 && failures++ < 2) throw new Error('not yet')
      await (insert as (m: typeof message, c: typeof context) => Promise<void>)(message, context)
    },
  })
  await events.next('handled', () => true, 5)
  const order = await effects()
  expect(order.filter((n) => [0, 1, 3].includes(n))).toEqual([0, 1, 3])
  expect(order.filter((n) => [2, 4].includes(n))).toEqual([2, 4])
})

test('a key with a long backoff leaves its lane, later arrivals follow, and all come back in order', async () => {
  await deliver(['a', 'a', 'b'])
  let first = true
  await start({
    '#': async (message, context) => {
      if (number(message.payload) === 0 && first) {
        first = false
        throw new RetryLaterError({ afterMs: 60_000 })
      }
      await (insert as (m: typeof message, c: typeof context) => Promise<void>)(message, context)
    },
  })
  await events.next('parked')
  await events.next('handled')
  await deliver(['a', 'b'], 'order.placed', 3)
  await events.next('handled', () => true, 2)
  // "b" went on, "a" waits outside its lane, the late one too as soon as it has been read.
  expect(await effects()).toEqual([2, 4])
  await until(`select count(*) = 3 as done from twinbox.parked_message where consumer = '${consumer}'`)
  await database.query(`update twinbox.parked set until = now() where consumer = $1`, [consumer])
  await events.next('handled', () => true, 5)
  expect((await effects()).slice(2)).toEqual([0, 1, 3])
  await until(`select count(*) = 0 as done from twinbox.parked where consumer = '${consumer}'`)
  await deliver(['a'], 'order.placed', 5)
  await events.next('handled', () => true, 6)
  expect(await effects()).toEqual([2, 4, 0, 1, 3, 5])
  expect(await left()).toEqual([])
})

test('a dead letter parks its key by default, and lets it go on with onDead: skip', async () => {
  await deliver(['a', 'a', 'a', 'b'])
  const fail: Handlers<Tables>[string] = (message) => {
    if (number(message.payload) === 0) throw new DeadLetterError('no')
  }
  await start({ '#': fail })
  await events.next('dead_letter')
  await events.next('handled')
  await until(`select count(*) = 2 as done from twinbox.parked_message where consumer = '${consumer}'`)
  expect(
    await database.query('select key, until from twinbox.parked where consumer = $1', [consumer]),
  ).toEqual([{ key: 'a', until: Infinity }])
  await claimer!.stop()

  consumer += 'skip'
  events = recordEvents()
  await deliver(['a', 'a', 'a', 'b'])
  await start({ '#': fail }, { onDead: 'skip' })
  await events.next('handled', () => true, 3)
  expect(await database.query('select from twinbox.parked where consumer = $1', [consumer])).toEqual([])
  expect(await left()).toEqual([{ table: 'dead_letter', key: 'a' }])
})

test('without a transaction the completion follows the handler', async () => {
  await deliver(['a', 'a', null, null])
  const seen: number[] = []
  let contexts = 0
  await start({
    '#': {
      transaction: false,
      handle: (message, context) => {
        seen.push(number(message.payload))
        if ('trx' in context || 'client' in context) contexts++
      },
    },
  })
  await events.next('handled', () => true, 4)
  expect(seen.toSorted((a, b) => a - b)).toEqual([0, 1, 2, 3])
  expect(seen.indexOf(0)).toBeLessThan(seen.indexOf(1))
  expect(contexts).toBe(0)
  expect(await left()).toEqual([])
})

test('a batch handler gets runs of messages in order, in one transaction', async () => {
  await deliver([...Array.from({ length: 40 }, () => 'a'), ...Array.from({ length: 20 }, () => null)])
  const sizes: number[] = []
  await start({
    '#': {
      batch: true,
      batchSize: 25,
      handle: async (messages, { trx, attempt }) => {
        sizes.push(messages.length)
        await trx
          .insertInto('effects')
          .values(messages.map((message) => ({ n: number(message.payload), key: message.key, attempt })))
          .execute()
      },
    },
  })
  await until('select count(*) = 60 as done from effects')
  await until(`select count(*) = 0 as done from twinbox.inbox where consumer = '${consumer}'`)
  expect(Math.max(...sizes)).toBeGreaterThan(1)
  expect(Math.max(...sizes)).toBeLessThanOrEqual(25)
  expect((await effects()).filter((n) => n < 40)).toEqual(Array.from({ length: 40 }, (_, n) => n))
})

test('one bad message of a batch fails alone, and the others are handled once', async () => {
  await deliver(Array.from({ length: 20 }, (_, n) => (n % 2 === 0 ? null : `k${n}`)))
  await start(
    {
      '#': {
        batch: true,
        handle: async (messages, { trx, attempt }) => {
          await trx
            .insertInto('effects')
            .values(messages.map((message) => ({ n: number(message.payload), key: message.key, attempt })))
            .execute()
          if (messages.some((message) => number(message.payload) === 7)) throw new DeadLetterError('seven')
        },
      },
    },
    { onDead: 'skip' },
  )
  await events.next('dead_letter')
  await until('select count(*) = 19 as done from effects')
  expect((await effects()).toSorted((a, b) => a - b)).toEqual(
    Array.from({ length: 20 }, (_, n) => n).filter((n) => n !== 7),
  )
  await until(`select count(*) = 0 as done from twinbox.inbox where consumer = '${consumer}'`)
})

test.each([true, false])(
  'when one lane of a batch is lost, the messages of the others stay in flight (transaction: %s)',
  async (transaction) => {
    await deliver(Array.from({ length: 30 }, (_, n) => `k${n}`))
    let stolen: number | null = null
    let calls = 0
    const handle = async (messages: readonly Message[]): Promise<void> => {
      if (calls++ > 0) return
      const [row] = await database.query<{ lane: number }>(
        `update twinbox.lane set fence = fence + 1, holder = -1, lease_until = now() + interval '1 hour'
        where consumer = $1 and lane = (select twinbox.lane_of($2)) returning lane`,
        [consumer, messages[0]!.key],
      )
      stolen = row!.lane
    }
    await start({ '#': { transaction, batch: true, handle } })
    await until(
      `select count(*) = 0 as done from twinbox.inbox i join twinbox.lane l using (consumer, lane)
      where i.consumer = '${consumer}' and l.holder is distinct from -1`,
    )
    const waiting = await database.query<{ lane: number }>(
      'select lane from twinbox.inbox where consumer = $1',
      [consumer],
    )
    expect(waiting.length).toBeGreaterThan(0)
    expect(new Set(waiting.map(({ lane }) => lane))).toEqual(new Set([stolen]))
    await database.query(
      `update twinbox.lane set lease_until = '-infinity' where consumer = $1 and holder = -1`,
      [consumer],
    )
    await until(`select count(*) = 0 as done from twinbox.inbox where consumer = '${consumer}'`)
    expect(events.of('dead_letter')).toEqual([])
    expect(events.of('message_failed')).toEqual([])
  },
)

test('a claim that a crash of the server took back is not the next one, though both count from the same number', async () => {
  await deliver([null, null])
  const fences: number[] = []
  const turns = new EventEmitter()
  const handlers: Handlers<Tables> = {
    '#': async (_message, { trx, fence }) => {
      const turn = fences.push(fence)
      turns.emit(`begin ${turn}`)
      await once(turns, turn > 2 ? 'end second' : 'end first')
      await trx.insertInto('effects').values({ n: turn, key: null, attempt: 1 }).execute()
    },
  }
  // With two in flight it is full, and cannot claim again what was taken back.
  const options = { batchSize: 1, concurrency: 2 }
  const first = once(turns, 'begin 2')
  await start(handlers, options)
  await first
  // What such a crash leaves: the rows as they were before the claim.
  await database.query(
    `update twinbox.inbox set fence = 0, holder = null, lease_until = '-infinity', attempt = 0 where consumer = $1`,
    [consumer],
  )
  const second = once(turns, 'begin 4')
  const other = createClaimer<Tables>({ database: database.url, consumer, ...options }, handlers)
  await other.start()
  try {
    await second
    turns.emit('end first')
    await events.next('lease_lost', () => true, 2)
    expect(await effects()).toEqual([])
    turns.emit('end second')
    await until(`select count(*) = 0 as done from twinbox.inbox where consumer = '${consumer}'`)
    expect((await effects()).toSorted((a, b) => a - b)).toEqual([3, 4])
  } finally {
    await other.stop()
  }
})

test('a batch that runs too long has failed as a whole, and its messages get their time one by one', async () => {
  await deliver([null, null, 'a', 'a'])
  await start(
    {
      '#': {
        transaction: false,
        batch: true,
        handle: (messages) => (messages.length > 1 ? new Promise(() => {}) : undefined),
      },
    },
    { handleTimeoutMs: 150 },
  )
  await events.next('handled', () => true, 4)
  expect(await left()).toEqual([])
  expect(events.of('message_failed')).toEqual([])
})

test('a handler that runs too long is told, has failed, and its late write changes nothing', async () => {
  await deliver(['a'])
  let late: Promise<unknown> = Promise.resolve()
  await start(
    {
      '#': (_, { client, signal, attempt }) => {
        if (attempt > 1) return client.query('insert into effects (n) values (2)')
        late = new Promise((resolve) => signal.addEventListener('abort', () => resolve(undefined))).then(() =>
          client.query('insert into effects (n) values (1)'),
        )
        return late
      },
    },
    { handleTimeoutMs: 100 },
  )
  await events.next('handled')
  await expect(late).rejects.toThrow(/connection|queryable/i)
  expect(await effects()).toEqual([2])
  expect(events.of('message_failed')[0]!.error).toMatchObject({ code: 'HANDLE_TIMEOUT' })
})

test('the time of a handler begins when it is called, and not while it waits for a connection', async () => {
  const pool = new pg.Pool({ connectionString: database.url, max: 1 })
  try {
    await start({ '#': () => {} }, { database: pool, handleTimeoutMs: 100 })
    const only = await pool.connect()
    await deliver(['a', null])
    await events.next('claimed')
    // What shall not happen gives no sign.
    await new Promise((resolve) => setTimeout(resolve, 400))
    only.release()
    await events.next('handled', () => true, 2)
    expect(events.of('message_failed')).toEqual([])
    await claimer!.stop()
  } finally {
    await pool.end()
  }
})

test('a swallowed error of a statement is not taken for success', async () => {
  await deliver([null])
  await start({ '#': (_, { client }) => client.query('select 1 / 0').catch(() => {}) }, { maxAttempts: 1 })
  const { error } = await events.next('message_failed')
  expect(error).toMatchObject({ code: 'TRANSACTION_ABORTED' })
  expect(await left()).toEqual([{ table: 'dead_letter', key: null }])
})

test('a handler that ends the transaction itself is found out', async () => {
  await deliver([null])
  await start({ '#': (_, { client }) => client.query('commit') }, { maxAttempts: 1 })
  expect((await events.next('message_failed')).error).toMatchObject({ code: 'TRANSACTION_ENDED' })
})

test('what is tried again soon waits in flight with that attempt counted, and what is not, outside of the inbox', async () => {
  await deliver([null, null])
  const waiting: unknown[] = []
  await start(
    {
      '#': async ({ payload }, { attempt }) => {
        if (attempt === 1)
          throw number(payload) === 0 ? new Error('soon') : new RetryLaterError({ afterMs: 60_000 })
        waiting.push(
          ...(await database.query(
            `select 'inbox' as "table", attempt, jsonb_array_length(errors) as errors, holder = $1 as held
            from twinbox.inbox where consumer = $2
            union all select 'deferred', attempt, jsonb_array_length(errors), false from twinbox.deferred where consumer = $2`,
            [claimer!.id, consumer],
          )),
        )
      },
    },
    { backoffMsMin: 300, backoffMsMax: 300 },
  )
  await events.next('handled')
  expect(waiting).toEqual([
    { table: 'inbox', attempt: 2, errors: 1, held: true },
    { table: 'deferred', attempt: 1, errors: 1, held: false },
  ])
  await claimer!.stop()
  expect(await left()).toEqual([{ table: 'deferred', key: null }])
})

test('what waits in flight for its next attempt when a claimer stops is given back, and that attempt not counted', async () => {
  await deliver([null])
  await start({ '#': () => Promise.reject(new Error('soon')) }, { backoffMsMin: 1000, backoffMsMax: 1000 })
  await events.next('message_failed')
  await claimer!.stop()
  expect(
    await database.query(
      'select attempt, jsonb_array_length(errors) as errors, holder from twinbox.inbox where consumer = $1',
      [consumer],
    ),
  ).toEqual([{ attempt: 1, errors: 1, holder: null }])
})

test('whatever a handler throws, the claimer lives and the reason can be stored', async () => {
  await deliver(Array.from({ length: 6 }, () => null))
  const thrown: unknown[] = [
    'text\0with\ud800junk',
    undefined,
    null,
    Object.freeze({}),
    'x'.repeat(1e6),
    Object.create(null),
  ]
  await start(
    {
      '#': (message) => {
        // oxlint-disable-next-line typescript/only-throw-error -- that is what is tested
        throw thrown[number(message.payload)]
      },
    },
    { maxAttempts: 1 },
  )
  await events.next('dead_letter', () => true, 6)
  const letters = await database.query<{ reason: string }>(
    'select reason from twinbox.dead_letter where consumer = $1',
    [consumer],
  )
  expect(letters).toHaveLength(6)
  for (const { reason } of letters) expect(reason.length).toBeLessThanOrEqual(2000)
})

test('concurrency is a limit, and different keys run side by side', async () => {
  await deliver(Array.from({ length: 40 }, (_, n) => `k${n}`))
  let running = 0
  let most = 0
  await start(
    {
      '#': {
        transaction: false,
        handle: async () => {
          most = Math.max(most, ++running)
          await new Promise((resolve) => setTimeout(resolve, 20))
          running--
        },
      },
    },
    { concurrency: 4 },
  )
  await events.next('handled', () => true, 40)
  expect(most).toBe(4)
})

test('a stop waits for what is running, aborts what does not end, and gives the rest back', async () => {
  await deliver(Array.from({ length: 30 }, () => null))
  let aborted = 0
  await start(
    {
      '#': {
        transaction: false,
        handle: (message, { signal }) =>
          number(message.payload) === 0
            ? new Promise((_, reject) => {
                signal.addEventListener('abort', () => {
                  aborted++
                  reject(signal.reason as Error)
                })
              })
            : undefined,
      },
    },
    { concurrency: 2, stopTimeoutMs: 100 },
  )
  await events.next('handled')
  await claimer!.stop()
  expect(aborted).toBe(1)
  const rows = await database.query<{ holder: number | null; attempt: number }>(
    'select distinct holder, attempt from twinbox.inbox where consumer = $1',
    [consumer],
  )
  for (const row of rows) expect(row).toEqual({ holder: null, attempt: 0 })
  const lanes = await database.query('select from twinbox.lane where consumer = $1 and holder is not null', [
    consumer,
  ])
  expect(lanes).toEqual([])
})

async function until(query: string): Promise<void> {
  const deadline = Date.now() + 20_000
  while ((await database.query<{ done: boolean }>(query))[0]?.done !== true) {
    if (Date.now() > deadline) throw new Error(`Never true: ${query}`)
    await new Promise((resolve) => setTimeout(resolve, 20))
  }
}

test.each([true, false])(
  'a message that is gone when it is to be completed does not hold up its key (transaction: %s)',
  async (transaction) => {
    const [gone] = await deliver(['k', 'k', 'k'])
    const note = 'insert into effects (n, key, attempt) values ($1, $2, $3)'
    const handle = async (
      { id, key, payload }: Message,
      { attempt, client }: { attempt: number; client?: pg.ClientBase },
    ): Promise<void> => {
      // As if its commit had taken place when its answer was lost.
      if (id === gone) await database.query('delete from twinbox.inbox where id = $1', [id])
      await (client ?? database.pool).query(note, [number(payload), key, attempt])
    }
    await start({ 'order.*': transaction ? { handle } : { handle, transaction } })
    const lost = await events.next('lease_lost')
    expect(lost.ids).toEqual([gone])
    await events.next('handled', () => true, 2)
    expect(await effects()).toEqual(transaction ? [1, 2] : [0, 1, 2])
    expect(await left()).toEqual([])
  },
)

test('a key whose handler is not async goes on as soon as its message is completed', async () => {
  // One by one at each look of the housekeeping, these would take longer than a test may.
  const count = 500
  await deliver(Array<string>(count).fill('k'))
  const seen: number[] = []
  await start({ 'order.*': { transaction: false, handle: ({ payload }) => void seen.push(number(payload)) } })
  await events.next('handled', () => true, count)
  expect(seen).toEqual(Array.from({ length: count }, (_, n) => n))
  expect(await left()).toEqual([])
})

test('a transaction that the end of another one has begun knows nothing of it, and none is left open', async () => {
  await deliver(Array<string>(20).fill('k'))
  const seen: object[] = []
  await start(
    {
      'order.*': async ({ payload }, { client }) => {
        const isolation = await client.query('show transaction_isolation')
        await client.query('set transaction isolation level serializable')
        const { rows } = await client.query<object>(
          "select pg_backend_pid() as pid, current_setting('application_name') as name, now() as began",
        )
        seen.push({
          ...rows[0]!,
          isolation: (isolation.rows[0] as { transaction_isolation: string }).transaction_isolation,
        })
        await client.query("set local application_name = 'handler'")
        await client.query('insert into effects (n) values ($1)', [number(payload)])
      },
    },
    { concurrency: 2 },
  )
  await events.next('handled', () => true, 20)
  expect(seen).toEqual(
    Array.from({ length: 20 }, () => expect.objectContaining({ isolation: 'read committed' }) as object),
  )
  const [first, ...later] = seen as { pid: number; name: string; began: Date }[]
  for (const { pid, name } of later) expect({ pid, name }).toEqual({ pid: first!.pid, name: first!.name })
  const began = (seen as { began: Date }[]).map((transaction) => transaction.began.getTime())
  expect(began).toEqual(began.toSorted((a, b) => a - b))
  expect(await effects()).toHaveLength(20)
  await until(`select count(*) = 0 as done from pg_stat_activity
    where datname = current_database() and state like 'idle in transaction%'`)
})

test('handlers do not keep a connection from others who wait for it', async () => {
  const pool = new pg.Pool({ connectionString: database.url, max: 1 })
  await deliver(Array<string>(50).fill('k'))
  let others = Promise.resolve(0)
  await start(
    {
      'order.*': async ({ payload }, { client }) => {
        await client.query('insert into effects (n) values ($1)', [number(payload)])
        if (number(payload) === 5)
          others = pool
            .query<{ n: number }>('select count(*)::int as n from effects')
            .then(({ rows }) => rows[0]!.n)
      },
    },
    { database: pool, concurrency: 1 },
  )
  await events.next('handled', () => true, 50)
  // Right after the handler that was under way.
  expect(await others).toBe(6)
  await claimer!.stop()
  await pool.end()
})

test('what cannot be promoted holds up neither renewals nor keys that may go on', async () => {
  const reported = events.next('trouble')
  await database.query(`create function refuse_bad() returns trigger language plpgsql as $$
      begin if new.topic = 'bad' then raise 'no'; end if; return new; end $$;
    create trigger refuse_bad before insert on twinbox.inbox for each row execute function refuse_bad()`)
  await database.query(
    `insert into twinbox.deferred (consumer, due_at, id, topic, payload) values ($1, now(), gen_random_uuid(), 'bad', '1')`,
    [consumer],
  )
  await database.query(
    `with parked as (
      insert into twinbox.parked (consumer, lane, key, until, reason) values ($1, twinbox.lane_of('k'), 'k', now(), 'why')
    )
    insert into twinbox.parked_message (consumer, lane, key, seq, id, topic, payload)
    values ($1, twinbox.lane_of('k'), 'k', 1, gen_random_uuid(), 'order.placed', '{"n":1}')`,
    [consumer],
  )
  await deliver([null], 'slow')
  const released = new EventEmitter()
  const back = once(released, 'back')
  let ended = 0
  await start(
    {
      'order.placed': () => void released.emit('back'),
      // Longer than the lease.
      slow: {
        transaction: false,
        handle: async () => void (await new Promise((end) => setTimeout(end, 1800)), ended++),
      },
    },
    { leaseMs: 1000 },
  )
  expect(await reported).toMatchObject({ doing: 'promoting what is due' })
  await back
  while (events.of('handled').flatMap(({ ids }) => ids).length < 2)
    await new Promise((wake) => setTimeout(wake, 10))
  expect(events.of('lease_lost')).toEqual([])
  expect(ended).toBe(1)
  await database.query('drop trigger refuse_bad on twinbox.inbox')
})

test('a renewal does not void the transaction of a handler that reads from one snapshot', async () => {
  await deliver([null])
  const times = { leaseMs: 2000, heartbeatMs: 200, deadAfterMs: 1000 }
  let calls = 0
  const slow: Handlers<Tables> = {
    '#': async (message, { client, trx, attempt }) => {
      calls++
      await client.query('set transaction isolation level repeatable read')
      await client.query('select count(*) from effects')
      // Until its lease has been renewed, or has lapsed.
      const [row] = await database.query<{ until: string }>(
        'select lease_until::text as until from twinbox.inbox where consumer = $1',
        [consumer],
      )
      await until(`select lease_until <> '${row!.until}' or lease_until < clock_timestamp() as done
        from twinbox.inbox where consumer = '${consumer}'`)
      await trx
        .insertInto('effects')
        .values({ n: number(message.payload), key: message.key, attempt })
        .execute()
    },
  }
  await start(slow, { ...times, maxAttempts: 1 })
  const other = createClaimer<Tables>({ database: database.url, consumer, ...times, maxAttempts: 1 }, slow)
  await other.start()
  await until(`select not exists (select from twinbox.inbox where consumer = '${consumer}') as done`)
  await other.stop()
  expect(await effects()).toEqual([0])
  // Once more if it began while a renewal was under way.
  expect(calls).toBeLessThanOrEqual(2)
})
