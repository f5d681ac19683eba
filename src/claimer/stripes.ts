import { stripeLanes } from '../database/layout.ts'
import { inboxSql } from '../database/sql/inbox.ts'
import { Floor, Marks, parseSnapshot } from '../lanes/floor.ts'
import type { ClaimedRow } from './claim.ts'
import type { ClaimerContext } from './context.ts'

const sweepMs = 1000
const floorsMs = 1000
const floorsMsIdle = 5000

/** A row of a claim. One of them says the xid that was assigned after the snapshot. */
export interface StripedRow extends ClaimedRow {
  readonly xid: number | null
  readonly snapshot: string | null
}

/**
 * Where claims of messages without a key start: of each stripe, above what is long dead.
 *
 * A claim starts where this claimer's last ones have come to. What has become free below, because somebody died, stopped
 * or committed late, is found by a sweep from the stripe's floor on, once a second. It goes through all stripes, so
 * each claimer keeps a floor of each; those of the stripes that it holds are written down.
 */
export class Stripes {
  readonly #context: ClaimerContext
  readonly #sql: ReturnType<typeof inboxSql>
  #marks = new Marks()
  /** Those by which the claim under way was begun. */
  #asked = this.#marks
  readonly #floors = new Map<number, Floor>()
  readonly #bound = new Map<number, number>(stripeLanes.map((stripe) => [stripe, 0]))
  readonly #reached = new Map<number, number>()
  #sweepAt = 0
  /** When the floors were last looked after, and whether nothing has come since. */
  #floorsAt = -Infinity
  #idle = false

  constructor(context: ClaimerContext) {
    this.#context = context
    this.#sql = inboxSql(context.database.schema)
  }

  /** Something comes. */
  stir(): void {
    this.#idle = false
  }

  /** Something has become free below where claims start. */
  sweep(): void {
    this.#sweepAt = 0
  }

  /** Perhaps there is another server: of that one, no mark says anything. */
  forget(): void {
    this.#marks = new Marks()
    this.#floors.clear()
    this.#reached.clear()
    this.sweep()
  }

  /** All stripes, with the bounds from which the next claim looks. */
  look(): { order: readonly number[]; bounds: readonly number[] } {
    const now = performance.now()
    this.#asked = this.#marks
    if (now >= this.#sweepAt) {
      this.#sweepAt = now + sweepMs * (0.5 + Math.random())
      for (const stripe of stripeLanes) this.#bound.set(stripe, this.#floorOf(stripe).bound)
    }
    // Each claim begins at another stripe: side by side, claimers would otherwise fight for the head of the first.
    const from = Math.floor(Math.random() * stripeLanes.length)
    const order = [...stripeLanes.slice(from), ...stripeLanes.slice(0, from)]
    return { order, bounds: order.map((stripe) => this.#bound.get(stripe)!) }
  }

  /** What was claimed, by seq. It need not be looked at again; what others hold, the sweep sees to. */
  passed(rows: readonly StripedRow[]): void {
    this.stir()
    for (const { lane, seq } of rows) this.#reached.set(lane, Math.max(seq, this.#reached.get(lane) ?? 0))
    const { xid, snapshot: text } = rows.find((row) => row.snapshot !== null) ?? { xid: null, snapshot: null }
    // What was begun before the marks were forgotten says nothing of what has come since. Not one per claim: under load
    // the old marks would be pushed out before they have come of age.
    if (this.#asked !== this.#marks) return
    if (xid !== null && this.#marks.wanted) this.#marks.add(rows.at(-1)!.seq, xid)
    if (text === null) return
    const snapshot = parseSnapshot(text)
    for (const [stripe, reached] of this.#reached) {
      const best = this.#marks.best(snapshot, this.#bound.get(stripe)!, reached)
      if (best !== null) this.#bound.set(stripe, best.seq)
    }
  }

  /** Once in a while: moves the floors up to what is still there. */
  async moveFloors(): Promise<void> {
    const { database, consumer } = this.#context
    const now = performance.now()
    // What nobody works on does not move.
    if (now - this.#floorsAt < (this.#idle ? floorsMsIdle : floorsMs)) return
    this.#floorsAt = now
    this.#idle = true
    const floors = new Map(stripeLanes.map((stripe) => [stripe, this.#floorOf(stripe)]))
    const heads = await database.keep<{ lane: number; snapshot: string; head: number | null }>(
      this.#sql.heads,
      [consumer, stripeLanes, [...floors.values()].map(({ bound }) => bound)],
    )
    for (const { lane, head, snapshot: text } of heads) {
      const floor = floors.get(lane)!
      const snapshot = parseSnapshot(text)
      // What the straggler has left behind is above the clean floor, where the next sweep begins.
      if (floor.mustReread(snapshot)) this.sweep()
      else floor.advance(this.#marks, snapshot, head === null ? Infinity : head - 1)
    }
  }

  #floorOf(stripe: number): Floor {
    const floor = this.#context.lanes.held.get(stripe)?.floor ?? this.#floors.get(stripe) ?? new Floor(0)
    this.#floors.set(stripe, floor)
    return floor
  }
}
