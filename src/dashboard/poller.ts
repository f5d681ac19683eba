import { describeError } from '../base/errors.ts'
import type { Poll } from './poll.ts'

/** Since when polls have failed, and with which error. */
export interface Outage {
  readonly since: Date
  readonly why: string
}

/** As often as somebody wants to see something move. */
const paceMs = 2000
/** And so often, where the database takes long to answer. */
const sparing = 10
const paceMaxMs = 15_000

/**
 * Looks at the database for all viewers at once, and only while somebody watches. However many watch, there is one poll at a
 * time and one every two seconds at most.
 */
export class Poller {
  /** The latest that succeeded. */
  latest: Poll | null = null
  outage: Outage | null = null
  readonly #read: () => Promise<Poll>
  readonly #observers = new Set<() => void>()
  #watching = 0
  #running: Promise<void> | null = null
  #startedAt = -Infinity
  /** How far the database's clock is ahead of the one that this process measures with, and nobody sets. */
  #aheadMs: number | null = null
  #tookMs = 0
  #timer: NodeJS.Timeout | null = null
  #closed = false

  constructor(read: () => Promise<Poll>) {
    this.#read = read
  }

  /** Whether nobody watches, so that nothing is planned. */
  get isIdle(): boolean {
    return this.#timer === null && this.#running === null
  }

  /**
   * What time it is by the database's clock, which has dated all that is shown: on a machine whose own is an hour off, what died a minute
   * ago would have died in an hour. This machine's, until a poll has succeeded.
   */
  now(): Date {
    return this.#aheadMs === null ? new Date() : new Date(this.#aheadMs + performance.now())
  }

  /** Calls back after each poll, whether it succeeded or not, until the function that it returns is called. */
  observe(observer: () => void): () => void {
    this.#observers.add(observer)
    return () => void this.#observers.delete(observer)
  }

  /** Has streams look again at what they show, without a poll: it is this process's own that has changed. */
  tell(): void {
    for (const observer of this.#observers) observer()
  }

  /** Has it poll until the function that it returns is called. */
  watch(): () => void {
    this.#watching += 1
    this.#plan()
    let released = false
    return () => {
      if (released) return
      released = true
      this.#watching -= 1
      if (this.#watching === 0) this.#unplan()
    }
  }

  /** The latest poll, after one that is due: for a page that is loaded. */
  async current(): Promise<Poll | null> {
    if (this.#dueInMs() <= 0 || this.#running !== null) await this.#poll()
    return this.latest
  }

  async close(): Promise<void> {
    this.#closed = true
    this.#unplan()
    await this.#running
  }

  #dueInMs(): number {
    const pace = Math.min(paceMaxMs, Math.max(paceMs, this.#tookMs * sparing))
    return this.#startedAt + pace - performance.now()
  }

  #plan(): void {
    if (this.#watching === 0 || this.#timer !== null || this.#closed) return
    this.#timer = setTimeout(
      () => {
        this.#timer = null
        void this.#poll().then(() => this.#plan())
      },
      Math.max(0, this.#dueInMs()),
    ).unref()
  }

  #unplan(): void {
    if (this.#timer !== null) clearTimeout(this.#timer)
    this.#timer = null
  }

  #poll(): Promise<void> {
    if (this.#closed) return Promise.resolve()
    this.#running ??= this.#look().finally(() => void (this.#running = null))
    return this.#running
  }

  async #look(): Promise<void> {
    this.#startedAt = performance.now()
    try {
      this.latest = await this.#read()
      this.#aheadMs = this.latest.at.getTime() - performance.now()
      this.outage = null
    } catch (error) {
      this.outage = { since: this.outage?.since ?? this.now(), why: describeError(error) }
    }
    this.#tookMs = performance.now() - this.#startedAt
    this.tell()
  }
}
