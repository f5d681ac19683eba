import { execFile } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { promisify } from 'node:util'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { createClaimer, createOutbox, type TwinboxEvent } from '../src/index.ts'
import { createTestDatabase, type TestDatabase } from './support/postgres.ts'
import { compiled } from './support/shared.ts'

/** A backlog of any size is worked off by one process in a small container: what is read at once is bounded in bytes. */

await compiled('dist')

const run = promisify(execFile)
const count = 400
let database: TestDatabase
beforeAll(async () => {
  database = await createTestDatabase()
})
afterAll(() => database.drop())

/** A worker in a process with a heap of 256 MB, which ends by itself once a table is empty. */
const worker = (kind: 'relay' | 'claimer', table: string): string => `
  import pg from 'pg'
  import { createClaimer, createRelay } from '${new URL('../dist/src/index.js', import.meta.url).href}'
  const database = ${JSON.stringify(database.url)}
  const broker = {
    name: 'null', send: async (batch) => batch.map(() => ({ status: 'sent' })),
    subscribe: async () => ({ stop: async () => {} }), close: async () => {},
  }
  let bytes = 0
  const onEvent = ({ type, error }) => { if (type === 'trouble' || type === 'message_failed') console.error(type, error) }
  const worker = '${kind}' === 'relay'
    ? createRelay({ database, broker, onEvent })
    : createClaimer({ database, consumer: 'c', concurrency: 2, onEvent }, { t: (message) => { bytes += message.payload.text.length } })
  await worker.start()
  const pool = new pg.Pool({ connectionString: database })
  while ((await pool.query('select exists (select from ${table}) as more')).rows[0].more) await new Promise((wake) => setTimeout(wake, 50))
  await worker.stop()
  await pool.end()
  console.log(bytes)`

/** So many of a megabyte each, half of them packed to a hundredth of that on disk. */
async function fill(table: 'outbox' | 'inbox', keyed: boolean): Promise<void> {
  const outbox = createOutbox()
  // What a test that failed has left would be copied as well.
  await database.query('truncate twinbox.outbox, twinbox.inbox')
  await database.transaction((client) =>
    outbox.publishMany(client, [
      { topic: 't', key: keyed ? '0' : null, payload: { text: 'x'.repeat(1_000_000) } },
      { topic: 't', key: keyed ? '1' : null, payload: { text: randomBytes(500_000).toString('hex') } },
    ]),
  )
  const key = keyed ? `'k' || n` : 'null::text'
  const lane = (other: string): string => (keyed ? `twinbox.lane_of('k' || n)` : other)
  const copies = `from twinbox.outbox as m, generate_series(1, ${count / 2}) as n`
  if (table === 'outbox') {
    await database.query(
      `insert into twinbox.outbox (lane, id, topic, key, payload)
      select ${lane('n % 64')}, gen_random_uuid(), topic, ${key}, payload ${copies}`,
    )
    return
  }
  await database.query(
    `insert into twinbox.inbox (consumer, lane, id, topic, key, payload)
    select 'c', ${lane('64 + n % 8')}, gen_random_uuid(), topic, ${key}, payload ${copies}`,
  )
  await database.query('truncate twinbox.outbox')
}

describe.each([
  ['relay', 'outbox'],
  ['claimer', 'inbox'],
] as const)('a %s', (kind, table) => {
  test.each([
    ['with keys', true],
    ['without keys', false],
  ])(
    `works off ${count} messages of 1 MB %s in 256 MB`,
    async (_, keyed) => {
      await fill(table, keyed)
      const source = ['--input-type=module', '-e', worker(kind, `twinbox.${table}`)]
      const { stdout, stderr } = await run(process.execPath, ['--max-old-space-size=256', ...source])
      expect(stderr).toBe('')
      if (kind === 'claimer') expect(Number(stdout)).toBe(count * 1_000_000)
      expect(await database.query('select from twinbox.dead_letter')).toEqual([])
    },
    240_000,
  )
})

test.each([
  ['with keys', (n: number) => `k${n % 500}`],
  ['without keys', () => null],
])('a claimer holds twice its batchSize at most, %s', async (_, keyOf) => {
  const consumer = randomBytes(4).toString('hex')
  await database.query(
    `insert into twinbox.inbox (consumer, lane, id, topic, key, payload)
    select $1, coalesce(twinbox.lane_of(key), 64 + nr % 8), gen_random_uuid(), 't', key, '1'
    from unnest($2::text[]) with ordinality as m(key, nr)`,
    [consumer, Array.from({ length: 5000 }, (__, n) => keyOf(n))],
  )
  let held = 0
  let most = 0
  let handled = 0
  const onEvent = (event: TwinboxEvent): void => {
    if (event.type === 'claimed') most = Math.max(most, (held += event.ids.length))
    if (event.type === 'handled') {
      held -= event.ids.length
      handled += event.ids.length
    }
  }
  const claimer = createClaimer(
    { database: database.url, consumer, batchSize: 50, concurrency: 4, onEvent },
    { t: { transaction: false, handle: () => {} } },
  )
  await claimer.start()
  await expect.poll(() => handled, { timeout: 30_000 }).toBe(5000)
  await claimer.stop()
  expect(most).toBeLessThanOrEqual(100)
  expect(most).toBeGreaterThan(20)
})
