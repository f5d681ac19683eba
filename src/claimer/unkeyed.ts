import type pg from 'pg'
import { inboxSql, type PartitionedRow } from '../database/sql/inbox.ts'
import { Polling } from '../membership/polling.ts'
import { sureShare } from '../membership/watchdog.ts'
import { placeOf } from '../lanes/settler.ts'
import { roomOf, type ClaimerContext } from './context.ts'
import { Claim } from './claim.ts'
import { Partitions } from './partitions.ts'
import type { Unhandled } from './unhandled.ts'

const lapsed = 'The lease on the row had lapsed.'

/**
 * Claims of messages without a key: leases on the rows themselves, taken by whoever is free, renewed while they are in
 * flight. As many are claimed ahead as are handled in a moment, so that a slow claimer does not sit on what others
 * could do.
 */
export class UnkeyedClaims {
  readonly #context: ClaimerContext
  readonly #sql: ReturnType<typeof inboxSql>
  readonly #partitions: Partitions
  readonly #unhandled: Unhandled
  /** Whether the last claim was cut short by its limit. */
  #more = false
  readonly #polling: Polling
  /** Whether the last sweep has found abandoned messages, or somebody says that there are some. */
  #abandoned = false
  #renewedAt = performance.now()
  #handledSince = 0
  #pace = 0

  constructor(context: ClaimerContext, unhandled: Unhandled) {
    this.#context = context
    this.#unhandled = unhandled
    this.#sql = inboxSql(context.database.schema)
    this.#partitions = new Partitions(context)
    this.#polling = new Polling(context.settings, context.membership.sleep)
  }

  /** Something is about to come: look often again. */
  hurry(): void {
    this.#polling.hurry()
    this.#partitions.stir()
  }

  /** Something has become free below where claims start: perhaps rows that a dead claimer has left. */
  sweep(): void {
    this.#partitions.sweep()
    this.#abandoned = true
  }

  /** Perhaps there is another server. */
  forget(): void {
    this.#partitions.forget()
    this.sweep()
  }

  /** So many have been handled: the measure of how many to claim ahead. */
  handled(count: number): void {
    this.#handledSince += count
  }

  /** Whether claiming at once would pay. */
  get wanted(): boolean {
    return this.#more && this.#context.inFlight.waitingRows <= this.#context.settings.concurrency
  }

  /** Claims, and returns how long to wait before the next time. */
  claim(): Promise<number> {
    return this.#context.quarantine.claim('unkeyed', () => this.#claim())
  }

  async #claim(): Promise<number> {
    const { database, consumer, settings, inFlight, membership, quarantine, emit, lose, failpoint } =
      this.#context
    const { avoidLastHolder } = this.#context
    const { id: workerId } = membership
    const { batchSize, concurrency, pollMsMax, leaseMs } = settings
    const ahead = Math.min(batchSize, Math.max(concurrency * 2, this.#pace))
    // Abandoned messages do not wait until what is in flight has been worked off: with a deep inbox they would be the
    // last.
    const adopts = this.#abandoned && quarantine.room > 0
    const wish = adopts ? Math.min(quarantine.room, ahead) : ahead - inFlight.waitingRows
    const room = roomOf(this.#context)
    if (room === null || workerId === null || (!adopts && wish < Math.max(1, ahead >> 1))) {
      return pollMsMax
    }
    const want = Math.min(wish, room.rows)
    const { order, bounds } = this.#partitions.look()
    const at = performance.now()
    const adopted = adopts ? null : await this.#unhandled.adopt(want, workerId, room.bytes)
    const claiming = (): Promise<PartitionedRow[]> =>
      database.keep(this.#sql.claim, {
        consumer,
        partitions: order,
        bounds,
        limit: want,
        worker: workerId,
        leaseMs,
        gone: membership.abandoned.free,
        room: quarantine.room,
        alone: quarantine.inFlight === 0,
        dealt: membership.abandoned.rows,
        // Alone, it has nobody to leave anything to.
        avoider: avoidLastHolder && membership.living > 1 ? workerId : -1,
        avoidMs: settings.failoverGraceMs,
        onlyHeld: adopts,
        bytes: room.bytes,
        server: membership.server,
      })
    const rows = adopted ?? (await claiming())
    await failpoint('claimer.after_claim')
    // Given up on meanwhile: whoever finds these rows takes them from a holder that has ended.
    if (membership.id !== workerId) return pollMsMax
    if (adopts && rows.length === 0) {
      this.#abandoned = false
      return 0
    }
    const pauseMs = this.#polling.next(rows.length > 0)
    this.#more = false
    if (rows.length === 0) return pauseMs
    this.#reportTakeover(rows)
    const inOrder = rows.toSorted((a, b) => a.seq - b.seq)
    // Of those whose lease had lapsed, this worker was the next to claim.
    lose(
      inOrder.flatMap((row) => inFlight.at(row) ?? []),
      lapsed,
    )
    const before = inFlight.bytes
    for (const row of inOrder) {
      const claim = new Claim(row, membership.server, false)
      claim.leasedUntil = at + leaseMs * sureShare
      inFlight.add(claim)
    }
    // Large ones are cut short by their bytes: then there is more as well, perhaps.
    this.#more = rows.length === want || inFlight.bytes - before > room.bytes / 2
    // What was adopted stands anywhere, and before it there may be others.
    if (adopted === null) this.#partitions.passed(inOrder)
    emit({ type: 'claimed', ids: rows.map(({ id }) => id) })
    this.#context.dispatch()
    // Handlers that do not wait for anything have had it all by now.
    return this.wanted ? 0 : pauseMs
  }

  /** Once in a while: moves the watermarks, and renews what is in flight. */
  async keepHouse(): Promise<void> {
    this.#pace = Math.round((this.#pace + this.#handledSince) / 2)
    this.#handledSince = 0
    if (performance.now() - this.#renewedAt >= this.#context.settings.leaseMs / 4) await this.#renew()
    await this.#partitions.moveWatermarks()
  }

  /** By the monotonic clock, until when the leases on all rows in flight are sure to run. */
  get sureUntil(): number {
    let earliest = Infinity
    for (const { keyed, leasedUntil } of this.#context.inFlight.all()) {
      if (!keyed && leasedUntil < earliest) earliest = leasedUntil
    }
    return earliest
  }

  /** Gives rows back as if they had never been claimed. */
  async release(claims: readonly Claim[]): Promise<void> {
    const { database } = this.#context
    if (claims.length === 0) return
    await database.keep(this.#sql.release, this.#placesOf(claims))
  }

  async #renew(): Promise<void> {
    const at = performance.now()
    const claims = [...this.#context.inFlight.all()].filter(
      ({ keyed, state }) => !keyed && state !== 'settling',
    )
    const apart = new Map<pg.ClientBase | null, Claim[]>([[null, []]])
    for (const claim of claims) {
      const client = isIdle(claim.transaction) ? claim.transaction : null
      // In the middle of a statement of the handler's: there is time to ask the next time.
      const early = claim.leasedUntil - at > this.#context.settings.leaseMs / 3
      if (claim.transaction !== null && client === null && early) continue
      const together = apart.get(client)
      if (together === undefined) apart.set(client, [claim])
      else together.push(claim)
    }
    await this.#extend(apart.get(null)!)
    // Not waited for: a connection of a handler's may never answer, and the other leases would lapse meanwhile.
    for (const [client, held] of apart) if (client !== null) void this.#hold(client, held).catch(() => {})
    this.#renewedAt = at
  }

  /** Has the transaction of their handler lock them, if a renewal by anybody else would be its end. */
  async #hold(client: pg.ClientBase, claims: readonly Claim[]): Promise<void> {
    const { database, settings } = this.#context
    const at = performance.now()
    const held = new Set((await database.run(client, this.#sql.hold, this.#placesOf(claims))).map(placeOf))
    const locked = (claim: Claim): boolean => held.has(placeOf(claim))
    for (const claim of claims.filter(locked)) claim.leasedUntil = at + settings.leaseMs * sureShare
    await this.#extend(claims.filter((claim) => !locked(claim)))
  }

  #placesOf(claims: readonly Claim[]) {
    return {
      consumer: this.#context.consumer,
      lanes: claims.map(({ lane }) => lane),
      seqs: claims.map(({ seq }) => seq),
      fences: claims.map(({ fence }) => fence),
    }
  }

  async #extend(claims: readonly Claim[]): Promise<void> {
    const { database, settings, inFlight, lose } = this.#context
    if (claims.length === 0) return
    const at = performance.now()
    const renewed = await database.keep(this.#sql.renew, {
      ...this.#placesOf(claims),
      leaseMs: settings.leaseMs,
    })
    const kept = new Set(renewed.map(placeOf))
    for (const claim of claims) claim.leasedUntil = at + settings.leaseMs * sureShare
    // What is being completed meanwhile is gone and not lost.
    const isLost = (claim: Claim): boolean =>
      !kept.has(placeOf(claim)) && inFlight.has(claim) && claim.state !== 'settling'
    lose(claims.filter(isLost), lapsed)
  }

  #reportTakeover(rows: readonly { readonly previous: number | null }[]): void {
    const { membership, failover, emit } = this.#context
    // There may be more where these came from.
    if (rows.some(({ previous }) => previous !== null)) this.sweep()
    for (const { of, ...from } of membership.abandoned.takenOver(rows, membership.id!)) {
      emit({ type: 'takeover', ...from, strategy: failover, lanes: [], rows: of.length })
    }
  }
}

/** Whether a statement of ours would not stand between two of the handler's. */
function isIdle(client: pg.ClientBase | null): boolean {
  return client !== null && (client as unknown as { readonly readyForQuery?: boolean }).readyForQuery === true
}
