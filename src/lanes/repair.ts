import { laneSql, type LaneRow } from '../database/sql/lane.ts'
import { startLoop, type Loop, type LoopOptions } from '../base/loop.ts'
import { sqlstate } from '../database/sqlstate.ts'
import type { Lane } from './lane.ts'
import type { LanesOptions } from './options.ts'

/** What is written down of sequences, lanes and watermarks is compared with the tables, and made right. */

/** So often at most is it looked whether lanes are missing. */
const makeMs = 5000

/** Lanes are there from the first start on, unless somebody has truncated their table: made now, or looked for now and then. */
export function lanesMaker({ database, consumer, count }: LanesOptions): {
  now(): Promise<void>
  again(): Promise<void>
} {
  const sql = laneSql(database.schema)
  let madeAt = -Infinity
  const now = async (): Promise<void> => {
    madeAt = performance.now()
    // A relay of somebody's own grants need not be able to make what the migrations have made.
    const [there] = consumer === '' ? await database.query(sql.count, { consumer }) : []
    if ((there?.count ?? 0) < count) await database.query(sql.create, { consumer, count })
  }
  return { now, again: async () => (performance.now() < madeAt + makeMs ? undefined : now()) }
}

/**
 * Lanes with messages below their watermarks. There are none, as far as is known, and nobody ever looks there: whatever
 * has made that untrue, they would lie there for good. It is told of those that it finds.
 *
 * Behind an old transaction there may be millions of dead rows to go through: what takes too long counts as not found.
 */
export async function findBelow(
  { database, consumer, emit }: Pick<LanesOptions, 'database' | 'consumer' | 'emit'>,
  lanes: readonly Lane[],
): Promise<Lane[]> {
  const sql = laneSql(database.schema)
  const statement = consumer === '' ? sql.belowOutbox : sql.below
  const values = { consumer, lanes: lanes.map(({ lane }) => lane) }
  const rows = await database
    .transaction(async (client) => {
      await client.query(sql.briefly)
      return database.run(client, statement, values)
    })
    .catch((error: unknown) => {
      if (sqlstate(error) !== '57014') throw error
      return []
    })
  const found = lanes.filter(({ lane }) => rows.some((row) => row.lane === lane))
  if (found.length > 0) emit({ type: 'found_below', lanes: found.map(({ lane }) => lane) })
  return found
}

/** Follows what another worker has done that found the sequence behind. Whether it has. */
export function followLowered(
  lanes: readonly Lane[],
  written: ReadonlyMap<number, Pick<LaneRow, 'watermark' | 'lowered'>>,
): boolean {
  let follows = false
  for (const lane of lanes) {
    const row = written.get(lane.lane)
    if (row === undefined || row.lowered <= lane.lowered) continue
    lane.watermark.lower(row.watermark + 1)
    lane.lowered = row.lowered
    follows = true
  }
  return follows
}

const belowMs = 60_000

/** Looks once a minute, and when woken. */
export function startLookingBelow(
  options: Pick<LanesOptions, 'database' | 'consumer' | 'emit'>,
  lanes: {
    readonly held: ReadonlyMap<number, Lane>
    holds(lane: number, fence: number): boolean
    lower(lanes: readonly Lane[]): Promise<void>
  },
  onError: LoopOptions['onError'],
): Loop {
  const look = async (): Promise<number> => {
    const startedAt = performance.now()
    const found = await findBelow(options, [...lanes.held.values()])
    await lanes.lower(found.filter(({ lane, fence }) => lanes.holds(lane, fence)))
    return Math.max(belowMs, 100 * (performance.now() - startedAt))
  }
  return startLoop(async () => (lanes.held.size === 0 ? belowMs : look()), { onError })
}

/** Has lanes read from their beginning, by this worker and by whoever holds them next. */
export async function lowerWatermarks(
  { database, consumer, membership, holder }: LanesOptions,
  lanes: readonly Lane[],
): Promise<void> {
  if (lanes.length === 0) return
  holder.onLowered()
  for (const { watermark } of lanes) watermark.lower(1)
  const rows = await database.keep(laneSql(database.schema).lower, {
    consumer,
    worker: membership.id,
    lanes: lanes.map(({ lane }) => lane),
    fences: lanes.map(({ fence }) => fence),
  })
  for (const lane of lanes) lane.lowered = rows.find((row) => row.lane === lane.lane)?.lowered ?? lane.lowered
}

/** Up to where all is done in one of the lanes at least. */
export const highestOf = (lanes: ReadonlyMap<number, Lane>): number =>
  Math.max(0, ...[...lanes.values()].map(({ watermark }) => watermark.tentative))
