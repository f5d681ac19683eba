import { execFile, spawn } from 'node:child_process'
import { mkdtemp, readFile, rm, symlink } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { promisify } from 'node:util'
import { Command } from 'commander'
import { whole } from '../../src/terminal/parse.ts'
import { table } from '../../src/terminal/table.ts'
import { allServers } from '../support/servers/server.ts'
import { plant, readBugs, type Bug } from './bug.ts'

/**
 * Plants bugs of our own, one at a time, in a copy of the sources, and sees whether the proofs find them. A harness that
 * passes with a bug in it proves nothing; one that fails without any bug neither, so each is first run on the sources
 * as they are.
 */
const run = promisify(execFile)
const root = resolve(import.meta.dirname, '../../..')
const required = (await allServers()).map(({ name }) => name).join(',')
/** A harness that hangs has noticed as well. */
const limitMs = 10 * 60_000

interface Verdict extends Omit<Bug, 'edits'> {
  /** The seed with which it was found, or null. */
  readonly seed: number | null
  readonly seconds: number
}

async function choose(names: readonly string[]): Promise<Bug[]> {
  const bugs = await readBugs(root)
  const known = bugs.map(({ name }) => name)
  const unknown = names.filter((name) => !known.includes(name))
  if (unknown.length > 0)
    throw new Error(`There is no planted bug ${unknown.join(', ')}. There are: ${known.join(', ')}.`)
  return bugs.filter(({ name }) => names.length === 0 || names.includes(name))
}

/** What the line of a bug asks for, as a command. */
function commandOf(harness: string, seed: number): { args: string[]; env: Record<string, string> } {
  const [kind = '', ...rest] = harness.split(' ')
  const vitest = ['node_modules/vitest/vitest.mjs', 'run']
  const wanted = rest.join(' ')
  switch (kind) {
    case 'model':
      return { args: [...vitest, 'test/model'], env: { RUNS: '60', SEED: String(seed) } }
    case 'matrix':
      return { args: [...vitest, 'test/crash/matrix.test.ts', '-t', wanted], env: {} }
    case 'test':
      return { args: [...vitest, wanted], env: {} }
    case 'soak':
      return {
        args: [
          'dist/src/cli/main.js',
          'soak',
          '--broker',
          wanted,
          '--minutes',
          '0.7',
          '--faults',
          '20',
          '--seed',
          String(seed),
        ],
        env: {},
      }
    default:
      throw new Error(`A bug names a harness that there is not: ${harness}`)
  }
}

/** Whether the harness passes in that copy of the sources. */
async function passes(copy: string, harness: string, seed: number, signal: AbortSignal): Promise<boolean> {
  if (harness.startsWith('soak'))
    await run(
      process.execPath,
      ['node_modules/typescript/bin/tsc', '-p', 'tsconfig.build.json', '--noCheck'],
      {
        cwd: copy,
      },
    )
  const { args, env } = commandOf(harness, seed)
  const ran = join(copy, '.build/ran.json')
  await rm(ran, { force: true })
  const reports = harness.startsWith('soak') ? [] : ['--reporter=json', `--outputFile=${ran}`]
  const child = spawn(process.execPath, [...args, ...reports], {
    cwd: copy,
    // A suite whose server is missing is skipped, and would pass whatever is planted.
    env: { ...process.env, TWINBOX_TEST_REQUIRE: required, ...env },
    stdio: 'ignore',
    detached: true,
  })
  const end = (): void => {
    // Its own group: what it has started goes with it.
    try {
      process.kill(-child.pid!, 'SIGKILL')
    } catch {
      // Gone already.
    }
  }
  const timer = setTimeout(end, limitMs)
  signal.addEventListener('abort', end)
  const code = await new Promise<number | null>((ended) => child.once('exit', ended))
  clearTimeout(timer)
  signal.removeEventListener('abort', end)
  signal.throwIfAborted()
  if (code !== 0) return false
  if (reports.length === 0) return true
  // A name that no test has any more: then none ran, and whatever is planted passes.
  const { numPassedTests } = JSON.parse(await readFile(ran, 'utf8')) as { numPassedTests: number }
  if (numPassedTests === 0) throw new Error(`The harness runs no test: ${harness}`)
  return true
}

async function hunt(
  copy: string,
  bugs: readonly Bug[],
  seeds: number,
  signal: AbortSignal,
): Promise<Verdict[]> {
  const say = (text: string): void => void process.stderr.write(`${text}\n`)
  for (const harness of new Set(bugs.map((bug) => bug.harness))) {
    if (!(await passes(copy, harness, 1, signal)))
      throw new Error(`The harness fails on the sources as they are: ${harness}`)
    say(`passes without a bug: ${harness}`)
  }
  const verdicts: Verdict[] = []
  for (const bug of bugs) {
    const { edits: _, ...named } = bug
    const startedAt = Date.now()
    await plant(copy, bug)
    let found: number | null = null
    for (let seed = 1; seed <= seeds && found === null; seed++) {
      if (!(await passes(copy, bug.harness, seed, signal))) found = seed
    }
    await run('git', ['checkout', '-q', '.'], { cwd: copy })
    const seconds = Math.round((Date.now() - startedAt) / 1000)
    verdicts.push({ ...named, seed: found, seconds })
    say(`${found === null ? 'NOT FOUND' : `found (seed ${found})`} in ${seconds} s: ${bug.name}`)
  }
  return verdicts
}

const command = new Command('mutants')
  .description('Plants bugs of our own, one at a time, and sees whether the proofs find them.')
  .argument('[names...]', 'which (default: all of test/mutants)')
  .option('--seeds <number>', 'with how many seeds a harness may try', (text) => whole(text, 1, 100), 3)
  .option('--json', 'end standard output with the result as one JSON object')
  .addHelpText(
    'after',
    '\nWorks on the last commit, in a copy of its own. Exits with 1 if one was not found.',
  )
  .action(async (names: string[], { seeds, json }: { seeds: number; json?: boolean }) => {
    const bugs = await choose(names)
    const stop = new AbortController()
    process.once('SIGINT', () => stop.abort(new Error('Interrupted.')))
    const copy = await mkdtemp(join(tmpdir(), 'twinbox-mutants-'))
    try {
      await run('git', ['worktree', 'add', '-q', '--detach', '--force', copy], { cwd: root })
      await symlink(join(root, 'node_modules'), join(copy, 'node_modules'))
      const verdicts = await hunt(copy, bugs, seeds, stop.signal)
      const found = verdicts.filter(({ seed }) => seed !== null).length
      process.stdout.write(
        `${table(
          ['bug', 'found by', 'seed'],
          verdicts.map(({ bug, harness, seed }) => [
            bug,
            harness,
            seed === null ? 'not found' : String(seed),
          ]),
        )}\n`,
      )
      if (json === true)
        process.stdout.write(`${JSON.stringify({ planted: verdicts.length, found, verdicts })}\n`)
      else process.stdout.write(`${found} of ${verdicts.length} found\n`)
      process.exitCode = found === verdicts.length ? 0 : 1
    } finally {
      await run('git', ['worktree', 'remove', '--force', copy], { cwd: root }).catch(() => {})
      await rm(copy, { recursive: true, force: true })
    }
  })

await command.parseAsync()
