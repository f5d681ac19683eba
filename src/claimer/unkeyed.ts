import { inboxSql, type PartitionedRow } from '../database/sql/inbox.ts'
import type { ValuesOf } from '../database/sql/parameter.ts'
import { Polling } from '../membership/polling.ts'
import { sureShare } from '../membership/watchdog.ts'
import { roomOf, type ClaimerContext, type Room } from './context.ts'
import { Claim } from './claim.ts'
import { Flood } from './flood.ts'
import { Partitions } from './partitions.ts'
import { lapsed, RowLeases } from './row-leases.ts'
import type { Unhandled } from './unhandled.ts'

type Asking = ValuesOf<ReturnType<typeof inboxSql>['claim']['takes']>

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
  readonly #flood: Flood
  readonly leases: RowLeases
  /** Whether the last claim was cut short by its limit. */
  #more = false
  /** How many the last claim has brought, if it has brought all that it wanted. */
  #full = 0
  readonly polling: Polling
  /** Whether the last sweep has found abandoned messages, or somebody says that there are some. */
  #abandoned = false
  #handledSince = 0
  #pace = 0

  constructor(context: ClaimerContext, unhandled: Unhandled) {
    this.#context = context
    this.#unhandled = unhandled
    this.#flood = new Flood(context, {
      others: (_, sought) =>
        this.#claimBehind((asking) => context.database.keep(this.#sql.claimOthers, { ...asking, ...sought })),
      // Each is all that is looked at of its partition.
      firsts: (_, chosen) =>
        this.#claimBehind((asking) => {
          const places = {
            partitions: chosen.map(({ lane }) => lane),
            bounds: chosen.map(({ seq }) => seq - 1),
          }
          return context.database.keep(this.#sql.claimOthers, { ...asking, ...places, without: [], span: 1 })
        }),
    })
    this.leases = new RowLeases(context)
    this.#sql = inboxSql(context.database.schema)
    this.#partitions = new Partitions(context)
    this.polling = new Polling(context.settings, context.membership.sleep)
  }

  /** Something is about to come: look often again. */
  hurry(): void {
    this.polling.hurry()
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
    return this.#context.quarantine.claim('unkeyed', async () => {
      const pauseMs = await this.#claim()
      // Any partition may have more, as soon as one has.
      const more = this.#more || roomOf(this.#context) === null
      await this.#flood.look(more ? this.#partitions.bounds : new Map())
      return pauseMs
    })
  }

  async #claim(): Promise<number> {
    const { database, settings, inFlight, membership, quarantine, failpoint } = this.#context
    const { id: workerId } = membership
    const { batchSize, concurrency, pollMsMax } = settings
    // So many were begun sooner than it is looked again at how many are handled in a moment.
    if (this.#full > 0 && this.#isStarving()) this.#pace = Math.max(this.#pace, 2 * this.#full)
    this.#full = 0
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
    const asking = this.#asking(workerId, want, room, adopts)
    const at = performance.now()
    const adopted = adopts ? null : await this.#unhandled.adopt(want, workerId, room.bytes)
    const rows = adopted ?? (await database.keep(this.#sql.claim, asking))
    await failpoint('claimer.after_claim')
    // Given up on meanwhile: whoever finds these rows takes them from a holder that has ended.
    if (membership.id !== workerId) return pollMsMax
    if (adopts && rows.length === 0) {
      this.#abandoned = false
      return 0
    }
    const pauseMs = this.polling.next(rows.length > 0)
    this.#more = false
    if (rows.length === 0) return pauseMs
    const before = inFlight.bytes
    const inOrder = this.#takeInFlight(rows, at)
    // Large ones are cut short by their bytes: then there is more as well, perhaps.
    if (rows.length === want) this.#full = want
    this.#more = this.#full > 0 || inFlight.bytes - before > room.bytes / 2
    // What was adopted stands anywhere, and before it there may be others.
    if (adopted === null) this.#partitions.passed(inOrder)
    this.#context.dispatch()
    // Handlers that do not wait for anything have had it all by now.
    return this.wanted ? 0 : pauseMs
  }

  /** Whether more could be handled now than is there. */
  #isStarving(): boolean {
    const { inFlight, settings } = this.#context
    if (inFlight.waitingRows > 0) return false
    const handling = [...inFlight.all()].filter(({ state }) => state === 'handling').length
    return handling < settings.concurrency
  }

  /** Claims what stands behind a flood. Before it there is the flood, so nothing has been passed. */
  async #claimBehind(claim: (asking: Asking) => Promise<readonly PartitionedRow[]>): Promise<boolean> {
    const { settings, membership, failpoint, dispatch } = this.#context
    const { id: workerId } = membership
    const room = roomOf(this.#context, true)
    if (room === null || workerId === null) return false
    const want = Math.min(settings.concurrency * 2, settings.batchSize, room.rows)
    const at = performance.now()
    const rows = await claim(this.#asking(workerId, want, room, false))
    await failpoint('claimer.after_claim')
    if (membership.id !== workerId || rows.length === 0) return false
    this.#takeInFlight(rows, at)
    dispatch()
    return true
  }

  /** What every claim is given. */
  #asking(worker: number, limit: number, { bytes }: Room, onlyHeld: boolean): Asking {
    const { consumer, settings, membership, quarantine, avoidLastHolder } = this.#context
    const { order, bounds } = this.#partitions.look()
    return {
      ...{ consumer, partitions: order, bounds, limit, worker, bytes, onlyHeld },
      leaseMs: settings.leaseMs,
      gone: membership.abandoned.free,
      room: quarantine.room,
      alone: quarantine.inFlight === 0,
      dealt: membership.abandoned.rows,
      // Alone, it has nobody to leave anything to.
      avoider: avoidLastHolder && membership.living > 1 ? worker : -1,
      avoidMs: settings.failoverGraceMs,
      server: membership.server,
    }
  }

  /** Returns them by seq. */
  #takeInFlight(rows: readonly PartitionedRow[], at: number): readonly PartitionedRow[] {
    const { settings, inFlight, membership, emit, lose } = this.#context
    this.#reportTakeover(rows)
    const inOrder = rows.toSorted((a, b) => a.seq - b.seq)
    // Of those whose lease had lapsed, this worker was the next to claim.
    lose(
      inOrder.flatMap((row) => inFlight.at(row) ?? []),
      lapsed,
    )
    for (const row of inOrder) {
      const claim = new Claim(row, membership.server, false)
      claim.leasedUntil = at + settings.leaseMs * sureShare
      inFlight.add(claim)
    }
    emit({ type: 'claimed', ids: rows.map(({ id }) => id) })
    return inOrder
  }

  /** Once in a while: moves the watermarks, and renews what is in flight. */
  async keepHouse(): Promise<void> {
    this.#pace = Math.round((this.#pace + this.#handledSince) / 2)
    this.#handledSince = 0
    await this.leases.keepHouse()
    await this.#partitions.moveWatermarks()
  }

  #reportTakeover(rows: readonly { readonly previous: number | null }[]): void {
    const { membership, failover, emit } = this.#context
    // There may be more where these came from.
    if (rows.some(({ previous }) => previous !== null)) this.sweep()
    for (const { of, ...from } of membership.abandoned.takenOver(rows, membership.id!)) {
      emit({ type: 'takeover', ...from, strategy: failover.name, lanes: [], rows: of.length })
    }
  }
}
