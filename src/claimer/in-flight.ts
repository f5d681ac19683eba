import { defectOf } from '../base/state.ts'
import type { TwinboxError } from '../base/errors.ts'
import { claimMoves, type Claim, type ClaimState } from './claim.ts'
import type { KeyQueue } from './key-queue.ts'
import { Keys } from './keys.ts'
import type { Quarantine } from './quarantine.ts'
import { Turns } from './turns.ts'

/**
 * What a claimer has in flight: claimed and not settled. It alone changes the state of a claim, see `ClaimState`, and
 * so knows which message may be handled next: any without a key, and of each key the first that was not handled yet, if it is
 * waiting and may start before those are completed. Topics take turns: one with 1,000 messages in flight keeps another one
 * waiting for one handler, and not for all of its own.
 */
export class InFlight {
  size = 0
  bytes = 0
  readonly #quarantine: Quarantine
  readonly #free = new Turns<Claim>()
  readonly #keys: Keys
  readonly #lanes = new Map<number, Map<number, Claim>>()
  /** How many were read past a hot key, by lane. */
  readonly #past = new Map<number, number>()
  readonly #onDefect: (claim: Claim, defect: TwinboxError) => void
  readonly #windowOf: (claim: Claim) => number
  #turn = false

  /**
   * @param onDefect an impossible move was asked of a claim, which has to be given back
   * @param windowOf how many of its key may be handled and not completed when it has been handled, itself among them
   */
  constructor(
    quarantine: Quarantine,
    onDefect: (claim: Claim, defect: TwinboxError) => void,
    windowOf: (claim: Claim) => number,
  ) {
    this.#quarantine = quarantine
    this.#onDefect = onDefect
    this.#windowOf = windowOf
    this.#keys = new Keys(windowOf)
  }

  /** How many without a key wait to be handled. */
  get waitingRows(): number {
    return this.#free.size
  }

  /** Of how many keys, and how many without a key, a message may be handled at once. */
  get ready(): number {
    return this.#free.size + this.#keys.ready
  }

  countOf(lane: number): number {
    return this.#lanes.get(lane)?.size ?? 0
  }

  /** How many of a lane, but for those that were read past a hot key. */
  countInOrder(lane: number): number {
    return this.countOf(lane) - (this.#past.get(lane) ?? 0)
  }

  seqsOf(lane: number): IterableIterator<number> {
    return (this.#lanes.get(lane) ?? new Map<number, Claim>()).keys()
  }

  lowest(lane: number): number | null {
    return [...this.seqsOf(lane)].reduce<number | null>((low, seq) => Math.min(low ?? seq, seq), null)
  }

  /** How far reads of the lane have come in order; what was read past a hot key stands beyond. */
  highest(lane: number): number {
    let highest = 0
    for (const [seq, { past }] of this.#lanes.get(lane) ?? []) if (!past && seq > highest) highest = seq
    return highest
  }

  has(claim: Claim): boolean {
    return claim.state !== 'gone'
  }

  at({ lane, seq }: Pick<Claim, 'lane' | 'seq'>): Claim | undefined {
    return this.#lanes.get(lane)?.get(seq)
  }

  /** Keyed claims have to come in the order of their seq, as a read of the lane brings them. */
  add(claim: Claim): void {
    let lane = this.#lanes.get(claim.lane)
    if (lane === undefined) this.#lanes.set(claim.lane, (lane = new Map<number, Claim>()))
    lane.set(claim.seq, claim)
    this.size++
    this.bytes += claim.bytes
    if (claim.quarantined) this.#quarantine.add()
    if (claim.past) this.#past.set(claim.lane, (this.#past.get(claim.lane) ?? 0) + 1)
    if (!claim.keyed) {
      // The next quarantined messages are claimed only when these are settled.
      if (claim.quarantined) this.#free.unshift(claim.topic, claim)
      else this.#free.push(claim.topic, claim)
      return
    }
    this.#keys.add(claim)
  }

  /** The next message that may be handled, for handling; null if there is none. */
  next(): Claim | null {
    // In turns, so that neither kind starves the other.
    this.#turn = !this.#turn
    const row = (): Claim | null => this.#given(this.#free.shift())
    const ofKey = (): Claim | null => this.#given(this.#keys.shift())
    return this.#turn ? (row() ?? ofKey()) : (ofKey() ?? row())
  }

  /** Whether there is likely to be another one to handle as soon as these are done. */
  hasNext(running: readonly Claim[]): boolean {
    if (this.ready > 0) return true
    return running.some((claim) => {
      const last = claim.keyed ? this.#keys.of(claim)?.claims.at(-1) : undefined
      return last !== undefined && !running.includes(last)
    })
  }

  /**
   * More messages that may be handled together with one that `next` gave: of the same topic, of its key as long as
   * they follow it without a gap, of other keys their first ones, and any without a key. Of so many `others` at most.
   */
  more(
    first: Claim,
    limit: number,
    mayJoin: (claim: Claim) => boolean = () => true,
    others = Infinity,
  ): Claim[] {
    const joins = (claim: Claim): boolean => claim.topic === first.topic && mayJoin(claim)
    const more: Claim[] = []
    const give = (claim: Claim): boolean => this.#move(claim, 'handling')
    const take = (queue: KeyQueue, from: number): void =>
      void more.push(...queue.take(from, limit - more.length, joins, give))
    if (first.keyed) {
      take(this.#keys.of(first)!, 1)
      for (const queue of this.#keys.readyOf(first.topic).slice(0, others)) {
        if (more.length >= limit) break
        take(queue, 0)
      }
      return more
    }
    const taken = this.#free.take(first.topic, Math.min(limit, others), mayJoin)
    return taken.filter(give)
  }

  /**
   * Its handler has returned: if it has a window, the next of its key may start before it is completed. Not if one before it is
   * to be handled again.
   */
  handled(claim: Claim): void {
    if (!claim.keyed || this.#windowOf(claim) === 1 || !this.#keys.isNext(claim)) return
    if (this.#move(claim, 'handled')) this.#keys.handled(claim)
  }

  /** Waits until what was handled before it in its key is completed. False if that fails, or if it is not in flight any more. */
  completedBefore(claim: Claim): boolean | Promise<boolean> {
    const queue = claim.keyed ? this.#keys.of(claim) : undefined
    return queue === undefined || queue.handled === 0 || queue.completed(() => this.has(claim))
  }

  /** Its completion could not be written down: its key does not go on here. */
  stall(claim: Claim): void {
    if (claim.state === 'handled') this.#keys.of(claim)!.stall()
  }

  /** What becomes of them is about to be written down. */
  settle(claims: readonly Claim[]): void {
    for (const claim of claims) this.#move(claim, 'settling')
  }

  /** That could not be written down: it is decided anew. */
  unsettle(claims: readonly Claim[]): void {
    for (const claim of claims) if (claim.state === 'settling') this.#move(claim, 'handling')
  }

  /** It waits in flight, and with it what is behind it in its key, until it is to proceed. */
  pause(claim: Claim): void {
    if (this.#move(claim, 'pausing') && claim.keyed) this.#keys.proceed(claim)
  }

  /** It may be handled again, if it is still in flight. */
  proceed(claim: Claim): void {
    if (!this.#move(claim, 'waiting')) return
    if (claim.keyed) this.#keys.proceed(claim)
    else this.#free.push(claim.topic, claim)
  }

  /** Whether none of its key is before it. */
  leads(claim: Claim): boolean {
    return !claim.keyed || this.#keys.of(claim)?.claims[0] === claim
  }

  /** It has been settled, released or lost. The next of its key may start. */
  remove(claim: Claim): void {
    const before = claim.state
    if (!this.#move(claim, 'gone')) return
    this.#lanes.get(claim.lane)!.delete(claim.seq)
    this.size--
    this.bytes -= claim.bytes
    if (claim.quarantined) this.#quarantine.remove()
    if (claim.past) this.#past.set(claim.lane, this.#past.get(claim.lane)! - 1)
    if (!claim.keyed) {
      if (before === 'waiting') this.#free.remove(claim.topic, claim)
      return
    }
    this.#keys.remove(claim, before === 'handled')
  }

  /** It, and all behind it in its key, of which none may be handled before it. Nothing if it is gone. */
  from(claim: Claim): readonly Claim[] {
    if (!claim.keyed || !this.has(claim)) return this.has(claim) ? [claim] : []
    const ofKey = this.ofKey(claim)
    return ofKey.slice(ofKey.indexOf(claim))
  }

  /** All that is in flight of a key, in order. */
  ofKey(claim: Claim): readonly Claim[] {
    return [...(this.#keys.of(claim)?.claims ?? [])]
  }

  countOfKey(claim: Claim): number {
    return this.#keys.of(claim)?.claims.length ?? 0
  }

  hasKey(lane: number, key: string): boolean {
    return this.#keys.of({ lane, key }) !== undefined
  }

  /** All that is in flight, or of one lane. */
  *all(lane?: number): Generator<Claim> {
    if (lane !== undefined) yield* (this.#lanes.get(lane) ?? new Map<number, Claim>()).values()
    else for (const claims of this.#lanes.values()) yield* claims.values()
  }

  /** One that is gone does not move: leases are lost at any moment. */
  #move(claim: Claim, to: ClaimState): boolean {
    if (claim.state === 'gone') return false
    const defect = defectOf('A claim', claimMoves, claim.state, to)
    if (defect === null) claim.state = to
    else this.#onDefect(claim, defect)
    return defect === null
  }

  #given(claim: Claim | undefined): Claim | null {
    return claim !== undefined && this.#move(claim, 'handling') ? claim : null
  }
}
