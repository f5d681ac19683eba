import { randomUUID } from 'node:crypto'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { Database } from '../src/database/database.ts'
import { receive } from '../src/database/inbox.ts'
import { laneSql } from '../src/database/sql/lane.ts'
import { Floor } from '../src/leases/floor.ts'
import type { Lane } from '../src/leases/lanes.ts'
import { Parking } from '../src/leases/parking.ts'
import { createTestDatabase, type TestDatabase } from './support/postgres.ts'

let database: TestDatabase
let own: Database
beforeAll(async () => {
  database = await createTestDatabase()
  own = new Database(database.url)
})
afterAll(async () => {
  await own.close()
  await database.drop()
})

const sql = laneSql('twinbox')

interface Taken {
  readonly lane: number
  readonly fence: number
  readonly floor: number
  readonly lowered: number
  readonly server: string
}

/** A lane with five messages of one key, held by worker 1. */
async function held(consumer: string): Promise<{ lane: Lane; seqs: number[] }> {
  const messages = Array.from({ length: 5 }, (_, n) => ({
    consumer,
    id: randomUUID(),
    topic: 't',
    key: 'k',
    headers: null,
    payload: String(n),
    body: null,
    contentType: null,
    publishedAt: null,
  }))
  await receive(own, messages)
  await own.query(sql.create, [consumer, 64])
  const taken = await own.keep<Taken>(sql.take, [consumer, 1, 60_000, [], 64, []])
  const rows = await database.query<{ lane: number; seq: string }>(
    'select lane, seq from twinbox.inbox where consumer = $1 order by seq',
    [consumer],
  )
  const { lane, fence, floor, lowered, server } = taken.find((candidate) => candidate.lane === rows[0]!.lane)!
  return {
    lane: {
      lane,
      fence,
      written: 0,
      floor: new Floor(floor),
      server,
      lowered,
      orphaned: 0,
      draining: false,
      keptUntil: 0,
    },
    seqs: rows.map(({ seq }) => Number(seq)),
  }
}

const floorOf = async (consumer: string, lane: number): Promise<number> =>
  Number(
    (
      await database.query<{ floor: string }>(
        'select floor from twinbox.lane where consumer = $1 and lane = $2',
        [consumer, lane],
      )
    )[0]!.floor,
  )
const stands = async (table: string, consumer: string): Promise<number[]> =>
  (
    await database.query<{ payload: number }>(
      `select payload from twinbox.${table} where consumer = $1 order by seq`,
      [consumer],
    )
  ).map(({ payload }) => payload)

test('a renewal that arrives after messages have come back does not raise the floor over them', async () => {
  const { lane, seqs } = await held('late')
  const parking = new Parking(own, 'late', () => {})
  await parking.park(lane, { key: 'k', seq: seqs[0]!, reason: 'why' }, 0, seqs)
  // The lane is empty, so its floor moves on.
  const renew = (floor: number, lowered: number): Promise<unknown> =>
    own.keep(sql.renew, ['late', 1, 60_000, [lane.lane], [lane.fence], [floor], [lowered], [lane.server]])
  const last = seqs.at(-1)!
  await renew(last, lane.lowered)
  expect(await floorOf('late', lane.lane)).toBe(last)
  const before = lane.lowered
  const lanes = new Map([[lane.lane, lane]])
  expect(await parking.release(lanes, () => true)).toEqual([lane])
  expect(await stands('inbox', 'late')).toEqual([0, 1, 2, 3, 4])
  // What was sent before, with the floor and the count of before.
  await renew(last, before)
  expect(await floorOf('late', lane.lane)).toBeLessThan(seqs[0]!)
  // What is sent now may raise it again.
  await renew(last, lane.lowered)
  expect(await floorOf('late', lane.lane)).toBe(last)
})

test('whoever has lost the lane moves nothing', async () => {
  const { lane, seqs } = await held('lost')
  const parking = new Parking(own, 'lost', () => {})
  const stale = { ...lane, fence: lane.fence - 1 }
  await parking.park(stale, { key: 'k', seq: seqs[0]!, reason: 'why' }, 0, seqs)
  await parking.follow(stale, seqs)
  expect(await stands('parked_message', 'lost')).toEqual([])
  await parking.park(lane, { key: 'k', seq: seqs[0]!, reason: 'why' }, 0, seqs)
  expect(await stands('inbox', 'lost')).toEqual([])
  await parking.release(new Map([[lane.lane, stale]]), () => true)
  expect(await stands('inbox', 'lost')).toEqual([])
  expect(await stands('parked_message', 'lost')).toEqual([0, 1, 2, 3, 4])
})

test('a key is free again once nothing of it waits, and not before', async () => {
  const { lane, seqs } = await held('free')
  const parking = new Parking(own, 'free', () => {})
  const lanes = new Map([[lane.lane, lane]])
  await parking.park(lane, { key: 'k', seq: seqs[0]!, reason: 'why' }, 60_000, seqs.slice(0, 3))
  expect(parking.holdsBack(lane.lane, 'k', seqs[4]!)).toBe(true)
  expect(parking.holdsBack(lane.lane, 'other', seqs[4]!)).toBe(false)
  await parking.release(lanes, () => true)
  expect(await stands('parked_message', 'free')).toEqual([0, 1, 2])
  await database.query(`update twinbox.parked set until = now() where consumer = 'free'`)
  await parking.release(lanes, () => true)
  // What is back may go on, what came later still follows the rest.
  expect(parking.holdsBack(lane.lane, 'k', seqs[2]!)).toBe(false)
  expect(parking.holdsBack(lane.lane, 'k', seqs[3]!)).toBe(true)
  await parking.release(lanes, () => true)
  expect(parking.holdsBack(lane.lane, 'k', seqs[3]!)).toBe(false)
  expect(await database.query(`select from twinbox.parked where consumer = 'free'`)).toEqual([])
})

/** The database, but of one statement the answer is lost with the connection. */
function losing(name: string): Database {
  const keep: Database['keep'] = async (statement, values) => {
    const rows = await own.keep(statement, values)
    if (statement.name!.endsWith(`.${name}`)) throw new Error('The connection was lost.')
    return rows as never
  }
  return Object.create(own, { keep: { value: keep } }) as Database
}

test('what was read of a key that is no longer parked stays, and is read again', async () => {
  const { lane, seqs } = await held('struck')
  const parking = new Parking(own, 'struck', () => {})
  const first = seqs[0]!
  await parking.park(lane, { key: 'k', seq: first, reason: 'why' }, 60_000, [first])
  expect(parking.holdsBack(lane.lane, 'k', seqs[1]!)).toBe(true)
  // As if the answer to what has struck it off had been lost.
  await database.query(`delete from twinbox.parked where consumer = 'struck'`)
  const { lowered } = lane.floor
  await parking.follow(lane, seqs.slice(1))
  expect(await stands('inbox', 'struck')).toEqual([1, 2, 3, 4])
  expect(lane.floor.lowered).toBeGreaterThan(lowered)
  expect(lane.floor.bound).toBeLessThan(seqs[1]!)
  expect(parking.holdsBack(lane.lane, 'k', seqs[1]!)).toBe(false)
})

test('a key of which it is not known whether it is parked is held back until it is', async () => {
  const { lane, seqs } = await held('unsure')
  const parking = new Parking(losing('park'), 'unsure', () => {})
  const parked = parking.park(lane, { key: 'k', seq: seqs[0]!, reason: 'why' }, 60_000, seqs)
  await expect(parked).rejects.toThrow('lost')
  expect(await stands('parked_message', 'unsure')).toEqual([0, 1, 2, 3, 4])
  expect(parking.holdsBack(lane.lane, 'k', seqs.at(-1)! + 1)).toBe(true)
})

test('messages are found that are back without anybody having heard of it', async () => {
  const { lane, seqs } = await held('back')
  await new Parking(own, 'back', () => {}).park(lane, { key: 'k', seq: seqs[0]!, reason: 'why' }, 0, seqs)
  const passed = { ...lane, floor: new Floor(seqs.at(-1)!) }
  const parking = new Parking(losing('release_parked'), 'back', () => {})
  await expect(parking.release(new Map([[lane.lane, passed]]), () => true)).rejects.toThrow('lost')
  expect(await stands('inbox', 'back')).toEqual([0, 1, 2, 3, 4])
  expect(passed.floor.bound).toBeLessThan(seqs[0]!)
})
