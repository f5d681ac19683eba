import * as fc from 'fast-check'
import pg from 'pg'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { createClaimer, createOutbox, createRelay, type Broker, type OutgoingMessage } from '../src/index.ts'
import { Watermark, Marks, parseSnapshot, type Snapshot } from '../src/lanes/watermark.ts'
import { createTestDatabase, serverUrl, type TestDatabase } from './support/postgres.ts'

/**
 * The rule by which reads leave out what is long dead, and nothing else. First against a model of what a Postgres
 * snapshot shows, in thousands of random histories; then against Postgres.
 */

/** One thing that happens. `pick` decides all that is open about it. */
interface Step {
  readonly act: 'begin' | 'insert' | 'end' | 'work' | 'renew' | 'takeover'
  readonly pick: number
  readonly ms: number
}

interface Transaction {
  /** Null as long as it has written nothing. */
  xid: number | null
  readonly bornAt: number
  /** Stays open for longer than the rule is ready to wait. */
  readonly long: boolean
  committedAt: number | null
}

interface Row {
  readonly seq: number
  readonly key: number
  readonly lane: number
  readonly by: Transaction
  readonly insertedAt: number
}

/** How the reader or the publisher gets the rule wrong. */
type Fault =
  | 'pages by the last seq'
  | 'marks with the xmax of the snapshot'
  | 'ignores mustReread'
  | 'acts before it asks mustReread'
  | 'advances over what its limit cut off'
  | 'draws the seq before the xid'

const laneCount = 2
const keyCount = 4

/** Transactions and one table, as snapshots show them: by xid, and by who has ended. */
class World {
  readonly rows: Row[] = []
  readonly deleted = new Set<Row>()
  readonly open: Transaction[] = []
  readonly #fault: Fault | null
  now = 0
  /** Counts what happens: before and after, as the publishers see it. */
  tick = 0
  #seq = 0
  #nextXid = 100
  #latestEnded = 99

  constructor(fault: Fault | null) {
    this.#fault = fault
  }

  publish({ act, pick }: Step): void {
    if (act === 'begin' && this.open.length < 6) this.#begin(pick)
    if (act === 'insert' && this.open.length > 0) this.#insert(this.open[pick % this.open.length]!, pick)
    if (act === 'end') {
      const able = this.open.filter(({ long, bornAt }) => !long || this.now - bornAt > 1200 + (pick % 2000))
      if (able.length > 0) this.end(able[pick % able.length]!, pick % 10 > 0)
    }
  }

  /** Whatever can come between the snapshot of a statement and the xid that it has assigned. */
  interfere(pick: number): void {
    if (pick % 2 === 0) this.#begin(pick)
    if (pick % 3 > 0) this.publish({ act: 'insert', pick, ms: 0 })
  }

  #begin(pick: number): void {
    const wroteAlready = pick % 3 === 0
    this.open.push({
      xid: wroteAlready ? this.#assign() : null,
      bornAt: this.now,
      long: pick % 7 === 0,
      committedAt: null,
    })
  }

  #insert(by: Transaction, pick: number): void {
    if (this.#fault !== 'draws the seq before the xid') by.xid ??= this.#assign()
    const key = pick % keyCount
    this.rows.push({ seq: ++this.#seq, key, lane: key % laneCount, by, insertedAt: ++this.tick })
  }

  end(transaction: Transaction, commits: boolean): void {
    transaction.xid ??= this.#assign()
    if (commits) transaction.committedAt = ++this.tick
    this.open.splice(this.open.indexOf(transaction), 1)
    this.#latestEnded = Math.max(this.#latestEnded, transaction.xid)
  }

  #assign(): number {
    return this.#nextXid++
  }

  /** An xid for a mark: that of a small transaction which has ended by the time that anybody hears of it. */
  assignAndEnd(): number {
    const xid = this.#assign()
    this.#latestEnded = Math.max(this.#latestEnded, xid)
    return xid
  }

  snapshot(): Snapshot {
    const xmax = this.#latestEnded + 1
    const running = this.open
      .flatMap(({ xid }) => (xid !== null && xid < xmax ? [xid] : []))
      .toSorted((a, b) => a - b)
    return { xmin: running[0] ?? xmax, xmax, running }
  }

  visible(lane: number, bound: number): Row[] {
    return this.rows.filter(
      (row) => row.lane === lane && row.seq > bound && row.by.committedAt !== null && !this.deleted.has(row),
    )
  }
}

/** Reads one lane as the relay does: one batch at a time, deleted with the next read. */
class Reader {
  readonly #world: World
  readonly #fault: Fault | null
  readonly #lane: number
  readonly #marks: Marks
  readonly #watermark: Watermark
  readonly #delivered: Row[]
  #batch: { rows: Row[]; snapshot: Snapshot; cut: number } | null = null
  #confirmed: Row[] = []
  #lastSeen: number

  constructor(parts: {
    world: World
    fault: Fault | null
    lane: number
    marks: Marks
    watermark: number
    delivered: Row[]
  }) {
    this.#world = parts.world
    this.#fault = parts.fault
    this.#lane = parts.lane
    this.#marks = parts.marks
    this.#watermark = new Watermark(parts.watermark)
    this.#lastSeen = parts.watermark
    this.#delivered = parts.delivered
  }

  /** What would be written down at a renewal: a successor reads from there. */
  get persistent(): number {
    if (this.#fault === 'pages by the last seq') return 0
    return Math.min(
      this.#watermark.confirmed,
      ...[...this.#confirmed, ...(this.#batch?.rows ?? [])].map(({ seq }) => seq - 1),
    )
  }

  /** How far reads have moved up. */
  get bound(): number {
    return this.#watermark.tentative
  }

  /** What the broker may have got although nobody knows. */
  inDoubt(): readonly Row[] {
    return [...this.#confirmed, ...(this.#batch?.rows ?? [])]
  }

  work(pick: number): void {
    if (this.#batch === null) this.#read(pick)
    else this.#settle(pick)
  }

  #read(pick: number): void {
    const [world, watermark, marks] = [this.#world, this.#watermark, this.#marks]
    for (const row of this.#confirmed) world.deleted.add(row)
    this.#confirmed = []
    const budget = pick % 4 === 0 ? Infinity : 1 + (pick % 4)
    const snapshot = world.snapshot()
    const all = world.visible(
      this.#lane,
      this.#fault === 'pages by the last seq' ? this.#lastSeen : watermark.tentative,
    )
    const rows = all.slice(0, budget)
    let xid: number | null = null
    if (marks.wanted) {
      world.interfere(pick)
      xid = this.#fault === 'marks with the xmax of the snapshot' ? snapshot.xmax : world.assignAndEnd()
    }
    const last = rows.at(-1)?.seq
    const discard = this.#fault !== 'ignores mustReread' && watermark.mustReread(snapshot)
    const cut = discard ? watermark.confirmed : rows.length < budget || last === undefined ? Infinity : last
    if (xid !== null && last !== undefined) marks.add(last, xid)
    this.#lastSeen = Math.max(this.#lastSeen, last ?? 0)
    this.#batch = {
      rows: discard && this.#fault !== 'acts before it asks mustReread' ? [] : rows,
      snapshot,
      cut,
    }
    if (this.#batch.rows.length === 0) this.#settle(1)
  }

  /** Some prefix of the batch is sent; what is not will be read again. */
  #settle(pick: number): void {
    const { rows, snapshot, cut } = this.#batch!
    const sent =
      pick % 5 === 0 && this.#fault !== 'pages by the last seq' ? pick % (rows.length + 1) : rows.length
    this.#confirmed = rows.slice(0, sent)
    this.#delivered.push(...this.#confirmed)
    this.#batch = null
    const known = Math.min(cut, (rows[sent]?.seq ?? Infinity) - 1)
    this.#watermark.advance(
      this.#marks,
      snapshot,
      this.#fault === 'advances over what its limit cut off' ? Infinity : known,
    )
  }
}

interface Verdict {
  readonly lost: number
  readonly duplicates: number
  readonly inversions: number
  /** What shows that the history had something to say. */
  readonly delivered: number
  readonly boundsMoved: boolean
  readonly lateRows: number
}

function replay(history: readonly Step[], fault: Fault | null): Verdict {
  const world = new World(fault)
  const delivered: Row[] = []
  const doubted = new Set<Row>()
  const watermarks = new Array<number>(laneCount).fill(0)
  let lateRows = 0
  const takeOver = (): Reader[] => {
    const marks = new Marks(() => world.now)
    return watermarks.map(
      (watermark, lane) => new Reader({ world, fault, lane, marks, watermark, delivered }),
    )
  }
  let readers = takeOver()
  const bounds: number[] = []
  for (const step of history) {
    world.now += step.ms
    const reader = readers[step.pick % laneCount]!
    if (step.act === 'work') {
      reader.work(Math.floor(step.pick / laneCount))
      bounds.push(reader.bound)
    } else if (step.act === 'renew')
      readers.forEach(({ persistent }, lane) => (watermarks[lane] = Math.max(watermarks[lane]!, persistent)))
    else if (step.act === 'takeover') {
      const inDoubt = readers.flatMap((dead) => dead.inDoubt())
      for (const row of inDoubt) doubted.add(row)
      if (step.pick % 2 === 0) delivered.push(...inDoubt)
      readers = takeOver()
    } else {
      const before = new Set(world.open)
      world.publish(step)
      for (const ended of before) {
        if (world.open.includes(ended) || ended.committedAt === null) continue
        lateRows += world.rows.filter((row) => row.by === ended && row.seq <= readers[row.lane]!.bound).length
      }
    }
  }
  for (const transaction of [...world.open]) world.end(transaction, true)
  for (let round = 0; round < 100; round++) {
    world.now += 100
    for (const reader of readers) reader.work(1 + round * 4)
  }

  const position = new Map<Row, number>()
  let duplicates = 0
  for (const row of delivered) {
    // The inbox drops what is sent again after a death; what is sent twice without one is a fault of the reader's.
    if (!position.has(row)) position.set(row, position.size)
    else if (!doubted.has(row)) duplicates++
  }
  const committed = world.rows.filter(({ by }) => by.committedAt !== null)
  const inversions = committed.flatMap((cause) =>
    committed.filter(
      (effect) =>
        effect.key === cause.key &&
        cause.by.committedAt! < effect.insertedAt &&
        (position.get(cause) ?? Infinity) > (position.get(effect) ?? Infinity),
    ),
  ).length
  return {
    lost: committed.filter((row) => !position.has(row)).length,
    duplicates,
    inversions,
    delivered: position.size,
    boundsMoved: bounds.some((bound) => bound > 0),
    lateRows,
  }
}

const step: fc.Arbitrary<Step> = fc.noBias(
  fc.record({
    act: fc.oneof(
      { weight: 22, arbitrary: fc.constant('begin' as const) },
      { weight: 28, arbitrary: fc.constant('insert' as const) },
      { weight: 20, arbitrary: fc.constant('end' as const) },
      { weight: 40, arbitrary: fc.constant('work' as const) },
      { weight: 3, arbitrary: fc.constant('renew' as const) },
      { weight: 1, arbitrary: fc.constant('takeover' as const) },
    ),
    pick: fc.nat(1_000_000),
    ms: fc.nat(60),
  }),
)
const history = fc.array(step, { minLength: 100, maxLength: 250, size: 'max' })

describe('in a model of snapshots', () => {
  const seed = Number(process.env['TWINBOX_TEST_SEED'] ?? Date.now() % 0x7fffffff)
  const runs = 3000

  test(
    'no message is lost, sent twice or sent before its cause, in any history',
    { timeout: 300_000 },
    () => {
      console.info(`watermark model: seed ${seed}, ${runs} histories`)
      const seen = { delivered: 0, moved: 0, late: 0 }
      fc.assert(
        fc.property(history, (steps) => {
          const { lost, duplicates, inversions, ...verdict } = replay(steps, null)
          seen.delivered += verdict.delivered
          seen.moved += verdict.boundsMoved ? 1 : 0
          seen.late += verdict.lateRows
          expect({ lost, duplicates, inversions }).toEqual({ lost: 0, duplicates: 0, inversions: 0 })
        }),
        { numRuns: runs, seed },
      )
      // The histories held what the rule is for: bounds that moved, and rows that appeared below them.
      expect(seen.delivered).toBeGreaterThan(runs * 10)
      expect(seen.moved).toBeGreaterThan(runs / 2)
      expect(seen.late).toBeGreaterThan(runs / 10)
    },
  )

  test.each<{ fault: Fault; shows: 'lost' | 'inversions' }>([
    { fault: 'pages by the last seq', shows: 'lost' },
    { fault: 'marks with the xmax of the snapshot', shows: 'lost' },
    { fault: 'ignores mustReread', shows: 'lost' },
    { fault: 'acts before it asks mustReread', shows: 'inversions' },
    { fault: 'advances over what its limit cut off', shows: 'lost' },
    { fault: 'draws the seq before the xid', shows: 'lost' },
  ])('the model catches one that $fault', { timeout: 120_000 }, ({ fault, shows }) => {
    const verdicts = fc.sample(history, { numRuns: 1000, seed }).map((steps) => replay(steps, fault))
    const failed = verdicts.filter((verdict) => verdict[shows] > 0).length
    console.info(`one that ${fault}: ${failed} of ${verdicts.length} histories have ${shows}`)
    expect(failed).toBeGreaterThan(5)
  })
})

describe('in small', () => {
  test('a snapshot is read from its text', () => {
    expect(parseSnapshot('100:105:100,103')).toEqual({ xmin: 100, xmax: 105, running: [100, 103] })
    expect(parseSnapshot('8:8:')).toEqual({ xmin: 8, xmax: 8, running: [] })
  })

  const at = (xmax: number, ...running: number[]): Snapshot => ({ xmin: running[0] ?? xmax, xmax, running })

  test('the watermark follows a mark that nobody can get below', () => {
    const marks = new Marks(() => 0)
    const watermark = new Watermark(0)
    marks.add(10, 100)
    watermark.advance(marks, at(100), Infinity)
    expect(watermark.tentative).toBe(0)
    watermark.advance(marks, at(101), Infinity)
    expect([watermark.tentative, watermark.confirmed]).toEqual([10, 10])
  })

  test('a transaction that is older than the mark is waited for, then left behind as a straggler', () => {
    let now = 0
    const marks = new Marks(() => now)
    const watermark = new Watermark(0)
    marks.add(10, 100)
    watermark.advance(marks, at(101, 90), Infinity)
    expect(watermark.tentative).toBe(0)
    now = 5000
    watermark.advance(marks, at(101, 90), Infinity)
    expect([watermark.tentative, watermark.confirmed]).toEqual([10, 0])
    expect(watermark.mustReread(at(105, 90))).toBe(false)
    expect(watermark.mustReread(at(105))).toBe(true)
    expect([watermark.tentative, watermark.confirmed]).toEqual([0, 0])
    expect(watermark.mustReread(at(105))).toBe(false)
  })

  test('a straggler is waited for once, and a younger one beside it as usual', () => {
    let now = 0
    const marks = new Marks(() => now)
    const watermark = new Watermark(0)
    marks.add(10, 100)
    now = 1000
    marks.add(20, 110)
    watermark.advance(marks, at(111, 90), Infinity)
    expect([watermark.tentative, watermark.confirmed]).toEqual([20, 0])
    now = 1100
    marks.add(30, 120)
    watermark.advance(marks, at(121, 90, 105), Infinity)
    expect(watermark.tentative).toBe(20)
    watermark.advance(marks, at(121, 90), Infinity)
    expect([watermark.tentative, watermark.confirmed]).toEqual([30, 0])
  })

  test('a younger transaction keeps nobody', () => {
    const marks = new Marks(() => 0)
    const watermark = new Watermark(0)
    marks.add(10, 100)
    watermark.advance(marks, at(110, 104), Infinity)
    expect([watermark.tentative, watermark.confirmed]).toEqual([10, 10])
  })

  test('the watermark never passes what is not dealt with, and comes down to what came back', () => {
    let now = 0
    const marks = new Marks(() => now)
    const watermark = new Watermark(0)
    marks.add(10, 100)
    now = 100
    marks.add(20, 101)
    watermark.advance(marks, at(110), 15)
    expect(watermark.confirmed).toBe(15)
    watermark.advance(marks, at(110), Infinity)
    expect(watermark.confirmed).toBe(20)
    watermark.lower(13)
    expect([watermark.tentative, watermark.confirmed]).toEqual([12, 12])
  })

  test('a read that set out before a row came back does not pass it', () => {
    const marks = new Marks(() => 0)
    marks.add(20, 100)
    const watermark = new Watermark(0)
    const setOut = watermark.lowered
    // A parked message returns to its place while the read is under way: its snapshot cannot show it.
    watermark.lower(15)
    watermark.advance(marks, at(110), Infinity, setOut)
    expect(watermark.tentative).toBeLessThan(15)
    watermark.advance(marks, at(110), Infinity, watermark.lowered)
    expect(watermark.tentative).toBe(20)
  })

  test('marks are asked for now and then, not for each read', () => {
    let now = 0
    const marks = new Marks(() => now)
    expect(marks.wanted).toBe(true)
    marks.add(1, 1)
    expect(marks.wanted).toBe(false)
    now = 100
    expect(marks.wanted).toBe(true)
    marks.add(3, 3)
    expect(marks.best(at(10), 0, Infinity)?.seq).toBe(3)
  })

  test('the number of marks is bounded, and the newest are kept', () => {
    let now = 0
    const marks = new Marks(() => now)
    for (let seq = 1; seq <= 10_000; seq++) {
      now += 100
      marks.add(seq, seq)
    }
    expect(marks.best(at(20_000), 0, Infinity)?.seq).toBe(10_000)
    // Of the old ones nothing is left, and what is below a young one it covers as well.
    expect(marks.best(at(5001), 0, 5000)).toBeNull()
    expect(marks.best(at(20_000), 0, 5000)?.seq).toBe(5000)
  })
})

describe('in Postgres', () => {
  let database: TestDatabase
  beforeAll(async () => {
    database = await createTestDatabase()
  })
  afterAll(() => database.drop())
  beforeEach(() =>
    database.query(
      "truncate twinbox.outbox; update twinbox.lane set watermark = 0, holder = null, lease_until = '-infinity'",
    ),
  )

  const outbox = createOutbox()
  const publish = (client: pg.ClientBase, payload: string, key = 'k'): Promise<unknown> =>
    outbox.publish(client, { topic: 't', key, payload })

  /** Takes everything, and tells what it took. */
  function recorder(): { broker: Broker; sent: OutgoingMessage[]; until(payload: string): Promise<void> } {
    const sent: OutgoingMessage[] = []
    const waiting = new Map<string, () => void>()
    return {
      sent,
      until: (payload) =>
        new Promise((resolve) => {
          if (sent.some(({ content }) => content === JSON.stringify(payload))) resolve()
          else waiting.set(JSON.stringify(payload), resolve)
        }),
      broker: {
        name: 'recorder',
        send: (batch) => {
          sent.push(...batch)
          for (const { content } of batch) waiting.get(content as string)?.()
          return Promise.resolve(batch.map(() => ({ status: 'sent' as const })))
        },
        subscribe: () => Promise.reject(new Error('not called')),
        close: () => Promise.resolve(),
      },
    }
  }

  /** A session after BEGIN that has an xid already, as after any other write. */
  async function begun(url: string | undefined = database.url): Promise<pg.Client> {
    const client = new pg.Client({ connectionString: url })
    client.on('error', () => {})
    leftovers.push(() => client.end())
    await client.connect()
    await client.query('begin')
    await client.query('select pg_current_xact_id()')
    return client
  }
  const commit = async (client: pg.Client): Promise<void> => {
    expect((await client.query('commit')).command).toBe('COMMIT')
    await client.end()
  }
  const payloads = (sent: readonly OutgoingMessage[], key?: string): string[] =>
    sent
      .filter((message) => key === undefined || message.key === key)
      .map(({ content }) => JSON.parse(content as string) as string)

  /** Publishes again and again until the watermark of some lane that is written down has passed `seq`. */
  async function untilWatermarkPasses(relayed: ReturnType<typeof recorder>, seq: number): Promise<void> {
    for (let count = 0; ; count++) {
      await database.transaction((client) => publish(client, `filler ${count}`, 'filler'))
      await relayed.until(`filler ${count}`)
      const [row] = await database.query<{ watermark: string }>(
        "select max(watermark) as watermark from twinbox.lane where consumer = ''",
      )
      if (Number(row!.watermark) >= seq) return
    }
  }

  /** What a test that failed has left running. */
  const leftovers: (() => Promise<unknown>)[] = []
  afterEach(() => Promise.all(leftovers.splice(0).map((end) => end())))

  /** Starts a relay; call what it gives back to stop it. */
  const start = async (broker: Broker, options: object = {}): Promise<() => Promise<void>> => {
    const relay = createRelay({ database: database.url, broker, leaseMs: 1000, ...options })
    leftovers.push(() => relay.stop())
    await relay.start()
    return () => relay.stop()
  }

  test('a transaction that published early and commits late is sent before what it caused', async () => {
    const relayed = recorder()
    // Reads come slowly, so that the commit and what it caused are seen by one and the same.
    const stop = await start(relayed.broker, { pollMs: 200, pollMsMax: 200 })
    // First in the sequence, last to commit: it holds a seq below everything that follows.
    const late = await begun()
    await publish(late, 'late 1')
    await publish(late, 'late 2', 'other')
    const { rows } = await late.query<{ seq: number }>('select max(seq)::int as seq from twinbox.outbox')
    await database.transaction((client) => publish(client, 'first'))
    await relayed.until('first')

    // Long enough for it to become a straggler, which reads start above.
    const startedAt = performance.now()
    for (let count = 0; performance.now() - startedAt < 2000; count++) {
      await database.transaction((client) => publish(client, `meanwhile ${count}`, 'busy'))
      await relayed.until(`meanwhile ${count}`)
    }
    expect(payloads(relayed.sent)).not.toContain('late 1')
    // The watermark that others would start from waits for it.
    const [watermark] = await database.query<{ watermark: number }>(
      "select max(watermark)::int as watermark from twinbox.lane where consumer = ''",
    )
    expect(watermark!.watermark).toBeLessThan(rows[0]!.seq)

    await commit(late)
    // By the function, since publish would hint to the relay.
    await database.query(`select twinbox.publish('t', '"caused by late 1"', key => 'k'),
      twinbox.publish('t', '"caused by late 2"', key => 'other')`)
    await relayed.until('caused by late 1')
    await relayed.until('caused by late 2')
    await stop()
    expect(payloads(relayed.sent, 'k')).toEqual(['first', 'late 1', 'caused by late 1'])
    expect(payloads(relayed.sent, 'other')).toEqual(['late 2', 'caused by late 2'])
    expect(new Set(relayed.sent.map(({ id }) => id)).size).toBe(relayed.sent.length)
    expect(await database.query('select from twinbox.outbox')).toEqual([])
  })

  test('a publisher has its xid before its rows draw their seq', async () => {
    // The default of a column is known to a trigger, and the row is not written yet: that would assign an xid.
    await database.query(`create function assigned() returns trigger language plpgsql as $$
      begin
        if pg_current_xact_id_if_assigned() is null then raise exception 'seq % has no xid', new.seq; end if;
        return new;
      end $$`)
    await database.query(
      'create trigger assigned before insert on twinbox.outbox for each row execute function assigned()',
    )
    try {
      // A sequence assigns one itself at every 32nd number.
      for (let count = 0; count < 40; count++) {
        await database.transaction((client) => publish(client, 'alone'))
        await database.transaction((client) =>
          outbox.publishMany(client, [
            { topic: 't', payload: 1, dedupeKey: `${count}` },
            { topic: 't', payload: 2 },
          ]),
        )
        await database.query("select twinbox.publish('t', '3')")
      }
      expect(await database.query('select from twinbox.outbox')).toHaveLength(160)
      // The trigger would have noticed: of two rows in a row, at most one is lucky.
      const plain = (): Promise<unknown> =>
        database
          .query(
            "insert into twinbox.outbox (id, lane, topic, payload) values (gen_random_uuid(), 0, 't', '1')",
          )
          .then(() => 'lucky')
          .catch((error: Error) => error.message)
      expect([await plain(), await plain()]).toContainEqual(expect.stringContaining('has no xid'))
    } finally {
      await database.query('drop function assigned cascade')
    }
  })

  test('of three sessions that wait for one row, each is sent after the one that it waited for', async () => {
    await database.query(
      `drop table if exists account;
      create table account (id int primary key, balance int); insert into account values (1, 0)`,
    )
    const relayed = recorder()
    const stop = await start(relayed.broker)
    // The first to have the row is the last to have an xid.
    const sessions = [await begun(), await begun(), await begun()] as const
    const take = (client: pg.Client): Promise<unknown> =>
      client.query('update account set balance = balance + 1')
    const pid = async (client: pg.Client): Promise<number> =>
      (await client.query<{ pid: number }>('select pg_backend_pid() as pid')).rows[0]!.pid
    const pids = [await pid(sessions[0]), await pid(sessions[1]), await pid(sessions[2])] as const
    await take(sessions[2])
    // Postgres wakes both waiters of an updated row, and either may be faster to its new version.
    const inTurn = ['first']
    const follow = async (client: pg.Client): Promise<void> => {
      await take(client)
      inTurn.push(client === sessions[0] ? 'of session 0' : 'of session 1')
      await publish(client, inTurn.at(-1)!)
      await commit(client)
    }
    const followers = [follow(sessions[0])]
    await untilWaiting(pids[0])
    followers.push(follow(sessions[1]))
    await untilWaiting(pids[1])
    await publish(sessions[2], 'first')
    await commit(sessions[2])
    await Promise.all(followers)
    await relayed.until(inTurn.at(-1)!)
    await stop()
    expect(payloads(relayed.sent, 'k')).toEqual(inTurn)
  })

  test('what was rolled back, wholly or to a savepoint, is never sent and keeps nobody', async () => {
    const relayed = recorder()
    const stop = await start(relayed.broker)
    const aborted = await begun()
    await publish(aborted, 'aborted')
    const partly = await begun()
    await publish(partly, 'before the savepoint')
    await partly.query('savepoint here')
    await publish(partly, 'taken back')
    await database.transaction((client) => publish(client, 'in between', 'other'))
    await relayed.until('in between')
    await partly.query('rollback to savepoint here')
    await partly.query('savepoint again')
    await publish(partly, 'in a subtransaction')
    await partly.query('release savepoint again')
    const [lastSeq] = await database.query<{ seq: number }>(
      `select pg_sequence_last_value('twinbox.outbox_seq_seq')::int as seq`,
    )
    await aborted.query('rollback')
    await aborted.end()
    await commit(partly)
    await database.transaction((client) => publish(client, 'after'))
    await relayed.until('after')
    await untilWatermarkPasses(relayed, lastSeq!.seq)
    await stop()
    expect(payloads(relayed.sent, 'k')).toEqual(['before the savepoint', 'in a subtransaction', 'after'])
    expect(payloads(relayed.sent)).not.toContain('aborted')
    expect(payloads(relayed.sent)).not.toContain('taken back')
    expect(await database.query('select from twinbox.outbox')).toEqual([])
  })

  test('a writer in another database holds an xid for as long as it likes, and nothing waits for it', async () => {
    const elsewhere = await begun(await serverUrl())
    const reader = await begun()
    await reader.query('declare c cursor for select from twinbox.outbox')
    const relayed = recorder()
    const stop = await start(relayed.broker)
    await database.transaction(async (client) => {
      for (let count = 0; count < 100; count++) await publish(client, `message ${count}`)
    })
    await relayed.until('message 99')
    expect(payloads(relayed.sent, 'k')).toEqual(Array.from({ length: 100 }, (_, count) => `message ${count}`))
    await database.transaction((client) => publish(client, 'and on'))
    await relayed.until('and on')
    // Still open all the while.
    expect(
      (await elsewhere.query('select pg_current_xact_id_if_assigned() is not null as held')).rows,
    ).toEqual([{ held: true }])
    await commit(elsewhere)
    await commit(reader)
    await stop()
    expect(relayed.sent).toHaveLength(101)
  })

  test('claims do not go through what is dead, however long a transaction keeps it there', async () => {
    const held = await begun()
    await held.query('select pg_current_xact_id()')
    const receive = (count: number): Promise<unknown> =>
      database.query(
        `insert into twinbox.inbox (consumer, lane, id, topic, payload, published_at)
        select 'c', 64 + n % 8, gen_random_uuid(), 't', '1', now() from generate_series(1, $1::int) as n`,
        [count],
      )
    const claimer = createClaimer({ database: database.url, consumer: 'c' }, { '#': () => {} })
    leftovers.push(() => claimer.stop())
    await claimer.start()
    const dead = 16_000
    await receive(dead)
    const scanned = async (): Promise<number> => {
      const [row] = await database.query<{ entries: number }>(
        `select idx_tup_read::int as entries from pg_stat_user_indexes
        where schemaname = 'twinbox' and indexrelname = 'inbox_pkey'`,
      )
      return row!.entries
    }
    /** Index entries that are passed in some seconds, in which claimers sweep their partitions several times. */
    const passed = async (): Promise<number> => {
      const before = await scanned()
      const startedAt = performance.now()
      while (performance.now() - startedAt < 4000) {
        await receive(1)
        await database.query('select pg_sleep(0.05)')
      }
      return (await scanned()) - before
    }
    const left = async (): Promise<number> =>
      (await database.query<{ n: number }>('select count(*)::int as n from twinbox.inbox'))[0]!.n
    while ((await left()) > 0);
    // As soon as it is a straggler. One sweep from the confirmed watermark would pass them all.
    while ((await passed()) >= dead);
    expect((await held.query('select 1')).rowCount).toBe(1)
    await commit(held)
  })

  test('a successor starts at the watermark that was written down, and finds what commits below the bound', async () => {
    const relayed = recorder()
    const stop = await start(relayed.broker)
    const late = await begun()
    await publish(late, 'late')
    const startedAt = performance.now()
    for (let count = 0; performance.now() - startedAt < 1300; count++) {
      await database.transaction((client) => publish(client, `meanwhile ${count}`, 'busy'))
      await relayed.until(`meanwhile ${count}`)
    }
    await stop()
    const stopSuccessor = await start(relayed.broker)
    await database.transaction((client) => publish(client, 'handed over'))
    await relayed.until('handed over')
    await commit(late)
    await relayed.until('late')
    await stopSuccessor()
    expect(payloads(relayed.sent, 'k')).toEqual(['handed over', 'late'])
    expect(await database.query('select from twinbox.outbox')).toEqual([])
  })

  test(
    'under a storm of publishers, early and late, each key is sent in the order of its commits',
    { timeout: 120_000 },
    async () => {
      const relayed = recorder()
      const stops = [await start(relayed.broker), await start(relayed.broker)]
      const keys = ['a', 'b', 'c']
      const locks = new Map(keys.map((key) => [key, Promise.resolve()]))
      const expected = new Map<string, string[]>(keys.map((key) => [key, []]))
      let count = 0
      const storm = async (): Promise<void> => {
        const client = new pg.Client({ connectionString: database.url })
        await client.connect()
        for (let round = 0; round < 90; round++) {
          await client.query('begin')
          // The xid comes first, the key's turn later: other transactions with higher xids commit in between.
          if (round % 2 === 0) await client.query('select pg_current_xact_id()')
          const key = keys[count % keys.length]!
          const turn = locks.get(key)!
          let done = (): void => {}
          locks.set(key, new Promise((resolve) => (done = resolve)))
          const payload = `${key} ${count++}`
          await turn
          await publish(client, payload, key)
          if (round % 7 === 0) await client.query('rollback')
          else {
            await client.query('commit')
            expected.get(key)!.push(payload)
          }
          done()
        }
        await client.end()
      }
      await Promise.all(Array.from({ length: 4 }, storm))
      await Promise.all([...expected.values()].map((list) => relayed.until(list.at(-1)!)))
      await Promise.all(stops.map((stop) => stop()))
      for (const key of keys) expect(payloads(relayed.sent, key)).toEqual(expected.get(key))
      expect(relayed.sent.length).toBeGreaterThan(250)
    },
  )

  async function untilWaiting(pid: number): Promise<void> {
    for (;;) {
      const [row] = await database.query<{ waits: boolean }>(
        'select cardinality(pg_blocking_pids($1)) > 0 as waits',
        [pid],
      )
      if (row!.waits) return
    }
  }
})
