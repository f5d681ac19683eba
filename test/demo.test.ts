import { spawn } from 'node:child_process'
import { resolve } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { everyBroker } from './support/brokers.ts'
import { createTestDatabase, type TestDatabase } from './support/postgres.ts'
import { compiled } from './support/shared.ts'
import { describeWith } from './support/require.ts'

await compiled('build')

const main = resolve('.build/src/cli/main.js')
let database: TestDatabase

beforeAll(async () => {
  database = await createTestDatabase({ migrated: false })
})
afterAll(async () => {
  await database.drop()
})

interface Ended {
  readonly code: number | null
  readonly stdout: string
  readonly stderr: string
}

function start(args: readonly string[]): {
  kill: (signal: NodeJS.Signals) => void
  shows: Promise<void>
  done: Promise<Ended>
} {
  const child = spawn(process.execPath, [main, 'demo', '--json', '--database', database.url, ...args], {
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  let stdout = ''
  let stderr = ''
  child.stdout.on('data', (data: Buffer) => (stdout += data.toString()))
  const shows = new Promise<void>((running) => {
    child.stderr.on('data', (data: Buffer) => {
      stderr += data.toString()
      if (/^published/m.test(stderr)) running()
    })
  })
  const done = new Promise<Ended>((ended) => child.once('close', (code) => ended({ code, stdout, stderr })))
  return { kill: (signal) => void child.kill(signal), shows, done }
}

/** What a run says at its end, and why it failed if it did. */
async function outcome(args: readonly string[]): Promise<unknown> {
  const { code, stdout, stderr } = await start(['--messages', '300', ...args]).done
  const last: unknown = JSON.parse(stdout.trimEnd().split('\n').at(-1) || 'null')
  return { code, last, said: code === 0 ? '' : stderr, leftovers: await leftovers() }
}

const flawless = (broker: string) => ({
  code: 0,
  last: {
    ok: true,
    broker,
    published: 300,
    rolledBack: 30,
    handled: 300,
    duplicateEffects: 0,
    lost: 0,
    ghosts: 0,
    orderViolations: 0,
    killed: 2,
    takeoverMs: expect.any(Number) as number,
    seconds: expect.any(Number) as number,
  },
  leftovers: [],
})

const leftovers = (): Promise<{ nspname: string }[]> =>
  database.query(`select nspname from pg_namespace where nspname like 'twinbox%'`)

describe('the demo over postgres', () => {
  test('ends all that it started when it is interrupted', async () => {
    const demo = start(['--messages', '5000'])
    await demo.shows
    demo.kill('SIGINT')
    const { code, stdout, stderr } = await demo.done
    expect({ code, stdout }).toEqual({ code: 1, stdout: '' })
    expect(stderr).toMatch(/The demo was interrupted\.\n$/)
    expect(await leftovers()).toEqual([])
  })

  test('its processes end with it, even if it had no time to tell them', async () => {
    const demo = start(['--messages', '5000'])
    await demo.shows
    demo.kill('SIGKILL')
    await demo.done
    const connected = (): Promise<unknown[]> =>
      database.query(
        `select from pg_stat_activity where datname = current_database() and application_name like 'twinbox%'`,
      )
    await expect.poll(connected, { timeout: 20_000 }).toEqual([])
    // Only what is in the database of somebody else stays behind then.
    for (const { nspname } of await leftovers()) await database.query(`drop schema ${nspname} cascade`)
  })
})

for (const { adapter, found } of await everyBroker()) {
  const { name } = adapter
  describeWith(name, found, 'the demo', ({ url }) => {
    test('loses and repeats nothing, in order, and leaves nothing behind', async () => {
      const place = url === undefined ? [] : ['--url', url]
      expect(await outcome(['--broker', name, ...place])).toMatchObject(flawless(name))
    })
  })
}
