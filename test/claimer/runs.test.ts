import { beforeAll, beforeEach, expect, test } from 'vitest'
import { createClaimer, DeadLetterError, inTransaction, type Message } from '../../src/index.ts'
import type { TransactionContext } from '../../src/claimer/handlers.ts'
import { consumer, database, deliverAll, events, startClaimer, useInbox } from '../support/inbox.ts'
import { until } from '../support/until.ts'

/** `runSize`: messages that wait are handled one by one in one transaction, and committed together. */

useInbox()
beforeAll(() => database.query('create table effects (at bigserial, n int, xid text, attempt int)'))
beforeEach(() => database.query('truncate effects'))

type Context = TransactionContext<unknown>

const numberOf = ({ payload }: Message): number => (payload as { n: number }).n
const deliver = (keys: readonly (string | null)[]): Promise<string[]> =>
  deliverAll(keys.map((key, n) => ({ key, n })))
const many = (count: number, key: string | null): (string | null)[] =>
  Array.from({ length: count }, () => key)

const write = (message: Message, { client, attempt }: Context): Promise<unknown> =>
  client.query('insert into effects (n, xid, attempt) values ($1, pg_current_xact_id()::text, $2)', [
    numberOf(message),
    attempt,
  ])

interface Effect {
  readonly n: number
  readonly xid: string
  readonly attempt: number
}
const effects = (): Promise<Effect[]> =>
  database.query<Effect>('select n, xid, attempt from effects order by at')
const ended = (): Promise<void> =>
  until(async () => {
    const rows = await database.query('select from twinbox.inbox where consumer = $1 limit 1', [consumer])
    return rows.length === 0
  })

/** How many effects each transaction has, in order. */
const runs = (all: readonly Effect[]): number[] => {
  const counts = new Map<string, number>()
  for (const { xid } of all) counts.set(xid, (counts.get(xid) ?? 0) + 1)
  return [...counts.values()]
}

test.each(['k', null])('so many are handled one by one in a transaction (key %s)', async (key) => {
  await deliver(many(10, key))
  const contexts: { key: string; signal: AbortSignal }[] = []
  let inside = 0
  await startClaimer(
    {
      '#': async (message, context) => {
        expect(inside++).toBe(0)
        contexts.push({ key: context.idempotencyKey, signal: context.signal })
        expect(context.idempotencyKey).toBe(`${consumer}:${message.id}`)
        await write(message, context)
        inside--
      },
    },
    { runSize: 4, concurrency: 1 },
  )
  await ended()
  const all = await effects()
  expect(all.map(({ n }) => n)).toEqual(Array.from({ length: 10 }, (_, n) => n))
  // Of those without a key, only so many are claimed ahead as are handled at that rate.
  const longest = Math.max(...runs(all))
  expect(longest).toBeGreaterThan(1)
  expect(longest).toBeLessThanOrEqual(4)
  if (key !== null) expect(runs(all)).toEqual([4, 4, 2])
  expect(new Set(contexts.map((context) => context.key)).size).toBe(10)
  const together = events.of('handled').map(({ ids }) => ids.length)
  expect(together).toEqual(runs(all))
})

test('by default, each has a transaction of its own', async () => {
  await deliver(many(6, 'k'))
  await startClaimer({ '#': write }, { concurrency: 1 })
  await ended()
  expect(runs(await effects())).toEqual(many(6, null).map(() => 1))
})

test('a run leaves each place that is free its part', async () => {
  await deliver(many(8, null))
  let open = 0
  let most = 0
  await startClaimer(
    {
      '#': async (message, context) => {
        most = Math.max(most, ++open)
        await until(() => most === 4)
        await write(message, context)
        open--
      },
    },
    { runSize: 16, concurrency: 4 },
  )
  await ended()
  expect(runs(await effects())).toHaveLength(4)
})

test('if one fails, all is rolled back, each is repeated alone, and only that one is charged', async () => {
  await deliver(many(6, 'k'))
  const calls: number[] = []
  await startClaimer(
    {
      '#': async (message, context) => {
        calls.push(numberOf(message))
        await write(message, context)
        if (numberOf(message) === 3) throw new DeadLetterError('on purpose')
      },
    },
    { runSize: 16, concurrency: 1, onDead: 'skip' },
  )
  await ended()
  expect(calls).toEqual([0, 1, 2, 3, 0, 1, 2, 3, 4, 5])
  const all = await effects()
  expect(all.map(({ n }) => n)).toEqual([0, 1, 2, 4, 5])
  expect(all.every(({ attempt }) => attempt === 1)).toBe(true)
  expect(runs(all)).toEqual([1, 1, 1, 1, 1])
  expect(events.of('message_failed')).toHaveLength(1)
})

test('each has its own time, and one that takes too long is the one that fails', async () => {
  await deliver(many(6, 'k'))
  const signals: AbortSignal[] = []
  const calls: number[] = []
  await startClaimer(
    {
      '#': async (message, context) => {
        const { signal } = context
        calls.push(numberOf(message))
        signals.push(signal)
        // It ends when it is told, and nobody waits for it any more.
        if (numberOf(message) === 4)
          return new Promise((resolve) => signal.addEventListener('abort', resolve))
        await new Promise((resolve) => setTimeout(resolve, 300))
        return write(message, context)
      },
    },
    { runSize: 16, concurrency: 1, handleTimeoutMs: 1000, maxAttempts: 1, onDead: 'skip' },
  )
  await ended()
  expect((await effects()).map(({ n }) => n)).toEqual([0, 1, 2, 3, 5])
  expect(calls).toEqual([0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 5])
  expect(events.of('message_failed').map(({ foundBy }) => foundBy)).toEqual(['timeout'])
  // Of the run that was rolled back all are told, also those whose handlers had ended.
  expect(signals.slice(0, 4).every(({ aborted }) => aborted)).toBe(true)
})

test('a handler that ends its transaction cannot commit what the others of its run have done', async () => {
  await deliver(many(5, 'k'))
  await startClaimer(
    {
      '#': async (message, context) => {
        await write(message, context)
        if (numberOf(message) === 2 && context.attempt === 1)
          await context.client.query('commit').catch(() => {})
      },
    },
    { runSize: 16, concurrency: 1 },
  )
  await ended()
  // Alone, it has committed its own, as ever.
  expect((await effects()).map(({ n }) => n)).toEqual([0, 1, 2, 2, 3, 4])
  expect(events.of('message_failed')).toMatchObject([{ error: { code: 'TRANSACTION_ENDED' } }])
})

test('what a handler has left running does not write into the next one of its run', async () => {
  await deliver(many(3, 'k'))
  let go = (): void => {}
  const next = new Promise<void>((resolve) => (go = resolve))
  let late: Promise<unknown> = Promise.resolve()
  let refused: unknown
  await startClaimer(
    {
      '#': async (message, context) => {
        const n = numberOf(message)
        if (n === 0) late = next.then(() => context.client.query('insert into effects (n) values (99)'))
        if (n === 1) {
          go()
          refused = await late.catch((error: unknown) => error)
        }
        await write(message, context)
      },
    },
    { runSize: 16, concurrency: 1 },
  )
  await ended()
  expect(refused).toMatchObject({ code: 'TRANSACTION_ENDED' })
  expect((await effects()).map(({ n }) => n)).toEqual([0, 1, 2])
})

test('runs are refused where there are none', async () => {
  const handle = (): void => {}
  const start = (entry: object): Promise<unknown> => startClaimer({ t: entry as never })
  for (const entry of [{ transaction: false }, { batch: true }])
    await expect(start({ ...entry, runSize: 2, handle })).rejects.toThrow(/runSize.*with a transaction/)
  for (const runSize of [0, 101, 1.5, '2'])
    await expect(start({ runSize, handle })).rejects.toThrow(/runSize is/)
  const transaction = inTransaction(async (run) => run({}))
  const options = { database: database.url, consumer, transaction }
  expect(() => createClaimer({ ...options, runSize: 2 }, { t: handle })).toThrow(/runSize needs/)
  expect(() => createClaimer(options, { t: { runSize: 2, handle } })).toThrow(/runSize needs/)
})
