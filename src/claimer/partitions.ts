import { partitionLanes } from '../database/layout.ts'
import { inboxSql, type PartitionedRow } from '../database/sql/inbox.ts'
import { Watermark, Marks, parseSnapshot } from '../lanes/watermark.ts'
import type { ClaimerContext } from './context.ts'

const sweepMs = 1000
const watermarksMs = 1000
const watermarksMsIdle = 5000

/**
 * Where claims of messages without a key start: of each partition, above what is long dead.
 *
 * A claim starts where this claimer's last ones have come to. What has become free below, because somebody died, stopped
 * or committed late, is found by a sweep from the partition's watermark on, once a second. It goes through all
 * partitions, so each claimer keeps a watermark of each; those of the partitions that it holds are written down.
 */
export class Partitions {
  readonly #context: ClaimerContext
  readonly #sql: ReturnType<typeof inboxSql>
  #marks = new Marks()
  /** Those by which the claim under way was begun. */
  #asked = this.#marks
  readonly #watermarks = new Map<number, Watermark>()
  readonly #bound = new Map<number, number>(partitionLanes.map((partition) => [partition, 0]))
  readonly #reached = new Map<number, number>()
  #sweepAt = 0
  /** When the watermarks were last looked after, and whether nothing has come since. */
  #watermarksAt = -Infinity
  #idle = false

  constructor(context: ClaimerContext) {
    this.#context = context
    this.#sql = inboxSql(context.database.schema)
  }

  /** From which the next claim looks, by partition, unless it sweeps. */
  get bounds(): ReadonlyMap<number, number> {
    return this.#bound
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
    this.#watermarks.clear()
    this.#reached.clear()
    this.sweep()
  }

  /** All partitions, with the bounds from which the next claim looks. */
  look(): { order: readonly number[]; bounds: readonly number[] } {
    const now = performance.now()
    this.#asked = this.#marks
    if (now >= this.#sweepAt) {
      this.#sweepAt = now + sweepMs * (0.5 + Math.random())
      for (const partition of partitionLanes)
        this.#bound.set(partition, this.#watermarkOf(partition).tentative)
    }
    // Each claim begins at another partition: side by side, claimers would otherwise fight for the head of the first.
    const from = Math.floor(Math.random() * partitionLanes.length)
    const order = [...partitionLanes.slice(from), ...partitionLanes.slice(0, from)]
    return { order, bounds: order.map((partition) => this.#bound.get(partition)!) }
  }

  /** What was claimed, by seq. It need not be looked at again; what others hold, the sweep sees to. */
  passed(rows: readonly PartitionedRow[]): void {
    this.stir()
    for (const { lane, seq } of rows) this.#reached.set(lane, Math.max(seq, this.#reached.get(lane) ?? 0))
    const { xid, snapshot: text } = rows.find((row) => row.snapshot !== null) ?? { xid: null, snapshot: null }
    // What was begun before the marks were forgotten says nothing of what has come since. Not one per claim: under load
    // the old marks would be pushed out before they have come of age.
    if (this.#asked !== this.#marks) return
    if (xid !== null && this.#marks.wanted) this.#marks.add(rows.at(-1)!.seq, xid)
    if (text === null) return
    const snapshot = parseSnapshot(text)
    for (const [partition, reached] of this.#reached) {
      const best = this.#marks.best(snapshot, this.#bound.get(partition)!, reached)
      if (best !== null) this.#bound.set(partition, best.seq)
    }
  }

  /** Once in a while: moves the watermarks up to what is still there. */
  async moveWatermarks(): Promise<void> {
    const { database, consumer } = this.#context
    const now = performance.now()
    // What nobody works on does not move.
    if (now - this.#watermarksAt < (this.#idle ? watermarksMsIdle : watermarksMs)) return
    this.#watermarksAt = now
    this.#idle = true
    const watermarks = new Map(partitionLanes.map((partition) => [partition, this.#watermarkOf(partition)]))
    const heads = await database.keep(this.#sql.heads, {
      consumer,
      partitions: partitionLanes,
      bounds: [...watermarks.values()].map(({ tentative }) => tentative),
    })
    for (const { lane, head, snapshot: text } of heads) {
      const watermark = watermarks.get(lane)!
      const snapshot = parseSnapshot(text)
      // What the straggler has left behind is above the confirmed watermark, where the next sweep begins.
      if (watermark.mustReread(snapshot)) this.sweep()
      else watermark.advance(this.#marks, snapshot, head === null ? Infinity : head - 1)
    }
  }

  #watermarkOf(partition: number): Watermark {
    const watermark =
      this.#context.lanes.held.get(partition)?.watermark ??
      this.#watermarks.get(partition) ??
      new Watermark(0)
    this.#watermarks.set(partition, watermark)
    return watermark
  }
}
