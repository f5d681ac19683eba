import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest'
import { createRelay, createSchedules, OptionError, type Broker, type NewSchedule } from '../src/index.ts'
import { Database } from '../src/database/database.ts'
import { Ticks } from '../src/upkeep/cron.ts'
import type { CatchUp } from '../src/database/sql/schedule.ts'
import { publishDue } from '../src/upkeep/recur.ts'
import { recordEvents } from './support/events.ts'
import { createTestDatabase, type TestDatabase } from './support/postgres.ts'

let database: TestDatabase
beforeAll(async () => {
  database = await createTestDatabase()
})
afterEach(() => database.query('truncate twinbox.schedule, twinbox.outbox, twinbox.dedupe'))
afterAll(() => database.drop())

const schedules = (): ReturnType<typeof createSchedules> => createSchedules({ database: database.url })
const minute = 60_000
const hour = 60 * minute
const day = 24 * hour
const daily: NewSchedule = {
  name: 'daily',
  cron: '0 6 * * *',
  timeZone: 'Europe/Berlin',
  topic: 'report.due',
  key: 'reports',
  payload: { of: 'yesterday' },
}

describe('ticks', () => {
  const zone = 'Europe/Berlin'
  const after = (cron: string, from: string, count: number, timeZone = zone): string[] => {
    const ticks = new Ticks(cron, timeZone)
    const found: string[] = []
    for (let at: Date | null = new Date(from); found.length < count;) {
      at = ticks.next(at)
      if (at === null) break
      found.push(at.toISOString().slice(0, 16))
    }
    return found
  }

  test('of a day come once a day, also when the clock skips their time or comes to it twice', () => {
    // In spring 02:30 does not exist on the 29th: it is taken at the end of the gap.
    expect(after('30 2 * * *', '2026-03-27T12:00Z', 4)).toEqual([
      '2026-03-28T01:30',
      '2026-03-29T01:00',
      '2026-03-30T00:30',
      '2026-03-31T00:30',
    ])
    // In autumn it comes twice on the 25th: the first counts.
    expect(after('30 2 * * *', '2026-10-24T12:00Z', 3)).toEqual([
      '2026-10-25T00:30',
      '2026-10-26T01:30',
      '2026-10-27T01:30',
    ])
  })

  test('of every so many minutes go on through both changes', () => {
    for (const date of ['2026-03-29', '2026-10-25']) {
      const found = after('*/20 * * * *', `${date}T00:00Z`, 12).map((at) => Date.parse(`${at}Z`))
      expect(found.map((at, index) => at - (found[index - 1] ?? at - 20 * minute))).toEqual(
        Array.from({ length: 12 }, () => 20 * minute),
      )
    }
  })

  test.each(['30 2 * * *', '15 * * * *', '0 0 * * *', '*/7 1-3 * * 0', '59 23 31 12 *', '0 30 2 * * 7'])(
    'only ever go forward: %s',
    (cron) => {
      for (const timeZone of [zone, 'America/New_York', 'Australia/Lord_Howe', 'Asia/Kolkata', 'UTC']) {
        const ticks = new Ticks(cron, timeZone)
        let at = new Date('2026-01-01T00:00Z')
        for (let count = 0; count < 800; count++) {
          const next = ticks.next(at)!
          expect(next.getTime()).toBeGreaterThan(at.getTime())
          at = next
        }
      }
    },
  )

  test('that were missed are caught up as the policy says', () => {
    const first = new Date('2026-01-01T10:00Z')
    const due = (catchUp: CatchUp, now: string): string[] =>
      new Ticks('*/10 * * * *', 'UTC')
        .due(first, new Date(`2026-01-01T${now}Z`), catchUp)
        .ticks.map((at) => at.toISOString().slice(11, 16))
    // Nobody missed anything: somebody was a little slow.
    for (const policy of ['one', 'skip', 'all'] as const) {
      expect(due(policy, '10:00:59')).toEqual(['10:00'])
      expect(due(policy, '09:59:59')).toEqual([])
    }
    expect(due('all', '10:35')).toEqual(['10:00', '10:10', '10:20', '10:30'])
    expect(due('one', '10:35')).toEqual(['10:30'])
    expect(due('one', '10:08')).toEqual(['10:00'])
    expect(due('one', '10:40')).toEqual(['10:40'])
    expect(due('skip', '10:35')).toEqual([])
    expect(due('skip', '10:30:30')).toEqual(['10:30'])
    const { ticks, next } = new Ticks('* * * * * *', 'UTC').due(first, new Date('2026-03-01T00:00Z'), 'skip')
    expect(ticks).toHaveLength(61)
    expect(next!.toISOString()).toBe('2026-03-01T00:00:01.000Z')
  })
})

test('declaring the same again changes nothing, and what changes its times starts anew', async () => {
  expect(await schedules().set(daily)).toEqual({ changed: true })
  expect(await schedules().set(daily)).toEqual({ changed: false })
  const [before] = await schedules().list()
  expect(before).toMatchObject({
    name: 'daily',
    cron: '0 6 * * *',
    timeZone: 'Europe/Berlin',
    catchUp: 'one',
    topic: 'report.due',
    key: 'reports',
    nextAt: expect.any(Date) as Date,
    lastAt: null,
    pausedAt: null,
  })
  await database.query(`update twinbox.schedule set next_at = now() - interval '1 s'`)
  expect(await schedules().set({ ...daily, payload: { of: 'today' } })).toEqual({ changed: true })
  // It was due, and still is.
  expect(await database.query('select from twinbox.schedule where next_at < now()')).toHaveLength(1)
  expect(await schedules().set({ ...daily, cron: '0 7 * * *' })).toEqual({ changed: true })
  expect(await database.query('select from twinbox.schedule where next_at < now()')).toEqual([])
  expect(await schedules().remove('daily')).toBe(true)
  expect(await schedules().remove('daily')).toBe(false)
  expect(await schedules().list()).toEqual([])
})

test('a relay publishes what is due, and its tick is the time of the message', async () => {
  const sent: {
    topic: string
    key: string | null
    content: unknown
    publishedAt: Date
    expiresAt: unknown
  }[] = []
  const broker: Broker = {
    name: 'told',
    send: async (batch) => {
      sent.push(
        ...batch.map(({ topic, key, content, publishedAt, expiresAt }) => ({
          topic,
          key,
          content,
          publishedAt,
          expiresAt,
        })),
      )
      return batch.map(() => ({ status: 'sent' }))
    },
    subscribe: async () => ({ stop: async () => {} }),
    close: async () => {},
  }
  await schedules().set({ ...daily, expiresMs: hour })
  await database.query(`update twinbox.schedule set next_at = date_trunc('second', now())`)
  const [{ next_at: tick }] = (await database.query<{ next_at: Date }>(
    'select next_at from twinbox.schedule',
  )) as [{ next_at: Date }]
  await using relay = createRelay({ database: database.url, broker })
  await relay.start()
  while (sent.length === 0) await new Promise((resolve) => setTimeout(resolve, 10))
  expect(sent).toEqual([
    {
      topic: 'report.due',
      key: 'reports',
      content: '{"of":"yesterday"}',
      publishedAt: tick,
      expiresAt: new Date(tick.getTime() + hour),
    },
  ])
  expect(await schedules().list()).toMatchObject([{ lastAt: tick }])
})

test('a paused schedule publishes nothing, and does not catch up what it was paused for', async () => {
  const own = new Database(database.url)
  await schedules().set({ ...daily, cron: '* * * * *', catchUp: 'all' })
  expect(await schedules().pause('daily')).toBe(true)
  expect(await publishDue(own, () => {}, day)).toBe(0)
  expect(await schedules().resume('daily')).toBe(true)
  expect(await schedules().resume('daily')).toBe(false)
  expect(await schedules().pause('nobody')).toBe(false)
  expect(await publishDue(own, () => {}, 0)).toBe(0)
  expect(await publishDue(own, () => {}, 3 * minute)).toBeGreaterThanOrEqual(2)
  await own.close()
})

test('a tick that a schedule is set back to is not published again', async () => {
  const own = new Database(database.url)
  await schedules().set({ ...daily, cron: '* * * * *', catchUp: 'all' })
  const nextAt = (await schedules().list())[0]!.nextAt
  const published = await publishDue(own, () => {}, 10 * minute)
  expect(published).toBeGreaterThanOrEqual(9)
  await database.query('update twinbox.schedule set next_at = $1', [nextAt])
  expect(await publishDue(own, () => {}, 10 * minute)).toBeLessThanOrEqual(1)
  await own.close()
})

test('a schedule whose zone this machine does not know does not keep the others waiting', async () => {
  const own = new Database(database.url)
  await schedules().set({ ...daily, name: 'bad' })
  await schedules().set({ ...daily, cron: '* * * * *' })
  await database.query(
    `update twinbox.schedule set time_zone = 'Mars/Base', next_at = now() where name = 'bad'`,
  )
  const events = recordEvents()
  const emit = (happening: object): void =>
    events.onEvent({ ...happening, kind: 'relay', consumer: null, workerId: 1 } as never)
  expect(await publishDue(own, emit, 2 * minute)).toBe(1)
  expect(events.of('trouble')).toMatchObject([{ doing: 'publishing the schedule "bad"' }])
  await own.close()
})

test('schedules that cannot be published keep no others waiting, however many they are', async () => {
  const own = new Database(database.url)
  const set = async (name: string): Promise<void> => {
    await schedules().set({ ...daily, name, cron: '* * * * *' })
  }
  // They have been due for longer, and are more than one transaction serves.
  for (let n = 0; n < 25; n++) await set(`nowhere-${n}`)
  await set('out-of-range')
  await set('good')
  await set('better')
  await database.query(`update twinbox.schedule set next_at = now() - interval '1 minute'
    where name not in ('good', 'better')`)
  await database.query(`update twinbox.schedule set time_zone = 'Mars/Base' where name like 'nowhere-%'`)
  // The database refuses it, and with it all that is published by the same statement.
  await database.query(`update twinbox.schedule set expires_ms = 1e300 where name = 'out-of-range'`)
  const events = recordEvents()
  const emit = (happening: object): void =>
    events.onEvent({ ...happening, kind: 'relay', consumer: null, workerId: 1 } as never)
  const aside = new Map<string, number>()
  expect(await publishDue(own, emit, 2 * minute, aside)).toBeGreaterThanOrEqual(2)
  expect(
    await database.query('select name from twinbox.schedule where last_at is not null order by name'),
  ).toEqual([{ name: 'better' }, { name: 'good' }])
  // Each is told of once, and not four times a second.
  expect(events.of('trouble')).toHaveLength(26)
  expect(await publishDue(own, emit, 2 * minute, aside)).toBe(0)
  expect(events.of('trouble')).toHaveLength(26)
  // Mended, it is published as soon as it is tried again.
  await database.query(`update twinbox.schedule set expires_ms = null where name = 'out-of-range'`)
  aside.set('out-of-range', 0)
  expect(await publishDue(own, emit, 2 * minute, aside)).toBe(1)
  await own.close()
})

test('20 workers over a month of minutely schedules, with restarts: every tick exactly once', async () => {
  const end = 30 * day
  for (const [name, timeZone] of [
    ['minutely', 'UTC'],
    ['local', 'Europe/Berlin'],
  ] as const) {
    await schedules().set({ ...daily, name, timeZone, cron: '* * * * *', topic: name, catchUp: 'all' })
  }
  await database.query(`update twinbox.schedule set next_at = date_trunc('minute', now())`)
  // The clock that all of them see; it only goes forward.
  let ahead = 0
  let over = false
  let restarts = 0
  const open = (): Database => new Database(database.url, { poolSize: 1 })
  const worker = async (): Promise<number> => {
    let own = open()
    let count = 0
    while (!over) {
      try {
        const published = await publishDue(own, () => {}, ahead)
        count += published
        if (published === 0) await new Promise((resolve) => setTimeout(resolve, 20 + Math.random() * 60))
        else if (Math.random() < 0.2) {
          // Another worker is killed in the middle of whatever it does.
          await database.query(
            `select pg_terminate_backend(pid) from pg_stat_activity
            where datname = current_database() and application_name like 'twinbox %' and state <> 'idle'
            order by random() limit 1`,
          )
        }
      } catch {
        restarts++
        void own.close().catch(() => {})
        own = open()
      }
    }
    await own.close()
    return count
  }
  const running = Array.from({ length: 20 }, worker)
  const isDone = async (): Promise<boolean> =>
    (
      await database.query(
        `select from twinbox.schedule where next_at <= now() + $1::float8 * interval '1 ms'`,
        [ahead],
      )
    ).length === 0
  while (ahead < end) {
    ahead = Math.min(end, ahead + Math.ceil(Math.random() * 8 * hour))
    while (!(await isDone())) await new Promise((resolve) => setTimeout(resolve, 10))
  }
  over = true
  const counts = await Promise.all(running)
  const ticks = await database.query<{
    topic: string
    ticks: number
    distinct: number
    gaps: number
    span: number
  }>(
    `select topic, count(*)::int as ticks, count(distinct published_at)::int as distinct,
      count(*) filter (where gap <> interval '1 minute')::int as gaps,
      (extract(epoch from max(published_at) - min(published_at)) / 60)::int as span
    from (
      select topic, published_at, published_at - lag(published_at) over (partition by topic order by published_at) as gap
      from twinbox.outbox
    ) as o group by topic order by topic`,
  )
  expect(ticks).toHaveLength(2)
  for (const { ticks: count, distinct, gaps, span } of ticks) {
    expect(count).toBeGreaterThanOrEqual(30 * 24 * 60)
    expect({ distinct, gaps, span }).toEqual({ distinct: count, gaps: 0, span: count - 1 })
  }
  // Both sides: many had a part in it, and some were ended in the middle.
  expect(counts.filter((count) => count > 0).length).toBeGreaterThan(10)
  expect(restarts).toBeGreaterThan(0)
}, 180_000)

test.each([
  [{ cron: '* * * * * * *' }, /five or six fields/],
  [{ cron: '61 * * * *' }, /five or six fields/],
  [{ cron: '' }, /five or six fields/],
  [{ cron: '*/0 * * * *' }, /five or six fields/],
  [{ cron: `${'1,'.repeat(100)}1 * * * *` }, /five or six fields/],
  [{ cron: '* * * * *', timeZone: 'Mars/Base' }, /time zone/],
  [{ timeZone: '' }, /time zone/],
  [{ name: 'no name' }, /name must be text/],
  [{ name: undefined }, /name is required/],
  [{ catchUp: 'some' }, /catchUp must be one of/],
  [{ expiresMs: 0 }, /expiresMs is 0/],
  [{ topic: 'no topic' }, /topic must be/],
  [{ payload: undefined }, /payload/],
  [{ corn: '* * * * *' }, /corn is not an option of a schedule/],
])('what cannot be a schedule is refused before any SQL: %j', async (fields, says) => {
  const nowhere = createSchedules({ database: 'postgres://127.0.0.1:1/x' })
  await expect(nowhere.set({ ...daily, ...fields } as never)).rejects.toThrow(says)
})

test('a time that never comes is refused', async () => {
  await expect(schedules().set({ ...daily, cron: '0 0 31 2 *' })).rejects.toThrow(OptionError)
})
