import type pg from 'pg'
import { expect, onTestFinished, test } from 'vitest'
import type { HandlerContext } from '../../src/claimer/handlers.ts'
import { DeadLetterError, RetryLaterError, type Handlers, type Message } from '../../src/index.ts'
import { database, consumer, deliverAll, events, startClaimer, useInbox } from '../support/inbox.ts'
import { until } from '../support/until.ts'

/**
 * `keyWindow`: the next message of a key starts when the handler of the one before has returned, though that is not completed yet.
 * A lock on the row of a message is what keeps it from being completed here.
 */

useInbox()

const numberOf = ({ payload }: Message): number => (payload as { n: number }).n
const deliver = (count: number, topic: (n: number) => string = () => 't'): Promise<string[]> =>
  deliverAll(Array.from({ length: count }, (_, n) => ({ topic: topic(n), key: 'k', n })))

/** Nobody can complete this message before the function that this gives is called, which may have it deleted. */
async function hold(id: string): Promise<(sql?: string) => Promise<void>> {
  const client: pg.PoolClient = await database.pool.connect()
  let ended = false
  const end = async (sql = ''): Promise<void> => {
    if (ended) return
    ended = true
    await client.query(`${sql}; commit`)
    client.release()
  }
  onTestFinished(() => end())
  await client.query('begin')
  await client.query('select from twinbox.inbox where id = $1 for update', [id])
  return end
}

/** Until a completion waits for what the test holds. */
const stands = (): Promise<void> =>
  until(async () => {
    const [row] = await database.query<{ waits: boolean }>(
      `select exists (select from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'
        and query like '%delete from %inbox%') as waits`,
    )
    return row!.waits
  })

/** What a handler does, called at once or as an async function. */
const kinds: Record<string, (work: () => void) => Handlers<unknown>['string']> = {
  'is not async': (work) => ({ transaction: false, handle: work }),
  'is async': (work) => ({
    transaction: false,
    handle: async () => {
      await Promise.resolve()
      work()
    },
  }),
}

test.each(Object.keys(kinds).flatMap((kind) => [1, 3].map((keyWindow) => ({ kind, keyWindow }))))(
  'with a window of $keyWindow so many of a key are handled and not completed, and no more ($kind)',
  async ({ kind, keyWindow }) => {
    const handled: number[] = []
    const [first] = await deliver(8)
    const release = await hold(first!)
    let n = 0
    await startClaimer({ '#': kinds[kind]!(() => void handled.push(n++)) }, { keyWindow })
    await stands()
    await until(() => handled.length >= keyWindow)
    // What shall not happen gives no sign: the other key is handled in the meantime.
    await deliverAll([{ key: 'other', n: 0 }])
    await until(() => handled.length > keyWindow)
    expect(handled.length).toBe(keyWindow + 1)
    expect(events.of('handled')).toEqual([])
    await release()
    await events.next('handled', () => true, 9)
    expect(handled.length).toBe(9)
  },
)

test('the window of a handler counts, and not that of the claimer, for its own messages', async () => {
  const handled: string[] = []
  const handle = ({ topic }: Message): void => void handled.push(topic)
  const [first] = await deliver(6, (n) => (n < 3 ? 'wide' : 'narrow'))
  const release = await hold(first!)
  await startClaimer({
    wide: { transaction: false, keyWindow: 10, handle },
    narrow: { transaction: false, handle },
  })
  await stands()
  expect(handled).toEqual(['wide', 'wide', 'wide'])
  await release()
  await events.next('handled', () => true, 6)
})

test('what has a transaction, or takes batches, starts when all before it in its key is completed', async () => {
  const handled: string[] = []
  const [first] = await deliver(6, (n) => ['plain', 'committed', 'plain', 'batched', 'batched', 'plain'][n]!)
  const release = await hold(first!)
  await startClaimer(
    {
      plain: { transaction: false, handle: ({ topic }) => void handled.push(topic) },
      committed: ({ topic }) => void handled.push(topic),
      batched: {
        transaction: false,
        batch: true,
        handle: (all) => void handled.push(...all.map(({ topic }) => topic)),
      },
    },
    { keyWindow: 100 },
  )
  await stands()
  expect(handled).toEqual(['plain'])
  await release()
  await until(() => handled.length === 6)
  expect(handled).toEqual(['plain', 'committed', 'plain', 'batched', 'batched', 'plain'])
})

test('one that runs when those before it are completed is not started a second time', async () => {
  const runs: number[] = []
  let go = (): void => {}
  const gate = new Promise<void>((resolve) => (go = resolve))
  const [first] = await deliver(4, (n) => (n < 2 ? 'sync' : 'async'))
  const release = await hold(first!)
  await startClaimer(
    {
      sync: { transaction: false, handle: (message) => void runs.push(numberOf(message)) },
      async: {
        transaction: false,
        handle: async (message) => {
          runs.push(numberOf(message))
          await gate
        },
      },
    },
    { keyWindow: 100 },
  )
  await stands()
  await until(() => runs.length === 3)
  await release()
  await events.next('handled', () => true, 2)
  // Whatever else might be started of the key would have been by now.
  await deliverAll([{ topic: 'sync', key: 'other', n: 9 }])
  await until(() => runs.includes(9))
  expect(runs).toEqual([0, 1, 2, 9])
  go()
  await events.next('handled', () => true, 5)
  expect(runs).toEqual([0, 1, 2, 9, 3])
})

test('when a completion finds nothing, all behind it in the key is taken along and handled again, in order', async () => {
  const runs: number[] = []
  const aborted: number[] = []
  const handle = async (message: Message, { signal }: HandlerContext): Promise<void> => {
    const n = numberOf(message)
    runs.push(n)
    if (n !== 3 || runs.filter((each) => each === n).length > 1) return
    await new Promise<void>((resolve) => signal.addEventListener('abort', () => resolve()))
    aborted.push(n)
  }
  const ids = await deliver(6)
  const release = await hold(ids[0]!)
  await startClaimer({ '#': { transaction: false, handle } }, { keyWindow: 100 })
  await stands()
  await until(() => runs.includes(3))
  await release(`delete from twinbox.inbox where id = '${ids[0]}'`)
  await until(() => runs.includes(5))
  expect(aborted).toEqual([3])
  expect(runs.slice(0, 4)).toEqual([0, 1, 2, 3])
  // Of 1 and 2, which were handled, the completions may have been quicker than the read that finds them.
  expect(runs.slice(4).slice(-3)).toEqual([3, 4, 5])
  expect(runs.slice(4)).toEqual(runs.slice(4).toSorted((a, b) => a - b))
  expect(events.of('lease_lost').flatMap((event) => event.ids)).toEqual(
    expect.arrayContaining([ids[0], ids[3]]),
  )
  await until(async () => (await left()).length === 0)
})

test.each([
  { how: 'becomes a dead letter', error: () => new DeadLetterError('on purpose'), parked: 3 },
  { how: 'is to wait for long', error: () => new RetryLaterError({ afterMs: 60_000 }), parked: 4 },
])('one that $how takes nothing along that was handled before it', async ({ error, parked }) => {
  const runs: number[] = []
  const ids = await deliver(6)
  const release = await hold(ids[0]!)
  await startClaimer(
    {
      '#': {
        transaction: false,
        handle: (message) => {
          runs.push(numberOf(message))
          if (numberOf(message) === 2) throw error()
        },
      },
    },
    { keyWindow: 100 },
  )
  await stands()
  await until(() => runs.length === 3)
  await release()
  await until(async () => (await left()).length === parked)
  // What waits is what failed, or only what is behind it.
  expect(await left()).toEqual(ids.slice(6 - parked))
  expect(runs).toEqual([0, 1, 2])
  expect(events.of('lease_lost')).toEqual([])
})

test('one that fails is tried again before what is behind it', async () => {
  const runs: number[] = []
  const ids = await deliver(5)
  const release = await hold(ids[0]!)
  await startClaimer(
    {
      '#': {
        transaction: false,
        handle: async (message, { attempt }) => {
          runs.push(numberOf(message))
          if (numberOf(message) === 2 && attempt < 3) throw new Error('on purpose')
        },
      },
    },
    { keyWindow: 100 },
  )
  await stands()
  await until(() => runs.length === 3)
  await release()
  await events.next('handled', () => true, 5)
  expect(runs).toEqual([0, 1, 2, 2, 2, 3, 4])
})

test('a lane that is lost takes along what was handled and is not completed', async () => {
  const runs: number[] = []
  const ids = await deliver(4)
  const release = await hold(ids[0]!)
  // The first one's completion is under way by then, and has seen the lane as it was.
  const isUnderWay = stands()
  await startClaimer(
    {
      '#': {
        transaction: false,
        handle: async (message) => {
          runs.push(numberOf(message))
          if (numberOf(message) === 1) await isUnderWay
        },
      },
    },
    { keyWindow: 100 },
  )
  await until(() => runs.length === 4)
  await database.query(
    `update twinbox.lane set fence = fence + 1, holder = null, lease_until = '-infinity'
      where consumer = $1 and lane = twinbox.lane_of('k')`,
    [consumer],
  )
  await release()
  await until(async () => (await left()).length === 0)
  expect(runs).toEqual([0, 1, 2, 3, 1, 2, 3])
})

test('a window is refused where there is none', async () => {
  const handle = (): void => {}
  const start = (entry: object): Promise<unknown> => startClaimer({ t: entry as never })
  for (const entry of [{ transaction: true }, {}, { transaction: false, batch: true }])
    await expect(start({ ...entry, keyWindow: 2, handle })).rejects.toThrow(/keyWindow.*transaction: false/)
  for (const keyWindow of [0, 1001, 1.5, '2'])
    await expect(start({ transaction: false, keyWindow, handle })).rejects.toThrow(/keyWindow is/)
})

/** Of the key, what is in the tables, in order. */
const left = async (): Promise<string[]> =>
  (
    await database.query<{ id: string }>(
      `select id from (
        select seq, id from twinbox.inbox where consumer = $1 and key = 'k'
        union all select m.seq, m.id from twinbox.parked_message as m where consumer = $1 and key = 'k'
      ) as m order by seq`,
      [consumer],
    )
  ).map(({ id }) => id)
