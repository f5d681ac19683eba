import { spawn } from 'node:child_process'
import { resolve } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { audit } from '../bench/race/audit.ts'
import type { Sheet } from '../bench/race/tally.ts'
import { createTestDatabase, type TestDatabase } from './support/postgres.ts'
import { compiled } from './support/shared.ts'

await compiled('build')

/** That the frame measures, and cleans up after itself. What it measures is no matter of a test: machines differ. */
const main = resolve('.build/bench/main.js')
let database: TestDatabase
beforeAll(async () => {
  database = await createTestDatabase({ migrated: false })
})
afterAll(() => database.drop())

interface Ended {
  readonly code: number | null
  readonly stdout: string
  readonly stderr: string
}

interface Found {
  readonly published: number
}

/** Runs it; `seen` is told what it says meanwhile. */
function bench(args: readonly string[], seen: (stderr: string, stop: () => void) => void = () => {}) {
  const child = spawn(process.execPath, [main, ...args], { stdio: ['ignore', 'pipe', 'pipe'] })
  let stdout = ''
  let stderr = ''
  child.stdout.on('data', (data: Buffer) => (stdout += data.toString()))
  child.stderr.on('data', (data: Buffer) => {
    stderr += data.toString()
    seen(stderr, () => child.kill('SIGINT'))
  })
  return new Promise<Ended>((ended) => child.once('close', (code) => ended({ code, stdout, stderr })))
}

async function leftovers({ stderr }: Ended): Promise<unknown[]> {
  const name = /database (\S+)/.exec(stderr)?.[1]
  expect(name).toMatch(/^twinbox_bench_/)
  return database.query('select from pg_database where datname = $1', [name])
}

const spread = {
  p50: expect.any(Number),
  p99: expect.any(Number),
  max: expect.any(Number),
  samples: 1,
}
const pair = {
  ...spread,
  samples: 2,
  redeliveries: expect.any(Number),
  wrongful: expect.any(Number),
  met: expect.any(Boolean),
}

describe('the bench', () => {
  test('measures takeovers and says what it found in the last line', { timeout: 120_000 }, async () => {
    const args = [
      'takeover',
      '--kills',
      '1',
      '--only',
      'sigkill,sigterm',
      '--json',
      '--database',
      database.url,
    ]
    const ended = await bench(args)
    const found = JSON.parse(ended.stdout.trimEnd().split('\n').at(-1) || '{}') as Found
    expect({ said: ended.stderr, ...found }).toMatchObject({
      scenario: 'takeover',
      valid: true,
      met: expect.any(Boolean),
      goal: expect.any(String),
      kills: 1,
      faults: {
        sigkill: { ...pair, claimer: spread, relay: spread },
        sigterm: { ...pair, claimer: spread, relay: spread },
      },
      lost: 0,
      ghosts: 0,
      altered: 0,
      duplicateEffects: 0,
      orderViolations: 0,
      machine: { cores: expect.any(Number), node: process.version, postgres: expect.any(String) },
    })
    expect(found.published).toBeGreaterThan(0)
    expect(await leftovers(ended)).toEqual([])
  })

  test('leaves nothing behind when it is interrupted', { timeout: 120_000 }, async () => {
    let stopped = false
    const ended = await bench(['takeover', '--database', database.url], (said, stop) => {
      if (stopped || !said.includes('sigkill 1/50')) return
      stopped = true
      stop()
    })
    expect(ended).toMatchObject({ code: 130 })
    expect(await leftovers(ended)).toEqual([])
  })

  // One lap of each who runs, of few messages: that what is measured is what was handled, and that nothing is left. The
  // brokers' races need a broker, and `report` runs all. `SCENARIOS=all` runs those as well that take the same parts.
  const often: [scenario: string, only: readonly string[], ...more: string[]][] = [
    ['publish-bulk', ['twinbox', 'graphile-worker', 'pg-boss', 'bare']],
    ['claim-keyed', ['twinbox', 'with a hot key']],
    ['pipeline', ['twinbox', 'bare'], '--brokers', 'postgres'],
    ['retry-storm', ['twinbox']],
    ['distance', ['claim, 2 ms']],
    ['growth', ['100 keys', '10 consumers']],
    ['memory', ['relay, bytes', 'claimer, JSON']],
  ]
  const seldom: typeof often = [
    ['publish-single', ['twinbox', 'bare']],
    ['relay-null', ['twinbox', 'bare', 'pg-transactional-outbox']],
    ['handle-tx', ['twinbox', 'twinbox in runs', 'bare', 'twinbox in batches']],
    ['hot-key', ['a window of 100', 'runs of 16']],
    ['claim', ['twinbox', 'graphile-worker', 'pg-boss']],
    ['latency', ['twinbox', 'graphile-worker']],
    ['held-xmin', ['twinbox, writer']],
    ['backlog', ['claim 10 k', 'relay 10 k']],
    ['claimers', ['4 claimers']],
    ['cost', ['status']],
    ['distance', ['handle-tx in runs of 16, 10 ms', 'hot key one by one']],
  ]
  test.each([...often, ...(process.env['SCENARIOS'] === 'all' ? seldom : [])])(
    'runs %s: %j',
    { timeout: 120_000 },
    async (scenario, names, ...more) => {
      const args = [scenario, '--quick', '--rounds', '1', '--json', '--database', database.url, ...more]
      const ended = await bench([...args, ...names.flatMap((name) => ['--only', name])])
      const found = JSON.parse(ended.stdout.trimEnd().split('\n').at(-1) || '{}') as { rates: object }
      expect({ said: ended.stderr, ...found }).toMatchObject({
        scenario,
        valid: true,
        met: expect.any(Boolean),
        goal: expect.any(String),
        problems: [],
        rounds: 1,
      })
      expect(Object.keys(found.rates).toSorted()).toEqual(names.toSorted())
      for (const rate of Object.values(found.rates)) expect(rate).toBeGreaterThan(0)
      expect(await leftovers(ended)).toEqual([])
    },
  )

  test('says so if messages were lost, handled twice or out of order', () => {
    const task = {
      messages: 40,
      processes: 1,
      concurrency: 1,
      batchSize: 1,
      payload: 'small',
      keys: 'hot',
    } as const
    const sheet = (ns: number[]): Sheet => ({
      ns: Int32Array.from(ns),
      ats: Float64Array.from(ns.keys()),
      took: new Float64Array(0),
    })
    const all = Array.from({ length: 40 }, (_, n) => n)
    expect(audit([sheet(all)], task)).toEqual([])
    expect(audit([sheet(all.slice(1))], task)).toEqual(['1 messages were not dealt with'])
    expect(audit([sheet([...all, 7])], task)[0]).toBe('1 messages were dealt with more than once')
    expect(audit([sheet([...all, 40])], task)).toEqual(['1 messages were never there'])
    expect(audit([sheet([0, 2, 1, ...all.slice(3)])], task)).toEqual([
      '1 messages came after a later one of their key',
    ])
  })

  test('lists its scenarios', async () => {
    const { code, stdout } = await bench(['--help'])
    expect(code).toBe(0)
    for (const scenario of ['takeover', 'strategies', 'calm', 'claim', 'relay-kafka', 'report']) {
      expect(stdout).toMatch(new RegExp(`^ +${scenario} `, 'm'))
      expect(await bench([scenario, '--help'])).toMatchObject({ code: 0, stderr: '' })
    }
  })

  test.each([
    [['sprint'], "unknown command 'sprint'"],
    [['takeover', '--fast'], "unknown option '--fast'"],
    [['takeover', '--kills', '0'], 'from 1 to'],
    [['takeover', '--only', 'sigkill,flood'], 'no fault "flood"'],
    [['strategies', '--rounds', 'x'], 'from 1 to'],
    [['calm', '--minutes', '-1'], 'from 0.05 to'],
    [['claim', '--payload', 'large'], 'small, github'],
    [['report', '--resumed'], "unknown option '--resumed'"],
  ])('refuses %j', async (args, complaint) => {
    const ended = await bench(args)
    expect(ended).toMatchObject({ code: 2, stdout: '' })
    expect(ended.stderr).toContain(complaint)
  })
})
