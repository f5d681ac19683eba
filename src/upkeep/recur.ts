import type pg from 'pg'
import type { Database } from '../database/database.ts'
import { scheduleSql } from '../database/sql/schedule.ts'
import type { Emit } from '../events.ts'
import { hintPublished } from '../hints.ts'
import { startLoop } from '../loop.ts'
import { toMessageId } from '../message.ts'
import { Ticks, type CatchUp } from './cron.ts'

const lookMs = 250
/** How many schedules one transaction serves. */
const schedulesMax = 20
/** A tick that is published again within this is known: after that, nobody sets a schedule back so far by accident. */
const dedupeMs = 7 * 86_400_000

interface DueRow {
  readonly name: string
  readonly cron: string
  readonly time_zone: string
  readonly catch_up: CatchUp
  readonly next_at: Date
  readonly now: Date
}

interface Tick {
  readonly name: string
  readonly at: Date
}

/**
 * Publishes the ticks that are due, of schedules that nobody else has in hand. Returns how many messages that were.
 *
 * Two that run at once take different schedules; one that dies has published nothing and moved nothing. `aheadMs` moves
 * the clock, for tests: the time is the database's.
 */
export async function publishDue(database: Database, emit: Emit, aheadMs = 0): Promise<number> {
  const sql = scheduleSql(database.schema)
  const [any] = await database.keep<{ due: boolean }>(sql.anyDue, [aheadMs])
  if (!any!.due) return 0
  return database.transaction((client) => publishLocked(database, client, emit, aheadMs))
}

async function publishLocked(
  database: Database,
  client: pg.ClientBase,
  emit: Emit,
  aheadMs: number,
): Promise<number> {
  const sql = scheduleSql(database.schema)
  const rows = await database.run<DueRow>(client, sql.lockDue, [aheadMs, schedulesMax])
  const due = rows.flatMap(({ name, cron, time_zone: zone, catch_up: catchUp, next_at: first, now }) => {
    try {
      return [{ name, ...new Ticks(cron, zone).due(first, now, catchUp) }]
    } catch (error) {
      // A time zone that this machine does not know must not keep the other schedules waiting.
      emit({ type: 'trouble', error, doing: `publishing the schedule "${name}"` })
      return []
    }
  })
  if (due.length === 0) return 0
  const ticks = due
    .flatMap(({ name, ticks: times }) => times.map((at): Tick => ({ name, at })))
    .toSorted((a, b) => a.at.getTime() - b.at.getTime())
  const identities = ticks.map(({ name, at }) => `schedule ${name} ${at.toISOString()}`)
  const [published] = await database.run<{ count: number }>(client, sql.publish, [
    ticks.map(({ name }) => name),
    ticks.map(({ at }) => at),
    identities.map(toMessageId),
    identities,
    dedupeMs,
  ])
  await database.run(client, sql.move, [
    due.map(({ name }) => name),
    due.map(({ next }) => next),
    due.map(({ ticks: times }) => times.at(-1) ?? null),
  ])
  return published!.count
}

/** Looks four times a second what is due, or as `pause` says. Returns the function that ends it. */
export function startRecurring(
  database: Database,
  emit: Emit,
  pause: (ms: number) => number,
  onError: Parameters<typeof startLoop>[1]['onError'],
): () => Promise<void> {
  const loop = startLoop(
    async () => {
      const published = await publishDue(database, emit)
      if (published > 0) hintPublished(database.schema)
      return published > 0 ? 0 : pause(lookMs)
    },
    { onError },
  )
  return () => loop.stop()
}
