import type { Sleep } from './sleep.ts'

/** How long to wait before looking again: a moment after something was there, then longer and longer. */
export class Polling {
  readonly #settings: { readonly pollMs: number; readonly pollMsMax: number }
  readonly #sleep: Sleep
  #pauseMs: number
  /** When a look has found something last, by the monotonic clock. */
  foundAt = -Infinity

  constructor(settings: { readonly pollMs: number; readonly pollMsMax: number }, sleep: Sleep) {
    this.#settings = settings
    this.#sleep = sleep
    this.#pauseMs = settings.pollMs
  }

  /** Something is about to come: look often again. */
  hurry(): void {
    this.#pauseMs = this.#settings.pollMs
  }

  /** After a look, and whether it has found anything. */
  next(found: boolean): number {
    if (found) {
      this.foundAt = performance.now()
      this.#sleep.stir()
      this.hurry()
      return this.#pauseMs
    }
    const pauseMs = this.#pauseMs
    this.#pauseMs = Math.min(pauseMs * 2, this.#settings.pollMsMax)
    return this.#sleep.pause(pauseMs)
  }
}
