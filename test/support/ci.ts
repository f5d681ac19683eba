import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { allServers, install } from './servers/server.ts'
import { countsOf, reporters, runOn, type Counts } from './versions.ts'

/**
 * The tests as `.ci/run` runs them, with every server that they know: the README's command on the machine's own Node and Postgres, then the quick files
 * on the newest of both. The last line counts both runs, and the process fails if one test of either did.
 */
const servers = await allServers()
install(servers)
// What is missing now is a failure, and not a reason to skip.
process.env['TWINBOX_TEST_REQUIRE'] = servers.map(({ name }) => name).join(',')

const folder = await mkdtemp(join(tmpdir(), 'twinbox-ci-'))
const counts: Counts[] = []
let failed = false
try {
  const result = join(folder, 'result.json')
  const own = spawn('npm', ['test', '--', ...reporters(result)], { stdio: ['ignore', 'inherit', 'inherit'] })
  const [code] = (await once(own, 'close')) as [number | null]
  failed = code !== 0
  counts.push(await countsOf(result))
  counts.push(await runOn({ node: '24', postgres: '18' }, ['quick']))
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
