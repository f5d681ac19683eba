import { execFile } from 'node:child_process'
import { promisify } from 'node:util'
import type { Found } from '../require.ts'
import { leave, type Server } from './server.ts'

/** A browser that tests open pages in: Debian's Chromium, or another one of its family. */
export interface Chromium {
  /** The program, as it is called or where it is. */
  readonly program: string
  readonly version: string
}

const variable = 'TWINBOX_TEST_CHROMIUM'

/** Found here only: a test file starts it, and ends it. */
export const chromium: Server<Chromium> = {
  name: 'chromium',
  variable,
  packages: { chromium: ['chromium'] },
  start: async () => {
    const found = await findChromium()
    return 'missing' in found ? found : { address: found, from: found.version, stop: leave }
  },
}

export const servers = [chromium]

const run = promisify(execFile)

async function findChromium(): Promise<Found<Chromium>> {
  const given = process.env[variable]
  const programs = given === undefined ? ['chromium', 'chromium-browser', 'google-chrome'] : [given]
  for (const program of programs) {
    try {
      const { stdout } = await run('sh', ['-c', 'command -v -- "$0" && "$0" --version', program])
      const [path = program, version = 'unknown'] = stdout.trim().split('\n')
      return { program: path, version }
    } catch {
      // It is looked for by the next name.
    }
  }
  return { missing: 'no Chromium is installed' }
}
