import { randomUUID } from 'node:crypto'
import fc from 'fast-check'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { Database } from '../src/database/database.ts'
import { inboxSql } from '../src/database/sql/inbox.ts'
import { readingSql } from '../src/database/sql/reading.ts'
import { laneSql } from '../src/database/sql/lane.ts'
import { workerSql } from '../src/database/sql/worker.ts'
import { createTestDatabase, type TestDatabase } from './support/postgres.ts'

/** What a dead claimer had in flight may be why it died: claims take of it only so much at a time, and nothing behind it. */
let database: TestDatabase
let own: Database
let server: string
beforeAll(async () => {
  database = await createTestDatabase()
  own = new Database(database.url)
  server = (await own.query(workerSql(own.schema).look))[0]!.server
})
afterAll(async () => {
  await own.close()
  await database.drop()
})

const worker = 1
const partition = 64

/** In order of seq, by how many claims of each have ended with a death; `room` for quarantined messages, and whether none is in flight. */
const cases = fc.record({
  crashes: fc.array(fc.oneof({ weight: 2, arbitrary: fc.constant(0) }, fc.integer({ min: 1, max: 3 })), {
    minLength: 1,
    maxLength: 12,
  }),
  room: fc.integer({ min: 0, max: 6 }),
  noneInFlight: fc.boolean(),
})

/** The rule in words: one that has outlived two claimers counts as a great many, and comes only as the first of all. */
function expected({
  crashes,
  room,
  noneInFlight,
}: {
  crashes: number[]
  room: number
  noneInFlight: boolean
}): boolean[] {
  let load = 0
  return crashes.map((deaths) => {
    const weight = deaths > 1 ? 1_000_000 : deaths
    load += weight
    return load <= room || (noneInFlight && load === weight)
  })
}

async function fill(consumer: string, crashes: readonly number[], lane: number): Promise<number[]> {
  const rows = await database.query<{ seq: string }>(
    `insert into twinbox.inbox (consumer, lane, id, topic, key, payload, attempt)
    select $1, $2, gen_random_uuid(), 't', 'k', '{}', n from unnest($3::int[]) with ordinality as c(n, nr) order by nr
    returning seq`,
    [consumer, lane, crashes],
  )
  return rows.map(({ seq }) => Number(seq))
}

test('a claim of rows takes the quarantined messages that there is room for, and nothing behind the first that is too many', async () => {
  await fc.assert(
    fc.asyncProperty(cases, async (given) => {
      const consumer = randomUUID()
      const seqs = await fill(consumer, given.crashes, partition)
      const { room, noneInFlight } = given
      const rows = await own.keep(inboxSql(own.schema).claim, {
        ...{ consumer, partitions: [partition], bounds: [0], limit: 100, worker, leaseMs: 1000, gone: [] },
        ...{ room, alone: noneInFlight, dealt: [], avoider: -1, avoidMs: 0, onlyHeld: false, bytes: 8e6 },
        server,
      })
      const taken = new Set(rows.map(({ seq }) => seq))
      expect(seqs.map((seq) => taken.has(seq))).toEqual(expected(given))
    }),
    { numRuns: 60 },
  )
})

test('so does a read of lanes, which says whether it has left something', async () => {
  await fc.assert(
    fc.asyncProperty(cases, async (given) => {
      const consumer = randomUUID()
      await own.query(laneSql(own.schema).create, { consumer, count: 1 })
      const [lane] = await own.keep(laneSql(own.schema).take, {
        ...{ consumer, worker, leaseMs: 60_000, gone: [], limit: 1, dealt: [] },
      })
      const seqs = await fill(consumer, given.crashes, 0)
      const { room, noneInFlight } = given
      const rows = await own.keep(readingSql(own.schema).read, {
        ...{ consumer, lanes: [0], fences: [lane!.fence], bounds: [0], budgets: [100], reaches: [0] },
        ...{ held: [[]], mark: false, room, alone: noneInFlight, bytes: 8e6, limit: 1000, past: [null] },
        server,
      })
      const taken = new Set(rows.map((row) => (row.lane === null ? null : row.seq)))
      const takes = expected(given)
      expect(seqs.map((seq) => taken.has(seq))).toEqual(takes)
      expect(rows[0]!.left_out).toBe(takes.includes(false))
      const [reach] = await database.query<{ reach: string }>(
        'select reach from twinbox.lane where consumer = $1',
        [consumer],
      )
      expect(Number(reach!.reach)).toBe(seqs.filter((_, index) => takes[index]).at(-1) ?? 0)
    }),
    { numRuns: 60 },
  )
})
