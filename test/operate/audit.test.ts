import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest'
import {
  createSchedules,
  eraseMessages,
  evictWorkers,
  prune,
  readAudit,
  unsubscribe,
  type AuditEntry,
  type Signature,
} from '../../src/index.ts'
import { Database } from '../../src/database/database.ts'
import { relayTasks, startPruning } from '../../src/upkeep/prune.ts'
import { createTestDatabase, type TestDatabase } from '../support/postgres.ts'

/** What an operator changes beside messages leaves a row too: workers, schedules, subscriptions, what is remembered. */

let database: TestDatabase
let login: string
beforeAll(async () => {
  database = await createTestDatabase()
  ;[{ login }] = (await database.query('select session_user::text as login')) as [{ login: string }]
})
afterEach(() =>
  database.query(
    'truncate twinbox.worker, twinbox.schedule, twinbox.subscription, twinbox.seen, twinbox.handled, twinbox.dedupe, twinbox.audit',
  ),
)
afterAll(() => database.drop())

const daily = { name: 'daily', cron: '0 6 * * *', topic: 'report.due', key: 'anna', payload: {} }
const schedules = () => createSchedules({ database: database.url })

async function register(kind: string, consumer: string): Promise<number> {
  const [row] = await database.query<{ id: number }>(
    `insert into twinbox.worker (kind, consumer, host, pid, version, application)
    values ($1, $2, 'shop-1', 7, '0.1.0', 'nobody') returning id`,
    [kind, consumer],
  )
  return row!.id
}

const subscribe = (): Promise<unknown> =>
  database.query(
    `insert into twinbox.subscription (consumer, pattern, broker)
    values ('billing', 'invoice.#', 'postgres'), ('billing', 'invoice.#', 'kafka'), ('mail', 'invoice.#', 'postgres')`,
  )

const remember = (): Promise<unknown> =>
  database.query(`
    insert into twinbox.seen (consumer, id, seen_at)
      select c, gen_random_uuid(), now() - interval '9 days' from unnest('{billing,billing,mail}'::text[]) as c;
    insert into twinbox.handled (consumer, topic, id, attempt, handled_at)
      select 'billing', 't', gen_random_uuid(), 1, now() - interval '9 days';
    insert into twinbox.dedupe (topic, dedupe_key, id, expires_at)
      select 't', 'anna', gen_random_uuid(), now() - interval '1 second';
    insert into twinbox.worker (kind, consumer, host, pid, version, application, ended_at, ended_by)
      select 'relay', '', 'h', 1, '0', 'a', now() - interval '9 days', 'stop'`)

const day = 86_400_000

interface Change {
  readonly what: string
  readonly before?: () => Promise<unknown>
  /** Whether it was done. */
  readonly run: (by?: Signature) => Promise<boolean>
  readonly rows: readonly Partial<AuditEntry>[]
}

const outbox = { consumer: null, topic: null }
const changes: readonly Change[] = [
  {
    what: 'evicting a worker',
    before: () => register('claimer', 'billing'),
    run: async (by) => {
      const [row] = await database.query<{ id: number }>('select max(id) as id from twinbox.worker')
      return (await evictWorkers(database.url, [row!.id, 4711], by)).evicted.length > 0
    },
    rows: [
      {
        ...{ action: 'evict', consumer: 'billing', topic: null },
        reason: expect.stringMatching(/^worker \d+, claimer on shop-1, process 7$/) as string,
      },
    ],
  },
  {
    what: 'setting a schedule',
    run: async (by) => (await schedules().set(daily, by)).changed,
    rows: [{ action: 'set', consumer: null, topic: 'report.due', reason: 'schedule daily, 0 6 * * * UTC' }],
  },
  {
    what: 'pausing a schedule',
    before: () => schedules().set(daily),
    run: (by) => schedules().pause('daily', by),
    rows: [{ action: 'pause', consumer: null, topic: 'report.due', reason: 'schedule daily' }],
  },
  {
    what: 'resuming a schedule',
    before: async () => {
      await schedules().set(daily)
      await schedules().pause('daily')
    },
    run: (by) => schedules().resume('daily', by),
    rows: [{ action: 'resume', consumer: null, topic: 'report.due', reason: 'schedule daily' }],
  },
  {
    what: 'removing a schedule',
    before: () => schedules().set(daily),
    run: (by) => schedules().remove('daily', by),
    rows: [{ action: 'remove', consumer: null, topic: 'report.due', reason: 'schedule daily' }],
  },
  {
    what: 'unsubscribing',
    before: subscribe,
    run: async (by) => {
      const topics = ['invoice.#', 'order.#']
      return (await unsubscribe(database.url, { consumer: 'billing', topics, ...by })).unsubscribed.length > 0
    },
    rows: ['kafka', 'postgres'].map((broker) => ({
      ...{ action: 'unsubscribe', consumer: 'billing', topic: 'invoice.#' },
      reason: `subscription over ${broker}`,
    })),
  },
  ...(
    [
      ['seen', 'billing', 2],
      ['handled', undefined, 1],
      ['workers', undefined, 1],
      ['dedupe', undefined, 1],
    ] as const
  ).map(([kind, consumer, count]): Change => {
    const olderThanMs = kind === 'dedupe' ? undefined : day
    return {
      what: `pruning ${kind}`,
      before: remember,
      run: async (by) => (await prune(database.url, kind, { consumer, olderThanMs, ...by })) > 0,
      rows: [{ ...outbox, action: 'prune', consumer: consumer ?? null, reason: `${kind} ${count}` }],
    }
  }),
]

const since = async (): Promise<AuditEntry[]> => {
  const found = await readAudit(database.url)
  return found.toSorted((a, b) => (a.reason ?? '').localeCompare(b.reason ?? ''))
}

describe.each(changes)('$what', ({ before, run, rows }) => {
  test('leaves a row with who, why, to what and who was logged in; done again it changes nothing and leaves none', async () => {
    await before?.()
    await database.query('truncate twinbox.audit')
    const by = { by: 'ann', reason: 'ticket 4711' }
    expect(await run(by)).toBe(true)
    const nothing = { key: null, id: null, diedAt: null, attempt: null, errors: [] }
    const expected = rows.map((row) => ({
      ...{ at: expect.any(Date) as Date, by: 'ann', login, why: 'ticket 4711' },
      ...nothing,
      ...row,
    }))
    expect(await since()).toEqual(expected)
    // A schedule that is paused already is as it was asked for.
    await run(by)
    expect(await since()).toHaveLength(rows.length)
  })

  test('needs neither a name nor a reason, and is undone with its row', async () => {
    await before?.()
    await database.query('truncate twinbox.audit')
    await database.query('alter table twinbox.audit add constraint full_disk check (who is null) not valid')
    try {
      await expect(run()).rejects.toMatchObject({ code: '23514' })
    } finally {
      await database.query('alter table twinbox.audit drop constraint full_disk')
    }
    expect(await since()).toEqual([])
    // It was not done without its row: so it can be.
    expect(await run()).toBe(true)
    expect(await since()).toMatchObject(
      rows.map(() => ({ by: expect.stringContaining('@') as string, why: null })),
    )
  })

  test('refuses a signature that cannot be one, before any SQL', async () => {
    await before?.()
    await database.query('truncate twinbox.audit')
    for (const [option, by] of [
      ['reason', { reason: '' }],
      ['reason', { reason: 'x'.repeat(1001) }],
      ['by', { by: 'a\0b' }],
    ] as const)
      await expect(run(by)).rejects.toMatchObject({ code: 'INVALID_OPTION', option })
    expect(await since()).toEqual([])
    expect(await run()).toBe(true)
  })
})

test('what workers prune by themselves leaves no row', async () => {
  await remember()
  const inbox = new Database(database.pool)
  const pruning = startPruning(
    inbox,
    [{ kind: 'seen', consumer: 'billing', olderThanMs: day }, ...relayTasks],
    ({ type }) => expect(type).not.toBe('trouble'),
  )
  await pruning.run()
  await pruning.stop()
  const [left] = await database.query(
    'select (select count(*)::int from twinbox.seen) as seen, (select count(*)::int from twinbox.dedupe) as dedupe',
  )
  expect(left).toEqual({ seen: 1, dedupe: 0 })
  expect(await since()).toEqual([])
})

test('what nothing was done to leaves no row', async () => {
  expect(await schedules().pause('none')).toBe(false)
  expect(await schedules().resume('none')).toBe(false)
  expect(await schedules().remove('none')).toBe(false)
  expect((await evictWorkers(database.url, [4711])).unknown).toEqual([4711])
  expect(await prune(database.url, 'seen', { olderThanMs: day })).toBe(0)
  expect(await prune(database.url, 'seen', { olderThanMs: day, dryRun: true })).toBe(0)
  expect(await since()).toEqual([])
})

test('no such row has anything of a message, so that erasing leaves them as they are', async () => {
  await schedules().set(daily, { by: 'ann' })
  await schedules().pause('daily', { by: 'ann' })
  await subscribe()
  await unsubscribe(database.url, { consumer: 'billing', topics: ['invoice.#'] })
  await remember()
  await prune(database.url, 'dedupe')
  const before = await since()
  expect(before).toHaveLength(5)
  expect(JSON.stringify(before)).not.toContain('anna')
  const { rows, schedules: named } = await eraseMessages(database.url, { key: 'anna' }, { by: 'ann' })
  expect({ audit: rows.audit, named }).toEqual({ audit: 0, named: ['daily'] })
  expect((await since()).filter(({ action }) => action !== 'erase')).toEqual(before)
})
