import { CamelCasePlugin, Kysely, PostgresDialect, type Transaction } from 'kysely'
import pg from 'pg'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test, vi } from 'vitest'
import {
  createOutbox,
  migrate,
  withTransaction,
  type NewMessage,
  type TransactionInput,
} from '../src/index.ts'
import type { Queryable } from '../src/database/executor.ts'
import { createTestDatabase, type TestDatabase } from './support/postgres.ts'
import { startProxy, type Proxy } from '../proof/stage/proxy.ts'

interface Row {
  readonly seq: string
  readonly lane: number
  readonly id: string
  readonly topic: string
  readonly key: string | null
  readonly headers: string | null
  readonly payload: string | null
  readonly body: Buffer | null
  readonly content_type: string | null
}

interface Tables {
  order_made: { order_id: string }
}

let database: TestDatabase
let db: Kysely<Tables>
const outbox = createOutbox()
const message: NewMessage = { topic: 'order.placed', payload: { total: 42 } }

beforeAll(async () => {
  database = await createTestDatabase()
  await database.query('create table order_made (order_id text not null)')
  db = new Kysely<Tables>({
    dialect: new PostgresDialect({ pool: openPool(database.url, 4) }),
    plugins: [new CamelCasePlugin()],
  })
})
afterAll(async () => {
  await db.destroy()
  await database.drop()
})
beforeEach(() => database.query('truncate twinbox.outbox, twinbox.dedupe, order_made'))

/** All that is in the outbox, in the order of insertion, JSON as text. */
const stored = (schema = 'twinbox'): Promise<Row[]> =>
  database.query<Row>(
    `select seq, lane, id, topic, key, headers::text, payload::text, body, content_type
    from "${schema}".outbox order by seq`,
  )

/** Runs `work` on a client after BEGIN; whatever it left open is rolled back. */
async function inTransaction<Result>(work: (client: pg.PoolClient) => Promise<Result>): Promise<Result> {
  const client = await database.pool.connect()
  try {
    await client.query('begin')
    return await work(client)
  } finally {
    await client.query('rollback')
    client.release()
  }
}

/** Two sessions, each after BEGIN. */
async function inTwoTransactions(
  work: (first: pg.PoolClient, second: pg.PoolClient) => Promise<void>,
): Promise<void> {
  await inTransaction((first) => inTransaction((second) => work(first, second)))
}

const pidOf = async (client: pg.ClientBase): Promise<number> =>
  (await client.query<{ pid: number }>('select pg_backend_pid() as pid')).rows[0]!.pid

/** Resolves once the session `waiter` waits for a lock that the session `holder` has. */
async function untilBlocked(waiter: number, holder: number): Promise<void> {
  for (;;) {
    const [row] = await database.query<{ blocked: boolean }>(
      'select $2 = any (pg_blocking_pids($1)) as blocked',
      [waiter, holder],
    )
    if (row!.blocked) return
  }
}

/** Whether a promise has settled by the time that the server has answered another session. */
async function settledBy(promise: Promise<unknown>, client: pg.ClientBase): Promise<boolean> {
  let settled = false
  void promise.then(() => (settled = true))
  await client.query('select 1')
  return settled
}

describe('where a message can be published', () => {
  const ways: {
    name: string
    run: (work: (trx: TransactionInput) => Promise<unknown>) => Promise<unknown>
  }[] = [
    { name: 'a pg client', run: (work) => inCommitted((client) => work(client)) },
    { name: 'a Kysely transaction', run: (work) => db.transaction().execute((trx) => work(trx)) },
    {
      name: 'an object with query(text, values)',
      run: (work) => inCommitted((client) => work({ query: (text, values) => client.query(text, values) })),
    },
    {
      name: 'a client in a proxy, as tracers make them',
      run: (work) => inCommitted((client) => work(new Proxy(client, {}))),
    },
    {
      name: 'an object that gives the rows and nothing else, as managers of TypeORM do',
      run: (work) =>
        inCommitted((client) =>
          work({
            query: async (text: string, values: unknown[]) => (await client.query(text, values)).rows,
          } as unknown as Queryable),
        ),
    },
    {
      name: 'a function with query(text, values)',
      run: (work) =>
        inCommitted((client) =>
          work(
            Object.assign(() => {}, {
              query: (text: string, values: unknown[]) => client.query(text, values),
            }),
          ),
        ),
    },
  ]
  const inCommitted = (work: (client: pg.PoolClient) => Promise<unknown>): Promise<unknown> =>
    database.transaction(work)

  test.each(ways)('$name: what is committed is in the outbox', async ({ run }) => {
    const published = await run((trx) =>
      outbox.publish(trx, { ...message, key: 'o1', headers: { trace: 'x' } }),
    )
    const rows = await stored()
    expect(published).toEqual({ id: rows[0]!.id, duplicate: false })
    expect(rows).toHaveLength(1)
    expect(rows[0]).toMatchObject({
      topic: 'order.placed',
      key: 'o1',
      headers: '{"trace":"x"}',
      payload: '{"total":42}',
      body: null,
      content_type: null,
    })
    expect(rows[0]!.id).toMatch(/^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/)
  })

  test.each(ways)('$name: what is rolled back never existed', async ({ run }) => {
    const failure = new Error('rolled back')
    await expect(
      run(async (trx) => {
        await outbox.publish(trx, { ...message, dedupeKey: 'd1' })
        await outbox.publishMany(trx, [message, message])
        throw failure
      }),
    ).rejects.toBe(failure)
    expect(await stored()).toEqual([])
    const again = await run((trx) => outbox.publish(trx, { ...message, dedupeKey: 'd1' }))
    expect(again).toMatchObject({ duplicate: false })
  })

  test.each(ways)('$name: a duplicate is told the id of the first', async ({ run }) => {
    const one = await run((trx) => outbox.publish(trx, { ...message, dedupeKey: 'd1' }))
    const two = await run((trx) => outbox.publish(trx, { ...message, dedupeKey: 'd1' }))
    expect(one).toMatchObject({ duplicate: false })
    expect(two).toEqual({ ...(one as object), duplicate: true })
    expect(await stored()).toHaveLength(1)
  })

  test('a rollback to a savepoint takes back only what was published after it', async () => {
    await database.transaction(async (client) => {
      await outbox.publish(client, { topic: 'kept', payload: 1 })
      await client.query('savepoint here')
      await outbox.publish(client, { topic: 'taken.back', payload: 2, dedupeKey: 'd' })
      await client.query('rollback to savepoint here')
      expect(
        (await outbox.publish(client, { topic: 'taken.back', payload: 3, dedupeKey: 'd' })).duplicate,
      ).toBe(false)
    })
    expect((await stored()).map(({ topic, payload }) => [topic, payload])).toEqual([
      ['kept', '1'],
      ['taken.back', '3'],
    ])
  })

  test("a savepoint of Kysely's controlled transaction does the same", async () => {
    const trx = await db.startTransaction().execute()
    await outbox.publish(trx, { topic: 'kept', payload: 1 })
    const savepoint = await trx.savepoint('here').execute()
    await outbox.publish(savepoint, { topic: 'taken.back', payload: 2 })
    await savepoint.rollbackToSavepoint('here').execute()
    await trx.commit().execute()
    expect((await stored()).map(({ topic }) => topic)).toEqual(['kept'])
  })

  test('each call is one statement, and an empty publishMany is none', async () => {
    await inTransaction(async (client) => {
      const query = vi.spyOn(client, 'query')
      const statements = async (work: () => Promise<unknown>): Promise<number> => {
        query.mockClear()
        await work()
        return query.mock.calls.length
      }
      const deduped = { ...message, key: 'k', dedupeKey: 'd' }
      expect(await statements(() => outbox.publish(client, message))).toBe(1)
      expect(await statements(() => outbox.publish(client, deduped))).toBe(1)
      expect(await statements(() => outbox.publish(client, deduped))).toBe(1)
      expect(await statements(() => outbox.publish(client, message, { orderingLock: true }))).toBe(1)
      expect(await statements(() => outbox.publishMany(client, [message, deduped, deduped]))).toBe(1)
      expect(await statements(() => outbox.publishMany(client, []))).toBe(0)
      expect(await outbox.publishMany(client, [])).toEqual([])
      query.mockRestore()
    })
  })

  test('what is no pg client is asked for a savepoint before, and keeps no trace of it', async () => {
    await inTransaction(async (client) => {
      const texts: string[] = []
      const query = (text: string, values: unknown[]): Promise<{ rows: unknown[] }> => {
        texts.push(text)
        return client.query(text, values)
      }
      await client.query('savepoint theirs')
      await outbox.publish({ query }, message)
      expect(texts.slice(0, -1)).toEqual(['savepoint twinbox', 'release savepoint twinbox'])
      await expect(client.query('rollback to savepoint twinbox')).rejects.toMatchObject({ code: '3B001' })
      await client.query('rollback to savepoint theirs')
    })
  })

  test('every parameter is a text or bytes, so that no driver makes something else of it', async () => {
    const client = new pg.Client(database.url)
    await client.connect()
    await client.query('begin')
    const given: unknown[] = []
    const recording = new Proxy(client, {
      get(target, name) {
        if (name !== 'query') return Reflect.get(target, name, target) as unknown
        return (config: pg.QueryConfig<unknown[]>) => (
          given.push(...(config.values ?? [])),
          target.query(config)
        )
      },
    })
    const all: NewMessage[] = [
      { ...message, key: 'k', headers: { a: 'b' } },
      { topic: 't', payload: Buffer.from('bytes'), contentType: 'a/b' },
      { ...message, dedupeKey: 'd' },
      { ...message, deliverAt: new Date(Date.now() + 60_000), expiresAt: new Date(Date.now() + 120_000) },
      { ...message, delayMs: 0.5 },
    ]
    for (const one of all) await outbox.publish(recording, one)
    for (const orderingLock of [false, true]) {
      await outbox.publish(recording, all[0]!, { orderingLock })
      await outbox.publishMany(recording, all.slice(0, 2), { orderingLock })
    }
    await outbox.publishMany(recording, all)
    const { id } = await outbox.publish(recording, { ...message, delayMs: 60_000 })
    expect(await outbox.cancel(recording, { id })).toEqual({ cancelled: true })
    const { rows } = await client.query<{ name: string; types: string }>(
      `select name, array_to_string(array(select distinct t::text from unnest(parameter_types) as t order by 1), ',') as types
      from pg_prepared_statements where name like 'twinbox.%' order by name`,
    )
    await client.end()
    expect(rows.map(({ name, types }) => [name, types])).toEqual([
      ['twinbox.outbox.cancel', 'text'],
      ['twinbox.outbox.publish', 'text'],
      ['twinbox.outbox.publishOne', 'bytea,text'],
      ['twinbox.outbox.publishOneOrdered', 'bytea,text'],
      ['twinbox.outbox.publishOneTimed', 'bytea,text'],
      ['twinbox.outbox.publishOrdered', 'text'],
      ['twinbox.outbox.publishTimed', 'text'],
    ])
    const odd = given.filter(
      (value) => !(value === null || typeof value === 'string' || Buffer.isBuffer(value)),
    )
    expect(odd).toEqual([])
  })

  test('whatever the session makes of nulls in arrays and of dates', async () => {
    const deliverAt = new Date(Date.now() + 3_600_123)
    const many: NewMessage[] = [
      { ...message, key: 'a "quoted" \\ key, {with} NULL', dedupeKey: 'NULL' },
      { ...message, payload: 1 },
      { topic: 't', payload: Buffer.from([0, 92, 34]), key: 'NULL' },
      { topic: 't', payload: Buffer.alloc(0) },
      { ...message, payload: 'later', deliverAt },
      { ...message, payload: 'long past', deliverAt: new Date(-1e15) },
    ]
    pg.defaults.parseInputDatesAsUTC = true
    try {
      await database.transaction(async (client) => {
        await client.query(
          `set local array_nulls = off; set local datestyle = 'German'; set local timezone = 'Asia/Kolkata'`,
        )
        await outbox.publishMany(client, many)
      })
    } finally {
      pg.defaults.parseInputDatesAsUTC = false
    }
    expect((await stored()).map(({ key, payload, body }) => [key, payload, body?.toString('hex')])).toEqual([
      [many[0]!.key, '{"total":42}', undefined],
      [null, '1', undefined],
      ['NULL', null, '005c22'],
      [null, null, ''],
      [null, '"long past"', undefined],
    ])
    expect(await database.query('select due_at from twinbox.deferred')).toEqual([{ due_at: deliverAt }])
    await database.query('truncate twinbox.deferred')
  })

  test('without prepared statements nothing is prepared on the connection, with them it is', async () => {
    const prepared = (client: pg.ClientBase): Promise<number> =>
      client
        .query("select from pg_prepared_statements where name like 'twinbox.%'")
        .then(({ rowCount }) => rowCount!)
    const client = new pg.Client(database.url)
    await client.connect()
    await client.query('begin')
    await createOutbox({ preparedStatements: false }).publish(client, message)
    expect(await prepared(client)).toBe(0)
    await createOutbox({ preparedStatements: true }).publish(client, message)
    expect(await prepared(client)).toBe(1)
    await client.end()
  })

  test('by default it is prepared on a connection that publishes again', async () => {
    const client = new pg.Client(database.url)
    await client.connect()
    await client.query('begin')
    const sent = vi.spyOn(client, 'query')
    for (let n = 0; n < 4; n++) await outbox.publish(client, message)
    // The second time it is asked whether that is the server itself, and never again.
    expect(sent.mock.calls.map(([query]) => typeof query === 'object' && 'name' in query)).toEqual([
      ...[false, false],
      ...[true, true, true],
    ])
    await client.end()
  })
})

/** As that of TypeORM: what it runs is each a transaction of its own, and it gives the rows only. */
class DataSource {
  readonly #over: Queryable

  constructor(over: Queryable) {
    this.#over = over
  }

  async query(text: string, values: unknown[]): Promise<unknown[]> {
    return (await this.#over.query(text, values)).rows
  }
}

describe('where a message cannot be published', () => {
  let lonely: pg.Client
  beforeAll(async () => {
    lonely = new pg.Client(database.url)
    await lonely.connect()
  })
  afterAll(() => lonely.end())

  const noTransaction = { name: 'TransactionError', code: 'NO_TRANSACTION' }

  test('a pool is refused by the compiler and at run time', async () => {
    // @ts-expect-error each statement of a pool is a transaction of its own
    await expect(outbox.publish(database.pool, message)).rejects.toMatchObject(noTransaction)
    const wrapped = { query: () => Promise.resolve({ rows: [] }), totalCount: 0 }
    // @ts-expect-error the same by its shape
    await expect(outbox.publish(wrapped, message)).rejects.toMatchObject(noTransaction)
    expect(await stored()).toEqual([])
  })

  test('a Kysely instance that is no transaction is refused by the compiler and at run time', async () => {
    // @ts-expect-error its isTransaction is not true
    await expect(outbox.publish(db, message)).rejects.toMatchObject(noTransaction)
    expect(await stored()).toEqual([])
    await db.transaction().execute((trx: Transaction<Tables>) => outbox.publish(trx, message))
    expect(await stored()).toHaveLength(1)
  })

  test('a client before BEGIN is refused, unless the message may stand by itself', async () => {
    const client = await database.pool.connect()
    try {
      await expect(outbox.publish(client, message)).rejects.toMatchObject(noTransaction)
      await expect(outbox.publishMany(client, [message])).rejects.toMatchObject(noTransaction)
      expect(await stored()).toEqual([])
      await outbox.publish(client, message, { autocommit: true })
      expect(await stored()).toHaveLength(1)
    } finally {
      client.release()
    }
  })

  test('a client whose transaction has ended is refused', async () => {
    const client = await database.pool.connect()
    try {
      await client.query('begin')
      await client.query('commit')
      await expect(outbox.publish(client, message)).rejects.toMatchObject(noTransaction)
    } finally {
      client.release()
    }
  })

  test('a transaction that has failed already is refused', async () => {
    await inTransaction(async (client) => {
      await expect(client.query('select 1 / 0')).rejects.toMatchObject({ code: '22012' })
      const aborted = { name: 'TransactionError', code: 'TRANSACTION_ABORTED' }
      await expect(outbox.publish(client, message)).rejects.toMatchObject(aborted)
      await expect(outbox.publish(client, message, { autocommit: true })).rejects.toMatchObject(aborted)
    })
  })

  const overPool = (): Queryable => ({ query: (text, values) => database.pool.query(text, values) })

  test.each<[string, () => unknown]>([
    ['an object over a pool', overPool],
    ['a manager over a pool, which gives rows only', () => new DataSource(overPool())],
    ['a client of a driver that does not tell', () => ({ query: lonely.query.bind(lonely) })],
    [
      'a library that wraps errors',
      () => ({
        query: (text: string, values: unknown[]) =>
          overPool()
            .query(text, values)
            .catch((cause: unknown) => {
              throw Object.assign(new Error('Query failed', { cause }), { code: 'P2010' })
            }),
      }),
    ],
  ])('%s is asked, and refused outside of a transaction', async (_what, make) => {
    const given = make() as Queryable
    const error = {
      ...noTransaction,
      message: expect.stringMatching(/the database says so.*\{ rows }/) as string,
    }
    await expect(outbox.publish(given, message)).rejects.toMatchObject(error)
    await expect(outbox.publish(given, { ...message, dedupeKey: 'd' })).rejects.toMatchObject(error)
    await expect(outbox.publishMany(given, [message, { ...message, delayMs: 5 }])).rejects.toMatchObject(
      error,
    )
    await expect(outbox.cancel(given, { topic: 't', dedupeKey: 'd' })).rejects.toMatchObject(error)
    expect(await stored()).toEqual([])
    expect(await database.query('select from twinbox.dedupe')).toEqual([])
    await outbox.publish(given, message, { autocommit: true })
    expect(await stored()).toHaveLength(1)
  })

  test('the error says what it got', async () => {
    const says = async (given: unknown): Promise<string> =>
      ((await outbox.publish(given as Queryable, message).catch((error: unknown) => error)) as Error).message
    expect(await says(new DataSource(overPool()))).toMatch(
      /^publish got a DataSource that is not in a transaction/,
    )
    expect(await says(() => {})).toMatch(/^publish got a function, and needs your transaction/)
    expect(await says(7)).toMatch(/^publish got something of type number, and needs your transaction/)
  })

  test.each<[string, (rows: unknown[]) => unknown]>([
    ['nothing', () => undefined],
    ['how many rows there were', (rows) => rows.length],
    ['rows and what is known of them', (rows) => [rows, { rowCount: rows.length }]],
    ['an object without rows', (rows) => ({ records: rows })],
  ])('one whose query answers with %s is refused before anything is written', async (_what, answer) => {
    await inTransaction(async (client) => {
      const query = async (text: string, values: unknown[]): Promise<never> =>
        answer((await client.query(text, values)).rows) as never
      const error = { name: 'TransactionError', code: 'UNKNOWN_RESULT' }
      await expect(outbox.publish({ query }, message)).rejects.toMatchObject(error)
      await expect(outbox.publish({ query }, { ...message, dedupeKey: 'd' })).rejects.toThrow(
        /Nothing was written/,
      )
      expect((await client.query('select from twinbox.outbox')).rowCount).toBe(0)
    })
  })

  test('one in a transaction that has failed is told so', async () => {
    await inTransaction(async (client) => {
      await client.query('select 1 / 0').catch(() => {})
      const query = (text: string, values: unknown[]): Promise<{ rows: unknown[] }> =>
        client.query(text, values)
      await expect(outbox.publish({ query }, message)).rejects.toMatchObject({ code: 'TRANSACTION_ABORTED' })
    })
  })

  test.each([undefined, null, 'trx', {}, { query: 'select' }, () => {}])(
    '%s is no transaction',
    async (given) => {
      await expect(outbox.publish(given as unknown as Queryable, message)).rejects.toMatchObject(
        noTransaction,
      )
    },
  )

  test('every refusal leaves the transaction as it was', async () => {
    const refused: readonly [messages: readonly unknown[], options?: object][] = [
      [[{ payload: 1 }]],
      [[{ topic: 'no spaces', payload: 1 }]],
      [[{ topic: 't', payload: undefined }]],
      [[{ topic: 't', payload: 'x'.repeat(2 * 1024 * 1024) }]],
      [[{ topic: 't', payload: 1, key: 'a\0b' }]],
      [[{ topic: 't', payload: 1, dedupeKey: 7 }]],
      [[{ topic: 't', payload: 1, headers: { a: 1 } }]],
      [[message, message, { topic: 't', payload: () => {} }]],
      [[message], { orderingLock: 'yes' }],
      [[message], { lock: true }],
    ]
    await database.transaction(async (client) => {
      for (const [messages, options] of refused) {
        await expect(
          outbox.publishMany(client, messages as NewMessage[], options as { orderingLock?: boolean }),
        ).rejects.toMatchObject({ name: expect.stringMatching(/^(Message|Option)Error$/) as string })
        await client.query('select 1')
      }
      await client.query("insert into order_made values ('o1')")
    })
    expect(await stored()).toEqual([])
    expect(await database.query('select * from order_made')).toEqual([{ order_id: 'o1' }])
  })
})

describe('dedupe keys', () => {
  const publishOne = (given: NewMessage): Promise<{ id: string; duplicate: boolean }> =>
    database.transaction((client) => outbox.publish(client, given))
  const keyed = { ...message, dedupeKey: 'd1' }

  test('within one publishMany the first of a key counts, and results stay in place', async () => {
    const earlier = await publishOne({ ...message, dedupeKey: 'old' })
    const results = await database.transaction((client) =>
      outbox.publishMany(client, [
        { topic: 'order.placed', payload: 0, dedupeKey: 'old' },
        { topic: 'order.placed', payload: 1, dedupeKey: 'new' },
        { topic: 'order.placed', payload: 2 },
        { topic: 'order.placed', payload: 3, dedupeKey: 'new' },
        { topic: 'order.placed', payload: 4 },
      ]),
    )
    expect(results.map(({ duplicate }) => duplicate)).toEqual([true, false, false, true, false])
    expect(results[0]!.id).toBe(earlier.id)
    expect(results[3]!.id).toBe(results[1]!.id)
    const rows = (await stored()).slice(1)
    expect(rows.map(({ id, payload }) => [id, payload])).toEqual([
      [results[1]!.id, '1'],
      [results[2]!.id, '2'],
      [results[4]!.id, '4'],
    ])
  })

  test('a key counts within its topic', async () => {
    const results = await database.transaction((client) =>
      outbox.publishMany(client, [
        { topic: 'a', payload: 1, dedupeKey: 'd' },
        { topic: 'b', payload: 2, dedupeKey: 'd' },
      ]),
    )
    expect(results.map(({ duplicate }) => duplicate)).toEqual([false, false])
    expect(await publishOne({ topic: 'b', payload: 3, dedupeKey: 'd' })).toEqual({
      id: results[1]!.id,
      duplicate: true,
    })
  })

  test('two publishes in one transaction are duplicates too', async () => {
    await database.transaction(async (client) => {
      const one = await outbox.publish(client, keyed)
      expect(await outbox.publish(client, keyed)).toEqual({ id: one.id, duplicate: true })
    })
    expect(await stored()).toHaveLength(1)
  })

  test('after the window the key is new again, and counts from then on', async () => {
    const one = await publishOne(keyed)
    await database.query(
      "update twinbox.dedupe set expires_at = clock_timestamp() - interval '1 millisecond'",
    )
    const two = await publishOne(keyed)
    expect(two.duplicate).toBe(false)
    expect(two.id).not.toBe(one.id)
    expect(await publishOne(keyed)).toEqual({ id: two.id, duplicate: true })
    expect((await stored()).map(({ id }) => id)).toEqual([one.id, two.id])
  })

  test('the window is the one asked for, and a duplicate does not prolong it', async () => {
    const brief = createOutbox({ dedupeWindowMs: 60_000 })
    const expiry = (): Promise<{ seconds: number; expires_at: Date }[]> =>
      database.query(
        'select expires_at, extract(epoch from expires_at - clock_timestamp())::float8 as seconds from twinbox.dedupe',
      )
    await database.transaction((client) => brief.publish(client, keyed))
    const [before] = await expiry()
    expect(before!.seconds).toBeGreaterThan(30)
    expect(before!.seconds).toBeLessThanOrEqual(60)
    await database.transaction((client) => outbox.publish(client, keyed))
    expect((await expiry())[0]!.expires_at).toEqual(before!.expires_at)
  })

  test('of two open transactions the second waits, and is a duplicate if the first commits', async () => {
    await inTwoTransactions(async (first, second) => {
      const one = await outbox.publish(first, keyed)
      const pending = outbox.publish(second, keyed)
      await untilBlocked(await pidOf2(second), await pidOf(first))
      await first.query('commit')
      expect(await pending).toEqual({ id: one.id, duplicate: true })
      await second.query('commit')
      expect((await stored()).map(({ id }) => id)).toEqual([one.id])
    })
  })

  test('of two open transactions the second publishes if the first rolls back', async () => {
    await inTwoTransactions(async (first, second) => {
      const one = await outbox.publish(first, keyed)
      const pending = outbox.publish(second, keyed)
      await untilBlocked(await pidOf2(second), await pidOf(first))
      await first.query('rollback')
      const two = await pending
      expect(two.duplicate).toBe(false)
      expect(two.id).not.toBe(one.id)
      await second.query('commit')
      expect((await stored()).map(({ id }) => id)).toEqual([two.id])
    })
  })

  test('two calls with the same keys the other way round do not lock each other out', async () => {
    const forth = Array.from({ length: 50 }, (_, index) => ({ ...message, dedupeKey: `d${index}` }))
    const results = await Promise.all(
      Array.from({ length: 8 }, (_, index) =>
        database.transaction((client) => outbox.publishMany(client, index % 2 ? forth : forth.toReversed())),
      ),
    )
    expect(results.flat().filter(({ duplicate }) => !duplicate)).toHaveLength(50)
    expect(await stored()).toHaveLength(50)
  })

  // The session is busy with the statement that waits: pg knows its backend's id from the handshake.
  const pidOf2 = async (client: pg.ClientBase): Promise<number> =>
    (client as unknown as { processID: number }).processID
})

describe('order', () => {
  test('publishMany keeps its order, and each key has its lane', async () => {
    const keys = ['a', 'b', 'ключ', '🔑', 'é', 'e\u0301', 'x'.repeat(255)]
    const messages = Array.from({ length: 500 }, (_, index) => ({
      topic: 't',
      key: keys[index % keys.length]!,
      payload: index,
      ...(index % 3 === 0 ? { dedupeKey: `d${index}` } : {}),
    }))
    const results = await database.transaction((client) => outbox.publishMany(client, messages))
    const rows = await stored()
    expect(rows.map(({ payload }) => Number(payload))).toEqual(messages.map(({ payload }) => payload))
    expect(rows.map(({ id }) => id)).toEqual(results.map(({ id }) => id))
    const lanes = await database.query<{ key: string; lane: number }>(
      'select key, twinbox.lane_of(key) as lane from unnest($1::text[]) as key',
      [keys],
    )
    const laneOf = new Map(lanes.map(({ key, lane }) => [key, lane]))
    expect(rows.map(({ lane }) => lane)).toEqual(rows.map(({ key }) => laneOf.get(key!)))
    // Normal forms are different keys: nobody may rewrite what the user chose.
    expect(laneOf.size).toBe(keys.length)
  })

  test('messages without a key are spread over the lanes, and stay inside them', async () => {
    await database.transaction((client) =>
      outbox.publishMany(client, new Array<NewMessage>(6400).fill(message)),
    )
    const lanes = (await stored()).map(({ lane }) => lane)
    expect(new Set(lanes).size).toBe(64)
    expect(Math.min(...lanes)).toBe(0)
    expect(Math.max(...lanes)).toBe(63)
  })

  test('with orderingLock, the second of two open transactions of a key waits for the first to end', async () => {
    await inTwoTransactions(async (first, second) => {
      const lock = { orderingLock: true }
      const keyed = (payload: unknown): NewMessage => ({ topic: 't', key: 'k', payload })
      const [holder, waiter] = [await pidOf(first), await pidOf(second)]
      await outbox.publish(first, keyed('first, early'), lock)
      const pending = outbox.publishMany(second, [{ ...message, key: 'other' }, keyed('second')], lock)
      await untilBlocked(waiter, holder)
      await outbox.publish(first, keyed('first, late'), lock)
      expect(await settledBy(pending, first)).toBe(false)
      await first.query('commit')
      await pending
      await second.query('commit')
      const rows = (await stored()).filter(({ key }) => key === 'k')
      expect(rows.map(({ payload }) => payload)).toEqual(['"first, early"', '"first, late"', '"second"'])
    })
  })

  const lock = { orderingLock: true }
  const keyed = (count: number, from = 0): NewMessage[] =>
    Array.from({ length: count }, (_, n) => ({ topic: 't', key: `many-${from + n}`, payload: n }))
  const locksOf = async (client: pg.ClientBase): Promise<{ keys: number; lanes: number }> => {
    const { rows } = await client.query<{ keys: number; lanes: number }>(
      `select count(*) filter (where classid = 'twinbox.outbox'::regclass)::int as keys,
        count(*) filter (where classid = 'twinbox.lane'::regclass)::int as lanes
      from pg_locks where locktype = 'advisory' and pid = pg_backend_pid()`,
    )
    return rows[0]!
  }

  test('orderingLock takes no more locks than the server has room for, however many keys there are', async () => {
    await inTwoTransactions(async (first) => {
      await outbox.publishMany(first, keyed(500), lock)
      expect(await locksOf(first)).toEqual({ keys: 500, lanes: 64 })
      await outbox.publishMany(first, keyed(3000, 1000), lock)
      // Those of the lanes that were shared, and the same alone: the server counts them as one.
      expect((await locksOf(first)).keys).toBe(500)
      for (let from = 5000; from < 9000; from += 450) await outbox.publishMany(first, keyed(450, from), lock)
      await outbox.publish(first, { topic: 't', key: 'one more', payload: 1 }, lock)
      const { keys, lanes } = await locksOf(first)
      expect(keys).toBeLessThanOrEqual(2000)
      expect(lanes).toBeLessThanOrEqual(128)
    })
  })

  test('who has locked many keys and who locks one of them wait for each other', async () => {
    for (const [before, after] of [
      [keyed(2000), keyed(1, 700)],
      [keyed(1, 700), keyed(2000)],
      [keyed(600), keyed(600, 300)],
    ] as const) {
      await inTwoTransactions(async (first, second) => {
        const [holder, waiter] = [await pidOf(first), await pidOf(second)]
        await outbox.publishMany(first, before, lock)
        const pending = outbox.publishMany(second, after, lock)
        await untilBlocked(waiter, holder)
        expect(await settledBy(pending, first)).toBe(false)
        await first.query('commit')
        await pending
        await second.query('commit')
      })
    }
  })

  test('a key that is locked again and again counts once', async () => {
    await inTwoTransactions(async (first) => {
      await outbox.publish(first, { topic: 't', key: 'k', payload: 1 }, lock)
      // As after 1,999 of them.
      await first.query(`select set_config('twinbox.ordering_keys', '1999', true)`)
      for (let n = 0; n < 3; n++) await outbox.publish(first, { topic: 't', key: 'k', payload: n }, lock)
      await outbox.publishMany(first, keyed(3), lock)
      const { rows } = await first.query<{ mode: string }>(
        `select distinct mode from pg_locks
        where classid = 'twinbox.lane'::regclass and locktype = 'advisory' and pid = pg_backend_pid()`,
      )
      expect(rows).toEqual([{ mode: 'ShareLock' }])
      expect((await locksOf(first)).keys).toBe(4)
    })
  })

  test('of calls with many keys in any order, none ends in a deadlock', async () => {
    const calls = Array.from({ length: 4 }, () =>
      database.transaction((client) =>
        outbox.publishMany(
          client,
          keyed(800).toSorted(() => Math.random() - 0.5),
          lock,
        ),
      ),
    )
    expect((await Promise.all(calls)).flat()).toHaveLength(3200)
  })

  test('without orderingLock, or for another key, nobody waits', async () => {
    await inTwoTransactions(async (first, second) => {
      await outbox.publish(first, { topic: 't', key: 'k', payload: 1 }, { orderingLock: true })
      await outbox.publish(second, { topic: 't', key: 'k', payload: 2 })
      await outbox.publish(second, { topic: 't', key: 'other', payload: 3 }, { orderingLock: true })
      await second.query('commit')
      await first.query('commit')
      expect(await stored()).toHaveLength(3)
    })
  })
})

describe('what is stored', () => {
  const payloads: [name: string, payload: unknown][] = [
    ['null', null],
    ['an empty string', ''],
    ['the text "null"', 'null'],
    ['zero and false', { zero: 0, no: false }],
    ['NUL and other control characters', 'a\u0000b\u0001\u001f\u007f\u2028'],
    ['emoji, right-to-left and combining text', { '👩‍👩‍👧': 'שלום e\u0301 \u{10ffff}' }],
    ['half a surrogate pair', 'a\ud800b'],
    ['numbers at their ends', [Number.MAX_SAFE_INTEGER, Number.MIN_VALUE, Number.MAX_VALUE, -0.1, 1e21]],
    ['what looks like an array of Postgres', '{"a",NULL,\\x00,"}'],
    ['backslashes and quotes', '\\ \\\\ " \' \\u0000 \\"'],
    [
      'keys that are special in JavaScript',
      JSON.parse('{"__proto__":1,"constructor":2,"b":1,"a":2}') as unknown,
    ],
    ['nesting up to the limit', JSON.parse('['.repeat(100) + ']'.repeat(100)) as unknown],
    ['a date', new Date(0)],
    ['an empty object and an empty array', [{}, []]],
  ]

  test.each(payloads)('JSON goes in as JSON.stringify wrote it: %s', async (_name, payload) => {
    await database.transaction((client) => outbox.publish(client, { topic: 't', payload }))
    const [row] = await stored()
    expect(row!.payload).toBe(JSON.stringify(payload))
    expect(row).toMatchObject({ body: null, content_type: null })
  })

  test('all of them in one call, with and without dedupe keys', async () => {
    for (const dedupe of [false, true]) {
      await database.query('truncate twinbox.outbox')
      await database.transaction((client) =>
        outbox.publishMany(
          client,
          payloads.map(([name, payload]) => ({
            topic: 't',
            payload,
            ...(dedupe ? { dedupeKey: name } : {}),
          })),
        ),
      )
      const texts = (await stored()).map(({ payload }) => payload)
      expect(texts).toEqual(payloads.map(([, payload]) => JSON.stringify(payload)))
    }
  })

  const everyByte = Uint8Array.from({ length: 256 }, (_, index) => index)
  test.each<[string, unknown, Uint8Array]>([
    ['every byte', everyByte, everyByte],
    ['no bytes', new Uint8Array(0), new Uint8Array(0)],
    ['a Buffer', Buffer.from('\0\\x41"'), Buffer.from('\0\\x41"')],
    ['an ArrayBuffer', everyByte.buffer, everyByte],
    ['a view of a part', everyByte.subarray(10, 20), everyByte.slice(10, 20)],
    ['a DataView', new DataView(everyByte.buffer, 250), everyByte.slice(250)],
  ])('bytes go in as they are: %s', async (_name, payload, bytes) => {
    await database.transaction((client) => outbox.publish(client, { topic: 't', payload }))
    await database.transaction((client) =>
      outbox.publish(client, { topic: 't', payload, contentType: 'application/avro; v=1' }),
    )
    const rows = await stored()
    expect(rows.map(({ body }) => body!.toString('hex'))).toEqual(
      Array(2).fill(Buffer.from(bytes).toString('hex')),
    )
    expect(rows.map(({ payload: json }) => json)).toEqual([null, null])
    expect(rows.map(({ content_type }) => content_type)).toEqual([
      'application/octet-stream',
      'application/avro; v=1',
    ])
  })

  test('headers keep their text, and an empty object is none', async () => {
    const headers = {
      traceparent: '00-abc-01',
      'X-Text': 'ü 👍 "quoted" \\ \t',
      empty: '',
      constructor: 'own',
    }
    await database.transaction((client) =>
      outbox.publishMany(client, [{ ...message, headers }, { ...message, headers: {} }, message]),
    )
    const rows = await stored()
    expect(JSON.parse(rows[0]!.headers!)).toEqual(headers)
    expect(rows.slice(1).map((row) => row.headers)).toEqual([null, null])
  })

  test('70,000 messages go in with one call, and are all there in order', async () => {
    const many = Array.from({ length: 70_000 }, (_, index) => ({
      topic: 't',
      key: `k${index % 100}`,
      payload: index,
    }))
    const results = await database.transaction((client) => outbox.publishMany(client, many))
    expect(results).toHaveLength(70_000)
    expect(new Set(results.map(({ id }) => id)).size).toBe(70_000)
    const [row] = await database.query<{ count: string; inOrder: boolean }>(
      `select count(*), bool_and(nr = payload::text::int) as "inOrder"
      from (select payload, row_number() over (order by seq) - 1 as nr from twinbox.outbox) as o`,
    )
    expect(row).toEqual({ count: '70000', inOrder: true })
  })

  test('70,000 dedupe keys go in with one call, and are all known afterwards', async () => {
    const many = Array.from({ length: 70_000 }, (_, index) => ({
      topic: 't',
      payload: index,
      dedupeKey: `d${index}`,
    }))
    const publish = (): Promise<{ id: string; duplicate: boolean }[]> =>
      database.transaction((client) => outbox.publishMany(client, many))
    const first = await publish()
    expect(first.some(({ duplicate }) => duplicate)).toBe(false)
    expect(await publish()).toEqual(first.map(({ id }) => ({ id, duplicate: true })))
  })
})

describe('the session that it runs in', () => {
  test('a search_path, and tables of other people named like ours, make no difference', async () => {
    await database.transaction(async (client) => {
      for (const table of ['outbox', 'dedupe', 'lane', 'migration']) {
        await client.query(`create temp table ${table} (like twinbox.${table}) on commit drop`)
      }
      for (const path of ["''", 'pg_temp', 'pg_temp, public, twinbox']) {
        await client.query(`set local search_path = ${path}`)
        await outbox.publish(client, message)
        await outbox.publish(client, { ...message, dedupeKey: path })
        await client.query('select twinbox.publish($1, $2, dedupe_key => $3)', ['sql', '{}', path])
        expect(await outbox.publish(client, { topic: 'sql', payload: 1, dedupeKey: path })).toMatchObject({
          duplicate: true,
        })
      }
      const { rows } = await client.query<{ count: string }>('select count(*) from pg_temp.outbox')
      expect(rows).toEqual([{ count: '0' }])
    })
    expect(await stored()).toHaveLength(9)
  })

  test('a client of another schema writes there only, even on one connection', async () => {
    await migrate(database.url, { schema: 'order' })
    const other = createOutbox({ schema: 'order' })
    await database.transaction(async (client) => {
      await outbox.publish(client, { topic: 'here', payload: 1, dedupeKey: 'd' })
      expect(await other.publish(client, { topic: 'here', payload: 2, dedupeKey: 'd' })).toMatchObject({
        duplicate: false,
      })
      await client.query(`select "order".publish('by.sql', '3', key => 'k')`)
      await other.publish(client, { topic: 'by.client', key: 'k', payload: 4 }, { orderingLock: true })
    })
    expect((await stored()).map(({ payload }) => payload)).toEqual(['1'])
    const rows = await stored('order')
    expect(rows.map(({ payload }) => payload)).toEqual(['2', '3', '4'])
    expect(rows[1]!.lane).toBe(rows[2]!.lane)
  })
})

describe('the SQL function', () => {
  const call = async (client: pg.ClientBase, given: string): Promise<{ id: string; duplicate: boolean }> =>
    (await client.query<{ id: string; duplicate: boolean }>(`select * from twinbox.publish(${given})`))
      .rows[0]!

  test('it writes what publish writes', async () => {
    const headers = { trace: 'x', 'X-Thumb': '👍' }
    await database.transaction(async (client) => {
      const { rows } = await client.query<{ id: string; duplicate: boolean }>(
        'select * from twinbox.publish($1, $2, key => $3, headers => $4)',
        ['order.placed', '{"total":42}', 'ключ', JSON.stringify(headers)],
      )
      expect(rows[0]).toEqual({ id: expect.any(String) as string, duplicate: false })
      await outbox.publish(client, { ...message, key: 'ключ', headers })
      await client.query('select twinbox.publish($1, body => $2)', ['bytes', Buffer.from([0, 255])])
      await outbox.publish(client, { topic: 'bytes', payload: Uint8Array.of(0, 255) })
    })
    const [bySql, byClient, bytesBySql, bytesByClient] = await stored()
    const same = ({ seq: _seq, id: _id, lane: _lane, ...rest }: Row): object => rest
    expect(same(bySql!)).toEqual(same(byClient!))
    expect(same(bytesBySql!)).toEqual(same(bytesByClient!))
    expect(bySql!.lane).toBe(byClient!.lane)
    expect(bySql!.id).toMatch(/^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/)
    const time = Number.parseInt(bySql!.id.replace('-', '').slice(0, 12), 16)
    expect(Math.abs(time - Date.now())).toBeLessThan(60_000)
  })

  test('a dedupe key is the same from either side', async () => {
    await database.transaction(async (client) => {
      const bySql = await call(client, `'t', '1', dedupe_key => 'sql first'`)
      expect(bySql.duplicate).toBe(false)
      expect(await outbox.publish(client, { topic: 't', payload: 2, dedupeKey: 'sql first' })).toEqual({
        id: bySql.id,
        duplicate: true,
      })
      const byClient = await outbox.publish(client, { topic: 't', payload: 3, dedupeKey: 'client first' })
      expect(await call(client, `'t', '4', dedupe_key => 'client first'`)).toEqual({
        id: byClient.id,
        duplicate: true,
      })
      expect((await call(client, `'u', '5', dedupe_key => 'client first'`)).duplicate).toBe(false)
      await client.query("update twinbox.dedupe set expires_at = '-infinity'")
      const anew = await call(client, `'t', '6', dedupe_key => 'client first', dedupe_window => '1 hour'`)
      expect(anew.duplicate).toBe(false)
      expect(anew.id).not.toBe(byClient.id)
      const { rows } = await client.query<{ hour: boolean }>(
        `select expires_at between clock_timestamp() + interval '59 minutes' and clock_timestamp() + interval '1 hour' as hour
        from twinbox.dedupe where topic = 't' and dedupe_key = 'client first'`,
      )
      expect(rows).toEqual([{ hour: true }])
    })
    expect((await stored()).map(({ payload }) => payload)).toEqual(['1', '3', '5', '6'])
  })

  test('it means the same whatever a backslash in a text means to the session', async () => {
    const notices: (string | undefined)[] = []
    await database.transaction(async (client) => {
      client.on('notice', (notice) => notices.push(notice.message))
      await client.query('set local standard_conforming_strings = off')
      await call(client, `'t', body => '', content_type => 'text/plain; charset=utf-8'`)
      await call(client, `'t', '1', headers => '{"r":"rn"}'`)
      await client.query('savepoint here')
      for (const given of [
        `'t', body => '', content_type => 'text/plain; a b'`,
        `'t', '1', headers => E'{"a":"x\\\\nb"}'`,
      ]) {
        await expect(call(client, given)).rejects.toMatchObject({ code: '22023' })
        await client.query('rollback to savepoint here')
      }
    })
    expect(notices).toEqual([])
    expect(await stored()).toHaveLength(2)
  })

  test('what publish refuses it refuses as invalid_parameter_value', async () => {
    const refused = [
      `null, '1'`,
      `'', '1'`,
      `'a b', '1'`,
      `E'a\\n', '1'`,
      `'..', '1'`,
      `repeat('a', 250), '1'`,
      `'t'`,
      `'t', '1', body => '\\x00'`,
      `'t', to_json(repeat('x', 1048576))`,
      `'t', body => convert_to(repeat('x', 1048577), 'utf8')`,
      `'t', '1', key => ''`,
      `'t', '1', key => repeat('ü', 128)`,
      `'t', '1', dedupe_key => ''`,
      `'t', '1', dedupe_key => repeat('ü', 257)`,
      `'t', '1', dedupe_key => 'd', dedupe_window => null`,
      `'t', '1', dedupe_key => 'd', dedupe_window => '0'`,
      `'t', '1', dedupe_key => 'd', dedupe_window => '-1 day'`,
      `'t', '1', dedupe_key => 'd', dedupe_window => '290000 years'`,
      `'t', '1', content_type => 'text/plain'`,
      `'t', body => '\\x00', content_type => ''`,
      `'t', body => '\\x00', content_type => E'text/plain\\r\\nx: y'`,
      `'t', body => '\\x00', content_type => 'a/' || repeat('b', 99)`,
      `'t', '1', headers => '[]'`,
      `'t', '1', headers => '"text"'`,
      `'t', '1', headers => 'null'`,
      `'t', '1', headers => '{"a":1}'`,
      `'t', '1', headers => '{"a":null}'`,
      `'t', '1', headers => '{"a":{}}'`,
      `'t', '1', headers => '{"":"x"}'`,
      `'t', '1', headers => '{"a b":"x"}'`,
      `'t', '1', headers => '{"ce_id":"x"}'`,
      `'t', '1', headers => '{"CloudEvents:id":"x"}'`,
      `'t', '1', headers => '{"twinbox-id":"x"}'`,
      `'t', '1', headers => '{"__proto__":"x"}'`,
      `'t', '1', headers => '{"CC":"x"}'`,
      `'t', '1', headers => '{"a":"x","BCC":"x"}'`,
      `'t', '1', headers => '{"a":"x\\r\\nb: y"}'`,
      `'t', '1', headers => '{"a":"x\\u000ab: y"}'`,
      `'t', '1', headers => '{"a":"\\u0000"}'`,
      `'t', '1', headers => '{"a":"\\ud800"}'`,
      `'t', '1', headers => json_build_object('a', repeat('x', 16384))`,
      `'t', '1', headers => (select json_object_agg('h' || n, '') from generate_series(1, 65) as n)`,
    ]
    const accepted = [
      `'t', 'null'`,
      `'.a', '{"a":"\\u0000","a":1e400}'`,
      `repeat('a', 249), '1', key => repeat('x', 255), dedupe_key => repeat('x', 512), dedupe_window => '3650 days'`,
      `'t', '1', content_type => 'application/json'`,
      `'t', body => '', content_type => 'application/vnd.api+json; charset=utf-8'`,
      `'t', '1', headers => '{}'`,
      `'t', '1', headers => '{"cc":"x"}'`,
      `'t', '1', headers => '{"a":"back\\\\not a break","trace-id":""}'`,
      `'t', to_json(repeat('x', 1048574))`,
    ]
    await database.transaction(async (client) => {
      for (const given of [...refused, ...accepted]) {
        await client.query('savepoint here')
        const outcome = await call(client, given).then(
          () => 'accepted',
          (error: pg.DatabaseError) => error.code,
        )
        expect([given, outcome]).toEqual([given, refused.includes(given) ? '22023' : 'accepted'])
        if (refused.includes(given)) await client.query('rollback to savepoint here')
      }
    })
    expect(await stored()).toHaveLength(accepted.length)
  })

  test('it publishes from a trigger, in the transaction of the statement that fired it', async () => {
    await database.query(`create function tell() returns trigger language plpgsql as $$
      begin
        perform twinbox.publish('order.made', row_to_json(new), key => new.order_id);
        return null;
      end $$`)
    await database.query(
      'create trigger tell after insert on order_made for each row execute function tell()',
    )
    try {
      await db
        .transaction()
        .execute(async (trx) => {
          await trx.insertInto('order_made').values({ order_id: 'rolled back' }).execute()
          throw new Error('no')
        })
        .catch(() => {})
      await database.query("insert into order_made values ('o1'), ('o2')")
      expect((await stored()).map(({ key, payload }) => [key, payload])).toEqual([
        ['o1', '{"order_id":"o1"}'],
        ['o2', '{"order_id":"o2"}'],
      ])
    } finally {
      await database.query('drop function tell cascade')
    }
  })

  test('a role that may write only through it needs no more than the grants on two tables and the functions', async () => {
    await database.query(
      'begin; drop role if exists twinbox_test_publisher; create role twinbox_test_publisher; commit',
    )
    try {
      await database.query(`
        grant usage on schema twinbox to twinbox_test_publisher;
        grant execute on all functions in schema twinbox to twinbox_test_publisher;
        grant insert on twinbox.outbox to twinbox_test_publisher;
        grant select, insert, update on twinbox.dedupe to twinbox_test_publisher`)
      await database.transaction(async (client) => {
        await client.query('set local role twinbox_test_publisher')
        await call(client, `'t', '1', dedupe_key => 'd'`)
        await outbox.publish(client, { topic: 't', payload: 2, dedupeKey: 'e' })
        await expect(client.query('select from twinbox.outbox')).rejects.toMatchObject({ code: '42501' })
        await client.query('rollback')
      })
    } finally {
      await database.query('drop owned by twinbox_test_publisher; drop role twinbox_test_publisher')
    }
  })
})

describe('withTransaction', () => {
  let pool: pg.Pool
  let proxy: Proxy
  beforeEach(async () => {
    const url = new URL(database.url)
    proxy = await startProxy({ host: url.hostname, port: Number(url.port || 5432) })
    url.port = String(proxy.port)
    // Nobody listens for its errors but withTransaction.
    pool = new pg.Pool({ connectionString: url.toString(), max: 2 })
  })
  afterEach(async () => {
    await pool.end()
    await proxy.close()
  })

  const make = async (client: pg.ClientBase): Promise<void> => {
    await client.query("insert into order_made values ('o1')")
    await outbox.publish(client, message)
  }
  // Not events.once: that listens for errors too, and whether somebody else does is the question.
  const ended = (client: pg.ClientBase): Promise<void> =>
    new Promise((done) => client.once('end', () => done()))
  const counts = async (): Promise<number[]> => [
    (await database.query('select from order_made')).length,
    (await stored()).length,
  ]

  test('it commits, and gives back what the work returned', async () => {
    expect(await withTransaction(pool, async (client) => (await make(client), 'done'))).toBe('done')
    expect(await counts()).toEqual([1, 1])
    expect(await withTransaction(pool, () => Promise.resolve('nothing written'))).toBe('nothing written')
  })

  test('it rolls back when the work throws, and throws the same', async () => {
    const failure = new Error('no')
    await expect(
      withTransaction(pool, async (client) => {
        await make(client)
        throw failure
      }),
    ).rejects.toBe(failure)
    expect(await counts()).toEqual([0, 0])
    // The connection went back clean.
    expect(
      await pool.query('select pg_current_xact_id_if_assigned() as xid').then(({ rows }) => rows),
    ).toEqual([{ xid: null }])
  })

  test('a COMMIT that the server answers with ROLLBACK is an error', async () => {
    await expect(
      withTransaction(pool, async (client) => {
        await make(client)
        await client.query('select 1 / 0').catch(() => {})
      }),
    ).rejects.toMatchObject({ name: 'TransactionError', code: 'TRANSACTION_ROLLED_BACK' })
    expect(await counts()).toEqual([0, 0])
  })

  test('a constraint that fails only at COMMIT is the error that the caller gets', async () => {
    await database.query(
      'create table late (id int primary key, other int references late deferrable initially deferred)',
    )
    await expect(
      withTransaction(pool, async (client) => {
        await make(client)
        await client.query('insert into late values (1, 2)')
      }),
    ).rejects.toMatchObject({ code: '23503' })
    expect(await counts()).toEqual([0, 0])
    await withTransaction(pool, make)
    expect(await counts()).toEqual([1, 1])
  })

  test('a server that ends the session in the middle rejects it, and nothing else', async () => {
    // This connection exists before withTransaction could listen to the pool.
    await pool.query('select 1')
    let goneBefore = ''
    await expect(
      withTransaction(pool, async (client) => {
        await make(client)
        const gone = ended(client)
        await database.query('select pg_terminate_backend($1)', [await pidOf(client)])
        await gone
        goneBefore = 'the next statement'
        await outbox.publish(client, message)
      }),
    ).rejects.toThrow(/not queryable|terminated/i)
    expect(goneBefore).toBe('the next statement')
    expect(await counts()).toEqual([0, 0])
    await withTransaction(pool, make)
    expect(await counts()).toEqual([1, 1])
    expect(pool.totalCount).toBe(1)
  })

  test("a lost connection does not hide the work's own error", async () => {
    const failure = new Error('mine')
    await expect(
      withTransaction(pool, async (client) => {
        await make(client)
        const gone = ended(client)
        proxy.cut()
        await gone
        throw failure
      }),
    ).rejects.toBe(failure)
    await withTransaction(pool, make)
    expect(await counts()).toEqual([1, 1])
  })

  test('a COMMIT whose answer is lost has succeeded if the server says so', async () => {
    await withTransaction(pool, make)
    const cut = proxy.cutWhenSeen('commit\0', { deliver: true })
    await withTransaction(pool, make)
    await cut
    expect(await counts()).toEqual([2, 2])
  })

  test('a COMMIT that never arrived has failed', async () => {
    await withTransaction(pool, make)
    const cut = proxy.cutWhenSeen('commit\0', { deliver: false })
    await expect(withTransaction(pool, make)).rejects.toMatchObject({ code: 'TRANSACTION_ROLLED_BACK' })
    await cut
    expect(await counts()).toEqual([1, 1])
  })

  test('a COMMIT whose outcome cannot be looked up is said to be unknown', async () => {
    const cut = proxy.cutWhenSeen('commit\0', { deliver: true }).then(() => proxy.refuse())
    await expect(withTransaction(pool, make)).rejects.toMatchObject({ code: 'COMMIT_UNKNOWN' })
    await cut
    await proxy.heal()
  })
})

/** A pool whose connections may be ended by `drop` while they are closing: `end` does not wait until they are. */
function openPool(connectionString: string, max: number): pg.Pool {
  const pool = new pg.Pool({ connectionString, max })
  pool.on('connect', (client) => client.on('error', () => {}))
  return pool
}
