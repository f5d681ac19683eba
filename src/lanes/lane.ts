import { Watermark } from './watermark.ts'
import type { LaneRow } from '../database/sql/lane.ts'

/** A lane that this worker holds. */
export interface Lane {
  readonly lane: number
  readonly fence: number
  readonly watermark: Watermark
  /** The watermark as it was last written down. */
  written: number
  /** On which the watermark was found, and nowhere else does it count. */
  readonly server: string
  /** The table's count of how often the watermark was lowered, as far as this holder knows. */
  lowered: number
  /** Whether the former holder died with messages of it in flight. */
  readonly abandoned: boolean
  /** To be given back as soon as nothing of it is in flight: others are short of lanes. */
  draining: boolean
  /** The worker that shall have it as soon as nothing of it is in flight; null if it stays. */
  assignee: number | null
  /** By the monotonic clock, until when it stays although others are short: it was dealt to this worker. */
  keptUntil: number
}

export const toLane = (row: LaneRow, keptForMs: number): Lane => ({
  lane: row.lane,
  fence: row.fence,
  watermark: new Watermark(row.watermark),
  written: row.watermark,
  server: row.server,
  lowered: row.lowered,
  abandoned: row.abandoned,
  draining: false,
  assignee: null,
  keptUntil: keptForMs === 0 ? 0 : performance.now() + keptForMs,
})

/** Lanes that this worker holds and does not work on yet. */
export interface Taken {
  readonly holder: number
  readonly rows: readonly LaneRow[]
  readonly lanes: readonly Lane[]
  /** Nobody has worked on them just before. */
  readonly cold: boolean
}

/** A lane as it was when it was left, with what may be written down of its watermark. */
export type LeftLane = Pick<Lane, 'lane' | 'fence' | 'lowered' | 'server' | 'assignee'> & {
  readonly watermark: number
}

/** Marks the surplus for giving back, or unmarks it if somebody else has left meanwhile. */
export function drain(lanes: readonly Lane[], surplus: number): void {
  const now = performance.now()
  for (const lane of lanes) lane.draining = lane.assignee !== null && lane.keptUntil <= now
  const leaving = lanes.filter(({ draining }) => draining).length
  const last = lanes.filter(({ keptUntil, draining }) => keptUntil <= now && !draining).toReversed()
  for (const lane of last.slice(0, Math.max(0, surplus - leaving))) lane.draining = true
}

/** As the statements that renew and release take them. */
export const asColumns = (lanes: readonly LeftLane[]) => ({
  lanes: lanes.map(({ lane }) => lane),
  fences: lanes.map(({ fence }) => fence),
  watermarks: lanes.map(({ watermark }) => watermark),
  lowered: lanes.map(({ lowered }) => lowered),
  servers: lanes.map(({ server }) => server),
})
