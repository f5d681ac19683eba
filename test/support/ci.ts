import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, readFileSync } from 'node:fs'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { platformatic } from './platformatic.ts'
import { allServers, install } from './servers/server.ts'
import { countsOf, reporters, runOn, type Counts } from './versions.ts'

/**
 * The tests as `.ci/run` runs them, with every server that they know: the README's command on the machine's own Node and Postgres, and the core
 * of the quick files, with the libraries of which some need it, on the newest of both. The last line counts both runs, and the process fails if one
 * test of either did.
 */
// What may differ between two versions of Node or Postgres. The others read sources and check arguments.
const core = [
  ...['outbox', 'relay.', 'worker', 'delay', 'sql', 'hijack', 'subscription', 'replanning', 'telemetry/'],
  ...['claimer/atonce', 'claimer/given', 'claimer/library', 'brokers/', 'crash/platformatic'],
  ...['attack/narrowing', 'attack/owners', 'attack/roles', 'libraries/newest', 'libraries/types'],
].map((name) => `test/${name}`)
const servers = await allServers()
install(servers)
// What is missing now is a failure, and not a reason to skip.
process.env['TWINBOX_TEST_REQUIRE'] = servers.map(({ name }) => name).join(',')

const folder = await mkdtemp(join(tmpdir(), 'twinbox-ci-'))
const counts: Counts[] = []
let failed = false
try {
  const result = join(folder, 'result.json')
  const tags = join(folder, 'tags')
  const own = spawn('npm', ['test', '--', ...reporters(result)], {
    stdio: ['ignore', 'inherit', 'inherit'],
    env: { ...process.env, TWINBOX_TEST_TELL: tags },
  })
  const ended = once(own, 'close') as Promise<[number | null]>
  // Those wait most of the time, for deaths to be noticed: the second run has what they leave of the processors.
  await begun('processes', tags, ended)
  process.env['TWINBOX_TEST_REQUIRE'] += `,${platformatic}`
  const later = ['quick', 'servers:libraries', 'servers:platformatic']
  const newer = runOn({ node: '24', postgres: '18' }, later, core)
  const [[code], newest] = await Promise.all([ended, newer])
  failed = code !== 0
  counts.push(await countsOf(result), newest)
} finally {
  await rm(folder, { recursive: true, force: true })
}
// Whoever sees only the end of a long run learns what is red.
for (const failure of counts.flatMap(({ failures }) => failures))
  process.stdout.write(`\nFAILED ${failure}\n`)
const sum = (of: Exclude<keyof Counts, 'failures'>): number =>
  counts.reduce((total, one) => total + one[of], 0)
if (failed || sum('failed') > 0 || counts.some(({ passed }) => passed === 0)) process.exitCode = 1
const skipped = sum('skipped') > 0 ? `, ${sum('skipped')} skipped` : ''
process.stdout.write(`${sum('passed')} passed, ${sum('failed')} failed${skipped}\n`)

/** Resolves when the first file of this tag begins, or all have ended. */
async function begun(tag: string, tags: string, ended: Promise<unknown>): Promise<void> {
  let over = false
  void ended.then(() => (over = true))
  while (!over && !(existsSync(tags) && readFileSync(tags, 'utf8').split('\n').includes(tag)))
    await sleep(500)
}
