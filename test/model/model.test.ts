import * as fc from 'fast-check'
import pg from 'pg'
import { afterAll, afterEach, beforeAll, beforeEach, expect, test, vi } from 'vitest'
import { postgres } from '../../src/brokers/postgres/postgres.ts'
import type { Broker } from '../../src/index.ts'
import { createTestDatabase, type TestDatabase } from '../support/postgres.ts'
import { consumer, happened, history, places, publishers, topic, World } from './world.ts'

/**
 * Leases, fences, lanes and the watermark, in random histories: real workers and several publishers on a real Postgres,
 * but each step of each of them, how long things take, who stands still meanwhile, what mood the broker is in, and
 * whether sequences go back and tables are truncated, is drawn. The time is a clock that the history moves, for the
 * workers and, by moving the leases, for the database.
 *
 * `RUNS=5000 SEED=42 npx vitest run test/model` runs more of them, or those of a seed again.
 */
const runs = Number(process.env['RUNS'] ?? 8)
const seed = Number(process.env['SEED'] ?? Date.now() % 2 ** 31)

vi.mock(import('../../src/base/loop.ts'), async (original) => {
  const { startStepped } = await import('./loops.ts')
  return { ...(await original()), startLoop: startStepped }
})

let database: TestDatabase
let broker: Broker
let other: TestDatabase
const clients: pg.Client[] = []
beforeAll(async () => {
  database = await createTestDatabase()
  other = await createTestDatabase({ migrated: false })
  await database.query('create table effects (at bigserial, id uuid, key text)')
  await database.query(places.create)
  broker = postgres({ database: database.url })
  await broker.subscribe({ consumer, topics: [topic] } as never, async () => {})
  for (const url of [...Array.from({ length: publishers }, () => database.url), other.url]) {
    const client = new pg.Client({ connectionString: url })
    await client.connect()
    clients.push(client)
  }
})
afterAll(async () => {
  for (const client of clients) await client.end()
  await broker.close()
  await database.drop()
  await other.drop()
})
beforeEach(() => void vi.useFakeTimers({ toFake: ['performance'] }))
afterEach(() => void vi.useRealTimers())

async function clean(): Promise<void> {
  await database.query(
    `truncate effects, twinbox.outbox, twinbox.inbox, twinbox.seen, twinbox.deferred, twinbox.parked,
      twinbox.parked_message, twinbox.dead_letter, twinbox.worker, twinbox.model_place, twinbox.model_back`,
  )
  await database.query(
    `update twinbox.lane set holder = null, lease_until = '-infinity', reach = 0, past = null, watermark = 0`,
  )
}

test(
  `whatever happens in between, each message that was committed is handled once, and in order; with a window, again only if a lease was lost (seed ${seed})`,
  async () => {
    const property = fc.asyncProperty(history, async (steps) => {
      await clean()
      // In some, handlers have no transaction and keys a window; in the others, some claimers handle in runs.
      const isWindowed = steps[0]!.pick % 3 === 0
      const world = new World(database, broker, clients.slice(0, publishers), clients.at(-1)!, isWindowed)
      try {
        await world.join('relay')
        await world.join('claimer')
        for (const step of steps) await world.step(step)
        await world.drain()
        expect(await world.faults()).toEqual([])
      } finally {
        await world.close()
      }
    })
    const survived = [
      ...['worker_dead', 'takeover', 'lease_lost', 'message_failed', 'parked', 'lanes_released'],
      ...['dead_letter', 'sequence_mended'],
    ]
    const missing = (): string[] => survived.filter((type) => (happened.get(type) ?? 0) <= runs / 50)
    // Few histories may hold no dead letter: then others follow, three times as many at most.
    for (let turn = 0; turn === 0 || (turn <= 3 && missing().length > 0); turn++)
      // Where it fails is worth more than the shortest way to fail: a history takes a second.
      await fc.assert(property, { numRuns: runs, seed: seed + turn, endOnFailure: true })
    expect(missing()).toEqual([])
  },
  // A hang is found by the run that stands, not by the sum: a history takes one second, or four beside other work.
  runs * 20_000,
)
