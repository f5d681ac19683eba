/** Once so many at a time have done no harm, the death was hardly a message's fault, and the rest need not wait. */
const acquittal = 64

/**
 * Messages whose claims have ended with the death of a claimer. One of them may be why.
 *
 * If they were simply claimed again together, a message that kills every process would take the innocent ones around
 * it down the same road: each death costs all of them an attempt. So at first only one is in flight; each time that
 * none is left, twice as many may be; and one that has outlived two claimers is handled without another beside it.
 */
export class Quarantine {
  inFlight = 0
  #max = 1
  /** Ways of claiming that have found no quarantined messages since somebody died. */
  readonly #clear = new Set<string>()
  #turn: Promise<unknown> = Promise.resolve()
  readonly #limit: number

  constructor(limit: number) {
    this.#limit = limit
  }

  /** How many more may be claimed. */
  get room(): number {
    return this.#max >= acquittal ? this.#limit : Math.max(0, this.#max - this.inFlight)
  }

  /** Somebody has died: caution again. */
  reset(): void {
    this.#max = 1
    this.#clear.clear()
  }

  /**
   * Runs one claim, up to where what it brought is in flight. As long as there may be quarantined messages, the ways of
   * claiming take turns: side by side, each would take the one quarantined message that there is room for.
   */
  async claim<Result>(way: 'keyed' | 'unkeyed', work: () => Promise<Result>): Promise<Result> {
    const watched = async (): Promise<Result> => {
      const before = this.inFlight
      const result = await work()
      if (before > 0 || this.inFlight > 0) this.#clear.clear()
      else this.#clear.add(way)
      return result
    }
    if (this.#clear.size === 2) return watched()
    const result = this.#turn.then(watched)
    this.#turn = result.catch(() => {})
    return result
  }

  add(): void {
    this.inFlight++
  }

  /** One is settled: it was not the one. */
  remove(): void {
    this.inFlight--
    if (this.inFlight === 0) this.#max = Math.min(this.#max * 2, this.#limit)
  }
}
