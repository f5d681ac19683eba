import { randomUUID } from 'node:crypto'
import { beforeAll, describe, expect, test } from 'vitest'
import { receive } from '../../src/database/inbox.ts'
import type { ClaimerOptions, Handlers, Message } from '../../src/index.ts'
import { consumer, database, deliverAll, events, inbox, startClaimer, useInbox } from '../support/inbox.ts'
import { inboxMessage } from '../support/messages.ts'

/**
 * Inbox → handler → tables: a handler that does to its message, its connection or its result what nobody foresaw, and senders
 * who choose what handlers meet. It harms its own message at most; the next good one is handled.
 */

useInbox()
beforeAll(() => database.query('create table effects (consumer text, n text)'))

const effects = async (): Promise<string[]> =>
  (
    await database.query<{ n: string }>('select n from effects where consumer = $1 order by n', [consumer])
  ).map(({ n }) => n)
const left = async (): Promise<number> =>
  (
    await database.query<{ count: number }>(
      `select ((select count(*) from twinbox.inbox where consumer = $1)
        + (select count(*) from twinbox.parked_message where consumer = $1)
        + (select count(*) from twinbox.deferred where consumer = $1))::int as count`,
      [consumer],
    )
  )[0]!.count

const start = (handlers: Handlers<unknown>, options: Partial<ClaimerOptions> = {}): Promise<unknown> =>
  startClaimer(handlers, { maxAttempts: 3, onDead: 'skip', ...options })

async function deliver(
  messages: readonly {
    readonly topic?: string
    readonly key?: string | null
    readonly payload?: unknown
    readonly body?: Buffer
    readonly headers?: object
  }[],
): Promise<string[]> {
  const rows = messages.map(({ topic = 't', key = null, payload = 1, body = null, headers }) =>
    inboxMessage({
      ...{ consumer, topic, key, body, publishedAt: new Date(1_700_000_000_000) },
      headers: headers === undefined ? null : JSON.stringify(headers),
      payload: body === null ? JSON.stringify(payload) : null,
      contentType: body === null ? null : 'application/octet-stream',
      expiresAt: new Date(4_000_000_000_000),
    }),
  )
  await receive(inbox, rows)
  return rows.map(({ id }) => id)
}

describe('a handler that changes its message and then fails', () => {
  const asSeen = (message: Message): string =>
    JSON.stringify({
      ...message,
      payload: message.payload instanceof Uint8Array ? [...message.payload] : message.payload,
    })
  const spoil = (message: Message): void => {
    const { payload, headers, publishedAt, receivedAt, expiresAt } = message
    if (payload instanceof Uint8Array) payload.fill(0)
    else (payload as { lines: number[] }).lines.pop()
    Object.assign(headers, { a: 'other', more: 'x' })
    for (const date of [publishedAt, receivedAt, expiresAt]) date?.setTime(0)
    Object.assign(message, { id: randomUUID(), topic: 'other', key: 'other', more: 1 })
  }
  test.each([
    { transaction: true, batch: false },
    { transaction: false, batch: false },
    { transaction: true, batch: true },
    { transaction: false, batch: true },
  ])('sees at its next attempt what was published: $transaction, batch $batch', async (how) => {
    const ids = await deliver([
      { key: 'k', payload: { lines: [1, 2, 3] }, headers: { a: 'b' } },
      { key: null, payload: { lines: [1, 2, 3] }, headers: { a: 'b' } },
      { key: 'b', body: Buffer.from([1, 2, 3]) },
      { key: null, body: Buffer.from([1, 2, 3]) },
    ])
    const seen = new Map<string, string[]>()
    const one = (message: Message): boolean => {
      const { id } = message
      seen.set(id, [...(seen.get(id) ?? []), asSeen(message)])
      spoil(message)
      return seen.get(id)!.length > 2
    }
    const handle = (given: unknown): void => {
      const messages = (Array.isArray(given) ? given : [given]) as Message[]
      if (!messages.map(one).every(Boolean)) throw new Error('not yet')
    }
    await start({ '#': { ...how, handle } }, { maxAttempts: 20 })
    await expect.poll(left, { timeout: 20_000 }).toBe(0)
    expect([...seen.keys()].toSorted()).toEqual(ids.toSorted())
    for (const forms of seen.values()) expect(new Set(forms).size).toBe(1)
  })
})

test('a handler that gives its message the id of another one completes its own', async () => {
  const [own, other] = await deliver([
    { key: 'k', topic: 'own' },
    { key: 'l', topic: 'other' },
  ])
  await start(
    {
      own: (message) => void Object.assign(message, { id: other, key: 'l', topic: 'other' }),
      other: () => {
        throw new Error('on purpose')
      },
    },
    { maxAttempts: 1 },
  )
  expect(await events.next('handled')).toMatchObject({ ids: [own], topic: 'own' })
  expect(await events.next('dead_letter')).toMatchObject({ id: other, topic: 'other' })
})

describe('a result that nobody foresaw', () => {
  const throwing = (): never => {
    throw new Error('not to be read')
  }
  const results: Readonly<Record<string, { readonly result: () => unknown; readonly fails: boolean }>> = {
    'a then that throws when it is read': {
      result: () => Object.defineProperty({}, 'then', { get: throwing }),
      fails: true,
    },
    'a proxy that throws whatever is asked': {
      result: () => new Proxy({}, { get: throwing, has: throwing, getPrototypeOf: throwing }),
      fails: true,
    },
    'a then that resolves and rejects, twice each': {
      result: () => ({
        then(resolve: (value: unknown) => void, reject: (error: unknown) => void) {
          resolve(1)
          reject(new Error('too late'))
          resolve(2)
          throw new Error('too late')
        },
      }),
      fails: false,
    },
    'a then that resolves with one that rejects': {
      result: () => ({
        then: (resolve: (value: unknown) => void) => resolve(Promise.reject(new Error('in'))),
      }),
      fails: true,
    },
    'a then that is no function': { result: () => ({ then: 1 }), fails: false },
    'an error that is returned': { result: () => new Error('not thrown'), fails: false },
    'an endless iterator': {
      result: () => ({
        *[Symbol.iterator]() {
          for (;;) yield 1
        },
      }),
      fails: false,
    },
  }
  test.each(
    Object.keys(results).flatMap((name) => [true, false].map((transaction) => ({ name, transaction }))),
  )('$name (transaction: $transaction): it counts as what it is, once', async ({ name, transaction }) => {
    const { result, fails } = results[name]!
    const [bad, good] = await deliver([{ key: 'k' }, { key: 'k', topic: 'good' }])
    let calls = 0
    await start(
      {
        t: {
          transaction,
          handle: () => {
            calls++
            return result()
          },
        } as never,
        good: { transaction, handle: () => {} } as never,
      },
      { maxAttempts: 2 },
    )
    expect(await events.next('handled', ({ topic }) => topic === 'good')).toMatchObject({ ids: [good] })
    expect(calls).toBe(fails ? 2 : 1)
    expect(events.of('dead_letter').map(({ id }) => id)).toEqual(fails ? [bad] : [])
  })
})

describe('a handler that does to its connection', () => {
  const role = `attack_${randomUUID().slice(0, 8)}`
  const acts: Readonly<Record<string, { readonly sql: string; readonly fails: boolean }>> = {
    'take a role without rights': { sql: `set role ${role}`, fails: true },
    'take a time-out of a millisecond': {
      sql: `set statement_timeout = '1ms'; select pg_sleep(1)`,
      fails: true,
    },
    'make all that follows read-only': {
      sql: 'set session characteristics as transaction read only; set local transaction_read_only = on',
      fails: true,
    },
    'raise the error by which a lost claim is known': {
      sql: `do $$ begin raise exception 'lost' using errcode = 'TWX01'; end $$`,
      fails: true,
    },
    'forget all that is prepared': { sql: 'deallocate all', fails: false },
    'hide our tables behind temporary ones': {
      sql: 'create temp table inbox (id uuid); create temp table lane (id uuid); set search_path = pg_temp',
      fails: false,
    },
    'set every text another way': {
      sql: "set datestyle = 'German'; set bytea_output = 'escape'; set standard_conforming_strings = off; set intervalstyle = 'iso_8601'",
      fails: false,
    },
    'leave locks of its own behind': { sql: 'select pg_advisory_lock(4711)', fails: false },
    'leave a savepoint open': { sql: 'savepoint a; savepoint b', fails: false },
    'roll back to before a savepoint': {
      sql: 'savepoint a; select 1; rollback to a; release a',
      fails: false,
    },
  }
  test.each(Object.keys(acts))('%s: it harms its own message at most', async (name) => {
    const { sql, fails } = acts[name]!
    if (sql.includes(role)) await database.query(`create role ${role}`)
    const ids = await deliver([
      { key: 'k' },
      ...Array.from({ length: 5 }, () => ({ key: 'k', topic: 'good' })),
    ])
    try {
      await start(
        {
          t: async (_, { client }) => {
            await client.query('insert into effects values ($1, $2)', [consumer, 'bad'])
            await client.query(sql)
          },
          good: async ({ id }, { client }) => {
            await client.query('insert into public.effects values ($1, $2)', [consumer, id])
          },
        },
        { concurrency: 1, maxAttempts: 2 },
      )
      await events.next('handled', ({ topic }) => topic === 'good', 5)
      expect(await effects()).toEqual([...ids.slice(1), ...(fails ? [] : ['bad'])].toSorted())
      expect(events.of('dead_letter').map(({ id }) => id)).toEqual(fails ? [ids[0]] : [])
    } finally {
      if (sql.includes(role)) await database.query(`drop role ${role}`)
    }
  })

  test('and leaves a constraint to fail at the commit: neither effect nor completion, and the next goes on', async () => {
    await database.query('create table once (n integer unique deferrable initially deferred)')
    await deliver([{ key: 'k' }, { key: 'k', topic: 'good' }])
    await start({
      t: async (_, { client }) => {
        await client.query('insert into once values (1), (1)')
      },
      good: async (_, { client }) => {
        await client.query('insert into once values (1)')
      },
    })
    await events.next('handled', ({ topic }) => topic === 'good')
    expect(events.of('message_failed')).toHaveLength(3)
    expect(events.of('dead_letter')).toMatchObject([{ topic: 't' }])
    expect(await database.query('select n from once')).toEqual([{ n: 1 }])
  })

  test('and leaves a trigger to raise the error of a lost claim at the commit: it is counted, and ends', async () => {
    await database.query(`create table late (n integer);
      create function raise_lost() returns trigger language plpgsql as
        $$ begin raise exception 'lost' using errcode = 'TWX01'; end $$;
      create constraint trigger late after insert on late deferrable initially deferred
        for each row execute function raise_lost()`)
    await deliver([{ key: 'k' }, { key: 'k', topic: 'good' }])
    let calls = 0
    await start({
      t: async (_, { client }) => {
        calls++
        await client.query('insert into late values (1)')
      },
      good: () => {},
    })
    await events.next('handled', ({ topic }) => topic === 'good')
    expect(calls).toBe(3)
    expect(events.of('dead_letter')).toMatchObject([{ topic: 't' }])
  })
})

describe('senders who choose what handlers meet', () => {
  test('five bad messages pause no topic for longer than it takes to try one of the good ones', async () => {
    const [topic, bad, good] = ['order.placed', 5, 200]
    const started = new Set<number>()
    await deliverAll(Array.from({ length: bad }, (_, n) => ({ topic, key: `bad ${n}`, n })))
    let isBad = (n: number): boolean => n < bad
    await start(
      {
        '#': {
          transaction: false,
          handle: async ({ payload }) => {
            const { n } = payload as { n: number }
            started.add(n)
            await Promise.resolve()
            if (isBad(n)) throw new TypeError('bad on purpose')
          },
        },
      },
      { backoffMsMin: 1, backoffMsMax: 1, maxAttempts: 1000 },
    )
    await events.next('circuit_opened')
    await deliverAll(Array.from({ length: good }, (_, n) => ({ topic, key: `good ${n}`, n: bad + n })))
    const probes = async (): Promise<number | null> =>
      (
        await database.query<{ probes: number }>('select probes from twinbox.circuit where consumer = $1', [
          consumer,
        ])
      )[0]?.probes ?? null
    await expect.poll(probes, { timeout: 20_000 }).not.toBeNull()
    let tried = 0
    const isOpen = (): boolean => events.of('circuit_closed').length === 0
    while (isOpen() && tried < 10) {
      const before = await probes()
      await database.query('update twinbox.circuit set probe_at = now() where consumer = $1', [consumer])
      await expect.poll(async () => (await probes()) !== before || !isOpen(), { timeout: 20_000 }).toBe(true)
      tried++
    }
    expect(tried).toBeLessThanOrEqual(3)
    isBad = () => false
    await events.next('handled', () => true, good)
  })

  test('a flood of keys that were chosen for one lane leaves the other lanes to others', async () => {
    const candidates = await database.query<{ key: string; lane: number }>(
      `select 'key ' || n as key, twinbox.lane_of('key ' || n)::int as lane from generate_series(1, 40000) as n`,
    )
    const chosen = candidates.filter(({ lane }) => lane === candidates[0]!.lane).slice(0, 500)
    const others = candidates.filter(({ lane }) => lane !== candidates[0]!.lane).slice(0, 20)
    await deliverAll(chosen.map(({ key }, n) => ({ topic: 'flood', key, n })))
    await deliverAll(others.map(({ key }, n) => ({ topic: 'honest', key, n })))
    const order: string[] = []
    await start(
      {
        '#': {
          transaction: false,
          handle: async ({ topic }) => {
            await new Promise((resolve) => setImmediate(resolve))
            order.push(topic)
          },
        },
      },
      { concurrency: 2 },
    )
    await events.next('handled', () => true, chosen.length + others.length)
    expect(order.lastIndexOf('honest')).toBeLessThan(order.lastIndexOf('flood'))
    expect(
      order.slice(0, order.lastIndexOf('honest')).filter((topic) => topic === 'flood').length,
    ).toBeLessThan(chosen.length)
  })

  test('as many topics as a sender can think of do not stay in memory', async () => {
    const { handlersByTopic } = await import('../../src/claimer/handlers.ts')
    const defaults = {
      maxAttempts: 1,
      handleTimeoutMs: 0,
      backoffMsMin: 1,
      backoffMsMax: 1,
      keyWindow: 1,
      runSize: 1,
      onDead: 'skip',
    } as const
    const find = handlersByTopic({ 'made.#': () => {}, named: () => {} }, defaults)
    const { setFlagsFromString } = await import('node:v8')
    const { runInNewContext } = await import('node:vm')
    setFlagsFromString('--expose-gc')
    const collect = runInNewContext('gc') as () => void
    const used = (): number => {
      collect()
      return process.memoryUsage().heapUsed
    }
    const before = used()
    for (let n = 0; n < 200_000; n++) find(`made.${'x'.repeat(200)}${n}`)
    expect((used() - before) / 1e6).toBeLessThan(20)
    expect(find('named')).toBeDefined()
    expect(find('other')).toBeUndefined()
  })
})
