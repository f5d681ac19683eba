import { queueOf, type Claim } from './claim.ts'
import type { Quarantine } from './quarantine.ts'

/** The messages of one key, in order. Only the first may be handled, and nothing behind it until it is settled. */
interface KeyQueue {
  readonly claims: Claim[]
  running: boolean
  /** Backoff of the first, by the monotonic clock. */
  notBefore: number
  queued: boolean
}

/**
 * What a claimer has in flight: claimed and not settled. It knows which message may be handled next: any without a key,
 * and the first of each key of which nothing is being handled.
 */
export class InFlight {
  size = 0
  bytes = 0
  readonly #quarantine: Quarantine
  readonly #free: Claim[] = []
  readonly #keys = new Map<string, KeyQueue>()
  #ready: KeyQueue[] = []
  readonly #lanes = new Map<number, Map<number, Claim>>()
  /** How many were read past a hot key, by lane. */
  readonly #past = new Map<number, number>()
  #turn = false

  constructor(quarantine: Quarantine) {
    this.#quarantine = quarantine
  }

  /** How many without a key wait to be handled. */
  get waitingRows(): number {
    return this.#free.length
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
    return this.#lanes.get(claim.lane)?.get(claim.seq) === claim
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
      // Before all others: the next quarantined messages are claimed only when these are settled.
      claim.waiting = true
      if (claim.quarantined) this.#free.unshift(claim)
      else this.#free.push(claim)
      return
    }
    const id = queueOf(claim)
    let queue = this.#keys.get(id)
    if (queue === undefined)
      this.#keys.set(id, (queue = { claims: [], running: false, notBefore: 0, queued: false }))
    // What a late commit or a release brought below what is waiting goes before it.
    let at = queue.claims.length
    while (at > 0 && queue.claims[at - 1]!.seq > claim.seq && !(at === 1 && queue.running)) at--
    queue.claims.splice(at, 0, claim)
    this.#enqueue(queue)
  }

  /** The next message that may be handled, marked as running; null if there is none. */
  next(): Claim | null {
    // In turns, so that neither kind starves the other.
    this.#turn = !this.#turn
    return this.#turn ? (this.#nextRow() ?? this.#nextOfKey()) : (this.#nextOfKey() ?? this.#nextRow())
  }

  /** Whether there is likely to be another one to handle as soon as these are done. */
  hasNext(running: readonly Claim[]): boolean {
    if (this.#free.length > 0 || this.#ready.length > 0) return true
    return running.some((claim) => {
      const last = claim.keyed ? this.#keys.get(queueOf(claim))?.claims.at(-1) : undefined
      return last !== undefined && !running.includes(last)
    })
  }

  /**
   * More messages that may be handled together with one that `next` gave: of the same topic, of its key as long as
   * they follow it without a gap, of other keys their first ones, and any without a key.
   */
  more(first: Claim, limit: number, mayJoin: (claim: Claim) => boolean = () => true): Claim[] {
    const joins = (claim: Claim): boolean => claim.topic === first.topic && mayJoin(claim)
    const more: Claim[] = []
    const run = (queue: KeyQueue, from: number): void => {
      for (const claim of queue.claims.slice(from)) {
        if (more.length >= limit || !joins(claim)) return
        more.push(claim)
      }
    }
    if (first.keyed) {
      run(this.#keys.get(queueOf(first))!, 1)
      const now = performance.now()
      for (const queue of this.#ready) {
        if (more.length >= limit) break
        const head = queue.claims[0]
        if (queue.running || head === undefined || !joins(head) || queue.notBefore > now) continue
        queue.running = true
        run(queue, 0)
      }
      return more
    }
    for (let index = 0; index < this.#free.length && more.length < limit;) {
      const claim = this.#free[index]!
      if (!joins(claim)) {
        index++
        continue
      }
      this.#free.splice(index, 1)
      claim.waiting = false
      more.push(claim)
    }
    return more
  }

  /** A claim has been settled, released or lost. */
  remove(claim: Claim): void {
    if (!this.has(claim)) return
    this.#lanes.get(claim.lane)!.delete(claim.seq)
    this.size--
    this.bytes -= claim.bytes
    if (claim.quarantined) this.#quarantine.remove()
    if (claim.past) this.#past.set(claim.lane, this.#past.get(claim.lane)! - 1)
    if (!claim.keyed) {
      if (claim.waiting) this.#free.splice(this.#free.indexOf(claim), 1)
      return
    }
    const id = queueOf(claim)
    const queue = this.#keys.get(id)
    if (queue === undefined) return
    const index = queue.claims.indexOf(claim)
    if (index >= 0) queue.claims.splice(index, 1)
    if (queue.claims.length === 0) this.#keys.delete(id)
  }

  /** Removes a claim and all others of its key, of which none may be handled before it. Returns what it removed. */
  drop(claim: Claim): readonly Claim[] {
    const dropped = claim.keyed ? this.ofKey(claim) : [claim]
    for (const each of dropped) this.remove(each)
    return dropped
  }

  /** It was completed: the next of its key may start. */
  done(claim: Claim): void {
    if (!this.has(claim)) return
    const queue = claim.keyed ? this.#keys.get(queueOf(claim)) : undefined
    this.remove(claim)
    if (queue === undefined || queue.claims.length === 0) return
    queue.running = false
    this.#enqueue(queue)
  }

  /** Handling of the key's first messages has ended, one way or another; the next may start, after a pause if given. */
  proceed(claim: Claim, afterMs = 0): void {
    if (!claim.keyed) {
      if (!this.has(claim) || claim.waiting) return
      claim.waiting = true
      this.#free.push(claim)
      return
    }
    const queue = this.#keys.get(queueOf(claim))
    if (queue === undefined) return
    queue.running = false
    queue.notBefore = afterMs > 0 ? performance.now() + afterMs : 0
    this.#enqueue(queue)
  }

  /** All that is in flight of a key, in order. */
  ofKey(claim: Claim): readonly Claim[] {
    return [...(this.#keys.get(queueOf(claim))?.claims ?? [])]
  }

  countOfKey(claim: Claim): number {
    return this.#keys.get(queueOf(claim))?.claims.length ?? 0
  }

  hasKey(lane: number, key: string): boolean {
    return this.#keys.has(queueOf({ lane, key }))
  }

  /** All that is in flight, or of one lane. */
  *all(lane?: number): Generator<Claim> {
    if (lane !== undefined) yield* (this.#lanes.get(lane) ?? new Map<number, Claim>()).values()
    else for (const claims of this.#lanes.values()) yield* claims.values()
  }

  #enqueue(queue: KeyQueue): void {
    if (queue.queued || queue.running) return
    queue.queued = true
    this.#ready.push(queue)
  }

  #nextRow(): Claim | null {
    const claim = this.#free.shift()
    if (claim === undefined) return null
    claim.waiting = false
    return claim
  }

  #nextOfKey(): Claim | null {
    const now = performance.now()
    const later: KeyQueue[] = []
    let found: Claim | null = null
    while (found === null) {
      const queue = this.#ready.shift()
      if (queue === undefined) break
      const head = queue.claims[0]
      if (queue.running || head === undefined) queue.queued = false
      else if (queue.notBefore > now) later.push(queue)
      else {
        queue.queued = false
        queue.running = true
        found = head
      }
    }
    this.#ready.push(...later)
    return found
  }
}
