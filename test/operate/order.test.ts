import { randomUUID } from 'node:crypto'
import fc from 'fast-check'
import { afterAll, beforeAll, expect, test } from 'vitest'
import {
  createClaimer,
  DeadLetterError,
  readDeadLetters,
  redriveDeadLetters,
  redriveParkedKeys,
  skipDeadLetters,
  skipParkedKeys,
  type Worker,
} from '../../src/index.ts'
import { Database } from '../../src/database/database.ts'
import { receive } from '../../src/database/inbox.ts'
import { createTestDatabase, type TestDatabase } from '../support/postgres.ts'
import { inboxMessage } from '../support/messages.ts'

/**
 * Whatever an operator does, and however it falls together with what two claimers do at that moment: each message is
 * handled once or was skipped, and those of a key in order, except one that the operator let its key go on without.
 */

let database: TestDatabase
let own: Database
beforeAll(async () => {
  database = await createTestDatabase()
  own = new Database(database.url)
  await database.query('create table effects (at serial, key text, n integer)')
})
afterAll(async () => {
  await own.close()
  await database.drop()
})

const keys = ['a', 'b', 'c'] as const
type Key = (typeof keys)[number]

type Step =
  | { readonly do: 'receive'; readonly key: Key; readonly fails: readonly number[] }
  | { readonly do: 'redrive all' | 'redrive one' | 'skip one' | 'restart' | 'wait' }
  | { readonly do: 'redrive key' | 'go on with' | 'go on without'; readonly key: Key }

const key = fc.constantFrom(...keys)
const step: fc.Arbitrary<Step> = fc.oneof(
  {
    weight: 6,
    arbitrary: fc.record({
      do: fc.constant('receive' as const),
      key,
      fails: fc.array(fc.integer({ min: 0, max: 2 }), { minLength: 1, maxLength: 6 }),
    }),
  },
  {
    weight: 4,
    arbitrary: fc.record({
      do: fc.constantFrom(
        'redrive all' as const,
        'redrive one' as const,
        'skip one' as const,
        'restart' as const,
        'wait' as const,
      ),
    }),
  },
  {
    weight: 4,
    arbitrary: fc.record({
      do: fc.constantFrom('redrive key' as const, 'go on with' as const, 'go on without' as const),
      key,
    }),
  },
)

const pause = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms))

async function run(steps: readonly Step[]): Promise<void> {
  const consumer = `c${randomUUID().slice(0, 8)}`
  await database.query('truncate effects')
  /** How often each message will still fail. */
  const fails = new Map<string, number>()
  const received = new Map<Key, number>(keys.map((each) => [each, 0]))
  /** Whom the operator let their keys go on without. */
  const left = new Set<string>()
  const skipped = new Set<string>()

  const open = (): Worker =>
    createClaimer(
      { database: database.url, consumer, concurrency: 2 },
      {
        '#': async (message, { client }) => {
          const name = `${message.key}${String(message.payload)}`
          const failures = fails.get(name)!
          if (failures > 0) {
            fails.set(name, failures - 1)
            throw new DeadLetterError('not yet')
          }
          await client.query('insert into effects (key, n) values ($1, $2)', [message.key, message.payload])
        },
      },
    )
  const workers = [open(), open()]
  await Promise.all(workers.map((worker) => worker.start()))

  const nameOf = async (number: number): Promise<string> => {
    const [row] = await database.query<{ key: string; payload: number }>(
      'select key, payload from twinbox.dead_letter where number = $1',
      [number],
    )
    return row === undefined ? '' : `${row.key}${row.payload}`
  }
  const some = async (): Promise<number | undefined> =>
    (await readDeadLetters(own, { consumer })).letters.at(-1)?.number

  const perform = async (each: Step): Promise<void> => {
    switch (each.do) {
      case 'receive': {
        const first = received.get(each.key)!
        received.set(each.key, first + each.fails.length)
        each.fails.forEach((count, n) => fails.set(`${each.key}${first + n}`, count === 2 ? 1 : 0))
        await receive(
          own,
          each.fails.map((_, n) => inboxMessage({ consumer, key: each.key, payload: String(first + n) })),
        )
        return
      }
      case 'redrive all':
        return void (await redriveDeadLetters(own, { consumer }))
      case 'redrive key':
        return void (await redriveDeadLetters(own, { consumer, key: each.key }))
      case 'redrive one': {
        const number = await some()
        return void (number !== undefined && (await redriveDeadLetters(own, { numbers: [number] })))
      }
      case 'skip one': {
        const number = await some()
        if (number === undefined) return
        const name = await nameOf(number)
        const { count } = await skipDeadLetters(own, { numbers: [number] })
        if (count === 1) skipped.add(name)
        return
      }
      case 'go on with':
        return void (await redriveParkedKeys(own, { consumer, key: each.key }))
      case 'go on without':
        // Any that has failed may be the one.
        if ((await skipParkedKeys(own, { consumer, key: each.key })) === 1)
          for (const name of fails.keys()) if (name.startsWith(each.key)) left.add(name)
        return
      case 'restart':
        await workers.shift()!.stop()
        workers.push(open())
        return workers.at(-1)!.start()
      case 'wait':
        return pause(300)
    }
  }
  for (const each of steps) await perform(each)

  // Now nothing fails any more, and all that is dead gets another chance.
  for (const name of fails.keys()) fails.set(name, 0)
  for (;;) {
    await redriveDeadLetters(own, { consumer })
    await redriveParkedKeys(own, { consumer })
    const [row] = await database.query<{ open: number }>(
      `select ((select count(*) from twinbox.inbox where consumer = $1)
        + (select count(*) from twinbox.parked_message where consumer = $1)
        + (select count(*) from twinbox.parked where consumer = $1)
        + (select count(*) from twinbox.dead_letter where consumer = $1))::int as open`,
      [consumer],
    )
    if (row!.open === 0) break
    await pause(50)
  }
  await Promise.all(workers.map((worker) => worker.stop()))

  const effects = await database.query<{ key: Key; n: number }>('select key, n from effects order by at')
  const once = effects.map((effect) => `${effect.key}${effect.n}`)
  expect(new Set(once).size).toBe(once.length)
  expect(new Set([...once, ...skipped])).toEqual(new Set(fails.keys()))
  expect(once.filter((name) => skipped.has(name))).toEqual([])
  for (const each of keys) {
    const order = effects
      .filter((effect) => effect.key === each && !left.has(`${each}${effect.n}`))
      .map(({ n }) => n)
    expect([each, order]).toEqual([each, order.toSorted((a, b) => a - b)])
  }
}

test('messages of a key stay in order through parking, redriving and skipping', async () => {
  await fc.assert(fc.asyncProperty(fc.array(step, { minLength: 5, maxLength: 30 }), run), {
    numRuns: 12,
    endOnFailure: true,
  })
}, 180_000)
