import { readFileSync } from 'node:fs'

/** The version of this package, as the table `worker` and `twinbox --version` show it. */
export const version: string = readVersion()

function readVersion(): string {
  // Sources lie two folders deep; compiled files three, in dist as in the tests' build.
  for (const path of ['../../package.json', '../../../package.json']) {
    try {
      const found = JSON.parse(readFileSync(new URL(path, import.meta.url), 'utf8')) as {
        version: string
        name: string
      }
      if (found.name === 'twinbox') return found.version
    } catch {
      // Not there; the other one is.
    }
  }
  return 'unknown'
}
