/** The part of its time after which a worker doubts itself: before anybody else may. */
export const sureShare = 0.8

export interface WatchdogOptions {
  /** Whether this worker has shown so lately that it lives that nobody may believe it dead. */
  readonly isSure: () => boolean
  readonly onDoubt: () => void
  /** Longer than this, a stall of the event loop is worth telling. */
  readonly stallMs: number
  readonly onStall: (forMs: number) => void
}

const lookMs = 100

/**
 * A worker's eye on itself: whether it has shown in time that it lives, and whether its event loop turns.
 *
 * A process that was frozen, blocked or cut off does not know what others made of its silence. It must stop before they
 * can have taken over, and only its own monotonic clock can tell it: neither the database, which may be out of reach,
 * nor the wall clock, which may jump.
 */
export class Watchdog {
  readonly #options: WatchdogOptions
  #timer: NodeJS.Timeout | null = null
  #lookedAt = 0

  constructor(options: WatchdogOptions) {
    this.#options = options
  }

  start(): void {
    this.#lookedAt = performance.now()
    this.#timer ??= setInterval(() => this.#look(), lookMs)
  }

  stop(): void {
    if (this.#timer !== null) clearInterval(this.#timer)
    this.#timer = null
  }

  #look(): void {
    const now = performance.now()
    const late = now - this.#lookedAt - lookMs
    this.#lookedAt = now
    if (late > this.#options.stallMs) this.#options.onStall(late)
    if (!this.#options.isSure()) this.#options.onDoubt()
  }
}
