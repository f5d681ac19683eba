import type pg from 'pg'
import type { Database } from '../database/database.ts'
import { scheduleSql, type DueRow } from '../database/sql/schedule.ts'
import { isPassing } from '../database/sqlstate.ts'
import type { Emit } from '../base/events.ts'
import { hintPublished } from '../base/hints.ts'
import { startLoop } from '../base/loop.ts'
import { toTickId } from '../message/message.ts'
import { Ticks } from './cron.ts'

const lookMs = 250
/** How many schedules one transaction serves. */
const schedulesMax = 20
/** A schedule that cannot be published is tried again after so long. */
const asideMs = 60_000
/** A tick that is published again within this is known: after that, nobody sets a schedule back so far by accident. */
const dedupeMs = 7 * 86_400_000

interface Tick {
  readonly name: string
  readonly at: Date
}

/** Schedules that could not be published, by name, and until when they are left out, by the monotonic clock. */
export type Aside = Map<string, number>

/**
 * Publishes the ticks that are due, of schedules that nobody else works on. Returns how many messages that were.
 *
 * Two that run at once take different schedules; one that dies has published nothing and moved nothing. A schedule that
 * cannot be published is set aside for a minute, and keeps no other waiting. `aheadMs` moves the clock, for tests: the
 * time is the database's.
 */
export async function publishDue(
  database: Database,
  emit: Emit,
  aheadMs = 0,
  aside: Aside = new Map(),
): Promise<number> {
  for (const [name, until] of aside) if (until <= performance.now()) aside.delete(name)
  const [any] = await database.keep(scheduleSql(database.schema).anyDue, {
    aheadMs,
    aside: [...aside.keys()],
  })
  if (!any!.due) return 0
  const setAside = (name: string, error: unknown): void => {
    aside.set(name, performance.now() + asideMs)
    emit({ type: 'trouble', error, doing: `publishing the schedule "${name}"` })
  }
  const publish = (most: number, taken: string[]): Promise<number> =>
    database.transaction(async (client) => {
      const values = { aheadMs, most, aside: [...aside.keys()] }
      const rows = await database.run(client, scheduleSql(database.schema).lockDue, values)
      taken.push(...rows.map(({ name }) => name))
      return publishLocked(database, client, rows, setAside)
    })

  const before = aside.size
  const taken: string[] = []
  let published = await publish(schedulesMax, taken).catch((error: unknown) => {
    if (isPassing(error) || taken.length === 0) throw error
    return null
  })
  // One of them cannot be published, and nobody knows which: each by itself.
  for (let left = published === null ? taken.length : 0; left > 0; left--) {
    const one: string[] = []
    try {
      published = (published ?? 0) + (await publish(1, one))
    } catch (error) {
      if (isPassing(error) || one[0] === undefined) throw error
      setAside(one[0], error)
    }
  }
  // Behind those that were set aside, others may be waiting.
  if (aside.size > before && !published) return publishDue(database, emit, aheadMs, aside)
  return published ?? 0
}

async function publishLocked(
  database: Database,
  client: pg.ClientBase,
  rows: readonly DueRow[],
  setAside: (name: string, error: unknown) => void,
): Promise<number> {
  const sql = scheduleSql(database.schema)
  const due = rows.flatMap(({ name, cron, time_zone: zone, catch_up: catchUp, next_at: first, now }) => {
    try {
      return [{ name, ...new Ticks(cron, zone).due(first, now, catchUp) }]
    } catch (error) {
      // A time zone that this machine does not know, for example.
      setAside(name, error)
      return []
    }
  })
  if (due.length === 0) return 0
  const ticks = due
    .flatMap(({ name, ticks: times }) => times.map((at): Tick => ({ name, at })))
    .toSorted((a, b) => a.at.getTime() - b.at.getTime())
  const identities = ticks.map(({ name, at }) => `schedule ${name} ${at.toISOString()}`)
  const [published] = await database.run(client, sql.publish, {
    names: ticks.map(({ name }) => name),
    ticks: ticks.map(({ at }) => at),
    ids: ticks.map(({ name, at }) => toTickId(name, at)),
    dedupeKeys: identities,
    windowMs: dedupeMs,
  })
  await database.run(client, sql.move, {
    names: due.map(({ name }) => name),
    nextAt: due.map(({ next }) => next),
    lastAt: due.map(({ ticks: times }) => times.at(-1) ?? null),
  })
  return published!.count
}

/** Looks four times a second what is due, or as `pause` says. Returns the function that ends it. */
export function startRecurring(
  database: Database,
  emit: Emit,
  pause: (ms: number) => number,
  onError: Parameters<typeof startLoop>[1]['onError'],
): () => Promise<void> {
  const aside: Aside = new Map()
  const loop = startLoop(
    async () => {
      const published = await publishDue(database, emit, 0, aside)
      if (published > 0) hintPublished(database.schema)
      return published > 0 ? 0 : pause(lookMs)
    },
    { onError },
  )
  return () => loop.stop()
}
