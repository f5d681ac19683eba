import { execFile } from 'node:child_process'
import { cp, mkdtemp, readFile, readdir, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { promisify } from 'node:util'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { makeProject, strictOptions, userEnv } from '../support/packed.ts'
import { packageFolder } from '../support/packages.ts'

/**
 * What is accepted and refused of defined topics, by each TypeScript that is supported, of the package as it is installed. Its
 * declarations are checked with the rest; those of zod, valibot and arktype are not ours, and cost most of the time.
 */
const run = promisify(execFile)
const root = resolve(import.meta.dirname, '../..')
let folder: string
let project: string

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'twinbox-typing-'))
  project = await makeProject(folder, ['zod', 'valibot', 'arktype', '@types/pg'])
  const typing = join(root, 'test/topics/typing')
  for (const name of await readdir(typing)) await cp(join(typing, name), join(project, name))
}, 240_000)
afterAll(() => rm(folder, { recursive: true, force: true }))

test.each(['5.7', '5.9', '6.0', '7'])(
  'topics are typed alike by TypeScript %s',
  async (version) => {
    const modules = version === '7' ? join(root, 'node_modules') : await packageFolder('typescript', version)
    const typescript = join(modules, 'typescript')
    const { version: found } = JSON.parse(await readFile(join(typescript, 'package.json'), 'utf8')) as {
      readonly version: string
    }
    expect(found.startsWith(version)).toBe(true)
    const check = async (...args: string[]): Promise<string> => {
      const options = [join(typescript, 'bin', 'tsc'), ...strictOptions, ...args]
      const told = run(process.execPath, options, { cwd: project, env: userEnv() })
      return (await told.catch((error: { stdout: string }) => error)).stdout
    }
    // What is declared for all outboxes is declared for the whole program, so it has one of its own.
    expect(await check('--skipLibCheck', 'false', 'registered.mts')).toBe('')
    // Half a minute of an old compiler: the oldest and the newest tell enough.
    if (version === '5.7' || version === '7')
      expect(await check('--skipLibCheck', 'zod.mts', 'others.mts')).toBe('')
  },
  240_000,
)
