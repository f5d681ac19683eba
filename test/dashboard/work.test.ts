import { randomUUID } from 'node:crypto'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { createDashboard, type DashboardOptions, type Viewer } from '../../src/dashboard/dashboard.ts'
import { applyRoles } from '../../src/database/roles.ts'
import { createOutbox, readAudit, readDeadLetters, readParkedKeys } from '../../src/index.ts'
import { createTestDatabase, type TestDatabase } from '../support/postgres.ts'
import { until } from '../support/until.ts'

/** What operators look for and do on the pages, by their links and forms alone, as a browser without scripts. */

const origin = 'https://ops.example'
const evil = `<script>alert('x')</script>"`
const operator: Viewer = { name: 'ada', access: 'operate' }
const reader: Viewer = { name: 'bob', access: 'read' }
const readerRole = `dash_reader_${process.pid}`

let database: TestDatabase
let readerUrl: string
beforeAll(async () => {
  database = await createTestDatabase()
  await applyRoles(database.url)
  await database.query(
    `create role ${readerRole} login password 'secret'; grant twinbox_reader to ${readerRole}`,
  )
  readerUrl = Object.assign(new URL(database.url), { username: readerRole, password: 'secret' }).toString()
})
afterAll(async () => {
  await database.query(`drop owned by ${readerRole}; drop role ${readerRole}`)
  await database.drop()
})

/** Each test has a consumer of its own. */
let consumer = ''
beforeEach(async () => {
  consumer = `c${randomUUID().slice(0, 8)}`
  await database.query(`insert into twinbox.lane (consumer, lane) select $1, generate_series(0, 71)`, [
    consumer,
  ])
})
const ends: (() => Promise<unknown>)[] = []
afterEach(async () => {
  for (const end of ends.splice(0)) await end()
})

/** Somebody at a browser without scripts. */
function browse(viewer: Viewer = operator, options: Partial<DashboardOptions> = {}) {
  const dashboard = createDashboard({
    database: database.url,
    authorize: () => viewer,
    basePath: '/ops',
    ...options,
  })
  ends.push(() => dashboard.close())
  const get = async (path: string) => {
    const response = await dashboard.fetch(new Request(`${origin}/ops${path}`))
    const text = await response.text()
    expect(text).not.toContain('<script>alert')
    return { status: response.status, text, words: wordsOf(text) }
  }
  const post = (action: string, fields: [string, string][]) =>
    dashboard.fetch(
      new Request(`${origin}${action}`, {
        method: 'POST',
        body: new URLSearchParams(fields),
        headers: { 'sec-fetch-site': 'same-origin', origin },
      }),
    )
  /** Fills a form of a page in, and sends it. */
  const submit = async (
    page: { readonly text: string },
    action: string,
    fields: Record<string, string> = {},
  ) => {
    const form = new RegExp(`<form method="post" action="/ops${action}">([\\s\\S]*?)</form>`).exec(page.text)
    expect(form, `a form for ${action}`).not.toBeNull()
    const hidden = [...form![1]!.matchAll(/type="hidden" name="(\w+)" value="([^"]*)"/g)].map(
      ([, name, value]): [string, string] => [name!, decode(value!)],
    )
    return post(`/ops${action}`, [...hidden, ...Object.entries(fields)])
  }
  /** The same, and follows to the page to which it leads. */
  const act = async (
    page: { readonly text: string },
    action: string,
    fields: Record<string, string> = {},
  ) => {
    const response = await submit(page, action, fields)
    expect(response.status).toBe(303)
    return response.headers.get('location')!.replace('/ops', '')
  }
  return { get, post, submit, act, dashboard }
}

const decode = (text: string): string =>
  text
    .replaceAll('&lt;', '<')
    .replaceAll('&gt;', '>')
    .replaceAll('&quot;', '"')
    .replaceAll('&#39;', "'")
    .replaceAll('&amp;', '&')
const wordsOf = (page: string): string =>
  decode(page.replaceAll(/<[^>]*>/g, ' '))
    .replaceAll(/\s+/g, ' ')
    .trim()

async function letters(
  count: number,
  reason: string,
  fields: { topic?: string; key?: string } = {},
): Promise<void> {
  await database.query(
    `insert into twinbox.dead_letter (consumer, seq, id, topic, key, payload, headers, attempt, reason, errors)
    select $1, 1000 + n, gen_random_uuid(), $4, $5, '{"secret":1}', '{"shop":"berlin"}', 3, $3, '[]' from generate_series(1, $2) as n`,
    [consumer, count, reason, fields.topic ?? 'order.paid', fields.key ?? null],
  )
}

async function parked(key: string, waiting: number): Promise<void> {
  await letters(1, 'TypeError: no total', { key })
  await database.query(
    `insert into twinbox.parked (consumer, lane, key, until, reason, blocker)
    values ($1, twinbox.lane_of($2), $2, 'infinity', 'TypeError: no total', 1001)`,
    [consumer, key],
  )
  await database.query(
    `insert into twinbox.parked_message (consumer, lane, key, seq, id, topic, payload)
    select $1, twinbox.lane_of($2), $2, 2000 + n, gen_random_uuid(), 'order.paid', '1' from generate_series(1, $3) as n`,
    [consumer, key, waiting],
  )
}

const left = async (): Promise<number> =>
  (await readDeadLetters(database.url, { consumer }, { limit: 1000 })).letters.length

describe('dead letters', () => {
  test('stand grouped by what they failed of, and a group is redriven after the dry run, with a reason', async () => {
    await letters(700, `TypeError: ${evil}`)
    await letters(3, 'RangeError: other')
    const { get, act, submit } = browse()
    const groups = await get(`/dead?box=${consumer}`)
    expect(groups.words).toMatch(/TypeError TypeError: <script>.* 700 .*RangeError RangeError: other 3 /)
    const link = /href="\/ops(\/dead\/change\?does=redrive[^"]*TypeError)"/.exec(groups.text)![1]!
    const page = await get(decode(link))
    expect(page.words).toContain(
      `700 dead letters : of ${consumer}, of the topic order.paid, with TypeError.`,
    )
    // Nothing without a reason.
    expect((await submit(page, '/dead/change', { reason: ' ' })).status).toBe(400)
    expect(await left()).toBe(703)

    const job = await act(page, '/dead/change', { reason: 'deployed a fix', rate: '100000' })
    await until(async () => (await get(job)).words.includes('Redriven: 700.'))
    expect((await get(job)).words).toMatch(/done Redriven: 700\. Done 700 of 700.* by ada: deployed a fix/)
    expect(await left()).toBe(3)
    const [entry] = await readAudit(database.url, { consumer, limit: 1 })
    expect(entry).toMatchObject({ action: 'redrive', by: 'ada', why: 'deployed a fix' })
    expect((await get(`/audit?box=${consumer}`)).words).toContain('redrive ada postgres deployed a fix')
    expect((await get('/jobs')).words).toContain('700 of 700 ada deployed a fix')
  })

  test('are skipped only if that is said to be meant; those picked, and no other', async () => {
    await letters(3, 'TypeError: x')
    const { get, act, submit } = browse()
    const list = await get(`/dead/list?box=${consumer}`)
    const numbers = [...list.text.matchAll(/name="number" value="(\d+)"/g)].map(([, number]) => number!)
    expect(numbers).toHaveLength(3)
    const page = await get(`/dead/change?number=${numbers[0]}&number=${numbers[1]}&does=skip`)
    expect(page.words).toContain('2 dead letters : number')
    expect((await submit(page, '/dead/change', { reason: 'test data' })).status).toBe(400)
    expect(await left()).toBe(3)
    const job = await act(page, '/dead/change', { reason: 'test data', sure: '1' })
    await until(async () => (await get(job)).words.includes('Skipped: 2.'))
    const { letters: rest } = await readDeadLetters(database.url, { consumer })
    expect(rest.map(({ number }) => String(number))).toEqual([numbers[2]])
    expect((await get(`/dead/change?number=${numbers[0]}&does=skip`)).words).toContain(
      'No dead letter matches.',
    )
  })

  test('of which some are redriven slowly can be stopped, from another page, and closing stops them too', async () => {
    await letters(1000, 'TypeError: x')
    const { get, act, dashboard } = browse()
    const page = await get(`/dead/change?box=${consumer}&does=redrive`)
    const job = await act(page, '/dead/change', { reason: 'slowly', rate: '20' })
    await until(async () => /[1-9]\d* of 1,000/.test((await get(job)).words))
    const running = await get(job)
    expect(running.text).toMatch(/<progress\s+max="1000"\s+value="[1-9]\d*"/)
    expect(await act(running, '/job/stop')).toMatch(/^\/job\?id=/)
    await until(async () => (await get(job)).words.includes('stopped Redriven: '))
    const after = await left()
    expect(after).toBeGreaterThan(0)

    await act(await get(`/dead/change?box=${consumer}&does=redrive`), '/dead/change', {
      ...{ reason: 'again', rate: '1' },
    })
    await until(async () => (await left()) < after)
    await dashboard.close()
    expect(await left()).toBeGreaterThan(0)
  })

  test('move on the page of their job while it runs, without a poll', async () => {
    await letters(3, 'TypeError: x')
    const { get, act, dashboard } = browse()
    const job = await act(await get(`/dead/change?box=${consumer}&does=redrive`), '/dead/change', {
      ...{ reason: 'slowly', rate: '1' },
    })
    const stream = await dashboard.fetch(new Request(`${origin}/ops/live?page=${encodeURIComponent(job)}`))
    const reading = stream.body!.pipeThrough(new TextDecoderStream()).getReader()
    let seen = ''
    while (!seen.includes('Redriven: 3.')) seen += (await reading.read()).value ?? ''
    expect(seen).toMatch(/event: fragment\ndata: {"name":"job".* of 3/)
    await reading.cancel()
  })

  test('are exported with as much of the payload as the application shows', async () => {
    await letters(120, 'TypeError: x')
    const lines = async (options: Partial<DashboardOptions>) => {
      const { get, submit } = browse(operator, options)
      const response = await submit(await get(`/dead/change?box=${consumer}&does=skip`), '/dead/export')
      expect(response.headers.get('content-disposition')).toMatch(
        /^attachment; filename="dead-letters-.*\.jsonl"$/,
      )
      return (await response.text())
        .trim()
        .split('\n')
        .map((line) => JSON.parse(line) as { payload?: string })
    }
    const hidden = await lines({})
    expect(hidden).toHaveLength(120)
    expect(hidden[0]).toMatchObject({ consumer, reason: 'TypeError: x' })
    expect(hidden.every((line) => !('payload' in line))).toBe(true)
    const shown = await lines({
      showPayload: ({ payload }, { name }) => `${name}: ${String(payload).length}`,
    })
    expect(shown[119]).toMatchObject({ payload: 'ada: 12' })
    expect(await left()).toBe(120)
  })

  test('that nobody can have asked for are refused in words', async () => {
    const { get } = browse()
    for (const path of [
      '/dead/change?does=drop',
      '/dead/change?does=skip&number=x',
      '/dead/list?after=x',
      '/dead/list?box=a%20b',
    ])
      expect([path, (await get(path)).status]).toEqual([path, 400])
  })
})

describe('parked keys', () => {
  test('stand with what waits behind them, and one goes on when it is redriven', async () => {
    await parked('order-17', 3)
    const { get, act } = browse()
    expect((await get(`/parked?box=${consumer}`)).words).toMatch(
      new RegExp(`order-17 ${consumer} .* when an operator says so 3 TypeError: no total`),
    )
    const queue = await get(`/key?key=order-17&box=${consumer}`)
    expect(queue.words).toMatch(/parked since .* until an operator redrives or skips it: TypeError: no total/)
    expect(queue.words).toContain('Behind it wait 3 messages.')
    expect(queue.text.match(/href="\/ops\/message\?id=/g)).toHaveLength(3)
    const link = /href="\/ops(\/parked\/change\?does=redrive[^"]*)"/.exec(queue.text)![1]!
    const job = await act(await get(decode(link)), '/parked/change', { reason: 'fixed' })
    await until(async () => (await get(job)).words.includes('Let go on: 1.'))
    const { keys } = await readParkedKeys(database.url, { consumer })
    expect(keys).toMatchObject([{ key: 'order-17', letter: null, waiting: 4, until: expect.any(Date) }])
  })

  test('by a filter are counted before they are skipped', async () => {
    for (const key of ['a', 'b', 'c']) await parked(key, 1)
    const { get, act } = browse()
    const page = await get(`/parked/change?box=${consumer}&does=skip&error=no%20total`)
    expect(page.words).toContain(`3 keys : of ${consumer}, whose reason contains "no total".`)
    const job = await act(page, '/parked/change', { reason: 'gave up' })
    await until(async () => (await get(job)).words.includes('Let go on without their message: 3.'))
  })
})

describe('messages', () => {
  test('are found by what people know, and followed the whole way', async () => {
    const key = `k${evil}`
    const [sent] = await database.transaction((client) =>
      createOutbox().publishMany(client, [
        {
          topic: 'order.placed',
          key,
          payload: { secret: 'of ada' },
          dedupeKey: `d-${consumer}`,
          headers: { traceparent: '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01', note: evil },
        },
      ]),
    )
    const { id } = sent!
    const { get } = browse(operator, {
      traceUrl: 'https://traces.example/t/{traceId}',
      showPayload: ({ payload, topic }) => `${topic} ${String(payload)} ${evil}`,
    })
    for (const query of [
      `key=${encodeURIComponent(key)}`,
      'topic=order.placed&box=%40outbox',
      `dedupe=d-${consumer}`,
    ])
      expect((await get(`/messages?${query}`)).text).toContain(`href="/ops/message?id=${id}"`)
    expect((await get('/messages?error=nothing%20like%20it')).words).toContain('Nothing was found.')

    const page = await get(`/message?id=${id}`)
    expect(page.words).toMatch(
      /no worker Waits in the outbox since .*: no relay is running; start one with "twinbox relay"/,
    )
    expect(page.words).toContain('Published')
    expect(page.text).toContain('href="https://traces.example/t/0af7651916cd43dd8448eb211c80319c"')
    expect(page.words).not.toContain('of ada')
    const whole = await get(`/message?id=${id}&content=1`)
    expect(whole.words).toContain(`order.placed {"secret":"of ada"} ${evil}`)
    expect(whole.words).toContain(`note ${evil}`)
  })

  test('show no payload without a function that shows it, and none to whom it gives none', async () => {
    await letters(1, 'TypeError: x')
    const { id } = (await readDeadLetters(database.url, { consumer })).letters[0]!
    const plain = await browse().get(`/message?id=${id}&content=1`)
    expect(plain.words).toContain('this dashboard was given no showPayload')
    expect(plain.words).toContain('shop berlin')
    const showPayload: DashboardOptions['showPayload'] = (_, { access }) =>
      access === 'operate' ? 'seen' : null
    expect((await browse(operator, { showPayload }).get(`/message?id=${id}&content=1`)).words).toContain(
      'seen',
    )
    const hers = await browse(reader, { showPayload }).get(`/message?id=${id}&content=1`)
    expect(hers.words).toContain('does not show it to you')
    for (const { words } of [plain, hers]) expect(words).not.toContain('secret')
  })

  test('that nobody knows are said to be unknown, and what is no id is refused', async () => {
    const { get } = browse()
    const page = await get(`/message?id=${randomUUID()}`)
    expect([page.status, page.words]).toEqual([200, expect.stringContaining('Nothing is known of it')])
    expect((await get('/message?id=x')).status).toBe(400)
    expect((await get('/messages?state=lost')).status).toBe(400)
  })

  test('are erased with a count before, a reason and a yes', async () => {
    await parked(`gdpr-${consumer}`, 2)
    const { get, act, submit } = browse()
    const page = await get(`/erase?key=gdpr-${consumer}`)
    expect(page.words).toContain(`Stored of the key "gdpr-${consumer}" : parked_message 2, dead_letter 1.`)
    const file = await submit(page, '/export')
    expect((await file.text()).trim().split('\n')).toHaveLength(3)
    expect((await submit(page, '/erase', { reason: 'request 4711' })).status).toBe(400)
    const job = await act(page, '/erase', { reason: 'request 4711', sure: '1' })
    await until(async () => (await get(job)).words.includes('Erased: parked_message 2, dead_letter 1.'))
    expect(await left()).toBe(0)
    expect((await get('/audit')).words).toContain('erase ada postgres request 4711')
  })
})

describe('who may only read', () => {
  const paths = (): string[] => [
    ...['/messages', '/messages?key=k', '/key?key=k', `/key?key=k&box=${consumer}`, '/dead', '/dead/list'],
    ...[`/dead/change?box=${consumer}&does=redrive`, '/parked', `/parked/change?box=${consumer}&does=skip`],
    ...['/jobs', '/job?id=x', '/audit'],
  ]

  test('sees every page, with the rights of a reader alone, and finds no form that changes anything', async () => {
    await parked('k', 1)
    const { get } = browse(reader, { database: readerUrl })
    for (const path of paths()) {
      const { status, text, words } = await get(path)
      expect([path, status, words]).toEqual([path, 200, expect.any(String)])
      expect([path, [...text.matchAll(/<form method="post" action="([^"]*)"/g)].map(([, to]) => to)]).toEqual(
        [path, []],
      )
    }
    const { id } = (await readDeadLetters(database.url, { consumer })).letters[0]!
    const page = await get(`/message?id=${id}&content=1`)
    expect([page.status, page.words]).toEqual([200, expect.stringContaining('Is dead letter')])
    expect(page.words).toContain('with the role twinbox_reader, nobody does')
  })

  test('is refused when it acts all the same', async () => {
    await letters(1, 'TypeError: x')
    const { get, post } = browse(reader)
    const token = /name="token" value="([^"]+)"/.exec((await get('/')).text)![1]!
    for (const [action, fields] of [
      ['/dead/change', { does: 'skip', box: consumer, sure: '1' }],
      ['/dead/export', { box: consumer }],
      ['/parked/change', { does: 'skip', box: consumer }],
      ['/erase', { key: 'k', sure: '1' }],
      ['/export', { key: 'k' }],
      ['/job/stop', { id: 'x' }],
    ] as const) {
      const response = await post(`/ops${action}`, Object.entries({ token, reason: 'mine', ...fields }))
      expect([action, response.status]).toEqual([action, 403])
    }
    expect(await left()).toBe(1)
  })
})
