import { now } from '../figures.ts'

/** What a process has dealt with: which messages, in which order, and when. */
export interface Sheet {
  readonly ns: Int32Array
  /** By the clock that all processes share, in milliseconds. */
  readonly ats: Float64Array
  /** How long each took, where that was measured; else empty. */
  readonly took: Float64Array
}

/** Written by the handlers: a few nanoseconds each, since what notes cost is taken from the figure. */
export class Tally {
  count = 0
  #ns: Int32Array = new Int32Array(4096)
  #ats: Float64Array = new Float64Array(4096)
  #took: Float64Array = new Float64Array(0)
  readonly #offset = now() - performance.now()

  /** @param sinceMs when it began, by the shared clock, if its latency is of interest */
  note(n: number, sinceMs?: number): void {
    if (this.count === this.#ns.length) this.#grow()
    const at = performance.now() + this.#offset
    this.#ns[this.count] = n
    this.#ats[this.count] = at
    if (sinceMs !== undefined) {
      if (this.#took.length < this.#ns.length) this.#took = grown(this.#took, this.#ns.length)
      this.#took[this.count] = at - sinceMs
    }
    this.count++
  }

  /** The shared clock. */
  get now(): number {
    return performance.now() + this.#offset
  }

  get sheet(): Sheet {
    const took = this.#took.length === 0 ? this.#took : this.#took.slice(0, this.count)
    return { ns: this.#ns.slice(0, this.count), ats: this.#ats.slice(0, this.count), took }
  }

  #grow(): void {
    const size = this.#ns.length * 2
    const ns = new Int32Array(size)
    ns.set(this.#ns)
    this.#ns = ns
    this.#ats = grown(this.#ats, size)
  }
}

function grown(values: Float64Array, size: number): Float64Array {
  const larger = new Float64Array(size)
  larger.set(values)
  return larger
}
