import pg from 'pg'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { bookkeepingSettings } from '../src/database/sql/server.ts'
import { applyRoles } from '../src/database/roles.ts'
import { sqlstate } from '../src/database/sqlstate.ts'
import { searchSql } from '../src/database/sql/search.ts'
import { explainSql } from '../src/database/sql/explain.ts'
import { completionSql } from '../src/database/sql/completion.ts'
import { floodSql } from '../src/database/sql/flood.ts'
import { inboxSql } from '../src/database/sql/inbox.ts'
import { readingSql } from '../src/database/sql/reading.ts'
import { laneSql } from '../src/database/sql/lane.ts'
import { movingSql } from '../src/database/sql/moving.ts'
import { outboxSql } from '../src/database/sql/outbox.ts'
import type { Parameters, ValuesOf } from '../src/database/sql/parameter.ts'
import type { Statement } from '../src/database/sql/statement.ts'
import { unhandledSql } from '../src/database/sql/unhandled.ts'
import { parkingSql } from '../src/database/sql/parking.ts'
import { waitingSql } from '../src/database/sql/waiting.ts'
import { workerSql } from '../src/database/sql/worker.ts'
import { createTestDatabase, serverUrl, type TestDatabase } from './support/postgres.ts'

/**
 * Every hot statement has to stay an index scan that touches few pages: with 100,000 rows waiting, and with 100,000 dead
 * ones that nobody may clear away because somewhere a snapshot is held.
 */
const rows = 100_000

interface Plan {
  readonly buffers: number
  readonly scans: string[]
}

async function explain(client: pg.ClientBase, text: string, values: unknown[] = []): Promise<Plan> {
  await client.query('begin')
  try {
    const { rows: lines } = await client.query<{ 'QUERY PLAN': unknown }>(
      `explain (analyze, buffers, timing off, format json) ${text}`,
      values,
    )
    const [{ Plan: root }] = lines[0]!['QUERY PLAN'] as [{ Plan: Node }]
    const scans: string[] = []
    const walk = (node: Node): void => {
      if (/^(Seq|Bitmap).*Scan/.test(node['Node Type']) && node['Relation Name'] !== undefined) {
        scans.push(`${node['Node Type']} on ${node['Relation Name']}`)
      }
      node.Plans?.forEach(walk)
    }
    walk(root)
    return { buffers: root['Shared Hit Blocks'] + root['Shared Read Blocks'], scans }
  } finally {
    await client.query('rollback')
  }
}

interface Node {
  readonly 'Node Type': string
  readonly 'Relation Name'?: string
  readonly 'Shared Hit Blocks': number
  readonly 'Shared Read Blocks': number
  readonly Plans?: Node[]
}

const batch = 100
/** Where what was confirmed or handled was read. */
let server = ''
const lanes = Array.from({ length: 64 }, (_, lane) => lane)
const partitions = Array.from({ length: 8 }, (_, index) => 64 + index)

interface Row {
  readonly lane: number
  readonly seq: number
  readonly id: string
}

/** The statements as the workers run them, with reads that start at `watermark`, over the messages right above it. */
function statements(
  watermark: number,
  first: readonly Row[],
  inLanes: readonly Row[],
  partition: readonly Row[],
): Case[] {
  const outbox = outboxSql('twinbox')
  const inbox = inboxSql('twinbox')
  const completion = completionSql('twinbox')
  const waiting = waitingSql('twinbox')
  const parking = parkingSql('twinbox')
  const unhandled = unhandledSql('twinbox')
  const laneStatements = laneSql('twinbox')
  const reading = readingSql('twinbox')
  const each = <Value>(value: Value, count = batch): Value[] => Array.from({ length: count }, () => value)
  const places = (some: readonly Row[]) => ({
    lanes: some.map(({ lane }) => lane),
    seqs: some.map(({ seq }) => seq),
    fences: some.map(() => 0),
  })
  const claims = (some: readonly Row[], consumer = 'c') => ({
    ...{ consumer, ...places(some) },
    ids: some.map(({ id }) => id),
  })
  const inLane = (some: readonly Row[]): number[][] =>
    lanes.map((lane) => some.filter((row) => row.lane === lane).map(({ seq }) => seq))
  const claiming = {
    ...{ consumer: 'c', partitions, bounds: each(watermark, 8), limit: batch, worker: 1, leaseMs: 15_000 },
    ...{ room: 1, alone: true, avoidMs: 2000, bytes: 8e6, server },
  }
  const reads = {
    ...{ consumer: 'c', lanes, fences: each(0, 64), bounds: each(watermark, 64), budgets: each(8, 64) },
    ...{
      reaches: each(0, 64),
      mark: true,
      room: 1,
      alone: true,
      bytes: 8e6,
      limit: 1000,
      past: each(null, 64),
      server,
    },
  }
  const watermarks = { watermarks: each(0, 64), lowered: each(0, 64), servers: each('s', 64) }
  const failed = { attempts: each(1), errorNumbers: each(1), errors: ['{}'] }
  return [
    of('relay: delete and read', outbox.step, {
      goneLanes: first.map(({ lane }) => lane),
      goneSeqs: first.map(({ seq }) => seq),
      goneIds: first.map(({ id }) => id),
      ...{ lanes, bounds: each(watermark, 64), budgets: each(16, 64), mark: true, confirmed: inLane(first) },
      ...{ heldLanes: lanes, heldFences: each(0, 64), server, bytes: 8 * 1024 * 1024, content: true },
    }),
    of('relay: defer', waiting.deferOutbox, {
      ...{ ...claims(first, ''), ...failed, delaysMs: each(1000), avoid: null },
    }),
    of('relay: bury', waiting.buryOutbox, { ...claims(first, ''), ...failed, reasons: each('no') }),
    ...(['', 'c'] as const).map((consumer) => {
      const heads = consumer === '' ? first : inLanes
      return of(
        `park keys of ${consumer === '' ? 'the outbox' : 'a consumer'}`,
        consumer === '' ? parking.parkOutbox : parking.park,
        {
          ...{ ...claims(heads, consumer), keys: heads.map((_, n) => `k${n}`), forMs: each(1000) },
          ...{ reasons: each('no'), attempts: each(1), errorNumbers: each(1), dead: each(false) },
          restLanes: heads.slice(1).map(({ lane }) => lane),
          restSeqs: heads.slice(1).map(({ seq }) => seq + 1),
          restKeys: heads.slice(1).map((_, n) => `k${n}`),
          errors: ['{}'],
        },
      )
    }),
    of('claim', inbox.claim, { ...claiming, gone: [], dealt: [], avoider: -1, onlyHeld: false }),
    of('claim of abandoned that were dealt out', inbox.claim, {
      ...{ ...claiming, gone: [7], dealt: each(5 * 256, 64), avoider: 1, onlyHeld: true },
    }),
    of('claim behind a flood', inbox.claimOthers, {
      ...{ ...claiming, gone: [], dealt: [], avoider: -1, onlyHeld: false, without: ['t'], span: 1000 },
    }),
    of('claim the first of topics', inbox.claimOthers, {
      ...{ ...claiming, gone: [], dealt: [], avoider: -1, onlyHeld: false, without: [], span: 1 },
      ...{ partitions: partition.map(({ lane }) => lane), bounds: partition.map(({ seq }) => seq - 1) },
    }),
    of('first of each topic in lanes', floodSql('twinbox').firsts, {
      ...{ consumer: 'c', lanes, bounds: each(watermark, 64), span: 1000, without: ['u'], most: batch },
    }),
    of('first of each topic in partitions', floodSql('twinbox').firsts, {
      ...{
        consumer: 'c',
        lanes: partitions,
        bounds: each(watermark, 8),
        span: 1000,
        without: ['u'],
        most: batch,
      },
    }),
    of('read lanes', reading.read, { ...reads, held: inLane(first) }),
    of('read lanes past a key', reading.readPast, {
      ...{ ...reads, held: each([], 64), without: each(['k'], 64), look: 10 },
    }),
    of('read lanes behind a flood', reading.readOthers, {
      ...{ ...reads, held: each([], 64), without: ['t'], span: 1000 },
    }),
    of('read the first of topics in lanes', reading.readFirsts, {
      ...{ ...reads, held: each([], 64) },
      ...{ chosenLanes: inLanes.map(({ lane }) => lane), chosen: inLanes.map(({ seq }) => seq) },
    }),
    of('complete rows', completion.complete, { ...claims(partition), server }),
    of('complete in lanes', completion.complete, { ...claims(inLanes), server }),
    ...(['rows', 'in lanes'] as const).map((where): Case => {
      const held = (where === 'rows' ? partition : inLanes).map((row) => ({ ...row, fence: 0, attempt: 1 }))
      const text = completion.completeAndCommit('c', held, null, server).replace('; commit', '')
      return [`complete ${where} in a transaction`, text, []]
    }),
    of('renew rows', inbox.renew, { consumer: 'c', ...places(partition), leaseMs: 15_000 }),
    of('release rows', inbox.release, { consumer: 'c', ...places(partition) }),
    of('defer', waiting.defer, { ...claims(partition), ...failed, delaysMs: each(1000), avoid: 1 }),
    of('set rows aside', unhandled.setAside, claims(partition)),
    of('set in lanes aside', unhandled.setAside, claims(inLanes)),
    of('topics without a handler', unhandled.topics, { consumer: 'c', lanes, after: each('', 64) }),
    of('bring back', unhandled.bringBack, {
      ...{ consumer: 'c', lane: 5, fence: 0, topics: ['t0', 't1', 't2'], most: batch },
    }),
    of('adopt', unhandled.adopt, {
      ...{ consumer: 'c', topics: ['t0', 't1'], most: batch, worker: 1, leaseMs: 15_000, bytes: 8e6 },
    }),
    of('promote', waiting.promote, { consumer: 'c', most: batch }),
    of('promote to the outbox', waiting.promoteOutbox, { most: batch }),
    of('keys that are due', parking.dueKeys, { consumer: 'c', lanes, most: 20 }),
    of('heads of partitions', inbox.heads, { consumer: 'c', partitions, bounds: each(watermark, 8) }),
    of('renew lanes', laneStatements.renew, {
      ...{ consumer: 'c', worker: 1, leaseMs: 15_000, lanes, fences: each(0, 64), ...watermarks },
    }),
    of('take lanes', laneStatements.take, {
      ...{ consumer: 'c', worker: 1, leaseMs: 15_000, gone: [], limit: 64, dealt: [] },
    }),
    of('parked keys', parking.parkedKeys, { consumer: 'c', lanes }),
    of('fence unused', completion.complete, { ...claims(partition), fences: each(1), server }),
    // Last: what it has written and taken back, reads would find.
    of('relay: move', movingSql('twinbox').move, {
      lanes: first.map(({ lane }) => lane),
      seqs: first.map(({ seq }) => seq),
      ids: first.map(({ id }) => id),
      takers: first.map(() => ['c']),
      ...{ heldLanes: lanes, heldFences: each(0, 64), server, version: '0', firstPartition: 0 },
    }),
    of('relay: read and move', movingSql('twinbox').readAndMove, {
      ...{
        lanes,
        bounds: each(watermark, 64),
        budgets: each(1, 64),
        fences: each(0, 64),
        lowered: each(0, 64),
      },
      ...{
        mark: true,
        server,
        bytes: 8e6,
        rows: 5000,
        topics: ['t'],
        takers: [['c']],
        version: '0',
        firstPartition: 0,
      },
    }),
  ]
}

type Case = [name: string, text: string, values: unknown[]]
const of = <Takes extends Parameters>(
  name: string,
  statement: Statement<Takes>,
  values: ValuesOf<Takes>,
): Case => [name, statement.text, statement.bind(values)]

async function fill(database: TestDatabase, from: number, count = rows): Promise<void> {
  await database.query(
    `insert into twinbox.outbox (lane, id, topic, key, payload)
    select n % 64, gen_random_uuid(), 't', 'k' || n % 1000, json_build_object('n', n, 'pad', repeat('x', 150))
    from generate_series(${from}, ${from + count - 1}) as n`,
  )
  await database.query(
    `insert into twinbox.inbox (consumer, lane, id, topic, key, payload)
    select 'c', n % 72, gen_random_uuid(), 't', case when n % 72 < 64 then 'k' || n % 1000 end,
      json_build_object('n', n, 'pad', repeat('x', 150))
    from generate_series(${from}, ${from + count - 1}) as n`,
  )
  await database.query(
    `insert into twinbox.unhandled (consumer, lane, seq, id, topic, key, payload, received_at)
    select 'c', n % 65, 10000000 + n, gen_random_uuid(), 't' || n % 3, case when n % 65 < 64 then 'k' || n % 1000 end, '{}', now()
    from generate_series(${from}, ${from + count - 1}) as n`,
  )
  await database.query(
    `insert into twinbox.deferred (consumer, due_at, id, topic, payload)
    select c, now() + interval '1 hour', gen_random_uuid(), 't', '{}'
    from generate_series(1, ${count / 10}) as n, unnest(array['c', '']) as c`,
  )
}

/** As workers do for bookkeeping. */
async function connect(database: TestDatabase): Promise<pg.Client> {
  const settings = Object.entries(bookkeepingSettings)
  const client = new pg.Client({
    connectionString: database.url,
    options: settings.map(([name, value]) => `-c ${name}=${value.replaceAll(' ', '\\ ')}`).join(' '),
  })
  await client.connect()
  const { rows: seen } = await client.query<{ server: string }>(workerSql('twinbox').look.text)
  server = seen[0]!.server
  return client
}

// A plan for any parameters is kept until somebody has analyzed the table, and a burst comes within the minute.
test('a plan made while there were few messages is as good when 100,000 wait', async () => {
  const database = await createTestDatabase()
  const client = await connect(database)
  await database.query(`insert into twinbox.lane (consumer, lane) select 'c', generate_series(0, 71)`)
  await client.query('vacuum analyze')
  await fill(database, 1, 20)
  await client.query('set plan_cache_mode = force_generic_plan')
  const textOf = (value: unknown): string =>
    Array.isArray(value) ? `{${value.map((each) => JSON.stringify(textOf(each))).join(',')}}` : String(value)
  const literal = (value: unknown): string => (value === null ? 'null' : client.escapeLiteral(textOf(value)))
  const call = (name: string, values: readonly unknown[]): string =>
    `execute "${name}"${values.length === 0 ? '' : ` (${values.map(literal).join(', ')})`}`
  for (const [name, text, values] of statements(0, [], [], [])) {
    await client.query(`prepare "${name}" as ${text}`)
    await client.query(`explain ${call(name, values)}`)
  }
  await fill(database, 21)
  const rowsOf = (table: string, where: string): Promise<Row[]> =>
    database.query<Row>(
      `select lane, seq::int, id from twinbox.${table} where ${where} order by seq limit ${batch}`,
    )
  const some = statements(
    0,
    await rowsOf('outbox', 'true'),
    await rowsOf('inbox', 'lane < 64'),
    await rowsOf('inbox', 'lane >= 64'),
  )
  const faults: string[] = []
  for (const [name, , values] of some) {
    const { buffers } = await explain(client, call(name, values))
    if (buffers > 2000) faults.push(`${name}: ${buffers} buffers`)
  }
  await client.end()
  await database.drop()
  expect(faults).toEqual([])
}, 120_000)

describe.each([
  ['with 100,000 waiting', null],
  ['with 100,000 dead under a held reader', 'reader'],
  ['with 100,000 dead under a held writer', 'writer'],
  ['with 100,000 dead under a held reader, under the role of one consumer', 'reader', 'narrowed'],
])('%s', (_, holder, role = '') => {
  let database: TestDatabase
  let client: pg.Client
  let held: pg.Client
  let watermark = 0

  beforeAll(async () => {
    database = await createTestDatabase()
    client = await connect(database)
    held = new pg.Client({ connectionString: database.url })
    await held.connect()
    await database.query(`insert into twinbox.lane (consumer, lane) select 'c', generate_series(0, 71)`)
    if (holder === 'reader') {
      await held.query('begin isolation level repeatable read')
      await held.query('select 1')
    }
    if (holder === 'writer') {
      await held.query('begin')
      await held.query('select pg_current_xact_id()')
    }
    await fill(database, 1)
    if (holder !== null) {
      watermark = rows
      await database.query('delete from twinbox.outbox')
      await database.query('delete from twinbox.inbox')
      await fill(database, rows + 1)
    }
    if (role !== '') {
      await applyRoles(database.url, { consumers: ['c'] })
      // Policies of row-level security let an index serve only conditions that betray nothing.
      await client.query('set role twinbox_claimer_c')
    }
    await database.query('analyze twinbox.outbox, twinbox.inbox, twinbox.lane, twinbox.deferred')
  })
  afterAll(async () => {
    await held.end()
    await client.end()
    await database.drop()
    if (role === '') return
    const admin = new pg.Client({ connectionString: await serverUrl() })
    await admin.connect()
    await admin.query('drop role twinbox_claimer_c, twinbox_receiver_c')
    await admin.end()
  })

  test('every hot statement is an index scan over few pages', async () => {
    const first = await database.query<Row>(
      `select lane, seq::int, id from twinbox.outbox where seq > ${watermark} order by seq limit ${batch}`,
    )
    const inbox = await database.query<Row>(
      `select lane, seq::int, id from twinbox.inbox where seq > ${watermark} and lane < 64 order by seq limit ${batch}`,
    )
    const partition = await database.query<Row>(
      `select lane, seq::int, id from twinbox.inbox where seq > ${watermark} and lane >= 64 order by seq limit ${batch}`,
    )
    const faults: string[] = []
    const figures: Record<string, number> = {}
    for (const [name, text, values] of statements(watermark, first, inbox, partition)) {
      const plan = await explain(client, text, values).catch((error: unknown) => {
        // A claimer has nothing to do with the outbox.
        if (role !== '' && sqlstate(error) === '42501') return null
        throw error
      })
      if (plan === null) continue
      figures[name] = plan.buffers
      // A hundred rows by primary key take some pages each, 64 lanes about ten each; passing over the dead takes thousands.
      // What waits for a time is not looked at before it.
      const most = /^promote|due$/.test(name) ? 200 : 2000
      if (plan.buffers > most) faults.push(`${name}: ${plan.buffers} buffers`)
      faults.push(...plan.scans.filter((scan) => !/on lane$/.test(scan)).map((scan) => `${name}: ${scan}`))
    }
    process.stdout.write(`${JSON.stringify(figures)}\n`)
    expect(faults).toEqual([])
    expect(Object.keys(figures).length).toBeGreaterThan(20)
  })

  test('to explain one message looks at a bounded number of others', async () => {
    if (holder !== null) return
    const { heads, around, more } = searchSql('twinbox')
    const { ahead, plans } = explainSql('twinbox')
    const [row] = await database.query<Row>(
      `select lane, seq::int, id from twinbox.outbox order by seq offset 50000 limit 1`,
    )
    const { id, lane, seq } = row!
    const own = { id, look: 500 }
    const theirs = { ...own, consumers: ['', 'c'] }
    const cases: Case[] = [
      of('outbox', heads.outbox, own),
      ...(['inbox', 'parked', 'unhandled', 'deferred'] as const).map((state) =>
        of(state, heads[state], theirs),
      ),
      ...(['dead', 'handled'] as const).map((state) => of(state, heads[state], { id })),
      of('outbox around', around.outbox, { id, look: 250, at: new Date() }),
      of('inbox around', around.inbox, { id, look: 250, at: new Date(), consumer: 'c' }),
      ...(['outbox', 'inbox'] as const).map((box) =>
        of(`${box} more`, more[box], { look: 500, consumers: ['', 'c'] }),
      ),
      ...(['outbox', 'inbox'] as const).map((box) =>
        of(`${box} ahead`, ahead[box], { consumer: 'c', lane, seq, key: 'k1', look: 1000 }),
      ),
    ]
    const asking = new pg.Client({ connectionString: database.url })
    await asking.connect()
    await asking.query(plans.replaceAll('local', 'session'))
    const faults: string[] = []
    for (const [name, text, values] of cases) {
      const { buffers, scans } = await explain(asking, text, values)
      // 72 lanes of 500 rows, a page each.
      if (buffers > (/ahead/.test(name) ? 8000 : 80_000)) faults.push(`${name}: ${buffers} buffers`)
      faults.push(...scans.map((scan) => `${name}: ${scan}`))
    }
    await asking.end()
    expect(faults).toEqual([])
  })

  test('without the watermark the same read visits the dead', async () => {
    if (holder === null || role !== '') return
    const [, text, values] = statements(0, [], [], [])[0]!
    const without = await explain(client, text, values)
    const [, , bounded] = statements(watermark, [], [], [])[0]!
    const withWatermark = await explain(client, text, bounded)
    // Proof that the situation is the one that was meant: the dead rows are there and cost something.
    expect(without.buffers).toBeGreaterThan(withWatermark.buffers * 1.5)
  })
})
