import type pg from 'pg'
import { inboxSql } from '../database/sql/inbox.ts'
import { sureShare } from '../membership/watchdog.ts'
import { placeOf } from '../lanes/settler.ts'
import type { ClaimerContext } from './context.ts'
import type { Claim } from './claim.ts'

export const lapsed = 'The lease on the row had lapsed.'

/** The leases on rows without a key that are in flight: renewed, or given back. */
export class RowLeases {
  readonly #context: ClaimerContext
  readonly #sql: ReturnType<typeof inboxSql>
  #renewedAt = performance.now()

  constructor(context: ClaimerContext) {
    this.#context = context
    this.#sql = inboxSql(context.database.schema)
  }

  /** Once in a while: renews. */
  async keepHouse(): Promise<void> {
    if (performance.now() - this.#renewedAt >= this.#context.settings.leaseMs / 4) await this.#renew()
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

  #placesOf(claims: readonly Claim[]) {
    return {
      consumer: this.#context.consumer,
      lanes: claims.map(({ lane }) => lane),
      seqs: claims.map(({ seq }) => seq),
      fences: claims.map(({ fence }) => fence),
    }
  }
}

/** Whether a statement of ours would not stand between two of the handler's. */
function isIdle(client: pg.ClientBase | null): boolean {
  return client !== null && (client as unknown as { readonly readyForQuery?: boolean }).readyForQuery === true
}
