import { afterAll, beforeAll, expect, test } from 'vitest'
import { inboxLanes, layout, share, partitionLanes } from '../src/database/layout.ts'
import { createTestDatabase, type TestDatabase } from './support/postgres.ts'

/** The migrations are plain SQL: whether they mean the numbers of `layout` is asked of the tables that they have made. */

let database: TestDatabase
beforeAll(async () => {
  database = await createTestDatabase()
})
afterAll(() => database.drop())

/** The text of a function, as the server has it. */
const bodyOf = async (name: string): Promise<string> => {
  const rows = await database.query<{ text: string }>(
    `select pg_get_functiondef(oid) as text from pg_proc where pronamespace = 'twinbox'::regnamespace and proname = $1`,
    [name],
  )
  expect([name, rows.length]).toEqual([name, 1])
  return rows[0]!.text
}

/** Every number that a pattern finds in a text. */
const numbersOf = (text: string, pattern: RegExp): number[] =>
  [...text.matchAll(pattern)].map(([, number]) => Number(number))

const lanes = Array.from({ length: layout.lanes }, (_, lane) => lane)

test('lane_of gives every lane, and none beside them', async () => {
  const rows = await database.query<{ lane: number }>(
    `select distinct twinbox.lane_of(key::text) as lane from generate_series(1, 10000) as key order by lane`,
  )
  expect(rows.map(({ lane }) => lane)).toEqual(lanes)
})

test('the outbox has a row for each lane', async () => {
  const rows = await database.query<{ lane: number }>(
    `select lane from twinbox.lane where consumer = '' order by lane`,
  )
  expect(rows.map(({ lane }) => lane)).toEqual(lanes)
})

test('publish() spreads messages without a key over the lanes, and over all of them', async () => {
  expect(numbersOf(await bodyOf('publish'), /random\(\) \* (\d+)/g)).toEqual([layout.lanes])
  await database.query(`select count(twinbox.publish('t', '1')) from generate_series(1, 3000)`)
  const rows = await database.query<{ lane: number }>(
    `select distinct lane from twinbox.outbox order by lane`,
  )
  expect(rows.map(({ lane }) => lane)).toEqual(lanes)
})

test('publish_many() fills one lane after the other, and all of them', async () => {
  expect(numbersOf(await bodyOf('publish_many'), /[/%] (\d+)/g)).toEqual([layout.inARow, layout.lanes])
})

test.each(['complete_one', 'complete_many'])(
  '%s() asks for the fence of the lane in lanes, and of the row in partitions',
  async (name) => {
    expect(numbersOf(await bodyOf(name), /lane < (\d+)/g)).toEqual([layout.lanes])
  },
)

test('mend_sequences() looks through every lane of the outbox', async () => {
  expect(numbersOf(await bodyOf('mend_sequences'), /generate_series\(0, (\d+)\)/g)).toEqual([
    layout.lanes - 1,
  ])
})

test('lane_number lets every lane of the outbox through, and no other', async () => {
  const [row] = await database.query<{ check: string }>(
    `select pg_get_constraintdef(oid) as check from pg_constraint where contypid = 'twinbox.lane_number'::regtype`,
  )
  expect(numbersOf(row!.check, /VALUE [<>]= '?\(?(\d+)/g)).toEqual([0, layout.lanes - 1])
})

test('no other function has a number of the layout', async () => {
  const rows = await database.query<{ name: string; text: string }>(
    `select proname::text as name, pg_get_functiondef(oid) as text from pg_proc
    where pronamespace = 'twinbox'::regnamespace`,
  )
  const numbers = new RegExp(
    `\\b(${[layout.lanes - 1, layout.lanes, inboxLanes - 1, inboxLanes, layout.perWorker].join('|')})\\b`,
  )
  const named = rows.filter(({ text }) => numbers.test(text)).map(({ name }) => name)
  // Each has its test above, but each_header_is_sound(): a message has at most 64 headers.
  expect(named.toSorted((a, b) => a.localeCompare(b))).toEqual([
    'complete_many',
    'complete_one',
    'each_header_is_sound',
    'lane_of',
    'mend_sequences',
    'publish',
    'publish_many',
  ])
})

test('a share is of one worker and of one of its lanes or parts', () => {
  expect(layout.perWorker).toBeGreaterThanOrEqual(Math.max(inboxLanes, layout.rowParts))
  expect(share(2, 0)).toBeGreaterThan(share(1, Math.max(inboxLanes, layout.rowParts) - 1))
  // Workers are numbered by an integer, and the statement compares as bigint.
  expect(Number.isSafeInteger(share(2 ** 31 - 1, layout.perWorker - 1))).toBe(true)
  expect(partitionLanes).toHaveLength(layout.partitions)
  expect([partitionLanes[0], partitionLanes.at(-1)]).toEqual([layout.lanes, inboxLanes - 1])
})
