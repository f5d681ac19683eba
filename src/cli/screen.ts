import { setTimeout } from 'node:timers/promises'
import { openDatabase, type DatabaseInput } from '../database/database.ts'
import { isOutage } from '../database/evidence.ts'
import { sentence } from '../terminal/failure.ts'
import type { Flags } from '../terminal/flags.ts'
import { readSettings, tellPeople } from './settings.ts'
import { printable } from '../base/printable.ts'
import { say } from '../terminal/output.ts'

/** Where a picture is drawn: standard output, or what a test has in its place. */
export interface Screen {
  write(text: string): unknown
  readonly isTTY?: boolean
  readonly columns?: number
  readonly rows?: number
}

/** Shows a picture of the database once, or with `--watch` until a signal. */
export async function show(
  flags: Flags,
  picture: (from: DatabaseInput, width: number) => Promise<string>,
): Promise<void> {
  let head = ''
  const { schema, database: input } = await readSettings(flags, (place) => {
    tellPeople(flags)(place)
    // Then it has the screen to itself, and what was said before is out of sight.
    if (isLive(process.stdout, flags.json)) head = `${place}\n\n`
  })
  const from = input()
  if (flags.watch !== true) {
    say(await picture(from, widthOf(process.stdout)))
    return
  }
  const { database, owned } = openDatabase(from, { schema, poolSize: 1 })
  const stop = new AbortController()
  const onSignal = (): void => stop.abort()
  for (const name of signals) process.on(name, onSignal)
  try {
    await watch(
      async (width) => head + (await picture(database, width)),
      process.stdout,
      flags.json ?? false,
      stop.signal,
    )
  } finally {
    for (const name of signals) process.off(name, onSignal)
    if (owned) await database.close()
  }
}

const signals = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const
const watchMs = 1000
/** Where nobody says how wide the screen is. */
export const plainWidth = 120

const isLive = (screen: Screen, json = false): boolean => screen.isTTY === true && !json

const widthOf = (screen: Screen): number => (screen.isTTY === true && screen.columns) || plainWidth

/**
 * Draws once a second until it is told to stop. On a terminal it has a screen of its own, so that what was there before
 * is there again afterwards, with the last picture below it.
 */
export async function watch(
  draw: (width: number) => Promise<string>,
  screen: Screen,
  json: boolean,
  signal: AbortSignal,
): Promise<void> {
  const told = new Promise<null>((stop) => signal.addEventListener('abort', () => stop(null), { once: true }))
  // Null if told to stop: a read that the network has swallowed must not hold Ctrl-C up.
  const next = (): Promise<string | null> => Promise.race([told, draw(widthOf(screen))])
  // What cannot be read at all is an error; later, an outage is what an operator watches for.
  let picture = await next()
  const live = isLive(screen, json)
  if (live) screen.write('\u001b[?1049h\u001b[?25l')
  let last = ''
  try {
    while (picture !== null) {
      last = printable(picture)
      screen.write(live ? `\u001b[H\u001b[J${cropped(last, screen.rows)}` : `${last}${json ? '\n' : '\n\n'}`)
      await setTimeout(watchMs, null, { signal }).catch(() => {})
      picture = signal.aborted ? null : await next().catch((error: unknown) => outage(error, json))
    }
  } finally {
    if (live) screen.write(`\u001b[?25h\u001b[?1049l${last}\n`)
  }
}

function outage(error: unknown, json: boolean): string {
  if (!isOutage(error)) throw error
  return json ? JSON.stringify({ at: new Date(), error: sentence(error) }) : sentence(error)
}

/** A picture that is higher than the screen would scroll its head away. */
function cropped(picture: string, height: number | undefined): string {
  const lines = picture.split('\n')
  if (height === undefined || lines.length < height) return picture
  return [...lines.slice(0, height - 2), `… ${lines.length - height + 2} more`].join('\n')
}
