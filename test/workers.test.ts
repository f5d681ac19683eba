import { planned } from '../src/database/sql/statement.ts'
import { randomUUID } from 'node:crypto'
import { hostname } from 'node:os'
import { Client } from 'pg'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { postgres } from '../src/brokers/postgres/postgres.ts'
import { renderWorkers } from '../src/cli/roster.ts'
import { watch, type Picture } from '../src/cli/screen.ts'
import { Database } from '../src/database/database.ts'
import { receive } from '../src/database/inbox.ts'
import {
  createClaimer,
  createOutbox,
  createReceiver,
  createRelay,
  evictWorkers,
  readWorkers,
  version,
  type ClaimerOptions,
  type Worker,
  type WorkerStatus,
} from '../src/index.ts'
import { recordEvents } from './support/events.ts'
import { fit } from '../src/terminal/section.ts'
import { createTestDatabase, type TestDatabase } from './support/postgres.ts'
import { until } from './support/until.ts'
import { inboxMessage } from './support/messages.ts'

let database: TestDatabase
let inbox: Database
let consumer: string
const running: Worker[] = []

beforeAll(async () => {
  database = await createTestDatabase()
  inbox = new Database(database.url)
  await database.query('create table effects (consumer text, n int)')
})
beforeEach(() => {
  consumer = `c${randomUUID().slice(0, 8)}`
})
afterEach(async () => {
  await Promise.all(running.splice(0).map((worker) => worker.stop()))
  await database.query('delete from twinbox.worker')
})
afterAll(async () => {
  await inbox.close()
  await database.drop()
})

/** Every other one without a key. */
async function deliver(count: number, from = 0): Promise<void> {
  await receive(
    inbox,
    Array.from({ length: count }, (_, index) =>
      inboxMessage({
        consumer,
        key: index % 2 === 0 ? `k${index % 10}` : null,
        payload: JSON.stringify({ n: from + index }),
        publishedAt: new Date(),
      }),
    ),
  )
}

/** A claimer that writes down what it handles, after `before`. */
async function start(
  before: () => Promise<unknown> | undefined,
  options: Partial<ClaimerOptions> = {},
): Promise<{ worker: Worker; events: ReturnType<typeof recordEvents> }> {
  const events = recordEvents()
  const worker = createClaimer(
    { database: database.url, consumer, onEvent: events.onEvent, ...options },
    {
      t: async (message, { client }) => {
        const { n } = message.payload as { n: number }
        await client.query('insert into effects values ($1, $2)', [consumer, n])
        await before()
      },
    },
  )
  running.push(worker)
  await worker.start()
  return { worker, events }
}

/** A row as a worker would have left it, `beat` milliseconds ago. */
async function register(
  row: { kind?: string; beat?: number; lockedOn?: string; ended?: string; by?: string; app?: string } = {},
): Promise<number> {
  const [inserted] = await database.query<{ id: number }>(
    `insert into twinbox.worker
      (kind, consumer, host, pid, version, application, started_at, beat_at, locked_on, ended_at, ended_by)
    values ($1, $2, 'h', 1, '0.0.0', $3, now() - interval '1 hour', clock_timestamp() - $4 * interval '1 ms',
      ${row.lockedOn ?? 'null'}, ${row.ended ?? 'null'}, $5) returning id`,
    [row.kind ?? 'claimer', consumer, row.app ?? 'nobody', row.beat ?? 0, row.by ?? null],
  )
  return inserted!.id
}

const read = (): Promise<WorkerStatus[]> => readWorkers(database.url, { consumer })
const waiting = async (): Promise<number> =>
  (await database.query('select from twinbox.inbox where consumer = $1', [consumer])).length

describe('reading', () => {
  test('a living worker is shown with what it holds, and its end with how it came', async () => {
    let letGo = (): void => {}
    const held = new Promise<void>((resolve) => (letGo = resolve))
    const begun = Date.now()
    const { worker } = await start(() => held, { concurrency: 3, heartbeatMs: 50 })
    await deliver(6)
    await until(async () =>
      (await read()).some(({ inFlight, lanes }) => inFlight === 6 && lanes.length === 72),
    )
    const [shown, ...others] = await read()
    expect(others).toEqual([])
    expect(shown).toMatchObject({
      id: worker.id,
      kind: 'claimer',
      consumer,
      host: hostname(),
      pid: process.pid,
      version,
      state: 'alive',
      alive: true,
      locked: true,
      session: false,
      endedAt: null,
      endedBy: null,
      lanes: Array.from({ length: 72 }, (_, lane) => lane),
    })
    expect(shown!.lastBeatMs).toBeLessThan(5000)
    for (const time of [shown!.startedAt, shown!.lanesSince!, shown!.beatAt, ...shown!.lanesTaken]) {
      expect(Math.abs(time.getTime() - begun)).toBeLessThan(30_000)
    }
    expect(shown!.lanesTaken).toHaveLength(72)
    expect(shown).toMatchObject({ stuck: null, brokerDown: null })
    letGo()
    await until(async () => (await waiting()) === 0)
    await worker.stop()
    expect(await read()).toMatchObject([
      { id: shown!.id, state: 'stopped', endedBy: 'stop', lanes: [], lanesSince: null, inFlight: 0 },
    ])
  })

  test('what holds a worker up is told with it, and since when it holds each lane', async () => {
    const claimer = await register()
    const relay = await register({ kind: 'relay' })
    const since = new Date('2026-11-30T08:00:00Z')
    await database.query('update twinbox.worker set stuck_topic = $2, stuck_since = $3 where id = $1', [
      ...[claimer, 'order.placed', since],
    ])
    await database.query(
      'update twinbox.worker set broker_error = $2, broker_down_since = $3 where id = $1',
      [...[relay, 'connect ECONNREFUSED', since]],
    )
    const times = [new Date('2026-11-30T08:00:01Z'), new Date('2026-11-30T08:00:00.500Z')]
    for (const [lane, time] of times.entries())
      await database.query(
        `insert into twinbox.lane (consumer, lane, holder, since, lease_until) values ($1, $2, $3, $4, 'infinity')`,
        [consumer, lane, claimer, time],
      )
    const found = new Map((await read()).map((worker) => [worker.id, worker]))
    expect(found.get(claimer)).toMatchObject({
      stuck: { topic: 'order.placed', since },
      brokerDown: null,
      lanes: [0, 1],
      lanesTaken: times,
      lanesSince: times[1],
    })
    expect(found.get(relay)).toMatchObject({
      stuck: null,
      brokerDown: { error: 'connect ECONNREFUSED', since },
      lanesTaken: [],
    })
  })

  test('every state is told apart, and who ended long ago is not shown', async () => {
    const here = 'pg_postmaster_start_time()'
    const id = {
      alive: await register({ beat: 4000 }),
      silent: await register({ beat: 6000 }),
      gone: await register({ lockedOn: here }),
      // Its lock was on the server before a restart or a failover: that it is missing says nothing.
      restarted: await register({ lockedOn: "pg_postmaster_start_time() - interval '1 hour'" }),
      lock: await register({ ended: 'now()', by: 'lock', lockedOn: here }),
      heartbeat: await register({ ended: "now() - interval '9 minutes'", by: 'heartbeat' }),
      session: await register({ ended: "now() - interval '3 minutes'", by: 'session' }),
      evict: await register({ ended: "now() - interval '1 minute'", by: 'evict' }),
      stop: await register({ ended: "now() - interval '2 minutes'", by: 'stop' }),
    }
    await register({ ended: "now() - interval '11 minutes'", by: 'lock' })
    const relay = await register({ kind: 'relay' })
    expect((await read()).map((worker) => [worker.id, worker.state, worker.endedBy])).toEqual([
      [id.alive, 'alive', null],
      [id.silent, 'silent', null],
      [id.gone, 'gone', null],
      [id.restarted, 'alive', null],
      [relay, 'alive', null],
      // The latest dead first.
      [id.lock, 'died', 'lock'],
      [id.evict, 'evicted', 'evict'],
      [id.stop, 'stopped', 'stop'],
      [id.session, 'died', 'session'],
      [id.heartbeat, 'died', 'heartbeat'],
    ])
    expect((await readWorkers(inbox, { consumer, kind: 'relay' })).map((worker) => worker.id)).toEqual([
      relay,
    ])
    expect((await readWorkers(database.pool)).length).toBe(10)
  })

  test('wrong options are refused before anything is asked of the database', async () => {
    const nowhere = 'postgres://127.0.0.1:1/x'
    await expect(readWorkers(nowhere, { kind: 'pigeon' as 'relay' })).rejects.toMatchObject({
      option: 'kind',
    })
    await expect(readWorkers(nowhere, { consumer: 'a b' })).rejects.toMatchObject({ option: 'consumer' })
    await expect(readWorkers(nowhere, { schma: 'x' } as object)).rejects.toMatchObject({ option: 'schma' })
    await expect(readWorkers(database.url, { schema: 'nowhere' })).rejects.toMatchObject({
      code: 'SCHEMA_MISSING',
    })
  })
})

describe('evicting', () => {
  test('another takes the work, nothing is lost or doubled, and the evicted comes back under a new id', async () => {
    let holds = true
    let letGo = (): void => {}
    const held = new Promise<void>((resolve) => (letGo = resolve))
    // It looks at its own row so seldom that the other one has to act without its help.
    const slow = { heartbeatMs: 3000, deadAfterMs: 30_000 }
    const first = await start(() => (holds ? held : undefined), { concurrency: 4, ...slow })
    const formerId = first.worker.id!
    await deliver(40)
    await until(() => first.events.of('claimed').flatMap(({ ids }) => ids).length >= 20)
    const second = await start(() => undefined)
    holds = false
    const at = performance.now()
    expect(await evictWorkers(database.url, [formerId])).toEqual({
      evicted: [formerId],
      unknown: [],
      ended: [],
    })
    const takeover = await second.events.next('takeover', ({ lanes }) => lanes.length > 0)
    expect(performance.now() - at).toBeLessThan(2000)
    expect(takeover).toMatchObject({ fromWorkerId: formerId, foundBy: 'evict' })
    expect(second.events.of('worker_dead')).toEqual([])
    // Its handlers end only now: too late, whoever is faster.
    await until(async () => (await waiting()) === 0)
    letGo()
    await until(() => first.worker.id !== null && first.worker.id !== formerId)
    expect(first.events.of('lease_lost').length).toBeGreaterThan(0)
    expect((await read()).map(({ id, state }) => [id, state])).toEqual([
      [second.worker.id, 'alive'],
      [first.worker.id, 'alive'],
      [formerId, 'evicted'],
    ])
    await deliver(20, 40)
    await until(async () => (await waiting()) === 0)
    // Both share the work again.
    await until(async () => (await read()).slice(0, 2).every(({ lanes }) => lanes.length === 36))
    await Promise.all(running.splice(0).map((worker) => worker.stop()))
    const done = await database.query<{ n: number }>('select n from effects where consumer = $1 order by n', [
      consumer,
    ])
    expect(done.map(({ n }) => n)).toEqual(Array.from({ length: 60 }, (_, n) => n))
  })

  test('a worker that is alone takes its own work back', async () => {
    const { worker, events } = await start(() => undefined, { heartbeatMs: 100, deadAfterMs: 1000 })
    const formerId = worker.id!
    await evictWorkers(inbox, [formerId])
    await events.next('lanes_taken', ({ workerId }) => workerId !== formerId)
    await deliver(4)
    await until(async () => (await waiting()) === 0)
    expect((await read()).map(({ id, state }) => [id, state])).toEqual([
      [worker.id, 'alive'],
      [formerId, 'evicted'],
    ])
  })

  test('relays and receivers come back as well, and go on with what they did', async () => {
    const timing = { database: database.url, heartbeatMs: 100, deadAfterMs: 1000 }
    const broker = postgres({ database: database.url })
    const relay = createRelay({ ...timing, broker })
    const receiver = createReceiver({ ...timing, broker, consumer, topics: ['evicted.*'] })
    running.push(relay, receiver)
    for (const worker of [receiver, relay]) await worker.start()
    const former = [relay.id!, receiver.id!]
    expect(await evictWorkers(inbox, former)).toMatchObject({ evicted: former })
    await until(() => [relay, receiver].every(({ id }) => id !== null && !former.includes(id)))
    await database.transaction((client) =>
      createOutbox().publish(client, { topic: 'evicted.once', key: 'k', payload: 1 }),
    )
    await until(async () => (await waiting()) === 1)
    const shown = await readWorkers(inbox, { kind: 'relay' })
    expect(shown.map(({ id, state, lanes }) => [id, state, lanes.length])).toEqual([
      [relay.id, 'alive', 64],
      [former[0], 'evicted', 0],
    ])
    await Promise.all(running.splice(0).map((worker) => worker.stop()))
    await broker.close()
  })

  test('each id is answered for: evicted, unknown, or ended before', async () => {
    const [one, other] = [await register(), await register()]
    const stopped = await register({ ended: 'now()', by: 'stop' })
    const unknown = 2 ** 31 - 1
    const answer = await evictWorkers(database.url, [other, unknown, stopped, one, other])
    expect(answer).toEqual({ evicted: [other, one], unknown: [unknown], ended: [stopped] })
    expect(await evictWorkers(inbox, [one])).toEqual({ evicted: [], unknown: [], ended: [one] })
    expect(await evictWorkers(inbox, [])).toEqual({ evicted: [], unknown: [], ended: [] })
    // How it ended is not overwritten.
    const ends = (await read()).map(({ id, endedBy }) => [id, endedBy])
    expect(ends).toContainEqual([stopped, 'stop'])
    expect(ends).toContainEqual([one, 'evict'])
  })

  test('two operators evict a worker once', async () => {
    const ids = await Promise.all(Array.from({ length: 8 }, () => register()))
    const answers = await Promise.all([
      evictWorkers(database.url, ids),
      evictWorkers(database.url, ids.toReversed()),
    ])
    const sorted = (found: readonly number[]): number[] => found.toSorted((a, b) => a - b)
    expect(sorted(answers.flatMap(({ evicted }) => evicted))).toEqual(sorted(ids))
    expect(sorted(answers.flatMap(({ ended }) => ended))).toEqual(sorted(ids))
  })

  test.each([[1.5], [0], [-1], [2 ** 31], [Number.NaN], ['7']])('%s is no id', async (id) => {
    const evicting = evictWorkers('postgres://127.0.0.1:1/x', [1, id as number])
    await expect(evicting).rejects.toMatchObject({ code: 'INVALID_OPTION', option: 'ids' })
  })

  test('a transaction that a silent worker left open is ended, that of a living one is not', async () => {
    const open = async (app: string): Promise<{ closed: () => boolean; end: () => Promise<void> }> => {
      const client = new Client({ connectionString: database.url, application_name: app })
      let closed = false
      client.on('error', () => {})
      client.on('end', () => (closed = true))
      await client.connect()
      await client.query('begin')
      return { closed: () => closed, end: () => client.end().catch(() => {}) }
    }
    const [frozen, living] = [await open('frozen twinbox 0123abcd'), await open('living twinbox 4567cdef')]
    const ids = [
      await register({ app: 'frozen twinbox 0123abcd', beat: 60_000 }),
      await register({ app: 'living twinbox 4567cdef' }),
    ]
    await evictWorkers(database.url, ids)
    await until(frozen.closed)
    expect(living.closed()).toBe(false)
    await living.end()
  })
})

describe('the table', () => {
  const at = new Date('2026-01-01T12:00:00Z')
  const worker = (fields: Partial<WorkerStatus> = {}): WorkerStatus => ({
    id: 7,
    kind: 'claimer',
    consumer: 'billing',
    host: 'web-1',
    pid: 4242,
    version: '0.1.0',
    startedAt: new Date('2026-01-01T11:57:00Z'),
    lastBeatMs: 320,
    beatAt: new Date('2026-01-01T11:59:59.680Z'),
    alive: true,
    state: 'alive',
    locked: true,
    session: false,
    endedAt: null,
    endedBy: null,
    lanes: [1, 2, 3],
    lanesTaken: ['30', '31', '32'].map((second) => new Date(`2026-01-01T11:59:${second}Z`)),
    lanesSince: new Date('2026-01-01T11:59:30Z'),
    inFlight: 5,
    topics: ['order.*'],
    stuck: null,
    brokerDown: null,
    ...fields,
  })

  test('says it all in a line', () => {
    const ended = { endedAt: new Date('2026-01-01T11:58:00Z'), lanes: [], lanesSince: null }
    const workers = [
      worker(),
      worker({ id: 8, kind: 'relay', consumer: null, locked: false }),
      worker({ id: 9, kind: 'receiver', lanes: [], lanesSince: null }),
      worker({ id: 10, state: 'died', endedBy: 'lock', ...ended, lastBeatMs: 120_000 }),
    ]
    const drawn = (some: WorkerStatus[], options?: Parameters<typeof renderWorkers>[2]): string =>
      fit([renderWorkers(some, at, options)])
    expect(drawn(workers, { ended: true }).split('\n')).toEqual([
      'id  kind      consumer  state       up     beat    lanes  since   in flight  lock  host   pid   version',
      '7   claimer   billing   alive       3 min  320 ms  3      30.0 s  5          yes   web-1  4242  0.1.0',
      '8   relay     -         alive       3 min  320 ms  3      30.0 s  5          no    web-1  4242  0.1.0',
      '9   receiver  billing   alive       3 min  320 ms  -      -       5          yes   web-1  4242  0.1.0',
      '10  claimer   billing   died: lock  1 min  2 min   0      -       5          -     web-1  4242  0.1.0',
    ])
    const signing = [
      worker({ locked: false, session: true }),
      worker({ locked: false, state: 'died', endedBy: 'session', ...ended }),
    ]
    expect(drawn(signing, { ended: true })).toMatch(
      /^7 .* session  web-1 .*\n7 .* died: session .* - {8}web-1 /m,
    )
    expect(drawn([])).toBe('No worker is running.')
  })

  test('those who have ended are a line, by how they ended', () => {
    const ended = { endedAt: new Date('2026-01-01T11:58:00Z') }
    const workers = [
      worker({ id: 1, state: 'stopped', endedBy: 'stop', ...ended }),
      worker({ id: 2, state: 'died', endedBy: 'lock', ...ended }),
      worker({ id: 3, state: 'stopped', endedBy: 'stop', ...ended }),
    ]
    const line =
      '3 ended in the last ten minutes: 2 stopped, 1 died: lock. twinbox workers --ended lists them.'
    expect(fit([renderWorkers(workers, at)])).toBe(`No worker is running.\n${line}`)
    expect(fit([renderWorkers([worker(), ...workers], at)]).split('\n')).toMatchObject({ length: 3, 2: line })
    // However little room there is, it is never among the lines that are cut.
    const living = Array.from({ length: 100 }, (_, id) => worker({ id }))
    const cut = fit([renderWorkers([...living, ...workers], at, { width: 120 })], 10).split('\n')
    expect(cut).toHaveLength(10)
    expect(cut.slice(-2)).toEqual(['… 93 more lines', line])
  })

  test('what an operator misses first goes last, and its absence is said', () => {
    const wide = worker({
      id: 999_999,
      consumer: 'b'.repeat(100),
      host: 'ip-10-0-0-12.eu-central-1.compute.internal',
      pid: 4_194_304,
      version: '10.11.12',
      lastBeatMs: 59_900,
    })
    const columnsAt = (width: number): string[] => {
      const lines = fit([renderWorkers([worker(), wide], at, { width })]).split('\n')
      expect(lines.filter((line) => line.length > width)).toEqual([])
      return lines[0]!.trim().split(/ {2,}/)
    }
    const all = columnsAt(1000)
    expect(all).toHaveLength(13)
    expect(all.filter((name) => !columnsAt(120).includes(name))).toEqual(['version'])
    expect(all.filter((name) => !columnsAt(100).includes(name))).toEqual(['up', 'pid', 'version'])
    for (const width of [80, 60])
      expect(columnsAt(width)).toEqual(
        expect.arrayContaining(['id', 'kind', 'consumer', 'state', 'beat', 'in flight']),
      )
    // No more is cut than has to be.
    const named = fit([renderWorkers([worker({ host: 'payments-7f9c6d5b-x2x4z' })], at, { width: 120 })])
    expect(named).toContain(' payments-7f9c6d5b-x2x4z ')
  })
})

describe('watching', () => {
  class Terminal {
    written = ''
    readonly isTTY: boolean
    columns = 80
    rows = 5
    #resized: (() => void) | null = null
    constructor(isTTY: boolean) {
      this.isTTY = isTTY
    }
    write(text: string): void {
      this.written += text
    }
    on(_: 'resize', listener: () => void): void {
      this.#resized = listener
    }
    off(_: 'resize', listener: () => void): void {
      if (this.#resized === listener) this.#resized = null
    }
    resize(columns: number, rows: number): void {
      Object.assign(this, { columns, rows })
      this.#resized?.()
    }
  }
  let lost: unknown
  beforeAll(async () => {
    const away = new Database('postgres://nobody@127.0.0.1:1/none')
    lost = await away.query(planned({}, 'select 1')).catch((error: unknown) => error)
    await away.close()
  })

  test('a terminal gets its cursor and its former content back, with the last picture below', async () => {
    const terminal = new Terminal(true)
    const stop = new AbortController()
    let drawn = 0
    await watch(
      async () => {
        // The third is never read to its end.
        if (++drawn === 3) {
          terminal.resize(15, 4)
          stop.abort()
          return new Promise<Picture>(() => {})
        }
        const picture = drawn
        return (width) => `picture ${picture} of width ${width}\n2\n3\n4\n5\n6`
      },
      terminal,
      false,
      stop.signal,
    )
    expect(terminal.written).toBe(
      '\u001b[?1049h\u001b[?25l' +
        '\u001b[H\u001b[Jpicture 1 of width 80\n2\n3\n4\n… 2 more lines' +
        '\u001b[H\u001b[Jpicture 2 of width 80\n2\n3\n4\n… 2 more lines' +
        // At once, out of what was read: the next read may take its time.
        '\u001b[H\u001b[Jpicture 2 of w…\n2\n3\n… 3 more lines' +
        '\u001b[?25h\u001b[?1049lpicture 2 of width 80\n2\n3\n4\n5\n6\n',
    )
    // Nobody draws into what others have again.
    terminal.written = ''
    terminal.resize(80, 24)
    expect(terminal.written).toBe('')
  })

  test('an outage of the database is shown and outlived, but not at the beginning', async () => {
    const terminal = new Terminal(false)
    const stop = new AbortController()
    let drawn = 0
    const draw = async (): Promise<Picture> => {
      if (++drawn === 2) throw lost
      if (drawn === 4) stop.abort()
      const picture = `{"drawn":${drawn}}`
      return () => picture
    }
    await watch(draw, terminal, true, stop.signal)
    const [first, second, third] = terminal.written.trimEnd().split('\n')
    expect([first, third]).toEqual(['{"drawn":1}', '{"drawn":3}'])
    expect(JSON.parse(second!)).toMatchObject({
      error: 'The database cannot be used: connect ECONNREFUSED 127.0.0.1:1',
    })
    const failing = watch(() => Promise.reject(lost), new Terminal(true), false, new AbortController().signal)
    await expect(failing).rejects.toBe(lost)
  })
})
