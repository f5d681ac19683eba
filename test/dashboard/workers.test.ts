import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { createDashboard, type Dashboard, type Viewer } from '../../src/dashboard/dashboard.ts'
import { Marks } from '../../src/dashboard/marks.ts'
import { Successions } from '../../src/dashboard/successions.ts'
import { createSchedules, type WorkerStatus } from '../../src/index.ts'
import { createTestDatabase, type TestDatabase } from '../support/postgres.ts'

/** Who works and who has ended, what each holds, what recurs, and who wants which topics. */

let database: TestDatabase
let dashboard: Dashboard
let viewer: Viewer = { name: 'ada', access: 'operate' }
const origin = 'https://ops.example'

beforeAll(async () => {
  database = await createTestDatabase()
})
beforeEach(() => {
  viewer = { name: 'ada', access: 'operate' }
  dashboard = createDashboard({ database: database.url, authorize: () => viewer })
})
afterEach(async () => {
  await dashboard.close()
  await database.query(
    'truncate twinbox.worker, twinbox.schedule, twinbox.subscription, twinbox.unhandled, twinbox.audit',
  )
  await database.query(`delete from twinbox.lane where consumer <> ''`)
})
afterAll(async () => {
  await database.drop()
})

const get = async (path: string): Promise<string> =>
  (await dashboard.fetch(new Request(`${origin}${path}`))).text()

/** The text of a page, as somebody reads it. */
const read = async (path: string): Promise<string> =>
  (await get(path))
    .replaceAll(/<[^>]*>/g, ' ')
    .replaceAll('&#39;', "'")
    .replaceAll(/\s+/g, ' ')

async function post(path: string, fields: Record<string, string>): Promise<string> {
  const token = /name="token" value="([^"]+)"/.exec(await get('/workers'))![1]!
  const response = await dashboard.fetch(
    new Request(`${origin}${path}`, {
      method: 'POST',
      body: new URLSearchParams({ ...fields, token }),
      headers: { 'sec-fetch-site': 'same-origin' },
    }),
  )
  return response.status === 303 ? read(response.headers.get('location')!) : response.text()
}

/** What the audit's page says. */
const audited = (): Promise<string> => read('/audit')
const rows = () => database.query('select action, who, why, reason from twinbox.audit order by number desc')

interface Row {
  readonly kind?: string
  readonly consumer?: string
  readonly host?: string
  readonly ended?: string
  readonly topics?: readonly string[]
}

async function register({ kind = 'claimer', consumer, host, ended, topics }: Row = {}): Promise<number> {
  const [row] = await database.query<{ id: number }>(
    `insert into twinbox.worker (kind, consumer, host, pid, version, application, beat_at, ended_at, ended_by, topics)
    values ($1, $2, $3, 7, '0.1.0', 'nobody', now() - case when $4::text is null then interval '0' else interval '300 ms' end,
      case when $4::text is not null then now() end, $4, $5) returning id`,
    [kind, consumer ?? (kind === 'relay' ? '' : 'billing'), host ?? 'h', ended ?? null, topics ?? null],
  )
  return row!.id
}

const hold = (worker: number, lanes: readonly number[], consumer = 'billing') =>
  database.query(
    `insert into twinbox.lane (consumer, lane, holder, since, lease_until)
    select $1, unnest($2::int[]), $3, now() - interval '1 minute', 'infinity'
    on conflict (consumer, lane) do update set holder = excluded.holder, since = clock_timestamp()`,
    [consumer, lanes, worker],
  )

describe('workers', () => {
  test('are listed with what they hold, and what holds them up', async () => {
    const first = await register({ host: 'shop-1' })
    const second = await register({ host: 'shop-2' })
    await hold(first, [0, 1, 2])
    await hold(second, [3])
    await database.query(
      `update twinbox.worker set in_flight = 5, stuck_topic = 'order.paid', stuck_since = now() where id = $1`,
      [second],
    )
    const page = await read('/workers')
    expect(page).toContain(`${first} claimer billing ● alive`)
    expect(page).toContain('handler of order.paid does not end')
    expect(page).toMatch(/A worker \d+: 3, the first 60\.\d s ago|A worker \d+: 3, the first 1 min ago/)
    const picture = /aria-label="(72 lanes:[^"]*)"/.exec(await get('/workers'))![1]
    expect(picture).toBe(
      `72 lanes: A, worker ${first}, holds 3; B, worker ${second}, holds 1; nobody holds 68.`,
    )
  })

  test('are found by kind and consumer, in a URL that can be shared', async () => {
    const [billing, shipping] = [await register(), await register({ consumer: 'shipping' })]
    const relay = await register({ kind: 'relay' })
    const ids = async (query: string): Promise<number[]> =>
      [...(await get(`/workers${query}`)).matchAll(/Evict worker (\d+)/g)].map(([, id]) => Number(id))
    expect(await ids('')).toEqual([billing, shipping, relay])
    expect(await ids('?kind=relay')).toEqual([relay])
    expect(await ids('?consumer=shipping')).toEqual([shipping])
    expect(await get('/workers?consumer=shipping')).not.toContain('<h3>billing</h3>')
    expect(await ids('?kind=relay&consumer=shipping')).toEqual([])
  })

  test('who never were teach what each kind is for', async () => {
    expect(await read('/workers')).toContain('twinbox work starts one of each')
  })

  test.each([
    ['lock', 'was found dead 300 ms after its last heartbeat, since its process was gone.'],
    ['heartbeat', 'was found dead 300 ms after its last heartbeat, since it gave no sign of life.'],
    ['evict', 'was evicted, 300 ms after its last heartbeat.'],
    ['stop', 'stopped.'],
  ])('whose end was a %s are told of', async (ended, told) => {
    const id = await register({ ended, host: 'shop-9' })
    expect(await read('/workers')).toContain(`Worker ${id} (claimer of billing on shop-9, process 7) ${told}`)
  })
})

describe('takeovers', () => {
  const at = (seconds: number): Date => new Date(Date.UTC(2026, 10, 30, 8, 0, 0) + seconds * 1000)
  const worker = (id: number, lanes: readonly number[], since: number, more: Partial<WorkerStatus> = {}) =>
    ({
      ...{ id, kind: 'claimer', consumer: 'billing', alive: true, endedAt: null, lanes },
      lanesTaken: lanes.map((_, index) => at(since + index / 10)),
      ...more,
    }) as WorkerStatus

  test('are told with who took how many lanes how soon', () => {
    const successions = new Successions()
    successions.see([worker(1, [0, 1, 2, 3], 0), worker(2, [4], 0)])
    const dead = { alive: false, endedAt: at(10) }
    successions.see([worker(2, [4, 0, 1], 10), worker(1, [2, 3], 0, dead)])
    expect(successions.of(worker(1, [2, 3], 0, dead))).toEqual({
      seen: true,
      successors: [{ id: 2, lanes: 2, firstMs: 100, lastMs: 200 }],
      left: 2,
    })
    successions.see([worker(2, [4, 0, 1], 10), worker(3, [2, 3], 11), worker(1, [], 0, dead)])
    expect(successions.of(worker(1, [], 0, dead))).toEqual({
      seen: true,
      successors: [
        { id: 2, lanes: 2, firstMs: 100, lastMs: 200 },
        { id: 3, lanes: 2, firstMs: 1000, lastMs: 1100 },
      ],
      left: 0,
    })
  })

  test('are not made up: what was given back, handed over or happened before anybody watched is none', () => {
    const successions = new Successions()
    const before = worker(9, [], 0, { alive: false, endedAt: at(1) })
    successions.see([worker(1, [0, 1, 2], 0), worker(2, [], 0), before])
    // Lane 0 is given back, and taken by another one; lane 1 is handed over.
    successions.see([worker(1, [2], 0), worker(2, [1], 5), before])
    successions.see([worker(1, [2], 0), worker(2, [0, 1], 5), before])
    const dead = worker(1, [], 0, { alive: false, endedAt: at(10) })
    successions.see([worker(2, [0, 1, 2], 20), dead, before])
    expect(successions.of(dead).successors).toEqual([{ id: 2, lanes: 1, firstMs: 10_200, lastMs: 10_200 }])
    expect(successions.of(before)).toEqual({ seen: false, successors: [], left: 0 })
  })

  test('change no mark of those who go on', () => {
    const marks = new Marks()
    const letters = (...all: WorkerStatus[]) => {
      marks.see(all)
      return all.map((each) => marks.of(each)?.letter)
    }
    expect(letters(worker(5, [0], 0), worker(6, [1], 0), worker(7, [2], 0))).toEqual(['A', 'B', 'C'])
    // The first is forgotten, and a new one gets the letter that is free.
    expect(letters(worker(6, [1], 0), worker(7, [2], 0), worker(8, [0], 0))).toEqual(['B', 'C', 'A'])
    expect(letters(worker(9, [], 0))).toEqual([undefined])
    const many = Array.from({ length: 28 }, (_, index) => worker(100 + index, [index], 0))
    expect(letters(...many).slice(25)).toEqual(['Z', 'AA', 'AB'])
  })
})

describe('evicting', () => {
  test('asks first and why, says what follows, and is done once', async () => {
    const id = await register()
    const asked = await read(`/workers/evict?id=${id}`)
    expect(asked).toContain('Why, for those who ask later')
    expect(asked).toContain(`Evict worker ${id}`)
    expect(asked).toContain('it comes back under a new id')
    const ended = () => database.query('select from twinbox.worker where ended_by = $1', ['evict'])
    expect(await ended()).toHaveLength(0)
    for (const reason of ['', '  '])
      expect(await post('/workers/evict', { id: String(id), reason })).toContain('A reason is required')
    expect(await ended()).toHaveLength(0)
    expect(await rows()).toEqual([])
    const fields = { id: String(id), reason: 'hangs' }
    expect(await post('/workers/evict', fields)).toContain(`Done: Evicted worker ${id}. Others`)
    expect(await ended()).toHaveLength(1)
    expect(await post('/workers/evict', fields)).toContain(`Not done: Worker ${id} had already ended`)
    expect(await rows()).toEqual([
      { action: 'evict', who: 'ada', why: 'hangs', reason: `worker ${id}, claimer on h, process 7` },
    ])
    expect(await audited()).toMatch(
      new RegExp(`▲ evict ada postgres hangs billing .*worker ${id}, claimer on h, process 7`),
    )
    expect(await read(`/workers/evict?id=${id}`)).toContain(`There is no living worker ${id}.`)
    expect(await read('/workers/evict?id=x')).toContain('id must be the number of a worker.')
  })

  test('is not offered to readers, and refused if they ask', async () => {
    const id = await register()
    viewer = { name: 'bob', access: 'read' }
    expect(await get('/workers')).not.toContain('evict')
    expect(await get(`/workers/evict?id=${id}`)).not.toContain('<button class="danger">')
    expect(await post('/workers/evict', { id: String(id), reason: 'hangs' })).toContain(
      'bob may read, and not operate',
    )
    expect(await rows()).toEqual([])
    expect(await database.query('select from twinbox.worker where ended_at is null')).toHaveLength(1)
  })
})

describe('schedules', () => {
  const set = (name: string, cron = '0 6 * * *') =>
    createSchedules({ database: database.url }).set({ name, cron, topic: 'report.due', payload: {} })

  test('are listed, paused and resumed', async () => {
    await set('daily-report')
    await set('other')
    expect(await read('/schedules')).toContain('No relay lives')
    await register({ kind: 'relay' })
    const page = await read('/schedules?name=daily')
    expect(page).toMatch(/daily-report ● runs 0 6 \* \* \* UTC in \d+ (min|h) never report.due/)
    expect(page).not.toContain('other')
    const fields = { name: 'daily-report', reason: 'books are closed' }
    expect(await post('/schedules/pause', fields)).toContain('Done: daily-report publishes no more')
    expect(await read('/schedules')).toContain('daily-report ▲ paused')
    expect(await post('/schedules/resume', fields)).toContain('● runs')
    expect(await post('/schedules/resume', fields)).toContain('Not done: There is no schedule')
    expect((await rows()).slice(0, 2)).toEqual([
      { action: 'resume', who: 'ada', why: 'books are closed', reason: 'schedule daily-report' },
      { action: 'pause', who: 'ada', why: 'books are closed', reason: 'schedule daily-report' },
    ])
    expect(await audited()).toMatch(
      /● resume ada postgres books are closed outbox report\.due .*schedule daily-report/,
    )
  })

  test('ask why before they are paused or resumed, and offer what can be done', async () => {
    await set('daily-report')
    const offered = async (): Promise<string> =>
      /href="(\/schedules\/change\?[^"]*)"/.exec(await get('/schedules'))![1]!.replaceAll('&amp;', '&')
    const asked = await read(await offered())
    expect(asked).toContain('Pause daily-report')
    expect(asked).toContain('Why, for those who ask later')
    expect(await post('/schedules/pause', { name: 'daily-report', reason: ' ' })).toContain(
      'A reason is required',
    )
    expect(await read('/schedules')).toContain('● runs')
    await createSchedules({ database: database.url }).pause('daily-report')
    expect(await read(await offered())).toContain('Resume daily-report')
    expect(await read('/schedules/change?name=daily-report&does=pause')).toContain(
      'There is no schedule daily-report to pause.',
    )
    expect(await read('/schedules/change?name=none&does=resume')).toContain('There is no schedule none')
    expect(await read('/schedules/change?name=none&does=drop')).toContain('It can be paused or resumed.')
    viewer = { name: 'bob', access: 'read' }
    expect(await get('/schedules')).not.toContain('/schedules/change')
    const page = await get('/schedules/change?name=daily-report&does=resume')
    expect(page).not.toContain('name="reason"')
    await post('/schedules/resume', { name: 'daily-report', reason: 'why not' })
    expect(await rows()).toMatchObject([{ action: 'pause' }, { action: 'set' }])
  })

  test('that nobody publishes are late', async () => {
    await set('daily-report')
    await database.query(`update twinbox.schedule set next_at = now() - interval '5 minutes'`)
    expect(await read('/schedules')).toContain('■ late by 5 min')
  })

  test('that are none teach how one is made', async () => {
    expect(await read('/schedules')).toContain("twinbox schedules add daily-report '0 6 * * 1-5'")
  })
})

describe('subscriptions', () => {
  test('say who receives and who handles what they bring', async () => {
    await database.query(`insert into twinbox.subscription (consumer, pattern, ended_at) values
      ('billing', 'order.*', null), ('billing', 'payment.#', null), ('billing', 'gone', now()), ('shipping', 'parcel.lost', null)`)
    await database.query(
      `insert into twinbox.unhandled (consumer, lane, seq, id, topic, payload, attempt, received_at)
      select 'billing', 1, n, gen_random_uuid(), 'payment.refunded', '1', 0, now() from generate_series(1, 3) as n`,
    )
    const receiver = await register({ kind: 'receiver', topics: ['order.*', 'payment.#'] })
    await hold(await register({ topics: ['order.*', 'payment.captured'] }), [0])
    const page = await read('/subscriptions')
    expect(page).toMatch(
      new RegExp(`billing order\\.\\* postgres \\S+ \\w+ ago ● by ${receiver} ● yes order\\.\\* 0`),
    )
    expect(page).toMatch(/billing payment\.# postgres .* ▲ in part payment\.captured ■ 3/)
    expect(page).toMatch(/shipping parcel\.lost postgres .* ■ no receiver lives ■ no claimer lives 0/)
    expect(page).not.toContain('gone')
    expect(await read('/subscriptions?consumer=shipping')).not.toContain('payment.#')
    await register({ consumer: 'shipping', topics: ['order.placed'] })
    await dashboard.close()
    dashboard = createDashboard({ database: database.url, authorize: () => viewer })
    expect(await read('/subscriptions')).toMatch(/shipping parcel\.lost .* ■ no handler 0/)
  })

  test('that are none teach how one comes about', async () => {
    expect(await read('/subscriptions')).toContain('createReceiver({ consumer, topics })')
  })
})
