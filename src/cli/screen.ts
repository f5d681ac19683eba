import { setTimeout } from 'node:timers/promises'
import { openDatabase, type DatabaseInput } from '../database/database.ts'
import { isOutage } from '../database/evidence.ts'
import { sentence } from '../terminal/failure.ts'
import type { Flags } from '../terminal/flags.ts'
import { readSettings, tellPeople } from './settings.ts'
import { printable } from '../base/printable.ts'
import { outColumns, say } from '../terminal/output.ts'
import { columnsOf, cut, fold } from '../terminal/prose.ts'
import { fit, section, type Section } from '../terminal/section.ts'

/** Where a picture is drawn: standard output, or what a test has in its place. */
export interface Screen {
  write(text: string): unknown
  on?(event: 'resize', listener: () => void): unknown
  off?(event: 'resize', listener: () => void): unknown
  readonly isTTY?: boolean
  readonly columns?: number
  readonly rows?: number
}

/** What was read, to be drawn as wide as the screen is: again without reading, when that has changed. */
export type Picture = (width: number) => string | readonly Section[]

/** Shows a picture of the database once, or with `--watch` until a signal. */
export async function show(
  flags: Flags,
  read: (from: DatabaseInput, schema: string) => Promise<Picture>,
): Promise<void> {
  let place = ''
  const { schema, database: input } = await readSettings(flags, (told) => {
    tellPeople(flags)(told)
    place = told
  })
  const from = input()
  if (flags.watch !== true) {
    say(fit((await read(from, schema))(outColumns())))
    return
  }
  const json = flags.json ?? false
  const { database, owned } = openDatabase(from, { schema, poolSize: 1 })
  const stop = new AbortController()
  const onSignal = (): void => stop.abort()
  for (const name of signals) process.on(name, onSignal)
  // It has the screen to itself, and what was said before is out of sight.
  const head = isLive(process.stdout, json) ? [section(place)] : []
  const headed = async (): Promise<Picture> => {
    const picture = await read(database, schema)
    return (width) => {
      const drawn = picture(width)
      return [...head, ...(typeof drawn === 'string' ? [section(drawn)] : drawn)]
    }
  }
  try {
    await watch(headed, process.stdout, json, stop.signal)
  } finally {
    for (const name of signals) process.off(name, onSignal)
    if (owned) await database.close()
  }
}

const signals = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const
const watchMs = 1000

const isLive = (screen: Screen, json: boolean): boolean => screen.isTTY === true && !json

/**
 * Draws once a second until it is told to stop. On a terminal it has a screen of its own, so that what was there before
 * is there again afterwards, with the last picture below it.
 */
export async function watch(
  read: () => Promise<Picture>,
  screen: Screen,
  json: boolean,
  signal: AbortSignal,
): Promise<void> {
  const told = new Promise<null>((stop) => signal.addEventListener('abort', () => stop(null), { once: true }))
  // Null if told to stop: a read that the network has swallowed must not hold Ctrl-C up.
  const next = (): Promise<Picture | null> => Promise.race([told, read()])
  // What cannot be read at all is an error; later, an outage is what an operator watches for.
  let picture = await next()
  const live = isLive(screen, json)
  const text = (height?: number): string =>
    picture === null ? '' : printable(fit(picture(columnsOf(screen)), height))
  // Of a line that is too wide the terminal makes two, and all of it moves up.
  const draw = (): unknown =>
    screen.write(
      live
        ? `\u001b[H\u001b[J${cutLines(text(screen.rows), columnsOf(screen))}`
        : `${text()}${json ? '\n' : '\n\n'}`,
    )
  let last = ''
  if (live) {
    screen.write('\u001b[?1049h\u001b[?25l')
    screen.on?.('resize', draw)
  }
  try {
    while (picture !== null) {
      draw()
      last = text()
      await setTimeout(watchMs, null, { signal }).catch(() => {})
      picture = signal.aborted ? null : await next().catch((error: unknown) => outage(error, json))
    }
  } finally {
    screen.off?.('resize', draw)
    if (live) screen.write(`\u001b[?25h\u001b[?1049l${last}\n`)
  }
}

function outage(error: unknown, json: boolean): Picture {
  if (!isOutage(error)) throw error
  return (width) =>
    json ? JSON.stringify({ at: new Date(), error: sentence(error) }) : fold(sentence(error), width)
}

const cutLines = (text: string, width: number): string =>
  text
    .split('\n')
    .map((line) => cut(line, width))
    .join('\n')
