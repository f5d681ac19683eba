import pg from 'pg'
import { afterAll, beforeAll, expect, test, vi } from 'vitest'
import { openDatabase } from '../src/database/database.ts'
import { forgetPlans } from '../src/database/sql/server.ts'
import { planned } from '../src/database/sql/statement.ts'
import { createTestDatabase, type TestDatabase } from './support/postgres.ts'

/** A plan that was made over an empty table is made anew when its statement turns out slow; a slow machine is not made slower by it. */
let database: TestDatabase
beforeAll(async () => {
  database = await createTestDatabase()
})
afterAll(() => database.drop())

test('plans are made anew after a slow statement, but not after each where all are slow', async () => {
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
})
