import { inboxSql } from '../database/sql/inbox.ts'
import { arrayText } from '../database/sql/statement.ts'
import { Marks, parseSnapshot } from '../leases/floor.ts'
import { Polling } from '../leases/polling.ts'
import type { Lane } from '../leases/lanes.ts'
import { byLane } from '../leases/rows.ts'
import { limits } from '../options.ts'
import { isFull, type ClaimerContext } from './context.ts'
import { Claim, type ClaimedRow } from './claim.ts'

interface At {
  readonly snapshot: string
  readonly xid: number | null
  /** Whether there was more that caution forbade to take. */
  readonly left_out: boolean
}

type ReadRow = ClaimedRow & At

const quotaMin = 8

export const isKeyed = ({ lane }: { readonly lane: number }): boolean => lane < limits.keyedLanes

/**
 * Claims of messages with a key: reads on in the lanes that this claimer holds, whenever little of a lane is left in
 * hand. Holding the lane is the claim, so reading writes nothing but how far it has come.
 */
export class KeyedClaims {
  readonly #context: ClaimerContext
  readonly #sql: ReturnType<typeof inboxSql>
  #marks = new Marks()
  readonly #quota = new Map<number, number>()
  /** Lanes whose last read was cut short by its quota. */
  readonly #more = new Set<number>()
  readonly #polling: Polling

  constructor(context: ClaimerContext) {
    this.#context = context
    this.#sql = inboxSql(context.database.schema)
    this.#polling = new Polling(context.settings, context.membership.sleep)
  }

  /** Something is about to come: look often again. */
  hurry(): void {
    this.#polling.hurry()
  }

  /** The lanes are gone, perhaps with the server: of another one, no mark says anything. */
  forget(): void {
    this.#marks = new Marks()
  }

  /** Lanes are ours now. What their last holder had in hand when it died has been attempted once more. */
  async take(lanes: readonly Lane[]): Promise<void> {
    const { database, consumer, parking } = this.#context
    const orphaned = lanes.filter((lane) => lane.orphaned > 0)
    if (orphaned.length > 0) {
      await database.keep(this.#sql.charge, [
        consumer,
        orphaned.map(({ lane }) => lane),
        orphaned.map(({ fence }) => fence),
        orphaned.map(({ floor }) => floor.clean),
        orphaned.map((lane) => lane.orphaned),
      ])
    }
    await parking.load(lanes)
    for (const { lane } of lanes) this.#quota.set(lane, quotaMin)
  }

  /** Whether reading at once would pay, now that these are done: more is waiting in their lanes. */
  wants(done: readonly Claim[]): boolean {
    return done.some(({ lane }) => this.#more.has(lane) && this.#isLow(lane))
  }

  /** Reads, and returns how long to wait before the next time. */
  read(): Promise<number> {
    return this.#context.suspects.claim('keyed', () => this.#read())
  }

  async #read(): Promise<number> {
    const { database, consumer, settings, lanes: held, hand, suspects, parking, failpoint } = this.#context
    const lanes = [...held.held.values()].filter(
      (lane) => isKeyed(lane) && !lane.draining && this.#isLow(lane.lane),
    )
    if (lanes.length === 0 || isFull(this.#context)) return settings.pollMsMax
    const lowered = lanes.map(({ floor }) => floor.lowered)
    const marks = this.#marks
    const rows = await database.keep<ReadRow | (At & { lane: null })>(this.#sql.read, [
      consumer,
      arrayText(lanes.map(({ lane }) => lane)),
      arrayText(lanes.map(({ fence }) => fence)),
      arrayText(lanes.map(({ floor }) => floor.bound)),
      arrayText(lanes.map(({ lane }) => this.#quotaOf(lane))),
      arrayText(lanes.map(({ lane }) => hand.highest(lane))),
      lanes.map(({ lane, floor }) => arrayText([...hand.seqsOf(lane)].filter((seq) => seq > floor.bound))),
      marks.wanted,
      suspects.room,
      suspects.inHand === 0,
    ])
    await failpoint('claimer.after_claim')
    const found = rows.filter((row): row is ReadRow => row.lane !== null).toSorted((a, b) => a.seq - b.seq)
    const { snapshot: text, left_out: leftOut, xid } = rows[0]!
    const snapshot = parseSnapshot(text)
    const rowsOf = byLane(found)
    const taken: string[] = []
    for (const [index, lane] of lanes.entries()) {
      const { floor } = lane
      if (floor.mustReread(snapshot) || !held.holds(lane.lane, lane.fence)) continue
      // Meanwhile something has come back below: what this read has brought of its key must not go before it.
      if (floor.lowered !== lowered[index]) continue
      const own = rowsOf.get(lane.lane) ?? []
      const cut = this.#adapt(lane.lane, own.length)
      const following = this.#takeInHand(own, taken)
      if (following.length > 0) await parking.follow(lane, following)
      // What was left out for caution is still to be read.
      const known = leftOut ? floor.clean : cut ? own.at(-1)!.seq : Infinity
      floor.advance(marks, snapshot, known, lowered[index])
    }
    const last = found.at(-1)?.seq
    if (xid !== null && last !== undefined) marks.add(last, xid)
    if (taken.length > 0) {
      this.#context.emit({ type: 'claimed', ids: taken })
      this.#context.dispatch()
    }
    return this.#polling.next(found.length > 0)
  }

  /** Adds the ids of those that are ours now to `taken`, and returns the places of those whose key is parked. */
  #takeInHand(rows: readonly ReadRow[], taken: string[]): number[] {
    const { hand, parking } = this.#context
    const following: number[] = []
    for (const row of rows) {
      if (parking.holdsBack(row.lane, row.key, row.seq)) following.push(row.seq)
      else {
        hand.add(new Claim(row, true))
        taken.push(row.id)
      }
    }
    return following
  }

  /** Whether the lane may have more than was read of it: then it may give more the next time. */
  #adapt(lane: number, count: number): boolean {
    const quota = this.#quotaOf(lane)
    const cut = count >= quota
    const next = cut ? Math.min(quota * 2, this.#context.settings.batchSize) : Math.max(quotaMin, quota >> 1)
    this.#quota.set(lane, next)
    if (cut) this.#more.add(lane)
    else this.#more.delete(lane)
    return cut
  }

  #isLow(lane: number): boolean {
    return this.#context.hand.countOf(lane) <= this.#quotaOf(lane) >> 1
  }

  #quotaOf(lane: number): number {
    return this.#quota.get(lane) ?? quotaMin
  }
}
