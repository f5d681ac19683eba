import { afterAll, afterEach, beforeAll, expect, test, vi } from 'vitest'
import { createDashboard, type Dashboard } from '../../src/dashboard/dashboard.ts'
import { createTestDatabase, type TestDatabase } from '../support/postgres.ts'

/** How long ago something was is told by the database's clock, which has dated it, and not by that of the process that tells it. */

let tables: TestDatabase
let dashboard: Dashboard
beforeAll(async () => {
  tables = await createTestDatabase()
  await tables.query(`insert into twinbox.inbox (received_at, consumer, id, lane, topic, key, payload)
    values (now() - interval '5 minutes', 'billing', gen_random_uuid(), 1, 'order.placed', 'order-1', '1')`)
  await tables.query(`insert into twinbox.dead_letter (died_at, received_at, consumer, seq, id, topic, key, payload, attempt, reason)
    select now() - interval '5 minutes', now() - interval '6 minutes', 'billing', 9, gen_random_uuid(), 'order.placed', 'order-2', '1', 3, 'no'`)
  await tables.query(`insert into twinbox.parked (consumer, key, lane, since, until, reason)
    values ('billing', 'order-3', twinbox.lane_of('order-3'), now() - interval '5 minutes', now() + interval '5 minutes', 'no')`)
  await tables.query(
    `insert into twinbox.subscription (consumer, pattern, created_at) values ('billing', 'order.#', now() - interval '5 minutes')`,
  )
  await tables.query(
    `insert into twinbox.schedule (name, cron, time_zone, catch_up, topic, payload, next_at) values ('s', '* * * * *', 'UTC', 'one', 't', '1', now() + interval '5 minutes')`,
  )
  await tables.query(`insert into twinbox.worker (kind, consumer, host, pid, version, application, started_at)
    values ('claimer', 'billing', 'h', 1, '1', 'a', now() - interval '5 minutes')`)
  await tables.query(
    `insert into twinbox.audit (at, action, who, consumer) values (now() - interval '5 minutes', 'redrive', 'ada', 'billing')`,
  )
})
afterEach(async () => {
  vi.useRealTimers()
  await dashboard.close()
})
afterAll(() => tables.drop())

const at = (path: string, init?: RequestInit) =>
  dashboard.fetch(new Request(`http://localhost${path}`, { redirect: 'manual', ...init }))
const paths = [
  ...['/', '/messages', '/key?box=billing&key=order-3', '/dead', '/dead/list', '/parked', '/audit'],
  ...['/workers', '/schedules', '/subscriptions', '/doctor', '/jobs'],
]

test.each([-3_600_000, 3_600_000])('a clock that is %i ms off changes nothing', async (offMs) => {
  vi.useFakeTimers({ toFake: ['Date'], now: Date.now() + offMs })
  dashboard = createDashboard({
    database: tables.url,
    secret: 's'.repeat(32),
    authorize: () => ({ name: 'ada', access: 'operate' }),
  })
  await startJob()
  for (const path of paths) {
    const page = await (await at(path)).text()
    const told = [...page.matchAll(/<time [^>]*>([^<]*)<\/time>/g)].map(([, words]) => `${path}: ${words}`)
    expect([path, told]).not.toEqual([path, []])
    for (const words of told) expect(words).toMatch(/: (?:(?:[\d.]+ m?s|[4-6] min) ago|in [45] min)$/)
  }
})

/** By a form of another process behind the same address: this one has not polled yet. */
async function startJob(): Promise<void> {
  const other = createDashboard({
    database: tables.url,
    secret: 's'.repeat(32),
    authorize: () => ({ name: 'ada', access: 'operate' }),
  })
  const form = await (await other.fetch(new Request('http://localhost/'))).text()
  await other.close()
  const token = /name="token" value="([^"]+)"/.exec(form)![1]!
  const body = new URLSearchParams({ token, does: 'redrive', box: 'nobody', key: 'x', reason: 'a test' })
  const headers = { 'sec-fetch-site': 'same-origin', origin: 'http://localhost' }
  const { status } = await at('/parked/change', { method: 'POST', body, headers })
  expect(status).toBe(303)
}
