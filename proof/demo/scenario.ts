import { spawn, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { existsSync } from 'node:fs'
import { resolve } from 'node:path'
import { fileURLToPath } from 'node:url'
import { createCrew } from '../soak/company.ts'
import { hasEnded } from '../stage/crew.ts'
import { hireServer, perform } from '../stage/performance.ts'
import { chooseServer } from '../stage/scratch.ts'
import { UsageError } from '../../src/terminal/failure.ts'

export interface ScenarioOptions {
  readonly number?: number
  readonly url?: string
  readonly database?: string
  /** A copy of the program that its user has changed. */
  readonly program?: string
}

/** The program drops its schema and ends its processes, which finish what is in flight. */
const endTimeoutMs = 20_000

/**
 * Runs one of the programs in `examples/scenarios`, which know nothing of this one, on a Postgres that is found or brought for them.
 * What it says of itself counts. @throws UsageError
 */
export async function runScenario(name: string, asked: ScenarioOptions): Promise<0 | 1> {
  const packed = new URL(`../../../examples/scenarios/${name}.mjs`, import.meta.url)
  const program = asked.program === undefined ? fileURLToPath(packed) : resolve(asked.program)
  if (!existsSync(program)) throw new UsageError(`There is no ${program}.`)
  const { database } = chooseServer('demo', { ...asked, broker: 'postgres' })
  const crew = createCrew()
  return perform(
    'demo',
    crew,
    async (stage) => {
      const databaseUrl = database ?? (await hireServer(crew, stage))
      const child = spawn(
        process.execPath,
        [program, ...(asked.number === undefined ? [] : [`--number=${asked.number}`])],
        {
          // Apart from our process group, as the crew is: a Ctrl-C reaches this process, and it ends the program once.
          detached: true,
          stdio: ['ignore', 'inherit', 'inherit'],
          // Everybody on the machine can read the flags of a process, and URLs may have passwords.
          env: {
            ...process.env,
            DATABASE_URL: databaseUrl,
            ...(asked.url === undefined ? {} : { TWINBOX_BROKER_URL: asked.url }),
          },
        },
      )
      stage.cleanUp.push(() => end(child))
      const [code] = (await once(child, 'exit')) as [number | null]
      return code === 0 ? 0 : 1
    },
    (code) => code,
  )
}

/** As by Ctrl-C, so that it leaves nothing behind. */
async function end(child: ChildProcess): Promise<void> {
  if (hasEnded(child)) return
  const gone = once(child, 'exit')
  child.kill('SIGINT')
  const late = setTimeout(() => child.kill('SIGKILL'), endTimeoutMs)
  await gone
  clearTimeout(late)
}
