import pg from 'pg'
import { afterAll, beforeAll, expect, test, vi } from 'vitest'
import { openDatabase } from '../src/database/database.ts'
import { Plans } from '../src/database/plans.ts'
import { forgetPlans } from '../src/database/sql/server.ts'
import { planned } from '../src/database/sql/statement.ts'
import { createTestDatabase, type TestDatabase } from './support/postgres.ts'

/** A plan that was made over an empty table is made anew when its statement turns out slow; a slow machine is not made slower by it. */
let database: TestDatabase
beforeAll(async () => {
  database = await createTestDatabase()
})
afterAll(() => database.drop())

// On a busy machine the first three may be slow as well, and use up what is allowed of the second that follows.
test(
  'plans are made anew after a slow statement, but not after each where all are slow',
  { retry: 2 },
  async () => {
    const asked = vi.spyOn(pg.Client.prototype, 'query')
    const forgotten = (): number =>
      asked.mock.calls.filter(([text]) => JSON.stringify(text).includes(forgetPlans)).length
    const { database: ours } = openDatabase(database.url)
    try {
      const lasting = (seconds: number) => ours.keep(planned({}, `select pg_sleep(${seconds})`))
      for (let nr = 0; nr < 3; nr++) await lasting(0)
      const before = forgotten()
      const startedAt = performance.now()
      for (let nr = 0; nr < 10; nr++) await lasting(0.06)
      // Once a second, on however slow a machine this runs.
      const during = forgotten() - before
      expect(during).toBeGreaterThanOrEqual(1)
      expect(during).toBeLessThanOrEqual(2 + (performance.now() - startedAt) / 1000)
      await lasting(1.1)
      await lasting(0)
      const after = forgotten()
      expect(after - before).toBeGreaterThan(during)
      // One that has timed out is not answered in time either.
      await lasting(1)
      const late = `select 1 / case when pg_sleep(1.1)::text = '' then 0 else 1 end`
      await expect(ours.keep(planned({}, late))).rejects.toMatchObject({ code: '22012' })
      const failed = forgotten()
      await lasting(0)
      expect(forgotten()).toBe(failed + 1)
    } finally {
      asked.mockRestore()
      await ours.close()
    }
  },
)

/** How often plans are made anew in ten minutes of statements of which each takes `ms`, and how far apart. */
function madeAnew(msAt: (at: number) => number): number[] {
  vi.useFakeTimers({ toFake: ['performance'] })
  try {
    const [plans, client] = [new Plans(), new pg.Client()]
    const at: number[] = []
    const begun = performance.now()
    while (performance.now() < begun + 600_000) {
      const startedAt = performance.now()
      if (plans.forget(client)) at.push(startedAt - begun)
      vi.advanceTimersByTime(msAt(startedAt - begun))
      plans.answered(client, startedAt)
    }
    return at
  } finally {
    vi.useRealTimers()
  }
}

test('where new plans are as slow, they are made anew ever more seldom, and at once again where they were not', () => {
  // The machine is slow: nothing is gained, so nothing more is spent.
  const slow = madeAnew(() => 100)
  expect(slow.length).toBeLessThanOrEqual(16)
  expect(slow.slice(1, 6).map((at, nr) => Math.round((at - slow[nr]!) / 1000))).toEqual([1, 2, 4, 8, 16])
  expect(slow.at(-1)! - slow.at(-2)!).toBeGreaterThanOrEqual(60_000)
  // A table has grown, once a minute: each time the next plan is good.
  let good = 0
  const grown = madeAnew((at) => {
    const minute = Math.floor(at / 60_000)
    if (minute < good) return 10
    good = minute + 1
    return 200
  })
  expect(grown).toHaveLength(10)
  expect(Math.max(...grown.map((at, minute) => at - minute * 60_000))).toBeLessThan(1000)
})
