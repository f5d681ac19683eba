import { inboxSql } from '../database/sql/inbox.ts'
import { arrayText } from '../database/sql/statement.ts'
import { Floor, Marks, parseSnapshot } from '../leases/floor.ts'
import { Polling } from '../leases/polling.ts'
import { sureShare } from '../leases/workers.ts'
import { limits } from '../options.ts'
import { placeOf, type Place } from './completion.ts'
import { isFull, type ClaimerContext } from './context.ts'
import { Claim, type ClaimedRow } from './claim.ts'

const stripes = Array.from({ length: limits.stripes }, (_, index) => limits.keyedLanes + index)
const sweepMs = 1000
const floorsMs = 1000
const floorsMsIdle = 5000

/**
 * Claims of messages without a key: leases on the rows themselves, taken by whoever is free, renewed while they are in
 * hand. As many are claimed ahead as are handled in a moment, so that a slow claimer does not sit on what others could
 * do.
 *
 * A claim starts where the last ones of its stripe have come to. What has become free below, because somebody died,
 * stopped or committed late, is found by a sweep from the stripe's floor on, once a second.
 */
export class UnkeyedClaims {
  readonly #context: ClaimerContext
  readonly #sql: ReturnType<typeof inboxSql>
  #marks = new Marks()
  /** Of all stripes, whoever holds them: a sweep goes through them all. */
  readonly #floors = new Map<number, Floor>()
  readonly #bound = new Map<number, number>(stripes.map((stripe) => [stripe, 0]))
  readonly #reached = new Map<number, number>()
  /** Whether the last claim was cut short by its limit. */
  #more = false
  readonly #polling: Polling
  #sweepAt = 0
  /** Whether the last sweep has found orphans, or somebody says that there are. */
  #orphans = false
  #renewedAt = performance.now()
  /** When the floors were last looked after, and whether nothing has come since. */
  #floorsAt = -Infinity
  #idle = false
  #handledSince = 0
  #pace = 0

  constructor(context: ClaimerContext) {
    this.#context = context
    this.#sql = inboxSql(context.database.schema)
    this.#polling = new Polling(context.settings, context.membership.sleep)
  }

  /** Something is about to come: look often again. */
  hurry(): void {
    this.#polling.hurry()
    this.#idle = false
  }

  /** Something has become free below where claims start: perhaps rows that a dead claimer has left. */
  sweep(): void {
    this.#sweepAt = 0
    this.#orphans = true
  }

  /** Perhaps there is another server: of that one, no mark says anything. The sweep starts at the floors. */
  forget(): void {
    this.#marks = new Marks()
    this.#floors.clear()
    this.#reached.clear()
    this.sweep()
  }

  /** So many have been handled: the measure of how many to claim ahead. */
  handled(count: number): void {
    this.#handledSince += count
  }

  /** Whether claiming at once would pay. */
  get wanted(): boolean {
    return this.#more && this.#context.hand.waitingRows <= this.#context.settings.concurrency
  }

  /** Claims, and returns how long to wait before the next time. */
  claim(): Promise<number> {
    return this.#context.suspects.claim('unkeyed', () => this.#claim())
  }

  async #claim(): Promise<number> {
    const { database, consumer, settings, hand, membership, suspects, emit, failpoint } = this.#context
    const { avoidLastHolder } = this.#context
    const { id: workerId } = membership
    const { batchSize, concurrency, pollMsMax, leaseMs } = settings
    const ahead = Math.min(batchSize, Math.max(concurrency * 2, this.#pace))
    // Orphans do not wait until what is in hand has been worked off: with a deep inbox they would be the last.
    const adopts = this.#orphans && suspects.room > 0
    const want = adopts ? Math.min(suspects.room, ahead) : ahead - hand.waitingRows
    if (isFull(this.#context) || workerId === null || (!adopts && want < Math.max(1, ahead >> 1))) {
      return pollMsMax
    }
    if (performance.now() >= this.#sweepAt) this.#startSweep()
    // Each claim begins at another stripe: side by side, claimers would otherwise fight for the head of the first.
    const from = Math.floor(Math.random() * stripes.length)
    const order = [...stripes.slice(from), ...stripes.slice(0, from)]
    const at = performance.now()
    const rows = await database.keep<
      ClaimedRow & { previous: number | null; xid: number | null; snapshot: string | null }
    >(this.#sql.claim, [
      consumer,
      arrayText(order),
      arrayText(order.map((stripe) => this.#bound.get(stripe)!)),
      want,
      workerId,
      leaseMs,
      membership.orphans.free,
      suspects.room,
      suspects.inHand === 0,
      membership.orphans.rows,
      // Alone, it has nobody to leave anything to.
      avoidLastHolder && membership.living > 1 ? workerId : -1,
      settings.failoverGraceMs,
      adopts,
    ])
    await failpoint('claimer.after_claim')
    // Given up on meanwhile: whoever finds these rows takes them from a holder that has ended.
    if (membership.id !== workerId) return pollMsMax
    if (adopts && rows.length === 0) {
      this.#orphans = false
      return 0
    }
    this.#more = rows.length === want
    const pauseMs = this.#polling.next(rows.length > 0)
    if (rows.length === 0) return pauseMs
    this.#idle = false
    this.#reportTakeover(rows)
    const inOrder = rows.toSorted((a, b) => a.seq - b.seq)
    for (const row of inOrder) {
      const claim = new Claim(row, false)
      claim.leasedUntil = at + leaseMs * sureShare
      hand.add(claim)
      this.#reached.set(row.lane, Math.max(row.seq, this.#reached.get(row.lane) ?? 0))
    }
    // Not one per claim: under load the old marks would be pushed out before they have come of age.
    // One row says it for all.
    const { xid, snapshot } = inOrder.find((row) => row.snapshot !== null) ?? { xid: null, snapshot: null }
    if (xid !== null && this.#marks.wanted) this.#marks.add(inOrder.at(-1)!.seq, xid)
    if (snapshot !== null) this.#moveBounds(snapshot)
    emit({ type: 'claimed', ids: rows.map(({ id }) => id) })
    this.#context.dispatch()
    // Handlers that do not wait for anything have had it all by now.
    return this.wanted ? 0 : pauseMs
  }

  /** Once in a while: moves the floors, and renews what is in hand. */
  async keepHouse(): Promise<void> {
    this.#pace = Math.round((this.#pace + this.#handledSince) / 2)
    this.#handledSince = 0
    await this.#moveFloors()
    if (performance.now() - this.#renewedAt >= this.#context.settings.leaseMs / 4) await this.#renew()
  }

  /** By the monotonic clock, until when the leases on all rows in hand are sure to run. */
  get sureUntil(): number {
    let earliest = Infinity
    for (const { keyed, leasedUntil } of this.#context.hand.all()) {
      if (!keyed && leasedUntil < earliest) earliest = leasedUntil
    }
    return earliest
  }

  /** Gives rows back as if they had never been claimed. */
  async release(claims: readonly Claim[]): Promise<void> {
    const { database, consumer } = this.#context
    if (claims.length === 0) return
    await database.keep(this.#sql.release, [
      consumer,
      claims.map(({ lane }) => lane),
      claims.map(({ seq }) => seq),
      claims.map(({ fence }) => fence),
    ])
  }

  /** The next claim starts at the floors. */
  #startSweep(): void {
    this.#sweepAt = performance.now() + sweepMs * (0.5 + Math.random())
    for (const stripe of stripes) this.#bound.set(stripe, this.#floorOf(stripe).bound)
  }

  #floorOf(stripe: number): Floor {
    const floor = this.#context.lanes.held.get(stripe)?.floor ?? this.#floors.get(stripe) ?? new Floor(0)
    this.#floors.set(stripe, floor)
    return floor
  }

  /** What this claimer has claimed itself need not be looked at again; what others hold, the sweep sees to. */
  #moveBounds(snapshotText: string): void {
    const snapshot = parseSnapshot(snapshotText)
    for (const [stripe, reached] of this.#reached) {
      const best = this.#marks.best(snapshot, this.#bound.get(stripe)!, reached)
      if (best !== null) this.#bound.set(stripe, best.seq)
    }
  }

  async #moveFloors(): Promise<void> {
    const { database, consumer } = this.#context
    const now = performance.now()
    // What nobody works on does not move.
    if (now - this.#floorsAt < (this.#idle ? floorsMsIdle : floorsMs)) return
    this.#floorsAt = now
    this.#idle = true
    const floors = new Map(stripes.map((stripe) => [stripe, this.#floorOf(stripe)]))
    const heads = await database.keep<{ lane: number; snapshot: string; head: number | null }>(
      this.#sql.heads,
      [consumer, stripes, [...floors.values()].map(({ bound }) => bound)],
    )
    for (const { lane, head, snapshot: text } of heads) {
      const floor = floors.get(lane)!
      const snapshot = parseSnapshot(text)
      // What the straggler has left behind is above the clean floor, where the next sweep begins.
      if (floor.mustReread(snapshot)) this.#sweepAt = 0
      else floor.advance(this.#marks, snapshot, head === null ? Infinity : head - 1)
    }
  }

  async #renew(): Promise<void> {
    const { database, consumer, settings, hand, lose } = this.#context
    const claims = [...hand.all()].filter(({ keyed, settling }) => !keyed && !settling)
    const at = performance.now()
    if (claims.length > 0) {
      const renewed = await database.keep<Place>(this.#sql.renew, [
        consumer,
        claims.map(({ lane }) => lane),
        claims.map(({ seq }) => seq),
        claims.map(({ fence }) => fence),
        settings.leaseMs,
      ])
      const kept = new Set(renewed.map(placeOf))
      for (const claim of claims) claim.leasedUntil = at + settings.leaseMs * sureShare
      // What is being completed meanwhile is gone and not lost.
      const lost = claims.filter((claim) => !kept.has(placeOf(claim)) && hand.has(claim) && !claim.settling)
      lose(lost, 'The lease on the row had lapsed.')
    }
    this.#renewedAt = at
  }

  #reportTakeover(rows: readonly { readonly previous: number | null }[]): void {
    const { membership, failover, emit } = this.#context
    // There may be more where these came from.
    if (rows.some(({ previous }) => previous !== null)) this.sweep()
    for (const { of, ...from } of membership.orphans.takenOver(rows, membership.id!)) {
      emit({ type: 'takeover', ...from, strategy: failover, lanes: [], rows: of.length })
    }
  }
}
