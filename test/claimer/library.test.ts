import { randomUUID } from 'node:crypto'
import type pg from 'pg'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { Database } from '../../src/database/database.ts'
import { receive } from '../../src/database/inbox.ts'
import { createClaimer, createOutbox, inTransaction, withTransaction, type Opener } from '../../src/index.ts'
import { recordEvents, type Recorder } from '../support/events.ts'
import { inboxMessage } from '../support/messages.ts'
import { createTestDatabase, type TestDatabase } from '../support/postgres.ts'

/** Handlers in transactions that somebody else opens and commits, and what that somebody may get wrong. */

let database: TestDatabase
let inbox: Database
beforeAll(async () => {
  database = await createTestDatabase()
  inbox = new Database(database.url)
  await database.query(
    'create table effects (consumer text, attempt int, unique (consumer) deferrable initially deferred)',
  )
})
afterAll(async () => {
  await inbox.close()
  await database.drop()
})

type Open = Opener<pg.PoolClient>['open']
const rightly: Open = (run) => withTransaction(database.pool, run)

/** Handles one message with an opener, until `ends`; tells how often there was an effect, and at which attempt. */
async function handled(
  open: Open,
  ends: (events: Recorder) => Promise<unknown>,
  handle: (tx: pg.PoolClient, attempt: number, consumer: string) => Promise<unknown> = async () => {},
  key: string | null = 'k',
): Promise<{ effects: number[]; left: number; events: Recorder }> {
  const consumer = `c${randomUUID().slice(0, 8)}`
  const events = recordEvents()
  const claimer = createClaimer(
    {
      ...{ database: database.url, consumer, onEvent: events.onEvent, transaction: inTransaction(open) },
      ...{ maxAttempts: 2, backoffMsMin: 1, backoffMsMax: 1, keepHandledMs: 60_000 },
    },
    {
      t: async (_, { tx, attempt }) => {
        await tx.query('insert into effects values ($1, $2)', [consumer, attempt])
        await createOutbox().publish(tx, { topic: 'follows', key: consumer, payload: 1 })
        await handle(tx, attempt, consumer)
      },
    },
  )
  await claimer.start()
  await receive(inbox, [inboxMessage({ consumer, key })])
  await ends(events)
  await claimer.stop()
  const effects = await database.query<{ attempt: number }>(
    'select attempt from effects where consumer = $1',
    [consumer],
  )
  const left = await database.query('select from twinbox.inbox where consumer = $1', [consumer])
  const follows = await database.query('select from twinbox.outbox where key = $1', [consumer])
  expect(follows).toHaveLength(effects.length)
  return { effects: effects.map(({ attempt }) => attempt), left: left.length, events }
}

const done = (events: Recorder): Promise<unknown> => events.next('handled')
const dead = (events: Recorder): Promise<unknown> => events.next('dead_letter')
const errorsOf = (events: Recorder): string[] =>
  events.of('message_failed').map(({ error }) => String((error as { code?: unknown }).code ?? error))

test.each(['k', null])(
  'effects, what it publishes and the completion are committed together, key %s',
  async (key) => {
    const { effects, left } = await handled(rightly, done, undefined, key)
    expect([effects, left]).toEqual([[1], 0])
  },
)

test('a handler that throws is tried again, and nothing of the first attempt remains', async () => {
  const once = async (_tx: unknown, attempt: number): Promise<void> => {
    if (attempt === 1) throw new Error('on purpose')
  }
  const { effects, left, events } = await handled(rightly, done, once)
  expect([effects, left, errorsOf(events)]).toEqual([[2], 0, ['Error: on purpose']])
})

test('what fails at the commit is an attempt that has failed', async () => {
  // The constraint is looked at by the commit, after the completion.
  const twice = (tx: pg.PoolClient, attempt: number, consumer: string): Promise<unknown> =>
    attempt === 1 ? tx.query('insert into effects values ($1, 0)', [consumer]) : Promise.resolve()
  const { effects, left, events } = await handled(rightly, done, twice)
  expect([effects, left, errorsOf(events)]).toEqual([[2], 0, ['23505']])
})

test.each<[string, Open, (() => Promise<never>)?]>([
  ['never calls run', () => Promise.resolve()],
  [
    'swallows its error',
    async (run) => {
      await Promise.resolve(rightly(run)).catch(() => {})
    },
    () => Promise.reject(new Error('on purpose')),
  ],
  [
    'rolls back after run, and says nothing',
    async (run) => {
      const client = await database.pool.connect()
      await client.query('begin')
      await run(client)
      await client.query('rollback')
      client.release()
    },
  ],
  [
    'has a statement fail after run, and swallows that',
    async (run) => {
      const client = await database.pool.connect()
      await client.query('begin')
      await run(client)
      await client.query('select 1 / 0').catch(() => {})
      await client.query('commit')
      client.release()
    },
  ],
])(
  'one that %s loses nothing: the message is still there, and becomes a dead letter',
  async (_, open, fails) => {
    const { effects, events } = await handled(open, dead, fails)
    expect([effects, errorsOf(events)]).toEqual([[], ['TRANSACTION_ROLLED_BACK', 'TRANSACTION_ROLLED_BACK']])
  },
)

test.each<[string, Open]>([
  [
    'a client before BEGIN',
    async (run) => {
      const client = await database.pool.connect()
      await run(client).finally(() => client.release())
    },
  ],
  ['a pool', (run) => run(database.pool as never)],
  [
    'an object over a pool',
    (run) => run({ query: (text: string, values: unknown[]) => database.pool.query(text, values) } as never),
  ],
])('one that gives %s is refused before the handler is called', async (_, open) => {
  const { effects, events } = await handled(open, dead)
  expect([effects, errorsOf(events)]).toEqual([[], ['NO_TRANSACTION', 'NO_TRANSACTION']])
})

test('an error after the commit changes nothing: the message is done', async () => {
  const open: Open = async (run) => {
    await rightly(run)
    throw new Error('after the commit')
  }
  const { effects, left, events } = await handled(open, done)
  expect([effects, left, errorsOf(events)]).toEqual([[1], 0, []])
})

test('one that cannot open a transaction costs no attempt', async () => {
  let times = 0
  const open: Open = (run) => {
    if (times++ < 3) throw new Error('no connection')
    return rightly(run)
  }
  const { effects, left, events } = await handled(open, done)
  expect([effects, left, errorsOf(events)]).toEqual([[1], 0, []])
})

test('what is none of inTransaction is refused', () => {
  expect(() => inTransaction(7 as never)).toThrow(/inTransaction takes a function/)
  const options = { database: database.url, consumer: 'c', transaction: (() => {}) as never }
  expect(() => createClaimer(options, { t: () => {} })).toThrow(/transaction must be what inTransaction/)
})
