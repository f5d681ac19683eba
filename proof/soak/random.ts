/** Chance that can be had again: the same seed gives the same numbers, on every machine (mulberry32). */
export class Random {
  #state: number

  constructor(seed: number) {
    this.#state = seed >>> 0
  }

  /** From 0 to below 1. */
  next(): number {
    this.#state = (this.#state + 0x6d2b79f5) >>> 0
    let mixed = this.#state
    mixed = Math.imul(mixed ^ (mixed >>> 15), mixed | 1)
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61)
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32
  }

  /** A whole number from `min` to `max`. */
  whole(min: number, max: number): number {
    return min + Math.floor(this.next() * (max - min + 1))
  }

  chance(share: number): boolean {
    return this.next() < share
  }

  /** One of these, each as likely as its weight says. */
  weighted<Name extends string>(weights: Readonly<Record<Name, number>>): Name {
    const entries = Object.entries(weights) as [Name, number][]
    const total = entries.reduce((sum, [, weight]) => sum + weight, 0)
    let rest = this.next() * total
    for (const [name, weight] of entries) {
      rest -= weight
      if (rest < 0) return name
    }
    return entries[0]![0]
  }

  /** Waiting times between events that know nothing of each other. */
  exponential(mean: number): number {
    return -mean * Math.log(1 - this.next())
  }
}
