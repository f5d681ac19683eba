import { execFile } from 'node:child_process'
import { promisify } from 'node:util'
import { expect, test } from 'vitest'
import { everyBroker } from '../support/brokers.ts'
import { compiled } from '../support/shared.ts'
import { describeWith } from '../support/require.ts'

await compiled('build')

/** The command, short: some seconds of load with a handful of faults on a Postgres of its own, and everything holds. */
const main = new URL('../../.build/src/cli/main.js', import.meta.url).pathname

const spoiled = { refusals: 1, repeats: 1, setBack: 1, truncate: 1, kill: 1 }

/**
 * Of this seed, all plans have a broker that refuses and one that repeats, a sequence that goes back, tables that are truncated
 * and a kill; over Postgres also a restore.
 */
function suite(broker: string, url: readonly string[]): void {
  test('nothing is lost, doubled, out of order or ended by itself', async () => {
    const load = ['--minutes', '0.2', '--rate', '200', '--faults', '7', '--keys', '50', '--seed', '1687975']
    const { stdout } = await promisify(execFile)(
      process.execPath,
      [main, 'soak', '--json', '--broker', broker, ...url, ...load],
      { timeout: 110_000 },
    )
    const report = JSON.parse(stdout.trimEnd().split('\n').at(-1)!) as Record<string, unknown>
    expect(report).toMatchObject({
      ok: true,
      broker,
      seed: 1687975,
      faults: 7,
      faultsByKind: { ...spoiled, ...(broker === 'postgres' && { restore: 1 }) },
      lost: 0,
      ghosts: 0,
      duplicateEffects: 0,
      orderViolations: 0,
      zombieWrites: 0,
      unexpectedExits: 0,
    })
    expect(report['kills']).toBeGreaterThan(0)
    expect(report['published']).toBeGreaterThan(1000)
  })
}

// Each has nine processes for half a minute: over two brokers here, and for ten minutes over each in the long proofs.
const short = (await everyBroker()).filter(({ adapter }) => ['postgres', 'rabbitmq'].includes(adapter.name))
for (const { adapter, found } of short)
  describeWith(adapter.name, found, 'soak', ({ url }) =>
    suite(adapter.name, url === undefined ? [] : ['--url', url]),
  )
