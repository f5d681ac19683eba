import { planned } from '../../src/database/sql/statement.ts'
import * as types from '../../src/database/sql/parameter.ts'
import { readFile } from 'node:fs/promises'
import { createServer } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import type { AddressInfo } from 'node:net'
import pg from 'pg'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { Database } from '../../src/database/database.ts'
import {
  logEvents,
  migrate,
  type ClaimerOptions,
  type HandlerEntry,
  type TransactionContext,
} from '../../src/index.ts'
import { startEmbeddedServer } from '../../proof/stage/postgres.ts'
import { consumer, database, deliverAll, events, inbox, startClaimer, useInbox } from '../support/inbox.ts'
import { until } from '../support/until.ts'

/** Whose error it is: the message's, the database's, or nobody's. */

useInbox()

const deliver = (keys: readonly (string | null)[], into = inbox): Promise<string[]> =>
  deliverAll(
    keys.map((key, n) => ({ key, n })),
    into,
  )

const start = (
  handler: HandlerEntry<unknown>,
  options: Partial<ClaimerOptions> = {},
  url = database.url,
): Promise<unknown> =>
  startClaimer({ 'order.placed': handler }, { database: url, maxAttempts: 3, onDead: 'skip', ...options })

const number = (payload: unknown): number => (payload as { n: number }).n

/** Of two messages of a key, the first always fails so: how often it was called until the second was handled. */
async function callsOf(
  fail: (context: TransactionContext<unknown>) => unknown,
  url = database.url,
  into = inbox,
): Promise<number> {
  await deliver(['k', 'k'], into)
  let calls = 0
  await start(
    async ({ payload }, context) => {
      if (number(payload) === 1) return
      calls++
      await fail(context)
    },
    {},
    url,
  )
  await events.next('handled')
  expect(events.of('message_failed').map(({ attempt }) => attempt)).toEqual([1, 2, 3])
  expect(events.of('dead_letter')).toHaveLength(1)
  return calls
}

async function closedPort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1')
  await new Promise((resolve) => server.once('listening', resolve))
  const { port } = server.address() as AddressInfo
  await new Promise((resolve) => server.close(resolve))
  return port
}

/** Errors of others that look like those of a lost connection of ours. */
const foreign: Readonly<Record<string, () => unknown>> = {
  'fetch of a service that is down': async () => fetch(`http://127.0.0.1:${await closedPort()}/`),
  'a file that is missing': () => readFile('/nonexistent/template'),
  'an unknown host': () => fetch('http://nowhere.invalid/'),
  'another database that is down': async () =>
    new pg.Client({ host: '127.0.0.1', port: await closedPort() }).connect(),
  'another database that ends the session': async () => {
    const other = new pg.Client(database.url)
    other.on('error', () => {})
    await other.connect()
    await other.query('select pg_terminate_backend(pg_backend_pid())')
  },
  'another database that is read-only': () => {
    throw Object.assign(new Error('cannot execute INSERT in a read-only transaction'), { code: '25006' })
  },
  'a time-out in its cause': () => {
    throw new Error('could not charge', { cause: Object.assign(new Error(), { code: 'ETIMEDOUT' }) })
  },
  'the words of pg': () => {
    throw new Error('Connection terminated unexpectedly')
  },
  'a SQLSTATE of class 08': () => {
    throw Object.assign(new Error('gone'), { code: '08006' })
  },
  'the SQLSTATE of a lost claim': () => {
    throw Object.assign(new Error('gone'), { code: 'TWX01' })
  },
  'an error all of whose properties are errors': () => {
    throw new Proxy(new Error('outer'), { get: () => new Error('inner') })
  },
  'an error whose properties cannot be read': () => {
    const refuse = (): never => {
      throw new Error('not to be read')
    }
    throw new Proxy(new Error('outer'), { get: refuse, has: refuse, getPrototypeOf: refuse })
  },
  'what has been revoked': () => {
    const { proxy, revoke } = Proxy.revocable(new Error('outer'), {})
    revoke()
    throw proxy
  },
  'an error without end': () => {
    const error = new Error('again')
    error.cause = error
    throw error
  },
  'no error at all': () => {
    // oxlint-disable-next-line typescript/only-throw-error
    throw null
  },
}

test('an error of a handler is the message’s, whatever it looks like, and costs no sound connection', async () => {
  const all = Object.entries(foreign)
  await deliver(all.flatMap(([name]) => [name, name]))
  const calls = new Map<string, number>()
  const pids = new Set<number>()
  await start(
    async ({ key, payload }, { client }) => {
      const { rows } = await client.query<{ pid: number }>('select pg_backend_pid() as pid')
      pids.add(rows[0]!.pid)
      if (number(payload) % 2 === 1) return
      calls.set(key!, (calls.get(key!) ?? 0) + 1)
      await foreign[key!]!()
    },
    { concurrency: 4 },
  )
  await events.next('handled', () => true, all.length)
  expect([...calls]).toEqual(expect.arrayContaining(all.map(([name]) => [name, 3])))
  expect(events.of('dead_letter')).toHaveLength(all.length)
  expect(events.of('trouble')).toEqual([])
  expect(events.of('database_down')).toEqual([])
  // Rolled back and used again; one more of the pool is there for other things.
  expect(pids.size).toBeLessThanOrEqual(5)
})

test('nor does it matter whether the handler has a transaction or is async', async () => {
  const all = Object.entries(foreign)
  await deliver(all.flatMap(([name]) => [name, name]))
  await start({
    transaction: false,
    handle: ({ key, payload }) => (number(payload) % 2 === 1 ? undefined : foreign[key!]!()),
  })
  await events.next('handled', () => true, all.length)
  expect(events.of('dead_letter')).toHaveLength(all.length)
  expect(events.of('trouble')).toEqual([])
})

test('a handler that makes its transaction read-only costs neither the connection nor a call too many', async () => {
  const pids = new Set<number>()
  const calls = await callsOf(async ({ client }) => {
    const { rows } = await client.query<{ pid: number }>('select pg_backend_pid() as pid')
    pids.add(rows[0]!.pid)
    await client.query('set transaction read only')
    await client.query('create table never ()')
  })
  expect([calls, pids.size]).toEqual([3, 1])
})

test('a log tells of an outage of the database only if it was ours', async () => {
  const told: string[] = []
  const log = (_: object, text: string): void => void told.push(text)
  const tell = logEvents({ debug: log, info: log, warn: log, error: log })
  await callsOf(foreign['another database that is down']!)
  for (const event of events.of('message_failed')) tell(event)
  expect(told).toHaveLength(3)
  for (const text of told) expect(text).not.toContain('The database cannot be used')
})

describe('what ends its own session counts, with what the server said', () => {
  const wait = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms))

  test.each<[string, string | null, (context: TransactionContext<unknown>) => unknown]>([
    [
      'it stands idle in its transaction',
      '25P03',
      async ({ client }) => {
        await client.query("set local idle_in_transaction_session_timeout = '20ms'")
        await wait(60)
      },
    ],
    [
      'it terminates its backend',
      '57P01',
      ({ client }) => client.query('select pg_terminate_backend(pg_backend_pid())'),
    ],
    [
      'it terminates its backend and says nothing',
      '57P01',
      ({ client }) => client.query('select pg_terminate_backend(pg_backend_pid())').catch(() => {}),
    ],
    ['it ends its connection', null, ({ client }) => (client as pg.Client).end()],
  ])('%s', async (_, state, fail) => {
    expect(await callsOf(fail)).toBe(3)
    const [failed] = events.of('message_failed')
    expect(failed!.error).toMatchObject({ code: 'CONNECTION_ENDED' })
    if (state !== null) expect(String(failed!.error)).toContain(`(SQLSTATE ${state})`)
    expect(events.of('trouble')).toEqual([])
  })

  test('in a batch, only the one that does', async () => {
    await deliver(['a', 'b', 'c', null, null])
    const calls = new Map<number, number>()
    await start({
      batch: true,
      handle: async (messages, { client }) => {
        for (const { payload } of messages) calls.set(number(payload), (calls.get(number(payload)) ?? 0) + 1)
        if (messages.some(({ payload }) => number(payload) === 1))
          await client.query('select pg_terminate_backend(pg_backend_pid())')
      },
    })
    await events.next('dead_letter')
    await events.next('handled', () => events.of('handled').flatMap(({ ids }) => ids).length === 4)
    expect(events.of('dead_letter')).toHaveLength(1)
  })
})

describe('on a server of their own', () => {
  let server: Awaited<ReturnType<typeof startEmbeddedServer>>
  let own: Database
  beforeAll(async () => {
    server = await startEmbeddedServer()
    await migrate(server.url)
    own = new Database(server.url)
  })
  afterAll(async () => {
    await own.close()
    await server.stop()
  })

  test('a transaction that takes longer than transaction_timeout counts', async () => {
    const calls = await callsOf(
      async ({ client }) => {
        await client.query("set local transaction_timeout = '50ms'")
        await client.query('select pg_sleep(1)')
      },
      server.url,
      own,
    )
    expect(calls).toBe(3)
    expect(String(events.of('message_failed')[0]!.error)).toContain('(SQLSTATE 25P04)')
  })

  // A client that writes to a session that has just ended loses what it was to read, and no notice is sent to one that
  // wants errors only.
  test.each([
    ['that are told of it', 'warning', [1]],
    ['that are not told', 'error', [1]],
    ['that are not told, with more attempts', 'error', [1, 2]],
  ])(
    'a statement that crashes its process counts, and not those that are cut off with it: sessions %s',
    async (_, level, attempts) => {
      const [poison, ...others] = await deliver(['k', 'a', 'b', null], own)
      const asleep = planned(
        {},
        `select count(*)::int as count from pg_stat_activity where wait_event = 'PgSleep'`,
      ).gives<{ count: number }>()
      let crashes = 0
      let handled = 0
      const cutOff = new Set<string>()
      let reached = (): void => {}
      const allAtWork = new Promise<void>((resolve) => (reached = resolve))
      await start(
        async ({ id }, { client }) => {
          if (id === poison) {
            const { rows } = await client.query<{ pid: number }>('select pg_backend_pid() as pid')
            await allAtWork
            // A session that ends with a query unread resets its connection, and what the server says of the crash is lost with it.
            if (crashes === 0) await until(async () => (await own.query(asleep))[0]!.count >= others.length)
            crashes++
            process.kill(rows[0]!.pid, 'SIGKILL')
            await client.query('select pg_sleep(10)')
          } else if (!cutOff.has(id)) {
            await client.query(`set local client_min_messages = ${level}`)
            cutOff.add(id)
            if (cutOff.size === others.length) reached()
            await client.query('select pg_sleep(10)')
          } else handled++
        },
        { maxAttempts: attempts.length },
        server.url,
      )
      await events.next('dead_letter')
      // Of a commit whose answer the crash of the server has swallowed there is no event: the tables tell.
      const left = planned(
        { consumer: types.text },
        'select id from twinbox.inbox where consumer = $consumer',
      )
      await expect.poll(() => own.query(left, { consumer }), { timeout: 30_000 }).toEqual([])
      const dead = planned(
        { consumer: types.text },
        'select id, attempt from twinbox.dead_letter where consumer = $consumer',
      )
      expect(await own.query(dead, { consumer })).toEqual([{ id: poison, attempt: attempts.length }])
      expect(events.of('message_failed').map(({ id, attempt }) => [id, attempt])).toEqual(
        attempts.map((attempt) => [poison, attempt]),
      )
      // One more, if the first has only told whom to handle alone.
      expect(crashes - attempts.length).toBeLessThanOrEqual(1)
      expect(handled).toBeGreaterThanOrEqual(others.length)
    },
  )
})

describe('a transaction that lost against another one', () => {
  test.each(['40001', '40P01'])('is tried again at once without counting (%s)', async (state) => {
    await deliver(['k'])
    let calls = 0
    await start(
      async (_, { client, attempt }) => {
        expect(attempt).toBe(1)
        if (++calls > 3) return
        await client.query(`do $$ begin raise 'lost' using errcode = '${state}'; end $$`).catch((error) => {
          throw new Error('could not save', { cause: error })
        })
      },
      { backoffMsMin: 600_000, backoffMsMax: 600_000 },
    )
    await events.next('handled')
    expect(calls).toBe(4)
    expect(events.of('message_failed')).toEqual([])
  })

  test('is a failure if it does so again and again', async () => {
    await deliver(['k', 'k'])
    let calls = 0
    await start(async ({ payload }, { client }) => {
      if (number(payload) === 1) return
      calls++
      await client.query("do $$ begin raise 'lost' using errcode = '40001'; end $$")
    })
    await events.next('handled')
    expect(calls).toBe(3 + 5)
    expect(events.of('message_failed').map(({ attempt }) => attempt)).toEqual([1, 2, 3])
  })
})

/** A worker's, with its session. */
const heldLock = `select from pg_locks where locktype = 'advisory' and granted
  and database = (select oid from pg_database where datname = current_database())`

test.each([
  ['at once', false],
  ['when the worker is back already', true],
])(
  'what takes the whole database away is nobody’s failure, though the handler asks %s',
  async (_when, back) => {
    await deliver(['k', null])
    const calls: number[] = []
    await start(
      async ({ payload }, { client, attempt }) => {
        calls.push(attempt)
        if (calls.length > 2) return
        await client.query('select pg_sleep(0.01)')
        // All sessions of this worker, the one of its heartbeat too.
        await database.query(
          `select pg_terminate_backend(pid) from pg_stat_activity
        where datname = current_database() and application_name like '%twinbox%' and pid <> pg_backend_pid()`,
        )
        while (back && (await database.query(heldLock)).length === 0) await sleep(5)
        await client.query(`select ${number(payload)}`)
      },
      { maxAttempts: 1, concurrency: 1 },
    )
    await events.next('handled', () => true, 2)
    expect(events.of('message_failed')).toEqual([])
    expect(calls.every((attempt) => attempt === 1)).toBe(true)
  },
)
