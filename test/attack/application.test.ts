import { randomUUID } from 'node:crypto'
import { once } from 'node:events'
import { createServer, type AddressInfo } from 'node:net'
import pg from 'pg'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import {
  createOutbox,
  MessageError,
  withTransaction,
  type NewMessage,
  type Telemetry,
} from '../../src/index.ts'
import { createTestDatabase, type TestDatabase } from '../support/postgres.ts'

/**
 * Application → outbox: what the code around a publish hands over, by accident or on purpose. Whatever it is, it is stored as
 * it was checked, or refused in words before any SQL: the transaction of the caller goes on.
 */

let database: TestDatabase
let client: pg.PoolClient
const outbox = createOutbox()
beforeAll(async () => {
  database = await createTestDatabase()
})
beforeEach(async () => {
  client = await database.pool.connect()
  await client.query('begin; delete from twinbox.outbox; delete from twinbox.dedupe')
})
afterEach(async () => {
  await client.query('rollback')
  client.release(true)
})
afterAll(() => database.drop())

const stored = async (): Promise<Record<string, unknown>[]> =>
  (
    await client.query<Record<string, unknown>>(
      `select topic, key, headers::text, payload::text, body, content_type from twinbox.outbox order by seq`,
    )
  ).rows
const refusal = async (work: Promise<unknown>): Promise<unknown> =>
  work.then(
    () => null,
    (error: unknown) => error,
  )
const nested = (levels: number): unknown => JSON.parse('['.repeat(levels) + ']'.repeat(levels))

/** Another thing each time that it is read: harmless at first. */
function changing<Value>(...values: readonly Value[]): () => Value {
  let reads = 0
  return () => values[Math.min(reads++, values.length - 1)]!
}

describe('an object that changes while it is read', () => {
  const deep = nested(20_000)
  const twoFaced: Readonly<Record<string, () => unknown>> = {
    'a toJSON that nests 20,000 levels the second time': () => ({ toJSON: changing<unknown>(1, deep) }),
    'a getter that does': () =>
      Object.defineProperty({}, 'a', { get: changing<unknown>(1, deep), enumerable: true }),
    'a proxy that does': () => {
      const read = changing<unknown>(1, deep)
      return new Proxy(
        { a: 1 },
        { get: (target, name) => (name === 'a' ? read() : Reflect.get(target, name)) },
      )
    },
    'a toJSON that is 2 MiB the second time': () => ({ toJSON: changing('', 'x'.repeat(2 << 20)) }),
    'a toJSON that is nothing the second time': () => ({ toJSON: changing<unknown>(1, undefined) }),
    'a BigInt the second time': () =>
      Object.defineProperty({}, 'a', { get: changing<unknown>(1, 1n), enumerable: true }),
    'an array that grows while it is read': () => {
      const list: unknown[] = [1]
      Object.defineProperty(list, 0, {
        get: () => {
          if (list.length < 1000) list.push(deep)
          return 1
        },
        enumerable: true,
      })
      return list
    },
  }
  test.each(Object.keys(twoFaced))(
    'as a payload, %s: it is refused, and the transaction goes on',
    async (name) => {
      for (const publish of [
        () => outbox.publish(client, { topic: 't', payload: twoFaced[name]!() }),
        () => outbox.publishMany(client, [{ topic: 't', payload: twoFaced[name]!() }]),
      ])
        expect(await refusal(publish())).toBeInstanceOf(MessageError)
      expect(await stored()).toEqual([])
    },
  )

  test('as a time: a Date that gives another time later is taken for what was checked', async () => {
    const lying = (...times: readonly number[]): Date => {
      const read = changing(...times)
      return Object.defineProperty(new Date(times[0]!), 'getTime', { value: read })
    }
    const soon = Date.now() + 60_000
    const later = [Number.NaN, 8.64e15, -1]
    for (const then of later) {
      await outbox.publish(client, { topic: 't', payload: 1, expiresAt: lying(soon, then) })
      await outbox.publish(client, { topic: 't', payload: 1, deliverAt: lying(soon, then) })
    }
    const { rows } = await client.query(
      `select expires_at as at from twinbox.outbox union all select due_at from twinbox.deferred`,
    )
    expect(rows).toEqual(Array.from({ length: 6 }, () => ({ at: new Date(soon) })))
  })

  test('as a message: what is stored is what was checked, each field read once', async () => {
    const reads: Record<string, number> = {}
    const message = new Proxy(
      { topic: 'good', key: 'k', payload: 1, headers: { a: 'b' }, dedupeKey: 'd', contentType: undefined },
      {
        get(target, name) {
          if (typeof name !== 'string' || !(name in target)) return undefined
          reads[name] = (reads[name] ?? 0) + 1
          return reads[name] > 1 ? `bad \n ${name}` : Reflect.get(target, name)
        },
      },
    ) as NewMessage
    await outbox.publish(client, message)
    expect(await stored()).toMatchObject([{ topic: 'good', key: 'k', headers: '{"a":"b"}', payload: '1' }])
    expect(Math.max(...Object.values(reads))).toBe(1)
  })
})

describe('publishMany of what is hardly a list', () => {
  const message = { topic: 't', payload: 1 }
  class Unchecked extends Array<NewMessage> {
    override map<Result>(): Result[] {
      const unchecked = { id: randomUUID(), topic: 'a b', key: null, headers: 'no JSON', content: 'no JSON' }
      return [{ ...unchecked, contentType: null, dedupeKey: null } as Result]
    }
  }
  test('a list with a hole is refused by the place of the hole', async () => {
    const holed: NewMessage[] = []
    holed[1] = message
    expect(await refusal(outbox.publishMany(client, holed))).toMatchObject({
      name: 'MessageError',
      path: 'messages[0]',
    })
    expect(await stored()).toEqual([])
  })

  test('a list of a class of its own does not get around the checks by its own map', async () => {
    const list = new Unchecked()
    list.push(message)
    await outbox.publishMany(client, list)
    expect(await stored()).toMatchObject([{ topic: 't', payload: '1' }])
  })

  test('a list that throws when it is read is refused, and the transaction goes on', async () => {
    const list = new Proxy([message], {
      get: (target, name) => {
        if (name === '0') throw new RangeError('no')
        return Reflect.get(target, name) as unknown
      },
    })
    expect(await refusal(outbox.publishMany(client, list))).toBeInstanceOf(Error)
    expect(await stored()).toEqual([])
  })
})

test('texts that look alike stay different: composed and decomposed, Latin and Cyrillic, wide and narrow', async () => {
  const keys = [
    '\u00e9',
    'e\u0301',
    'order-a',
    'order-\u0430',
    '\uff11',
    '1',
    '1 ',
    '\u200b1',
    'K',
    '\u212a',
    'k',
  ]
  const results = await outbox.publishMany(
    client,
    keys.map((key) => ({ topic: 't', key, dedupeKey: key, payload: 1 })),
  )
  expect(results.map(({ duplicate }) => duplicate)).toEqual(keys.map(() => false))
  expect((await stored()).map(({ key }) => key)).toEqual(keys)
  const again = await outbox.publishMany(
    client,
    keys.map((key) => ({ topic: 't', dedupeKey: key, payload: 1 })),
  )
  expect(again.map(({ id }) => id)).toEqual(results.map(({ id }) => id))
})

test('headers that differ only in case, or have the names of methods, stay as they are', async () => {
  const headers = { 'x-tenant': 'a', 'X-Tenant': 'b', constructor: 'c', toString: 'd', hasOwnProperty: 'e' }
  await outbox.publish(client, { topic: 't', payload: 1, headers })
  expect(await stored()).toMatchObject([{ headers: JSON.stringify(headers) }])
})

test('what an outsider has put into the baggage of a trace ends no transaction', async () => {
  const carried: readonly Readonly<Record<string, unknown>>[] = [
    { traceparent: '00-ab-cd-01', baggage: 'x'.repeat(17_000) },
    { traceparent: '00-ab-cd-01', tracestate: 'a\r\nb: c' },
    { traceparent: '00-ab-cd-01', baggage: '\u0000' },
    { traceparent: '00-ab-cd-01', baggage: '\ud800' },
    { traceparent: '00-ab-cd-01', ce_id: randomUUID() },
    { traceparent: '00-ab-cd-01', count: 1 },
    {
      traceparent: '00-ab-cd-01',
      ...Object.fromEntries(Array.from({ length: 70 }, (_, n) => [`b${n}`, ''])),
    },
  ]
  for (const each of carried) {
    const telemetry: Telemetry = {
      begin: () => ({ carried: [each as Record<string, string>], run: (work) => work(), end: () => {} }),
    }
    await createOutbox({ telemetry }).publish(client, { topic: 't', payload: 1, headers: { mine: 'kept' } })
  }
  const kept = (await stored()).map(({ headers }) => JSON.parse(headers as string) as object)
  expect(kept).toHaveLength(carried.length)
  for (const headers of kept) expect(headers).toMatchObject({ mine: 'kept' })
})

describe('a session that somebody has set up in odd ways', () => {
  const odd = [
    ...["datestyle = 'German, DMY'", "intervalstyle = 'sql_standard'", "timezone = 'America/St_Johns'"],
    ...["bytea_output = 'escape'", 'standard_conforming_strings = off', 'extra_float_digits = -15'],
    ...['array_nulls = off', 'transform_null_equals = on', 'row_security = off', 'xmloption = document'],
    ...['session_replication_role = replica', "client_encoding = 'SQL_ASCII'", 'quote_all_identifiers = on'],
    ...['check_function_bodies = off', 'search_path = pg_temp', "bytea_output = 'escape'", 'jit = off'],
    ...['enable_indexscan = off', 'work_mem = 64', 'gin_fuzzy_search_limit = 1', 'cursor_tuple_fraction = 0'],
  ]
  const messages: readonly NewMessage[] = [
    { topic: 'plain', payload: { text: 'it\'s \\ \u00e4 $1 {NULL,"}' }, headers: { a: "b' \\" } },
    { topic: 'bytes', key: 'k\\\u00e4\'"', payload: Buffer.from([0, 39, 92, 128, 255]) },
    { topic: 'named', key: 'NULL', payload: null, dedupeKey: 'NULL' },
  ]
  test('all of it at once: the same is stored as without', async () => {
    await outbox.publishMany(client, messages)
    for (const message of messages) await outbox.publish(client, { ...message, dedupeKey: randomUUID() })
    const sound = await stored()
    await client.query('delete from twinbox.outbox; delete from twinbox.dedupe')
    for (const setting of odd) await client.query(`set local ${setting}`)
    await outbox.publishMany(client, messages, { orderingLock: true })
    for (const message of messages)
      await outbox.publish(client, { ...message, dedupeKey: randomUUID() }, { orderingLock: true })
    await outbox.publish(client, { topic: 'later', payload: 1, delayMs: 60_000 })
    await client.query("reset all; set client_encoding = 'UTF8'")
    expect(await stored()).toEqual(sound)
    const { rows } = await client.query(
      `select abs(extract(epoch from due_at - now()) - 60) < 30 as soon from twinbox.deferred`,
    )
    expect(rows).toEqual([{ soon: true }])
  })

  test.each([
    ['default_transaction_read_only = on', '25006'],
    ["statement_timeout = '50ms'", '57014'],
  ])('%s: the error of the server, and nothing is published', async (setting, code) => {
    await client.query('rollback')
    await client.query(`set ${setting}`)
    // The statement waits for a lock that another session holds, and so for longer than it may.
    const other = new pg.Client(database.url)
    await other.connect()
    if (code === '57014') await other.query('begin; lock table twinbox.outbox in access exclusive mode')
    await client.query('begin')
    expect(await refusal(outbox.publish(client, { topic: 't', payload: 1 }))).toMatchObject({ code })
    await client.query('rollback')
    await other.end()
    // What looks has the time that it needs, on a slow machine as well.
    await client.query('reset statement_timeout')
    expect(await stored()).toEqual([])
  })
})

describe('a session in which somebody has made something of our names', () => {
  test('temporary tables named like the tables and parts of our statements hide nothing of ours', async () => {
    for (const name of [
      'outbox',
      'dedupe',
      'deferred',
      'lane',
      'migration',
      'm',
      'known',
      'x',
      'k',
      'pg_locks',
    ])
      await client.query(`create temp table ${name} (topic text, key text) on commit drop`)
    await outbox.publish(client, { topic: 't', key: 'k', payload: 1 }, { orderingLock: true })
    await outbox.publishMany(client, [{ topic: 't', key: 'k', payload: 1, dedupeKey: 'd' }], {
      orderingLock: true,
    })
    expect(await stored()).toHaveLength(2)
  })

  test('temporary types named like ours change nothing', async () => {
    for (const name of ['text', 'json', 'uuid', 'bytea', 'oid', 'regclass', 'float8', 'timestamptz'])
      await client.query(`create temp table ${name} (a integer) on commit drop`)
    await outbox.publish(client, { topic: 't', key: 'k', payload: 1 }, { orderingLock: true })
    await outbox.publish(client, { topic: 't', payload: 1, dedupeKey: 'd' })
    await outbox.publish(client, { topic: 't', payload: 1, delayMs: 60_000 })
    const { rows } = await client.query('select from twinbox.outbox')
    expect(rows).toHaveLength(2)
  })

  test('statements that are gone from a connection, or have our names: one transaction fails, and no other', async () => {
    const connection = new pg.Client(database.url)
    await connection.connect()
    const publish = async (n: number): Promise<string> => {
      await connection.query('begin')
      const error = await refusal(outbox.publish(connection, { topic: 't', payload: n }))
      await connection.query(error === null ? 'commit' : 'rollback')
      return error === null ? 'published' : (error as { code: string }).code
    }
    for (const n of [1, 2, 3]) expect(await publish(n)).toBe('published')
    // What a pool of connections does to one that comes back.
    await connection.query('discard all')
    expect(await publish(4)).toBe('TRANSACTION_ABORTED')
    for (const n of [5, 6, 7]) expect(await publish(n)).toBe('published')
    await connection.end()
    const other = new pg.Client(database.url)
    await other.connect()
    const { name } = (await import('../../src/database/sql/outbox.ts')).outboxSql('twinbox').publishOne
    await other.query(`prepare "${name}" as select 1`)
    const outcomes: string[] = []
    for (const n of [8, 9, 10, 11]) {
      await other.query('begin')
      const error = await refusal(outbox.publish(other, { topic: 't', payload: n }))
      await other.query(error === null ? 'commit' : 'rollback')
      outcomes.push(error === null ? 'published' : (error as { code: string }).code)
    }
    await other.end()
    expect(outcomes.filter((outcome) => outcome !== 'published').length).toBeLessThanOrEqual(1)
    expect(outcomes.at(-1)).toBe('published')
  })

  test('a savepoint of the caller with the name of ours is still the one of the caller', async () => {
    const queries: string[] = []
    const own = {
      query: (text: string, values: unknown[]) => {
        queries.push(text)
        return client.query(text, values)
      },
    }
    await outbox.publish(own, { topic: 't', payload: 1 })
    const name = /savepoint (\S+)/i.exec(queries[0]!)![1]!
    await client.query('create temp table notes (n integer) on commit drop')
    await client.query(`savepoint ${name}`)
    await client.query('insert into notes values (1)')
    await outbox.publish(own, { topic: 'u', payload: 1 })
    await client.query(`rollback to savepoint ${name}`)
    expect((await client.query('select from notes')).rows).toEqual([])
    expect((await stored()).map(({ topic }) => topic)).toEqual(['t'])
  })
})

test('200,000 dedupe keys of one flood make no publish read through them', async () => {
  await client.query('rollback')
  await database.query(`insert into twinbox.dedupe (topic, dedupe_key, id, expires_at)
    select 't', 'flood ' || n, gen_random_uuid(), now() + interval '7 days' from generate_series(1, 200000) as n`)
  const scans = async (): Promise<unknown> => {
    const { rows } = await client.query(
      `select seq_scan from pg_stat_xact_user_tables where schemaname = 'twinbox' and relname = 'dedupe'`,
    )
    return rows
  }
  await client.query('begin; delete from twinbox.outbox')
  const before = await scans()
  for (let n = 0; n < 20; n++)
    await outbox.publish(client, { topic: 't', payload: n, dedupeKey: `honest ${n}` })
  await outbox.publishMany(
    client,
    Array.from({ length: 100 }, (_, n) => ({ topic: 't', payload: n, dedupeKey: `flood ${n + 1}` })),
  )
  expect(await scans()).toEqual(before)
  expect(await stored()).toHaveLength(20)
})

test.each(['prefer', 'require', 'verify-full', 'no-verify'])(
  'a network that says that the server speaks no TLS gets no password (sslmode=%s)',
  async (mode) => {
    const heard: Buffer[] = []
    const server = createServer((socket) => {
      socket.on('error', () => {})
      socket.on('data', (data: Buffer) => {
        heard.push(data)
        // "N": no TLS here. Whoever goes on is asked for the password in the clear.
        socket.write(heard.length === 1 ? 'N' : Buffer.from('520000000800000003', 'hex'))
      })
    }).listen(0, '127.0.0.1')
    await once(server, 'listening')
    const { port } = server.address() as AddressInfo
    const pool = new pg.Pool({
      connectionString: `postgres://me:canary@127.0.0.1:${port}/x?sslmode=${mode}`,
      connectionTimeoutMillis: 2000,
    })
    const publish = withTransaction(pool, (each) => outbox.publish(each, { topic: 't', payload: 1 }))
    expect(await refusal(publish)).toMatchObject({ message: expect.stringMatching(/SSL|TLS/) as string })
    expect(Buffer.concat(heard).toString('latin1')).not.toContain('canary')
    expect(heard).toHaveLength(1)
    await pool.end()
    server.close()
  },
)
