import { inboxSql } from '../database/sql/inbox.ts'
import { arrayText } from '../database/sql/statement.ts'
import { Polling } from '../leases/polling.ts'
import { sureShare } from '../leases/workers.ts'
import { placeOf, type Place } from './completion.ts'
import { isFull, type ClaimerContext } from './context.ts'
import { Claim } from './claim.ts'
import { Stripes, type StripedRow } from './stripes.ts'

/**
 * Claims of messages without a key: leases on the rows themselves, taken by whoever is free, renewed while they are in
 * hand. As many are claimed ahead as are handled in a moment, so that a slow claimer does not sit on what others could
 * do.
 */
export class UnkeyedClaims {
  readonly #context: ClaimerContext
  readonly #sql: ReturnType<typeof inboxSql>
  readonly #stripes: Stripes
  /** Whether the last claim was cut short by its limit. */
  #more = false
  readonly #polling: Polling
  /** Whether the last sweep has found orphans, or somebody says that there are. */
  #orphans = false
  #renewedAt = performance.now()
  #handledSince = 0
  #pace = 0

  constructor(context: ClaimerContext) {
    this.#context = context
    this.#sql = inboxSql(context.database.schema)
    this.#stripes = new Stripes(context)
    this.#polling = new Polling(context.settings, context.membership.sleep)
  }

  /** Something is about to come: look often again. */
  hurry(): void {
    this.#polling.hurry()
    this.#stripes.stir()
  }

  /** Something has become free below where claims start: perhaps rows that a dead claimer has left. */
  sweep(): void {
    this.#stripes.sweep()
    this.#orphans = true
  }

  /** Perhaps there is another server. */
  forget(): void {
    this.#stripes.forget()
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
    const { order, bounds } = this.#stripes.look()
    const at = performance.now()
    const rows = await database.keep<StripedRow & { previous: number | null }>(this.#sql.claim, [
      consumer,
      arrayText(order),
      arrayText(bounds),
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
    this.#reportTakeover(rows)
    const inOrder = rows.toSorted((a, b) => a.seq - b.seq)
    for (const row of inOrder) {
      const claim = new Claim(row, false)
      claim.leasedUntil = at + leaseMs * sureShare
      hand.add(claim)
    }
    this.#stripes.passed(inOrder)
    emit({ type: 'claimed', ids: rows.map(({ id }) => id) })
    this.#context.dispatch()
    // Handlers that do not wait for anything have had it all by now.
    return this.wanted ? 0 : pauseMs
  }

  /** Once in a while: moves the floors, and renews what is in hand. */
  async keepHouse(): Promise<void> {
    this.#pace = Math.round((this.#pace + this.#handledSince) / 2)
    this.#handledSince = 0
    await this.#stripes.moveFloors()
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
