import { readFile } from 'node:fs/promises'
import { expect, test } from 'vitest'
import { libraries } from './libraries.ts'

/** The table of `docs/publishing.md` says what is tried here, and nothing else: whoever changes a version changes it there. */

interface Manifest {
  readonly dependencies: Readonly<Record<string, string>>
}

const manifestOf = async (set: string): Promise<Manifest> =>
  JSON.parse(await readFile(`test/libraries/${set}/package.json`, 'utf8')) as Manifest
const lockOf = async (set: string): Promise<Record<string, { readonly version: string }>> =>
  (
    JSON.parse(await readFile(`test/libraries/${set}/package-lock.json`, 'utf8')) as {
      packages: Record<string, { version: string }>
    }
  ).packages
const rowOf = (name: string): string =>
  name
    .replace(/, an? \w+$/, '')
    .replace(' over ', ', on ')
    .replace(/^Prisma$/, 'Prisma, with `@prisma/adapter-pg`')
const plain = (cell: string): string => cell.replace(/^(yes|no|–).*/, '$1')

test('the table of libraries has those that are tried, how, and in which versions', async () => {
  const page = await readFile('docs/publishing.md', 'utf8')
  const rows = page
    .split('\n')
    .slice(page.slice(0, page.indexOf('| library ')).split('\n').length + 1)
    .map((line) => line.split('|').map((cell) => cell.trim()))
  const shown = new Map<string, object>()
  for (const [, name, , bound, handled, versions] of rows) {
    if (versions === undefined) break
    if (name !== 'anything else')
      shown.set(name!, {
        bound: plain(bound!),
        handled: plain(handled!),
        versions: versions.match(/\d+\.\d+\.\d+/g),
      })
  }
  const [oldest, newest] = await Promise.all(['oldest', 'newest'].map(manifestOf))
  const locks = await Promise.all(['oldest', 'newest'].map(lockOf))
  const tried = new Map<string, object>()
  for (const { name, package: of } of libraries) {
    const row = rowOf(name)
    const binds = libraries.some((other) => rowOf(other.name) === row && other.binds === true)
    const versions = [oldest, newest].map((manifest) => manifest!.dependencies[of])
    expect(locks.map((packages) => packages[`node_modules/${of}`]!.version)).toEqual(versions)
    const isServer = row === 'PGlite'
    // The claim's client is pg's own.
    const bound = binds ? 'yes' : isServer || row === 'pg' ? '–' : 'no'
    tried.set(row, { bound, handled: isServer ? '–' : 'yes', versions })
  }
  expect(shown).toEqual(tried)
})
