import type { Claim } from './claim.ts'

/**
 * The messages of one key that are in flight, in order: first those that were handled and are being completed, then the one that
 * may be handled next or is, with what waits behind it.
 */
export class KeyQueue {
  readonly claims: Claim[] = []
  /** How many of them, the first ones, were handled and are being completed while the key goes on. */
  handled = 0
  /** Those that were given out at once the last time, if that were several. */
  #together: readonly Claim[] = []
  /** Whether it stands among the keys of which a message may be handled. */
  queued = false
  /** A completion could not be written down: the key does not go on. */
  #isStalled = false
  #waiting: (() => void)[] = []

  /** What a late commit or a release brought below what is not being handled goes before it. */
  add(claim: Claim): void {
    let at = this.claims.length
    while (at > 0 && this.claims[at - 1]!.seq > claim.seq && isAtRest(this.claims[at - 1]!)) at--
    this.claims.splice(at, 0, claim)
  }

  /** Its first ones from there on that wait, up to so many and as long as each may join, for handling together. */
  take(
    from: number,
    limit: number,
    joins: (claim: Claim) => boolean,
    give: (claim: Claim) => boolean,
  ): Claim[] {
    let to = from
    while (to < this.claims.length && to - from < limit && isNext(this.claims[to]!, joins)) to++
    const taken = this.claims.slice(from, to).filter(give)
    if (taken.length > 0) this.#together = this.claims.slice(this.handled, to)
    return taken
  }

  /**
   * The one that may be handled next, if it waits and there is room in its window; null if there is none. Of several that were given
   * out together one may wait again while another one's failure is still being written down: the key waits for all of them.
   */
  next(windowOf: (claim: Claim) => number): Claim | null {
    const next = this.claims[this.handled]
    if (next?.state !== 'waiting' || this.#isStalled || this.#together.some(isBusy)) return null
    this.#together = []
    return this.handled === 0 || this.handled < windowOf(next) ? next : null
  }

  remove(claim: Claim, wasHandled: boolean): void {
    this.claims.splice(this.claims.indexOf(claim), 1)
    if (wasHandled) this.handled--
    this.#tell()
  }

  /** A completion could not be written down: none behind it is settled either. */
  stall(): void {
    this.#isStalled = true
    this.#tell()
  }

  /**
   * Waits until what was handled before is completed: whatever else becomes of one behind it, a retry, a parked key or a dead letter,
   * concerns the rest of the key, and those are no part of that. False if they cannot be completed.
   */
  async completed(isHeld: () => boolean): Promise<boolean> {
    while (this.handled > 0 && !this.#isStalled && isHeld())
      await new Promise<void>((resolve) => this.#waiting.push(resolve))
    return !this.#isStalled && isHeld()
  }

  #tell(): void {
    const waiting = this.#waiting
    this.#waiting = []
    for (const resolve of waiting) resolve()
  }
}

const isNext = (claim: Claim, joins: (claim: Claim) => boolean): boolean =>
  claim.state === 'waiting' && joins(claim)
const isBusy = ({ state }: Claim): boolean => state === 'handling' || state === 'settling'
const isAtRest = ({ state }: Claim): boolean => state === 'waiting' || state === 'pausing'
