import { Abandoned } from './abandoned.ts'
import type { Peer } from '../database/sql/worker.ts'

/** Workers are often started together: for so long after one has come or gone, more of that is expected. */
const settlingMs = 5000

/** Who shares the work of a worker that holds lanes or rows, and what the dead have left. */
export class Succession {
  readonly abandoned = new Abandoned()
  /** How many share the work, this one included. */
  living = 1
  /** The others of them, by their ids. */
  peers: readonly number[] = []
  #changedAt = performance.now()

  /** Whether nobody has come or gone for a while. */
  get settled(): boolean {
    return performance.now() >= this.#changedAt + settlingMs
  }

  /** Whether nothing is about to change. */
  get isCalm(): boolean {
    return this.settled && !this.abandoned.areReserved
  }

  /** This worker has come itself. */
  begin(at: number): void {
    this.#changedAt = at
  }

  /** Takes note of the living. True if somebody has come or gone. */
  count(living: readonly Peer[]): boolean {
    // The server gives them in any order. Who compares would see others come and go at each look.
    this.peers = living.map(({ id }) => id).toSorted((a, b) => a - b)
    if (this.living === 1 + living.length) return false
    this.living = 1 + living.length
    this.#changedAt = performance.now()
    return true
  }
}
