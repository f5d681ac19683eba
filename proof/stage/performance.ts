import { sentence } from '../../src/terminal/failure.ts'
import { stopOnSignals, type Crew } from './crew.ts'
import { createView, type View } from './view.ts'

/** What a command of the proof works with while it runs. */
export interface Performance {
  readonly view: View
  /** What there is to undo, the last first. */
  readonly cleanUp: (() => Promise<unknown>)[]
}

/** What the process that serves the database of a run is told. */
type ServerOrder = { readonly type: 'begin'; readonly role: 'server' } | { readonly type: 'stop' }

/**
 * Runs a command of the proof until it is over, one of its processes ends by itself, or a signal comes. What it came to is
 * told first; then all processes are ended, and what was made is undone, however it ended.
 */
export async function perform<Result, Role extends string>(
  what: 'demo' | 'soak',
  crew: Crew<Role | 'server', never, never>,
  play: (stage: Performance) => Promise<Result>,
  tell: (result: Result, view: View) => 0 | 1,
): Promise<0 | 1> {
  const view = createView()
  const cleanUp: (() => Promise<unknown>)[] = []
  const stopped = stopOnSignals(what, {
    crew,
    except: 'server',
    say: (text) => {
      view.end()
      view.say(text)
    },
  })
  try {
    const acting = play({ view, cleanUp })
    // When something else ends the race, what the play still does fails for want of a database; nobody minds.
    acting.catch(() => {})
    const result = await Promise.race([acting, crew.failed, stopped.signal])
    view.end()
    return tell(result, view)
  } finally {
    view.end()
    await crew.disband('server')
    for (const undo of cleanUp.toReversed()) {
      await undo().catch((error: unknown) => view.say(`Not everything was removed: ${sentence(error)}`))
    }
    stopped.release()
  }
}

/** An embedded Postgres in a process of the crew, which ends with the run. Returns its URL. */
export async function hireServer<Role extends string>(
  crew: Crew<Role | 'server', ServerOrder, never>,
  { view, cleanUp }: Performance,
): Promise<string> {
  view.say('Starting an embedded Postgres in a temporary folder …')
  const starting = crew.hire('database server', 'server', { type: 'begin', role: 'server' })
  const server = crew.members.at(-1)!
  cleanUp.push(() => crew.dismiss(server, { type: 'stop' }))
  await starting
  return server.url!
}
