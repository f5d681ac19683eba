import { afterAll, beforeAll, expect, test } from 'vitest'
import { Database } from '../src/database/database.ts'
import { receive } from '../src/database/inbox.ts'
import { laneSql } from '../src/database/sql/lane.ts'
import { Watermark } from '../src/lanes/watermark.ts'
import type { Lane } from '../src/lanes/lane.ts'
import { Parking, type HeldKey } from '../src/lanes/parking.ts'
import { createTestDatabase, type TestDatabase } from './support/postgres.ts'
import { inboxMessage } from './support/messages.ts'

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

/** The key of a lane from `held`, behind the first of these messages, which has not failed. */
const behind = ({ lane, seqs: all, ids }: Held, seqs = all, forMs = 0): HeldKey => ({
  lane,
  key: 'k',
  seq: seqs[0]!,
  id: ids[all.indexOf(seqs[0]!)]!,
  reason: 'why',
  dead: false,
  failure: null,
  forMs,
  rest: seqs.slice(1),
})

interface Held {
  readonly lane: Lane
  readonly seqs: number[]
  readonly ids: string[]
}

/** A lane with five messages of one key, held by worker 1. */
async function held(consumer: string): Promise<Held> {
  const messages = Array.from({ length: 5 }, (_, n) =>
    inboxMessage({ consumer, key: 'k', payload: String(n) }),
  )
  await receive(own, messages)
  await own.query(sql.create, { consumer, count: 64 })
  const taken = await own.keep(sql.take, {
    consumer,
    worker: 1,
    leaseMs: 60_000,
    gone: [],
    limit: 64,
    dealt: [],
  })
  const rows = await database.query<{ lane: number; seq: string; id: string }>(
    'select lane, seq, id from twinbox.inbox where consumer = $1 order by seq',
    [consumer],
  )
  const { lane, fence, watermark, lowered, server } = taken.find(
    (candidate) => candidate.lane === rows[0]!.lane,
  )!
  return {
    lane: {
      lane,
      fence,
      written: 0,
      watermark: new Watermark(watermark),
      server,
      lowered,
      abandoned: false,
      draining: false,
      assignee: null,
      keptUntil: 0,
    },
    seqs: rows.map(({ seq }) => Number(seq)),
    ids: rows.map(({ id }) => id),
  }
}

const watermarkOf = async (consumer: string, lane: number): Promise<number> =>
  Number(
    (
      await database.query<{ watermark: string }>(
        'select watermark from twinbox.lane where consumer = $1 and lane = $2',
        [consumer, lane],
      )
    )[0]!.watermark,
  )
const stands = async (table: string, consumer: string): Promise<number[]> =>
  (
    await database.query<{ payload: number }>(
      `select payload from twinbox.${table} where consumer = $1 order by seq`,
      [consumer],
    )
  ).map(({ payload }) => payload)

test('a renewal that arrives after messages have come back does not raise the watermark over them', async () => {
  const given = await held('late')
  const { lane, seqs } = given
  const parking = new Parking(own, 'late', () => {})
  await parking.park([behind(given)])
  // The lane is empty, so its watermark moves on.
  const renew = (watermark: number, lowered: number): Promise<unknown> =>
    own.keep(sql.renew, {
      ...{ consumer: 'late', worker: 1, leaseMs: 60_000, lanes: [lane.lane], fences: [lane.fence] },
      ...{ watermarks: [watermark], lowered: [lowered], servers: [lane.server] },
    })
  const last = seqs.at(-1)!
  await renew(last, lane.lowered)
  expect(await watermarkOf('late', lane.lane)).toBe(last)
  const before = lane.lowered
  const lanes = new Map([[lane.lane, lane]])
  expect(await parking.release(lanes, () => true)).toEqual([lane])
  expect(await stands('inbox', 'late')).toEqual([0, 1, 2, 3, 4])
  // What was sent before, with the watermark and the count of before.
  await renew(last, before)
  expect(await watermarkOf('late', lane.lane)).toBeLessThan(seqs[0]!)
  // What is sent now may raise it again.
  await renew(last, lane.lowered)
  expect(await watermarkOf('late', lane.lane)).toBe(last)
})

test('whoever has lost the lane moves nothing', async () => {
  const given = await held('lost')
  const { lane, seqs } = given
  const parking = new Parking(own, 'lost', () => {})
  const stale = { ...lane, fence: lane.fence - 1 }
  expect((await parking.park([behind({ ...given, lane: stale })])).size).toBe(0)
  await parking.follow(stale, seqs)
  expect(await stands('parked_message', 'lost')).toEqual([])
  await parking.park([behind(given)])
  expect(await stands('inbox', 'lost')).toEqual([])
  await parking.release(new Map([[lane.lane, stale]]), () => true)
  expect(await stands('inbox', 'lost')).toEqual([])
  expect(await stands('parked_message', 'lost')).toEqual([0, 1, 2, 3, 4])
})

test('a key is free again once nothing of it waits, and not before', async () => {
  const given = await held('free')
  const { lane, seqs } = given
  const parking = new Parking(own, 'free', () => {})
  const lanes = new Map([[lane.lane, lane]])
  await parking.park([behind(given, seqs.slice(0, 3), 60_000)])
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
  const keep: Database['keep'] = async (statement, ...given) => {
    const rows = await own.keep(statement, ...given)
    if (statement.name.endsWith(`.${name}`)) throw new Error('The connection was lost.')
    return rows
  }
  return Object.create(own, { keep: { value: keep } }) as Database
}

test('what was read of a key that is no longer parked stays, and is read again', async () => {
  const given = await held('struck')
  const { lane, seqs } = given
  const parking = new Parking(own, 'struck', () => {})
  await parking.park([behind(given, seqs.slice(0, 1), 60_000)])
  expect(parking.holdsBack(lane.lane, 'k', seqs[1]!)).toBe(true)
  // As if the answer to what has struck it off had been lost.
  await database.query(`delete from twinbox.parked where consumer = 'struck'`)
  const { lowered } = lane.watermark
  await parking.follow(lane, seqs.slice(1))
  expect(await stands('inbox', 'struck')).toEqual([1, 2, 3, 4])
  expect(lane.watermark.lowered).toBeGreaterThan(lowered)
  expect(lane.watermark.tentative).toBeLessThan(seqs[1]!)
  expect(parking.holdsBack(lane.lane, 'k', seqs[1]!)).toBe(false)
})

test('a key of which it is not known whether it is parked is held back until it is', async () => {
  const given = await held('unsure')
  const { lane, seqs } = given
  const parking = new Parking(losing('parking.park'), 'unsure', () => {})
  const parked = parking.park([behind(given, seqs, 60_000)])
  await expect(parked).rejects.toThrow('lost')
  expect(await stands('parked_message', 'unsure')).toEqual([0, 1, 2, 3, 4])
  expect(parking.holdsBack(lane.lane, 'k', seqs.at(-1)! + 1)).toBe(true)
})

test('messages are found that are back without anybody having heard of it', async () => {
  const given = await held('back')
  const { lane, seqs } = given
  await new Parking(own, 'back', () => {}).park([behind(given)])
  const passed = { ...lane, watermark: new Watermark(seqs.at(-1)!) }
  const parking = new Parking(losing('parking.release'), 'back', () => {})
  await expect(parking.release(new Map([[lane.lane, passed]]), () => true)).rejects.toThrow('lost')
  expect(await stands('inbox', 'back')).toEqual([0, 1, 2, 3, 4])
  expect(passed.watermark.tentative).toBeLessThan(seqs[0]!)
})

test('what a dead letter has parked for good stays so, whoever parks it again', async () => {
  const given = await held('dead')
  const { lane, seqs, ids } = given
  const parking = new Parking(own, 'dead', () => {})
  const failure = { attempts: 3, error: '{"error": "no"}' }
  const dead = { ...behind(given, seqs.slice(0, 2)), dead: true, failure, forMs: null }
  expect([...(await parking.park([dead])).values()]).toEqual([true])
  const later = { ...behind(given, seqs.slice(2)), reason: 'later', failure, forMs: 10 }
  expect([...(await parking.park([later])).values()]).toEqual([false])
  expect(
    await database.query(
      `select until = 'infinity' as ever, reason, blocker from twinbox.parked where consumer = 'dead'`,
    ),
  ).toEqual([{ ever: true, reason: 'why', blocker: String(seqs[0]) }])
  expect(await parking.release(new Map([[lane.lane, lane]]), () => true)).toEqual([])
  expect(
    await database.query(
      `select id, attempt, jsonb_array_length(errors) as errors from twinbox.dead_letter where consumer = 'dead'`,
    ),
  ).toEqual([{ id: ids[0], attempt: 3, errors: 1 }])
  // What failed is told of, and its attempts; what follows is untouched.
  expect(
    await database.query(
      `select attempt, jsonb_array_length(errors) as errors from twinbox.parked_message where consumer = 'dead' order by seq`,
    ),
  ).toEqual([
    { attempt: 0, errors: null },
    { attempt: 3, errors: 1 },
    { attempt: 0, errors: null },
    { attempt: 0, errors: null },
  ])
})
