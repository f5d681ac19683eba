import { execFile } from 'node:child_process'
import { mkdir, readFile, symlink, writeFile } from 'node:fs/promises'
import { join, resolve } from 'node:path'
import { promisify } from 'node:util'
import { packageFolder } from '../support/packages.ts'
import { userEnv } from '../support/packed.ts'

const run = promisify(execFile)

/** The programs of docs/testing.md, in their order; the first is what the others test, the last is for PGlite. */
export const programs = [
  ...(await readFile('docs/testing.md', 'utf8')).matchAll(/^```js\n(?:\/\/ (\S+\.js)[^\n]*\n)?(.*?)^```/gms),
].map(([, name = null, code]) => ({ name, code: code! }))

/** What each runner prints of its program, in a folder of a project that has installed the package. It throws if a test fails. */
export async function runPrograms(project: string, databaseUrl: string): Promise<Record<string, string>> {
  const folder = join(project, 'testing')
  await mkdir(join(folder, 'node_modules'), { recursive: true })
  await symlink(resolve('node_modules/vitest'), join(folder, 'node_modules/vitest'))
  const manifest = { private: true, type: 'module', jest: { transform: {} } }
  await writeFile(join(folder, 'package.json'), JSON.stringify(manifest))
  for (const { name, code } of programs.slice(0, -1)) await writeFile(join(folder, name ?? 'orders.js'), code)
  const jest = join(await packageFolder('jest', '30'), 'jest/bin/jest.js')
  const env = { ...userEnv(), DATABASE_URL: databaseUrl, NODE_ENV: 'test', NO_COLOR: '1', FORCE_COLOR: '0' }
  const runs = async (...args: string[]): Promise<string> => {
    try {
      const { stdout, stderr } = await run(process.execPath, args, { cwd: folder, env })
      return stdout + stderr
    } catch (error) {
      const { stdout, stderr } = error as { stdout: string; stderr: string }
      throw new Error(`${args.join(' ')} failed:\n${stdout}\n${stderr}`, { cause: error })
    }
  }
  // A busy machine may take longer than they allow.
  const patient = '--testTimeout=60000'
  const vitest = join(folder, 'node_modules/vitest/vitest.mjs')
  return {
    vitest: await runs(vitest, 'run', '--root', folder, 'orders.test.js', patient),
    jest: await runs('--experimental-vm-modules', jest, '--rootDir', folder, 'orders.jest.test.js', patient),
    node: await runs('--test', 'orders.node.test.js'),
  }
}
