import { mkdtemp, readFile, stat, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import type { AuditEntry } from '../../src/index.ts'
import { Command, type Output } from '../support/command.ts'
import { createTestDatabase, type TestDatabase } from '../support/postgres.ts'

let folder: string
let database: TestDatabase
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'twinbox-operate-'))
  database = await createTestDatabase()
})
afterAll(async () => {
  await database.drop()
  await rm(folder, { recursive: true, force: true })
})

const twinbox = (...args: string[]): Promise<Output> =>
  new Command(folder, args, { TWINBOX_DATABASE_URL: database.url }).done

describe.each(['dead', 'parked'])('%s', (command) => {
  test('has help with examples, and so has each of its commands', async () => {
    const { code, stdout } = await twinbox(command, '--help')
    expect(code).toBe(0)
    expect(stdout).toContain(`$ twinbox ${command} `)
    const below = await twinbox(command, 'redrive', '--help')
    expect(below).toMatchObject({ code: 0, stderr: '' })
    expect(below.stdout).toContain('--dry-run')
  })
})

test('unsubscribe ends subscriptions, and says what was none', async () => {
  await database.query(`insert into twinbox.subscription values ('b', 'invoice.#'), ('b', 'order.#')`)
  const ended = await twinbox('unsubscribe', '--consumer', 'b', 'invoice.#', '--broker', 'postgres')
  expect(ended).toMatchObject({ code: 0, stdout: 'b is no longer subscribed to invoice.#.\n' })
  const again = await twinbox('unsubscribe', '--consumer', 'b', 'invoice.#', '--json')
  expect(again).toMatchObject({ code: 1, stderr: expect.stringContaining('was not subscribed') as string })
  expect(JSON.parse(again.stdout)).toMatchObject({ consumer: 'b', unsubscribed: [], unknown: ['invoice.#'] })
  const rest = await database.query(
    `select pattern from twinbox.subscription where consumer = 'b' and ended_at is null`,
  )
  expect(rest).toEqual([{ pattern: 'order.#' }])
  await database.query(`delete from twinbox.subscription where consumer = 'b'`)
})

test('what is done to workers, schedules and subscriptions stands in the audit, with who and why', async () => {
  await database.query(`truncate twinbox.audit;
    insert into twinbox.subscription values ('b', 'invoice.#');
    insert into twinbox.seen (consumer, id, seen_at) select 'b', gen_random_uuid(), now() - interval '9 days'`)
  const [{ id }] = (await database.query(
    `insert into twinbox.worker (kind, consumer, host, pid, version, application)
    values ('relay', '', 'shop-1', 7, '0.1.0', 'nobody') returning id`,
  )) as [{ id: number }]
  const by = ['--by', 'ann', '--reason', 'ticket 4711']
  for (const args of [
    ['workers', 'evict', String(id), ...by],
    ['schedules', 'add', 'daily', '0 6 * * *', '--topic', 'report.due', ...by],
    ['schedules', 'pause', 'daily', ...by],
    ['schedules', 'resume', 'daily', ...by],
    ['schedules', 'remove', 'daily', '--yes', ...by],
    // Postgres itself would end the row, and say nothing of it.
    ['unsubscribe', 'invoice.#', '--consumer', 'b', '--broker', 'postgres', ...by],
    ['prune', 'seen', '--older-than', '1d', '--yes', ...by],
  ])
    expect([args, (await twinbox(...args)).code]).toEqual([args, 0])
  const { entries } = JSON.parse((await twinbox('audit', '--json')).stdout) as { entries: AuditEntry[] }
  expect(entries).toMatchObject(
    [
      ['prune', null, null, 'seen 1'],
      ['unsubscribe', 'b', 'invoice.#', 'subscription over postgres'],
      ['remove', null, 'report.due', 'schedule daily'],
      ['resume', null, 'report.due', 'schedule daily'],
      ['pause', null, 'report.due', 'schedule daily'],
      ['set', null, 'report.due', 'schedule daily, 0 6 * * * UTC'],
      ['evict', null, null, `worker ${id}, relay on shop-1, process 7`],
    ].map(([action, consumer, topic, reason]) => ({
      ...{ action, by: 'ann', why: 'ticket 4711', consumer, topic, reason, key: null, id: null },
    })),
  )
  const { stdout } = await twinbox('audit')
  expect(stdout).toMatch(/evict +ann +\S+ +outbox .*ticket 4711: worker \d+, relay on shop-1, process 7$/m)
  expect(stdout).toMatch(/pause +ann +\S+ +outbox +report\.due .*ticket 4711: schedule daily$/m)
  const own = await twinbox('audit', '--consumer', 'b')
  expect(own.stdout).toMatch(/unsubscribe +ann +\S+ +b +invoice\.# .*subscription over postgres$/m)
  expect(own.stdout).not.toContain('evict')
  await database.query(`truncate twinbox.audit; delete from twinbox.subscription where consumer = 'b'`)
})

test.each([
  [['dead', 'redrive'], /^Say which/],
  [['dead', 'redrive', '0'], /whole number from 1/],
  [['dead', 'redrive', 'a-b'], /ids must be an array of 1 to 1000 UUIDs/],
  [['dead', 'redrive', '--older-than', '2'], /whole number with its unit/],
  [['dead', 'redrive', '--outbox', '--consumer', 'x'], /exclude each other/],
  [['dead', 'skip', '7'], /say --yes/],
  [['dead', 'list', '--limit', '2000'], /whole number from 1 to 1000/],
  [['dead', 'list', '--after', 'x'], /after must be what an earlier page gave/],
  [['dead', 'bogus'], /unknown command 'bogus'|too many arguments/],
  [['parked', 'skip'], /^Say which/],
  [['parked', 'redrive', 'k', '--rate', '0'], /whole number from 1/],
])('used wrongly, it says so and exits with 2: %j', async (args, says) => {
  const { code, stdout, stderr } = await twinbox(...args)
  expect({ code, stdout }).toEqual({ code: 2, stdout: '' })
  expect(stderr).toMatch(says)
})

describe('with dead letters', () => {
  const id = '0190c7e2-8a00-7000-8000-000000000001'
  let numbers: string[] = []
  beforeEach(async () => {
    await database.query(
      'truncate twinbox.dead_letter, twinbox.parked, twinbox.parked_message, twinbox.audit',
    )
    numbers = (
      await database.query<{ number: string }>(
        `insert into twinbox.dead_letter (consumer, seq, id, topic, key, payload, attempt, reason, errors)
        values ('billing', 3, '${id}', 'order.placed', 'o1', '{"secret":42}', 10, 'TypeError: x is undefined',
            '[{"attempt":10,"at":"2026-01-01T00:00:00Z","worker":7,"error":"TypeError: x is undefined","class":"TypeError","stack":"    at f (a.js:1:2)"}]'),
          ('', 5, gen_random_uuid(), 'order.paid', null, '{"secret":43}', 1, 'BrokerError: too large', null),
          ('mail', 9, gen_random_uuid(), 'mail.sent', null, '{"secret":44}', 10, 'Error: no', null)
        returning number::text`,
      )
    ).map(({ number }) => number)
    await database.query(
      `insert into twinbox.parked (consumer, lane, key, until, reason, blocker)
      values ('billing', twinbox.lane_of('o1'), 'o1', 'infinity', 'TypeError: x is undefined', 3)`,
    )
    await database.query(
      `insert into twinbox.parked_message (consumer, lane, key, seq, id, topic, payload)
      values ('billing', twinbox.lane_of('o1'), 'o1', 4, gen_random_uuid(), 'order.paid', '{"secret":45}')`,
    )
  })

  test('list and show tell all but the payload, which has to be asked for', async () => {
    const list = await twinbox('dead', 'list')
    expect(list).toMatchObject({ code: 0, stderr: '' })
    expect(list.stdout).toMatch(/^number +age +of +topic +key +attempts +reason\n/)
    expect(list.stdout).toMatch(
      new RegExp(
        `^${numbers[0]} +\\S+ \\S+ +billing +order\\.placed +o1 +10 +TypeError: x is undefined$`,
        'm',
      ),
    )
    expect(list.stdout).toMatch(new RegExp(`^${numbers[1]} +\\S+ \\S+ +outbox +order\\.paid +- `, 'm'))
    const filtered = await twinbox('dead', 'list', '--class', 'TypeError', '--error', 'UNDEFINED', '--json')
    expect(JSON.parse(filtered.stdout)).toMatchObject({
      letters: [{ number: Number(numbers[0]) }],
      next: null,
    })
    const first = JSON.parse((await twinbox('dead', 'list', '--limit', '2', '--json')).stdout) as {
      next: string
    }
    const second = JSON.parse((await twinbox('dead', 'list', '--after', first.next, '--json')).stdout) as {
      letters: { number: number }[]
    }
    expect(second.letters.map(({ number }) => String(number))).toEqual([numbers[0]])
    expect((await twinbox('dead', 'list', '--topic', 'none')).stdout).toBe(
      'There are no such dead letters.\n',
    )

    const show = await twinbox('dead', 'show', id)
    expect(show).toMatchObject({ code: 0, stderr: '' })
    expect(show.stdout).toMatch(/^key +o1 \(held back behind it\)$/m)
    expect(show.stdout).toContain('attempt 10 on worker 7: TypeError: x is undefined\n    at f (a.js:1:2)')
    expect(show.stdout).not.toContain('secret')
    expect((await twinbox('dead', 'show', numbers[0]!, '--payload')).stdout).toContain('{"secret":42}')
    expect(await twinbox('dead', 'show', '123456')).toMatchObject({
      code: 1,
      stdout: '',
      stderr: 'There is no dead letter 123456 in the schema "twinbox".\n',
    })
  })

  test('redrive puts back those that are named or match, and says which are not there', async () => {
    const dry = await twinbox('dead', 'redrive', '--consumer', 'billing', '--dry-run')
    expect(dry).toEqual({ code: 0, stdout: 'Would be redriven: 1.\n', stderr: '' })
    const other = '0190c7e2-8a00-7000-8000-00000000ffff'
    const done = await twinbox('dead', 'redrive', id, other, '123456', '--reason', 'fixed', '--by', 'ann')
    expect(done).toEqual({
      code: 1,
      stdout: 'Redriven: 1.\n',
      stderr: ['123456', other]
        .map((name) => `There is no dead letter ${name} in the schema "twinbox".\n`)
        .join(''),
    })
    expect(await database.query('select who, why, consumer, key from twinbox.audit')).toEqual([
      { who: 'ann', why: 'fixed', consumer: 'billing', key: 'o1' },
    ])
    const [{ login }] = (await database.query('select session_user::text as login')) as [{ login: string }]
    const audit = await twinbox('audit', '--consumer', 'billing')
    expect(audit.stdout).toMatch(/redrive +ann +\S+ +billing +order.placed +o1 .*fixed: TypeError/)
    const { entries } = JSON.parse((await twinbox('audit', '--json')).stdout) as { entries: AuditEntry[] }
    expect(entries).toMatchObject([{ action: 'redrive', by: 'ann', login, id, why: 'fixed' }])
    expect((await twinbox('messages', 'show', id)).stdout).toContain(`by ann, logged in as ${login}: fixed`)
    expect((await twinbox('audit', '--key', 'other')).stdout).toBe('Nothing is written down.\n')
    expect(await database.query('select seq::int, attempt from twinbox.parked_message order by seq')).toEqual(
      [
        { seq: 3, attempt: 0 },
        { seq: 4, attempt: 0 },
      ],
    )
    const outbox = await twinbox('dead', 'redrive', '--outbox', '--json')
    expect(JSON.parse(outbox.stdout)).toEqual({ count: 1, unknown: [], dryRun: false, stopped: false })
    expect(await database.query('select consumer, topic from twinbox.deferred')).toEqual([
      { consumer: '', topic: 'order.paid' },
    ])
  })

  test('skip deletes, export writes them whole before that', async () => {
    const file = join(folder, 'letters.jsonl')
    expect(await twinbox('dead', 'export', '--out', file)).toEqual({
      code: 0,
      stdout: `Wrote 3 dead letters to ${file}.\n`,
      stderr: '',
    })
    const lines = (await readFile(file, 'utf8'))
      .trimEnd()
      .split('\n')
      .map((line) => JSON.parse(line) as unknown)
    expect(lines).toMatchObject([
      { consumer: null, payload: '{"secret":43}' },
      { consumer: 'billing', payload: '{"secret":42}' },
      { consumer: 'mail', payload: '{"secret":44}' },
    ])
    // Payloads are for its owner.
    expect((await stat(file)).mode & 0o777).toBe(0o600)
    expect(await twinbox('dead', 'export', '--out', file)).toMatchObject({ code: 1, stdout: '' })
    expect(await twinbox('dead', 'skip', numbers[1]!, id, '--dry-run')).toMatchObject({
      stdout: 'Would be skipped: 2.\n',
    })
    expect(await twinbox('dead', 'skip', '--all', '--yes')).toEqual({
      code: 0,
      stdout: 'Skipped: 3.\n',
      stderr: '',
    })
    expect(await database.query('select from twinbox.dead_letter')).toEqual([])
    expect(await database.query(`select from twinbox.parked where until <= now()`)).toHaveLength(1)
  })

  test('a signal ends a slow redrive between two batches, and it says how far it came', async () => {
    const command = new Command(folder, ['dead', 'redrive', '--all', '--rate', '1', '--json'], {
      TWINBOX_DATABASE_URL: database.url,
    })
    while ((await database.query('select from twinbox.audit')).length === 0) continue
    command.process.kill('SIGINT')
    const { code, stdout, stderr } = await command.done
    expect({ code, stderr }).toEqual({ code: 1, stderr: '' })
    const { count, stopped } = JSON.parse(stdout) as { count: number; stopped: boolean }
    expect(stopped).toBe(true)
    expect(count).toBeLessThan(3)
    expect(await database.query('select from twinbox.audit')).toHaveLength(count)
  })

  test('parked lists keys, and lets them go on with or without their blocker', async () => {
    const list = await twinbox('parked', 'list')
    expect(list.stdout).toMatch(/^of +key +since +goes on +waiting +letter +reason\n/)
    expect(list.stdout).toMatch(
      new RegExp(`^billing +o1 +\\S+ \\S+ +if told to +1 +${numbers[0]} +TypeError: x is undefined$`, 'm'),
    )
    expect(await twinbox('parked', 'redrive', 'o2', '--consumer', 'billing')).toEqual({
      code: 1,
      stdout: 'Keys that go on: 0.\n',
      stderr: 'The key "o2" is not held back in the schema "twinbox".\n',
    })
    expect(await twinbox('parked', 'skip', '--all', '--dry-run')).toMatchObject({
      code: 0,
      stdout: 'Keys that would go on: 1.\n',
    })
    const skipped = await twinbox('parked', 'skip', 'o1', '--consumer', 'billing', '--json')
    expect(JSON.parse(skipped.stdout)).toEqual({ count: 1, dryRun: false, stopped: false })
    // The letter is kept: it can still be redriven.
    expect(await database.query('select from twinbox.dead_letter')).toHaveLength(3)
    expect(await twinbox('parked', 'redrive', 'o1', '--consumer', 'billing')).toMatchObject({ code: 0 })
    expect(await database.query('select seq::int from twinbox.parked_message order by seq')).toEqual([
      { seq: 3 },
      { seq: 4 },
    ])
  })
})
