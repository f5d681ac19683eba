import { tmpdir } from 'node:os'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { Command } from '../support/command.ts'
import { createTestDatabase, type TestDatabase } from '../support/postgres.ts'

/** `twinbox dashboard`, as a user starts it. */

let database: TestDatabase
beforeAll(async () => {
  database = await createTestDatabase()
})
afterAll(() => database.drop())

const start = (args: readonly string[], env: NodeJS.ProcessEnv = {}) =>
  new Command(tmpdir(), ['dashboard', '--port', '0', ...args], { TWINBOX_DATABASE_URL: database.url, ...env })

describe('by itself', () => {
  test('it prints a link, which leads to the overview, and ends at a signal', async () => {
    const command = start([])
    await command.shows(/once=\S+/)
    const [link] = /http:\S+/.exec(command.stdout)!
    const first = await fetch(link, { redirect: 'manual' })
    const cookie = first.headers.get('set-cookie')!.split(';')[0]!
    const page = await fetch(new URL('/', link), { headers: { cookie } })
    expect(await page.text()).toContain('may operate')
    expect((await fetch(new URL('/', link))).status).toBe(403)
    expect((await fetch(link)).status).toBe(403)
    command.process.kill('SIGTERM')
    expect((await command.done).code).toBe(0)
  })

  test('it listens to no others without a password, nor with one that is soon guessed', async () => {
    const open = await start(['--host', '0.0.0.0']).done
    expect([open.code, open.stdout]).toEqual([2, ''])
    expect(open.stderr).toContain('TWINBOX_DASHBOARD_PASSWORD')
    const short = { TWINBOX_DASHBOARD_USER: 'ops', TWINBOX_DASHBOARD_PASSWORD: 'secret' }
    const guessed = await start([], short).done
    expect([guessed.code, guessed.stderr]).toEqual([2, expect.stringContaining('at least 12 characters')])
  })
})
