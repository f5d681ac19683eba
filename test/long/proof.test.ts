import { execFileSync, spawn } from 'node:child_process'
import { once } from 'node:events'
import { readFile, writeFile } from 'node:fs/promises'
import { afterAll, expect, test } from 'vitest'
import { isMissing } from '../support/require.ts'
import { kafka } from '../support/servers/kafka.ts'
import { rabbitmq } from '../support/servers/rabbitmq.ts'
import { compiled, shared } from '../support/shared.ts'
import { runOn, type Counts } from '../support/versions.ts'

/**
 * What takes too long for every commit. Each test is one proof, run as a user would run it, and each leaves its line in
 * `results.md` beside this file with the commit and the date, also when it failed. `-t soak` takes only some of them.
 */
const file = new URL('results.md', import.meta.url)
const commit = execFileSync('git', ['describe', '--always', '--dirty', '--abbrev=7'], {
  encoding: 'utf8',
}).trim()
const done = new Map<string, string>()

await compiled('build')

/** Runs a proof, and keeps what came of it: its own words, or why it failed. */
function proof(name: string, prove: () => Promise<string>): void {
  // eslint-disable-next-line vitest/expect-expect, vitest/valid-title -- the proof asserts, and has the name.
  test(name, async () => {
    const from = performance.now()
    let result = 'did not end'
    try {
      result = await prove()
    } catch (error) {
      result = `**failed**: ${String(error).split('\n')[0]}`
      throw error
    } finally {
      const minutes = ((performance.now() - from) / 60_000).toFixed(1)
      const date = new Date().toISOString().slice(0, 10)
      done.set(name, `| ${name} | ${result} | ${minutes} | ${commit} | ${date} |`)
    }
  })
}

/** The proofs that were not run now keep the line that they had. */
afterAll(async () => {
  const before = await readFile(file, 'utf8').catch(() => '')
  const rows = new Map<string, string>()
  for (const [line, name] of before.matchAll(/^\| (?!proof |---)(.*?) \|.*$/gm)) rows.set(name!, line)
  for (const [name, line] of done) rows.set(name, line)
  const head = ['| proof | result | minutes | commit | date |', '| --- | --- | --- | --- | --- |']
  const title = [
    '# Long tests',
    '',
    'Written by `npm run test:long`; CONTRIBUTING.md says what each proof does.',
    '',
  ]
  await writeFile(file, `${[...title, '<!-- prettier-ignore -->', ...head, ...rows.values()].join('\n')}\n`)
})

const soaks = [
  { broker: 'postgres', url: async () => [] as string[] },
  {
    broker: 'rabbitmq',
    url: async () => {
      const found = await shared(rabbitmq)
      return isMissing(found) ? expect.fail(found.missing) : ['--url', found.url]
    },
  },
  {
    broker: 'kafka',
    url: async () => {
      const found = await shared(kafka)
      return isMissing(found) ? expect.fail(found.missing) : ['--url', found.brokers.join(',')]
    },
  },
]

proof('soak, a million messages over postgres', async () =>
  soak(['--broker', 'postgres', '--messages', '1000000', '--rate', '2000', '--seed', '9000']),
)
for (const [index, { broker, url }] of soaks.entries()) {
  proof(`soak, ten minutes over ${broker}`, async () =>
    soak(['--broker', broker, ...(await url()), '--minutes', '10', '--seed', String(9001 + index)]),
  )
}
proof('kill matrix, 20 times', () => files(['test/crash/matrix.test.ts'], { REPEATS: '20' }))
proof('model, 2,000 histories', () => files(['test/model'], { RUNS: '2000' }))
for (const [broker, path] of [
  ['Postgres', 'postgres'],
  ['RabbitMQ', 'rabbitmq/wire'],
  ['Kafka', 'kafka'],
]) {
  proof(`fuzz, 100,000 deliveries over ${broker}`, () =>
    files(
      [`test/brokers/${path}.test.ts`, '-t', 'deliveries of any bytes|messages of anything|whatever comes'],
      {
        TWINBOX_TEST_FUZZ: '100000',
      },
    ),
  )
}
proof('settings of a session, 200 combinations', () => files(['test/settings.test.ts'], { RUNS: '200' }))
proof("the soak's checker over a million messages", () =>
  files(['test/soak/checker.test.ts'], { MESSAGES: '1000000' }),
)
proof('each version of Kafka dies, alone and among three', () =>
  files(['test/brokers/kafka.test.ts'], { TWINBOX_TEST_ALL: '1' }),
)
proof('each scenario of the benchmark', () => files(['test/bench.test.ts'], { SCENARIOS: 'all' }))
proof('plans beside 100,000 rows', () => files(['test/plans.test.ts'], {}))
for (const postgres of ['14', '16', '17', '18']) {
  proof(`core on Postgres ${postgres}`, async () =>
    told(await runOn({ postgres }, ['quick', 'servers:postgres'])),
  )
}
for (const node of ['22', '24']) {
  proof(`core on Node ${node}`, async () => {
    return told(await runOn({ node }, ['quick', 'servers:postgres']))
  })
}

async function soak(args: readonly string[]): Promise<string> {
  const { code, stdout } = await run(['.build/src/cli/main.js', 'soak', '--json', ...args], {})
  const report = JSON.parse(stdout.trimEnd().split('\n').at(-1)!) as Record<string, number | boolean>
  expect([code, report['ok']]).toEqual([0, true])
  const { published, faults, lost, duplicateEffects, orderViolations } = report
  return `${published} published, ${faults} faults: ${lost} lost, ${duplicateEffects} doubled, ${orderViolations} out of order`
}

async function files(names: readonly string[], env: NodeJS.ProcessEnv): Promise<string> {
  const { code, stdout } = await run(['node_modules/vitest/vitest.mjs', 'run', ...names], env)
  // eslint-disable-next-line no-control-regex
  const tests = /Tests +(.*)/.exec(stdout.replaceAll(/\u001b\[[\d;]*m/g, ''))?.[1] ?? 'no test ran'
  expect([code, tests]).toEqual([0, expect.stringContaining('passed')])
  return tests
}

function told({ passed, failed, skipped }: Counts): string {
  expect(failed).toBe(0)
  expect(passed).toBeGreaterThan(0)
  return `${passed} passed, ${skipped} skipped`
}

async function run(
  args: readonly string[],
  more: NodeJS.ProcessEnv,
): Promise<{ code: number | null; stdout: string }> {
  const inherited = Object.entries(process.env).filter(
    ([name]) => !/^(VITEST|TWINBOX_TEST_SHARED)/.test(name),
  )
  const env = { ...Object.fromEntries(inherited), ...more }
  const child = spawn(process.execPath, args, { env, stdio: ['ignore', 'pipe', 'inherit'] })
  let stdout = ''
  child.stdout.on('data', (data: Buffer) => {
    stdout += data.toString()
    process.stdout.write(data)
  })
  const [code] = (await once(child, 'close')) as [number | null]
  return { code, stdout }
}
