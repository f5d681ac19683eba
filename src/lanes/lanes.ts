import { laneSql, type LaneRow } from '../database/sql/lane.ts'
import { startLoop, type Loop, type LoopOptions } from '../base/loop.ts'
import { asColumns, drain, toLane, type Lane, type LeftLane, type Taken } from './lane.ts'
import type { LanesOptions } from './options.ts'
import { findBelow, followLowered, lanesMaker, lowerWatermarks, startLookingBelow } from './repair.ts'
import type { Membership } from '../membership/membership.ts'
import { sureShare } from '../membership/watchdog.ts'

const lookMs = 100
/** When nobody comes or goes. */
const lookMsCalm = 500
/** Where there are more workers than lanes, somebody has too few for good. */
const takeMsCalm = 1000
/** So long has an assignee to accept a lane, before it is anybody's. */
const assigneeMs = 3000
/** A lane that was inherited stays for so long beyond the fair share. */
const inheritedMs = 5000
/** Watermarks are persisted at most once a second, so that a successor scans little. */
const writeMs = 1000

/**
 * The lanes of one worker: takes a fair share, renews, gives back what is too much.
 *
 * A share is the number of lanes divided by the living workers, rounded up. A lane changes hands only when its holder
 * has given it back with nothing in flight, when its lease has lapsed, or when its holder is known to be dead. What was
 * dealt to this worker after a death it takes beyond its share, and gives the surplus back after the grace.
 */
export class Lanes {
  readonly held = new Map<number, Lane>()
  readonly membership: Membership
  readonly #options: LanesOptions
  readonly #sql: ReturnType<typeof laneSql>
  readonly #made: ReturnType<typeof lanesMaker>
  #loop: Loop | null = null
  #below: Loop | null = null
  #renewedAt = -Infinity
  #wroteAt = -Infinity
  #takeAt = 0
  #left: readonly LeftLane[] = []
  #taken: Taken | null = null

  constructor(options: LanesOptions) {
    this.#options = options
    this.membership = options.membership
    this.#sql = laneSql(options.database.schema)
    this.#made = lanesMaker(options)
  }

  async start(onError: LoopOptions['onError']): Promise<void> {
    await this.#made.now()
    this.#loop = startLoop(() => this.#tick(), { onError })
    this.#below = startLookingBelow(this.#options, this, onError)
  }

  /** Looks for lanes now: somebody died, or a drained lane can be given back. */
  wake(): void {
    this.#takeAt = 0
    this.#loop?.wake()
  }

  /** By this worker's own clock, whether its lease is sure to be running and nobody can believe it dead. */
  get trusted(): boolean {
    return this.#options.membership.sure && performance.now() < this.sureUntil
  }

  /** By the monotonic clock, until when the leases are sure to run. */
  get sureUntil(): number {
    return this.held.size === 0 ? Infinity : this.#renewedAt + sureShare * this.#options.leaseMs
  }

  /** The holder of a lane as it is now, or undefined if this fence is no longer ours. */
  holds(lane: number, fence: number): boolean {
    return this.held.get(lane)?.fence === fence
  }

  /** Forgets all lanes: this worker was given up on, or has to fear it. */
  forget(reason: string): void {
    const lost = [...this.held.values()]
    this.#left = this.#asLeft(lost)
    this.held.clear()
    if (lost.length > 0) this.#lose(lost, reason)
  }

  /** Gives back those of the forgotten lanes that nobody has taken over meanwhile. */
  async giveBack(formerId: number): Promise<void> {
    await this.#release(this.#left, formerId)
    this.#left = []
  }

  /** Gives a lane back in the middle of its work. Its next holder has another fence: what is still done under this one is void. */
  async giveUp(lane: Lane, reason: string): Promise<void> {
    if (!this.holds(lane.lane, lane.fence)) return
    const left = this.#leave([lane])
    // If that fails, it is still ours, and has to be read again.
    lane.watermark.lower(1)
    this.#lose([lane], reason)
    await left
  }

  /** Stops, and gives back whatever is still held. Returns how many lanes that were. */
  async stop(): Promise<number> {
    await Promise.all([this.#loop?.stop(), this.#below?.stop()])
    return this.#leave([...this.held.values()])
  }

  async #tick(): Promise<number> {
    const { membership, count, leaseMs } = this.#options
    if (membership.id === null) return lookMs
    const now = performance.now()
    if (now - this.#renewedAt >= leaseMs / 3) {
      await this.#write([...this.held.values()])
      this.#renewedAt = now
    } else if (now - this.#wroteAt >= writeMs) {
      await this.#write([...this.held.values()].filter((lane) => this.#watermarkOf(lane) !== lane.written))
    }
    await this.#begin()
    const { free, lanes: dealt } = membership.abandoned
    if (dealt.length > 0) await this.#take(0, [], dealt)
    const share = Math.ceil(count / membership.living)
    if (this.held.size < share && (!membership.settled || now >= this.#takeAt)) {
      this.#takeAt = now + takeMsCalm
      await this.#take(share - this.held.size, free, [])
      if (this.held.size < share) await this.#made.again()
    }
    if (this.#options.holder.mayInherit === true) await this.#accept()
    const surplus = this.held.size - share
    drain([...this.held.values()], surplus)
    const isEmpty = ({ lane }: Lane): boolean => this.#options.holder.lowestInFlight(lane) === null
    const drained = [...this.held.values()].filter((lane) => lane.draining && isEmpty(lane))
    await this.#leave(drained.filter(({ assignee }) => assignee === null))
    await this.#leave(drained.filter(({ assignee }) => assignee !== null))
    const calm = membership.settled && surplus <= 0 && dealt.length === 0
    return calm ? Math.min(lookMsCalm, leaseMs / 6) : lookMs
  }

  async #take(limit: number, free: readonly number[], dealt: readonly number[]): Promise<void> {
    const { database, membership, consumer, leaseMs, failoverGraceMs } = this.#options
    const { id } = membership
    if (id === null) return
    const values = { consumer, worker: id, leaseMs, gone: free, limit, dealt }
    const rows = await database.keep(this.#sql.take, values)
    // Of somebody who has lived a moment ago, and would have noticed, that is looked at later.
    const cold = rows.some(({ previous }) => previous === null || !free.includes(previous))
    await this.#hold(id, rows, dealt.length === 0 ? 0 : failoverGraceMs, cold && dealt.length === 0)
  }

  /** Takes what others have made over to this worker, beyond its share. It stays for a while, or it would go to and fro. */
  async #accept(): Promise<void> {
    const { database, membership, consumer, leaseMs } = this.#options
    const { id } = membership
    if (id === null) return
    const values = { consumer, worker: id, leaseMs, held: [...this.held.keys()] }
    await this.#hold(id, await database.keep(this.#sql.accept, values), inheritedMs, false)
  }

  async #hold(id: number, rows: readonly LaneRow[], keptForMs: number, cold: boolean): Promise<void> {
    if (rows.length === 0) return
    if (this.held.size === 0) this.#renewedAt = performance.now()
    const lanes = rows.map((row) => toLane(row, keptForMs))
    const lapsed = lanes.filter(({ lane }) => this.held.has(lane))
    if (lapsed.length > 0) {
      this.#lose(
        lapsed.map(({ lane }) => this.held.get(lane)!),
        'The lease had lapsed.',
      )
    }
    this.#taken = { holder: id, rows, lanes, cold }
    await this.#begin()
  }

  /** Begins the work on lanes that were taken. If that fails it is tried again: nobody else may work on them either. */
  async #begin(): Promise<void> {
    if (this.#taken === null) return
    const { membership, failover, emit } = this.#options
    const { holder, rows, lanes, cold } = this.#taken
    if (cold) await this.lower(await findBelow(this.#options, lanes))
    if (membership.id === holder) await this.#options.holder.onTaken(lanes)
    this.#taken = null
    // Given up on meanwhile: these lanes have a holder that has ended, and whoever finds them takes them.
    if (membership.id !== holder) return
    for (const lane of lanes) this.held.set(lane.lane, lane)
    emit({ type: 'lanes_taken', lanes: lanes.map(({ lane }) => lane) })
    this.#below?.wake()
    for (const { of, ...from } of membership.abandoned.takenOver(rows, holder)) {
      emit({ type: 'takeover', ...from, strategy: failover.name, lanes: of.map(({ lane }) => lane), rows: 0 })
    }
  }

  /** Writes down the watermarks of lanes, which renews their leases. */
  async #write(lanes: readonly Lane[]): Promise<void> {
    const { database, membership, consumer, leaseMs } = this.#options
    this.#wroteAt = performance.now()
    if (lanes.length === 0) return
    const left = this.#asLeft(lanes)
    const values = { consumer, worker: membership.id, leaseMs, ...asColumns(left) }
    const rows = await database.keep(this.#sql.renew, values)
    for (const [index, lane] of lanes.entries()) lane.written = left[index]!.watermark
    const kept = new Map(rows.map((row) => [row.lane, row]))
    if (followLowered(lanes, kept)) this.#options.holder.onLowered()
    const lost = lanes.filter(({ lane, fence }) => !kept.has(lane) && this.holds(lane, fence))
    for (const { lane } of lost) this.held.delete(lane)
    if (lost.length > 0) this.#lose(lost, 'Another worker has taken the lane.')
  }

  /** What was known of the numbers in these lanes does not count any more. */
  lower(lanes: readonly Lane[] = [...this.held.values()]): Promise<void> {
    return lowerWatermarks(this.#options, lanes)
  }

  async #leave(lanes: readonly Lane[]): Promise<number> {
    const { id } = this.#options.membership
    for (const { lane } of lanes) this.held.delete(lane)
    try {
      if (id !== null) await this.#release(this.#asLeft(lanes), id)
    } catch (error) {
      // Still ours, as far as is known. Forgotten, nobody would work on them before their leases have run out.
      if (this.#options.membership.id === id) for (const lane of lanes) this.held.set(lane.lane, lane)
      throw error
    }
    return lanes.length
  }

  /** To whoever comes first; or to their assignees, if all of them have one. */
  async #release(lanes: readonly LeftLane[], holder: number): Promise<void> {
    const { database, consumer, emit } = this.#options
    if (lanes.length === 0) return
    const values = { consumer, worker: holder, ...asColumns(lanes) }
    const assignees = lanes.flatMap(({ assignee }) => assignee ?? [])
    const released =
      assignees.length < lanes.length
        ? await database.keep(this.#sql.release, values)
        : await database.keep(this.#sql.handOver, { ...values, assignees, assigneeMs })
    if (released.length > 0) emit({ type: 'lanes_released', lanes: released.map(({ lane }) => lane) })
  }

  #asLeft(lanes: readonly Lane[]): LeftLane[] {
    return lanes.map((lane) => ({ ...lane, watermark: this.#watermarkOf(lane) }))
  }

  #watermarkOf(lane: Lane): number {
    const lowest = this.#options.holder.lowestInFlight(lane.lane)
    return lowest === null ? lane.watermark.confirmed : Math.min(lane.watermark.confirmed, lowest - 1)
  }

  #lose(lanes: readonly Lane[], reason: string): void {
    this.#options.emit({ type: 'lease_lost', ids: [], lanes: lanes.map(({ lane }) => lane), reason })
    this.#options.holder.onLost(lanes, reason)
  }
}
