import type pg from 'pg'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { catalogue } from '../../src/database/sql/catalogue.ts'
import { bookkeepingSettings } from '../../src/database/sql/server.ts'
import { pruneBatch } from '../../src/upkeep/prune.ts'
import { createTestDatabase, type TestDatabase } from '../support/postgres.ts'

/**
 * A million rows in each table that may grow, and every statement that runs by itself: what workers run all the time, publishers
 * for each message, and metrics whenever they are scraped. `test/plans.test.ts` has what is hot with 100,000, in batches.
 */
const rows = Number(process.env['ROWS'] ?? 1_000_000)
/** Rooms of `twinbox sql` whose statements run by themselves; those of the others run when an operator asks. */
const regular =
  /^(outbox|inbox|reading|lane|completion|waiting|parking|unhandled|moving|receive|refused|circuit|schedule|sequence|sleep|subscription|upkeep|watch|worker|status)\./
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
      select 'c', n, 1, 'no', now() + interval '1 day' + n * interval '1 second', ${shared} from ${series}`,
    `insert into twinbox.dedupe (topic, dedupe_key, id, expires_at)
      select 't', 'd' || n, gen_random_uuid(), now() + n * interval '1 second' from ${series}`,
    `insert into twinbox.seen (consumer, id, seen_at) select 'c', gen_random_uuid(), now() + interval '1 day' from ${series}`,
    `insert into twinbox.handled (consumer, id, topic, key, worker, attempt, handled_at)
      select 'c', gen_random_uuid(), 't', 'k' || n, 1, 1, now() + interval '1 day' + n * interval '1 ms' from ${series}`,
    'vacuum analyze',
  ])
    await database.query(text)
}, 3_600_000)
afterAll(async () => {
  client.release()
  await database.drop()
})

interface Node {
  readonly 'Node Type': string
  readonly 'Relation Name'?: string
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

/** How many pages a statement may read. */
const most = (path: string): number => {
  // Looks for the last place in tables that have no index for it: when a worker starts or has come back.
  if (path === 'sequence.mend') return 50_000
  // Of a batch of 5,000, each row with what may hold it.
  if (path.startsWith('upkeep.')) return 20_000
  // Where nothing of the outbox is parked, all that consumers have parked is looked through for it.
  if (path === 'status.parkedMessages') return 20_000
  return 5000
}
/** A scan that stops at the first rows is none. */
const fewPages = 1000

test.each(statements)('%s reads no table through', async (path, { text, takes, isPrepared }) => {
  const examples = Object.values(takes).map(({ example }) => example)
  // A batch as upkeep takes it: for one row another plan is better.
  if (path.startsWith('upkeep.')) examples[0] = String(pruneBatch)
  const filled = text.replaceAll(/\$(\d+)/g, (_found, number: string) => examples[Number(number) - 1]!)
  await client.query('begin')
  try {
    // As workers run them: what is planned each time has the planner's own settings.
    if (isPrepared)
      for (const [name, value] of Object.entries(bookkeepingSettings))
        await client.query(`set local ${name} = '${value}'`)
    const { rows: lines } = await client.query<{ 'QUERY PLAN': [{ Plan: Node }] }>(
      `explain (analyze, buffers, timing off, format json) ${filled}`,
    )
    const root = lines[0]!['QUERY PLAN'][0].Plan
    const pages = root['Shared Hit Blocks'] + root['Shared Read Blocks']
    const scans = nodesOf(root)
      .filter(({ 'Node Type': type, 'Relation Name': table }) => type === 'Seq Scan' && big.includes(table!))
      .map(({ 'Relation Name': table }) => table)
    expect(pages).toBeLessThanOrEqual(most(path))
    expect(pages <= fewPages || path === 'status.parkedMessages' ? [] : scans).toEqual([])
  } finally {
    await client.query('rollback')
  }
})
