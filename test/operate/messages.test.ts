import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { createOutbox, readMessages, redriveDeadLetters, showMessage } from '../../src/index.ts'
import { Command, type Output } from '../support/command.ts'
import { createTestDatabase, type TestDatabase } from '../support/postgres.ts'

const id = (n: number): string => `0190c7e2-8a00-7000-8000-00000000000${n}`
let database: TestDatabase
let folder: string
let published: string
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'twinbox-messages-'))
  database = await createTestDatabase()
  await database.query(`insert into twinbox.lane (consumer, lane) select 'billing', generate_series(0, 71)`)
  const results = await database.transaction((client) =>
    createOutbox().publishMany(client, [
      { topic: 'order.placed', key: 'o1', payload: { secret: 1 } },
      { topic: 'order.placed', payload: { secret: 2 }, delayMs: 3_600_000 },
    ]),
  )
  published = results[0]!.id
  // One in flight of a worker, one that waits, one of another key.
  await database.query(`insert into twinbox.inbox (consumer, lane, id, topic, key, payload, holder, lease_until) values
    ('billing', twinbox.lane_of('o1'), '${id(1)}', 'order.paid', 'o1', '{"secret":3}', null, '-infinity'),
    ('billing', 64, '${id(2)}', 'order.seen', null, '{"secret":4}', 7, now() + interval '1 min'),
    ('billing', twinbox.lane_of('o2'), '${id(3)}', 'order.paid', 'o2', '{"secret":5}', null, '-infinity')`)
  await database.query(`insert into twinbox.parked (consumer, lane, key, until, reason, blocker)
    values ('billing', twinbox.lane_of('o3'), 'o3', 'infinity', 'TypeError: no', 1)`)
  await database.query(`insert into twinbox.parked_message (consumer, lane, key, seq, id, topic, payload)
    values ('billing', twinbox.lane_of('o3'), 'o3', 4, '${id(4)}', 'order.paid', '{"secret":6}')`)
  await database.query(`insert into twinbox.dead_letter (consumer, seq, id, topic, key, payload, attempt, reason, errors)
    values ('billing', 1, '${id(5)}', 'order.paid', 'o3', '{"secret":7}', 3, 'TypeError: no',
      '[{"attempt":3,"at":"2026-01-01T00:00:00.000Z","worker":7,"error":"TypeError: no","class":"TypeError","stack":null}]')`)
  await database.query(`insert into twinbox.handled (consumer, id, topic, key, attempt, worker)
    values ('billing', '${id(6)}', 'order.paid', 'o1', 2, 7)`)
  await database.query(
    `insert into twinbox.seen (consumer, id) values ('billing', '${id(6)}'), ('billing', '${id(8)}')`,
  )
})
afterAll(async () => {
  await database.drop()
  await rm(folder, { recursive: true, force: true })
})

const twinbox = (...args: string[]): Promise<Output> =>
  new Command(folder, args, { TWINBOX_DATABASE_URL: database.url }).done

test('messages are found wherever they are', async () => {
  const all = await readMessages(database.url)
  expect(
    all
      .map(({ state, consumer, topic, key }) => `${state} ${consumer} ${topic} ${key}`)
      .toSorted((a, b) => a.localeCompare(b)),
  ).toEqual([
    'dead billing order.paid o3',
    'deferred null order.placed null',
    'handled billing order.paid o1',
    'inbox billing order.paid o1',
    'inbox billing order.paid o2',
    'inbox billing order.seen null',
    'outbox null order.placed o1',
    'parked billing order.paid o3',
  ])
  expect(all.every((message) => !('payload' in message))).toBe(true)
  expect(all.find(({ topic }) => topic === 'order.seen')).toMatchObject({ worker: 7, attempt: 0 })
  expect(all.find(({ state }) => state === 'parked')).toMatchObject({ dueAt: null, reason: 'TypeError: no' })
  expect(all.find(({ state }) => state === 'deferred')!.dueAt!.getTime()).toBeGreaterThan(Date.now())
})

test.each([
  [{ key: 'o1' }, ['outbox', 'inbox', 'handled']],
  [{ key: 'o1', consumer: 'billing' }, ['inbox', 'handled']],
  [{ consumer: null }, ['outbox', 'deferred']],
  [{ topic: 'order.seen' }, ['inbox']],
  [{ states: ['dead', 'parked'] as const }, ['parked', 'dead']],
  [{ consumer: 'nobody' }, []],
])('by a filter: %j', async (filter, states) => {
  expect((await readMessages(database.url, filter)).map(({ state }) => state)).toEqual(states)
})

test('one message is shown with its history', async () => {
  expect(await showMessage(database.url, published, { payload: true })).toMatchObject({
    places: [{ state: 'outbox', payload: '{"secret":1}' }],
    received: [],
    interventions: [],
  })
  expect(await showMessage(database.url, id(6))).toMatchObject({
    places: [{ state: 'handled', worker: 7, attempt: 2 }],
    received: [{ consumer: 'billing' }],
  })
  await redriveDeadLetters(database.url, { ids: [id(5)] }, { by: 'ann', reason: 'fixed' })
  expect(await showMessage(database.url, id(5))).toMatchObject({
    places: [{ state: 'parked', attempt: 0, errors: [] }],
    interventions: [
      { action: 'redrive', consumer: 'billing', by: 'ann', why: 'fixed', errors: [{ attempt: 3 }] },
    ],
  })
})

describe('the command', () => {
  test('lists by place, and shows payloads only if asked to', async () => {
    const { code, stdout, stderr } = await twinbox('messages', 'list', '--consumer', 'billing')
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' })
    expect(stdout).toMatch(/^state +of +id +topic +key +age +attempts +worker/)
    expect(stdout).toMatch(new RegExp(`^inbox +billing +${id(2)} +order\\.seen +- +\\S+ \\S+ +0 +7`, 'm'))
    expect(stdout).not.toContain('secret')
    const some = await twinbox('messages', 'list', '--state', 'outbox', 'deferred', '--payload', '--json')
    expect(JSON.parse(some.stdout)).toMatchObject({
      messages: [
        { state: 'outbox', payload: '{"secret":1}' },
        { state: 'deferred', payload: '{"secret":2}' },
      ],
    })
    expect((await twinbox('messages', 'list', '--key', 'none')).stdout).toBe('There are no such messages.\n')
  })

  test('shows what is known of one, and fails if that is nothing', async () => {
    const waiting = await twinbox('messages', 'show', id(4))
    expect(waiting).toMatchObject({ code: 0, stderr: '' })
    expect(waiting.stdout).toMatch(/^parked of billing since /)
    expect(waiting.stdout).not.toContain('secret')
    expect((await twinbox('messages', 'show', id(4), '--payload')).stdout).toContain('{"secret":6}')
    expect((await twinbox('messages', 'show', id(8))).stdout).toMatch(
      /^handled by billing, or taken back by an operator\n\n\S+ {2}received for billing$/m,
    )
    expect(await twinbox('messages', 'show', id(9))).toMatchObject({
      code: 1,
      stdout: '',
      stderr: `Nothing is known of a message ${id(9)} in the schema "twinbox".\n`,
    })
    expect(await twinbox('messages', 'show', 'x')).toMatchObject({ code: 2, stdout: '' })
    expect(await twinbox('messages', 'list', '--state', 'lost')).toMatchObject({ code: 2, stdout: '' })
  })
})

describe('schedules and prune', () => {
  test('a schedule is added, listed, paused, resumed and removed', async () => {
    const add = ['schedules', 'add', 'daily', '0 6 * * *', '--topic', 'report.due', '--zone', 'Europe/Berlin']
    expect(await twinbox(...add, '--payload', '{"of":"day"}')).toEqual({
      code: 0,
      stdout: 'The schedule "daily" is set.\n',
      stderr: '',
    })
    expect((await twinbox(...add, '--payload', '{"of":"day"}')).stdout).toBe(
      'The schedule "daily" was like that already.\n',
    )
    expect((await twinbox('schedules', 'list')).stdout).toMatch(
      /^name +cron +zone .*\ndaily +0 6 \* \* \* +Europe\/Berlin +report\.due +- +one +- +\d{4}-\S+ \(in /,
    )
    expect(await twinbox('schedules', 'pause', 'daily')).toMatchObject({
      code: 0,
      stdout: 'Paused the schedule "daily".\n',
    })
    expect(JSON.parse((await twinbox('schedules', 'list', '--json')).stdout)).toMatchObject({
      schedules: [{ name: 'daily', pausedAt: expect.any(String) as string }],
    })
    expect(await twinbox('schedules', 'resume', 'daily')).toMatchObject({ code: 0 })
    expect(await twinbox('schedules', 'resume', 'daily')).toMatchObject({
      code: 1,
      stderr: 'There is no paused schedule "daily" in the schema "twinbox".\n',
    })
    expect(await twinbox('schedules', 'remove', 'daily')).toMatchObject({ code: 2, stdout: '' })
    expect(await twinbox('schedules', 'remove', 'daily', '--yes')).toMatchObject({ code: 0 })
    expect((await twinbox('schedules', 'list')).stdout).toBe('There are no schedules.\n')
    for (const bad of [
      ['bad', 'x y', '--topic', 't'],
      ['bad', '* * * * *', '--topic', 't', '--payload', '{'],
      ['bad', '* * * * *'],
      ['bad', '* * * * *', '--topic', 't', '--zone', 'Mars/Base'],
    ])
      expect(await twinbox('schedules', 'add', ...bad)).toMatchObject({ code: 2, stdout: '' })
  })

  test('prune says what it would delete, and deletes it only if told twice', async () => {
    const args = ['prune', 'handled', '--older-than', '0s']
    expect(await twinbox(...args, '--dry-run')).toEqual({
      code: 0,
      stdout: 'Would be pruned: 1.\n',
      stderr: '',
    })
    const asked = await twinbox(...args)
    expect(asked).toMatchObject({ code: 2, stdout: '' })
    expect(asked.stderr).toMatch(/^This deletes 1 rows of handled\. That cannot be undone: say --yes/)
    expect(JSON.parse((await twinbox(...args, '--yes', '--json')).stdout)).toEqual({
      kind: 'handled',
      count: 1,
      dryRun: false,
      stopped: false,
    })
    expect(await twinbox('prune', 'outbox', '--older-than', '1d', '--yes')).toMatchObject({ code: 2 })
    expect(await twinbox('prune', 'dead', '--yes')).toMatchObject({ code: 2 })
    expect(await twinbox('prune', '--help')).toMatchObject({ code: 0 })
  })
})
