import { inboxSql } from '../database/sql/inbox.ts'
import { arrayText } from '../database/sql/statement.ts'
import { Marks, parseSnapshot } from '../leases/floor.ts'
import { Polling } from '../leases/polling.ts'
import type { Lane } from '../leases/lane.ts'
import { byLane } from '../leases/rows.ts'
import { limits } from '../options.ts'
import { roomOf, type ClaimerContext } from './context.ts'
import { Claim, type ClaimedRow } from './claim.ts'
import type { Unhandled } from './unhandled.ts'

interface At {
  readonly snapshot: string
  readonly xid: number | null
  /** Whether there was more that caution forbade to take. */
  readonly left_out: boolean
  /** More than is read at once: it has come without its content. */
  readonly beyond: boolean
}

type ReadRow = ClaimedRow & At

const quotaMin = 8
/** No lane gives more than its part of so many: of one with a hot key nothing else could be handled side by side. */
const lanesMin = 8

export const isKeyed = ({ lane }: { readonly lane: number }): boolean => lane < limits.keyedLanes

/**
 * Claims of messages with a key: reads on in the lanes that this claimer holds, whenever little of a lane is left in
 * hand. Holding the lane is the claim, so reading writes nothing but how far it has come.
 */
export class KeyedClaims {
  readonly #context: ClaimerContext
  readonly #unhandled: Unhandled
  readonly #sql: ReturnType<typeof inboxSql>
  #marks = new Marks()
  readonly #quota = new Map<number, number>()
  /** Lanes whose last read was cut short. */
  readonly #more = new Set<number>()
  #turn = 0
  /** Whether something was left that there was no room for. */
  #left = false
  readonly #polling: Polling

  constructor(context: ClaimerContext, unhandled: Unhandled) {
    this.#context = context
    this.#unhandled = unhandled
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
    await this.#unhandled.take(lanes)
    for (const { lane } of lanes) this.#quota.set(lane, quotaMin)
  }

  /** Whether reading at once would pay, now that these are done: more is waiting in their lanes. */
  wants(done: readonly Claim[]): boolean {
    if (this.#left) {
      const room = roomOf(this.#context)
      return room !== null && room.rows >= this.#context.settings.batchSize
    }
    return done.some(({ lane }) => this.#more.has(lane) && this.#isLow(lane))
  }

  /** Reads, and returns how long to wait before the next time. */
  read(): Promise<number> {
    return this.#context.suspects.claim('keyed', () => this.#read())
  }

  async #read(): Promise<number> {
    const { database, consumer, settings, lanes: held, hand, suspects, parking, failpoint } = this.#context
    const low = [...held.held.values()].filter(
      (lane) =>
        isKeyed(lane) && !lane.draining && !this.#unhandled.isComing(lane.lane) && this.#isLow(lane.lane),
    )
    const room = roomOf(this.#context)
    this.#left = low.length > 0 && room === null
    if (low.length === 0 || room === null) return settings.pollMsMax
    // From another one each time: where there is room for little, what the first lanes have may be all that fits.
    this.#turn = (this.#turn + 1) % low.length
    const lanes = [...low.slice(this.#turn), ...low.slice(0, this.#turn)]
    const quotas = this.#quotasOf(lanes, room.rows)
    const lowered = lanes.map(({ floor }) => floor.lowered)
    const marks = this.#marks
    const rows = await database.keep<ReadRow | (At & { lane: null })>(this.#sql.read, [
      consumer,
      arrayText(lanes.map(({ lane }) => lane)),
      arrayText(lanes.map(({ fence }) => fence)),
      arrayText(lanes.map(({ floor }) => floor.bound)),
      arrayText(quotas),
      arrayText(lanes.map(({ lane }) => hand.highest(lane))),
      lanes.map(({ lane, floor }) => arrayText([...hand.seqsOf(lane)].filter((seq) => seq > floor.bound))),
      marks.wanted,
      suspects.room,
      suspects.inHand === 0,
      room.bytes,
      room.rows,
    ])
    await failpoint('claimer.after_claim')
    const found = rows.filter((row): row is ReadRow => row.lane !== null).toSorted((a, b) => a.seq - b.seq)
    const { snapshot: text, left_out: leftOut, xid } = rows[0]!
    const snapshot = parseSnapshot(text)
    const rowsOf = byLane(found)
    const taken: string[] = []
    this.#left = found.some(({ beyond }) => beyond)
    for (const [index, lane] of lanes.entries()) {
      const { floor } = lane
      if (floor.mustReread(snapshot) || !held.holds(lane.lane, lane.fence)) continue
      // Meanwhile something has come back below: what this read has brought of its key must not go before it.
      if (floor.lowered !== lowered[index]) continue
      const own = rowsOf.get(lane.lane) ?? []
      const cut = this.#adapt(lane.lane, own.length, quotas[index]!)
      const end = own.find(({ beyond }) => beyond)?.seq ?? Infinity
      const following = this.#takeInHand(
        own.filter(({ seq }) => seq < end),
        taken,
      )
      if (end !== Infinity) this.#more.add(lane.lane)
      if (following.length > 0) await parking.follow(lane, following)
      // What was left out for caution is still to be read, and what did not fit.
      const known = leftOut ? floor.clean : Math.min(cut ? own.at(-1)!.seq : Infinity, end - 1)
      floor.advance(marks, snapshot, known, lowered[index])
    }
    const last = found.at(-1)?.seq
    if (xid !== null && last !== undefined) marks.add(last, xid)
    if (taken.length > 0) {
      this.#context.emit({ type: 'claimed', ids: taken })
      this.#context.dispatch()
    }
    const pauseMs = this.#polling.next(found.length > 0)
    return this.wants([]) ? 0 : pauseMs
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

  /** How many to read of each lane at most: of more than there is room for, the rest would be looked at in vain. */
  #quotasOf(lanes: readonly Lane[], rows: number): readonly number[] {
    const quotas = lanes.map(({ lane }) => this.#quotaOf(lane))
    const share = Math.min(1, rows / quotas.reduce((sum, quota) => sum + quota, 0))
    return quotas.map((quota) => Math.max(1, Math.floor(quota * share)))
  }

  /** Whether the lane may have more than the `read` that were asked for: then it may give more the next time. */
  #adapt(lane: number, count: number, read: number): boolean {
    const quota = this.#quotaOf(lane)
    const cut = count >= read
    const most = Math.max(quotaMin, Math.ceil(this.#context.settings.batchSize / lanesMin))
    const next = cut ? Math.min(quota * 2, most) : Math.max(quotaMin, quota >> 1)
    this.#quota.set(lane, next)
    if (cut) this.#more.add(lane)
    else this.#more.delete(lane)
    return cut
  }

  #isLow(lane: number): boolean {
    const { hand, circuits } = this.#context
    return hand.countOf(lane) - (circuits.waiting().lanes.get(lane) ?? 0) <= this.#quotaOf(lane) >> 1
  }

  #quotaOf(lane: number): number {
    return this.#quota.get(lane) ?? quotaMin
  }
}
