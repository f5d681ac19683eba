import type pg from 'pg'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { catalogue } from '../../src/database/sql/catalogue.ts'
import { bookkeepingSettings } from '../../src/database/sql/server.ts'
import { createTestDatabase, type TestDatabase } from '../support/postgres.ts'

/**
 * A million rows in each table that may grow, and every statement that runs by itself: what workers run all the time, publishers
 * for each message, and metrics whenever they are scraped. `test/plans.test.ts` has what is hot with 100,000, in batches.
 */
const rows = Number(process.env['ROWS'] ?? 1_000_000)
/** Rooms of `twinbox sql` whose statements run by themselves; those of the others run when an operator asks. */
const regular =
  /^(outbox|inbox|reading|lane|completion|waiting|parking|unhandled|receive|refused|circuit|schedule|sequence|sleep|subscription|upkeep|watch|worker|status)\./
const big = [
  'outbox',
  'inbox',
  'deferred',
  'parked_message',
  'unhandled',
  'dead_letter',
  'handled',
  'dedupe',
  'seen',
]

let database: TestDatabase
let client: pg.PoolClient
beforeAll(async () => {
  database = await createTestDatabase()
  client = await database.pool.connect()
  const series = `generate_series(1, ${rows}) as n`
  const shared = `gen_random_uuid(), 't' || n % 20, 'k' || n % 10000, '{"n":1}'`
  for (const text of [
    `insert into twinbox.lane (consumer, lane) select 'c', generate_series(0, 71)`,
    `insert into twinbox.outbox (lane, id, topic, key, payload) select n % 64, ${shared} from ${series}`,
    `insert into twinbox.inbox (consumer, lane, id, topic, key, payload)
      select 'c', n % 72, gen_random_uuid(), 't' || n % 20, case when n % 72 < 64 then 'k' || n % 10000 end, '{"n":1}' from ${series}`,
    `insert into twinbox.parked (consumer, lane, key, until, reason)
      select 'c', n % 64, 'k' || n, 'infinity', 'no' from generate_series(1, 10000) as n`,
    `insert into twinbox.parked_message (consumer, lane, seq, id, topic, key, payload)
      select 'c', n % 64, n, ${shared.replace("'k' || n % 10000", "'k' || (n % 64 + 64 * (n % 150))")} from ${series}`,
    `insert into twinbox.unhandled (consumer, lane, seq, received_at, id, topic, key, payload)
      select 'c', n % 64, n, now(), ${shared} from ${series}`,
    `insert into twinbox.deferred (consumer, due_at, id, topic, key, payload)
      select case when n % 2 = 0 then 'c' else '' end, now() + interval '1 day', ${shared} from ${series}`,
    `insert into twinbox.dead_letter (consumer, seq, attempt, reason, died_at, id, topic, key, payload)
      select 'c', n, 1, 'no', now() - interval '100 days' + n * interval '1 second', ${shared} from ${series}`,
    `insert into twinbox.dedupe (topic, dedupe_key, id, expires_at)
      select 't', 'd' || n, gen_random_uuid(), now() + n * interval '1 second' from ${series}`,
    `insert into twinbox.seen (consumer, id) select 'c', gen_random_uuid() from ${series}`,
    `insert into twinbox.handled (consumer, id, topic, key, worker, attempt, handled_at)
      select 'c', gen_random_uuid(), 't', 'k' || n, 1, 1, now() + n * interval '1 ms' from ${series}`,
    'vacuum analyze',
  ])
    await database.query(text)
  for (const [name, value] of Object.entries(bookkeepingSettings))
    await client.query(`set ${name} = '${value}'`)
}, 3_600_000)
afterAll(async () => {
  client.release()
  await database.drop()
})

interface Node {
  readonly 'Node Type': string
  readonly 'Relation Name'?: string
  readonly 'Actual Rows'?: number
  readonly 'Shared Hit Blocks': number
  readonly 'Shared Read Blocks': number
  readonly Plans?: readonly Node[]
}

const nodesOf = (node: Node): Node[] => [node, ...(node.Plans ?? []).flatMap(nodesOf)]

const statements = [...catalogue('twinbox')].filter(
  ([path, { text }]) => regular.test(path) && /^\s*(with|select|insert|update|delete)\b/.test(text),
)

test('there is a plan to look at of what runs by itself', () => {
  expect(statements.length).toBeGreaterThan(80)
})

test.each(statements)('%s reads no table through', async (_, { text, takes }) => {
  const examples = Object.values(takes).map(({ example }) => example)
  const filled = text.replaceAll(/\$(\d+)/g, (_found, number: string) => examples[Number(number) - 1]!)
  await client.query('begin')
  try {
    const { rows: lines } = await client.query<{ 'QUERY PLAN': [{ Plan: Node }] }>(
      `explain (analyze, buffers, timing off, format json) ${filled}`,
    )
    const root = lines[0]!['QUERY PLAN'][0].Plan
    const scans = nodesOf(root)
      .filter(
        ({ 'Node Type': type, 'Relation Name': table }) => type === 'Seq Scan' && big.includes(table ?? ''),
      )
      .map(({ 'Relation Name': table, 'Actual Rows': read }) => `${table}: ${read}`)
    expect({ scans, buffers: root['Shared Hit Blocks'] + root['Shared Read Blocks'] }).toEqual({
      scans: [],
      buffers: expect.toSatisfy((buffers: number) => buffers <= 5000, 'at most 5,000 pages') as number,
    })
  } finally {
    await client.query('rollback')
  }
})
