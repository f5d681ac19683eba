import type { Database } from '../database/database.ts'
import { gotUp } from '../database/sql/sleep.ts'
import type { Session } from './session.ts'
import { StateMachine, type Moves } from '../base/state.ts'
import type { Emit } from '../base/events.ts'
import type { Holder } from './options.ts'

export interface SleepOptions {
  readonly consumer: string
  readonly emit: Emit
  /** Who sleeps. */
  readonly worker: Pick<Holder, 'hasBacklog' | 'onWoken'>
}

/** So long without work, a worker falls asleep; and after so long with it, one that was woken gets up. */
const drowsyMs = 20
/** So often a sleeper looks all the same: after a lease that lapsed, or a watcher that died, nobody wakes it. */
const asleepMs = 1250

/**
 * - `awake`: it looks by itself, again and again.
 * - `asking`: still awake, it asks the server whether it may watch, or somebody else does.
 * - `watching`: asleep. The lock is its own, and writers wake it and the others.
 * - `watched`: asleep. Somebody else of the consumer has the lock.
 * - `checking`: asleep, and watched when it last knew, it asks again.
 *
 * Only the answer ends a question, since it may have brought the lock. Whoever has to get up meanwhile does so after it.
 */
export type SleepState = 'awake' | 'asking' | 'watching' | 'watched' | 'checking'

export const sleepMoves: Moves<SleepState> = {
  awake: ['asking'],
  asking: ['watching', 'watched', 'awake'],
  watching: ['awake'],
  watched: ['checking', 'awake'],
  checking: ['watching', 'watched', 'asking', 'awake'],
}

/**
 * The sleep of a worker that finds nothing to do: instead of looking again and again, it has itself woken by whoever
 * writes something for it.
 *
 * One of the sleepers of a consumer holds a lock, by which writers know that they have to wake them; the others hear it
 * as well. Before it relies on that, it looks once more: what was written before the lock was held, nobody tells it.
 * Whoever is woken looks, and if that was all, sleeps on. Behind a pooler, where a session has neither locks nor
 * notifications, nobody sleeps.
 */
export class Sleep {
  readonly #database: Pick<Database, 'sessions'>
  readonly #session: Pick<Session, 'isOpen' | 'watch' | 'unwatch'>
  readonly #options: SleepOptions
  readonly #state: StateMachine<SleepState>
  /** Since it asked it has heard that whoever watched got up: that somebody watches may be from before. */
  #isOutdated = false
  /** When it may be asked next. */
  #askAt = 0
  /** When there was work, and since when there has been, without a pause in which it could have fallen asleep. */
  #busyAt = performance.now()
  #busySince = this.#busyAt

  constructor(
    database: Pick<Database, 'sessions'>,
    session: Pick<Session, 'isOpen' | 'watch' | 'unwatch'>,
    options: SleepOptions,
  ) {
    this.#database = database
    this.#session = session
    this.#options = options
    this.#state = new StateMachine<SleepState>('A sleeper', sleepMoves, 'awake', (defect) => {
      options.emit({ type: 'trouble', error: defect, doing: 'falling asleep' })
      // Nobody may go on relying on it.
      if (this.#state.is('watching')) this.getUp()
      else this.#wakeUp()
    })
  }

  get state(): SleepState {
    return this.#state.state
  }

  /** Whether it relies on being told of what is written. */
  get isAsleep(): boolean {
    return !this.#state.is('awake', 'asking')
  }

  /** There is work, found by looking. */
  stir(): void {
    const now = performance.now()
    if (now >= this.#busyAt + drowsyMs) this.#busySince = now
    this.#busyAt = now
    // Whoever notifies waits at its commit for all others that do: with so much to do, nobody shall have to.
    if (this.isAsleep && now >= this.#busySince + drowsyMs) this.getUp()
  }

  /** Another process of this worker's kind, or somebody who writes for it, has said something. */
  hear(news: string): void {
    const { consumer, worker } = this.#options
    if (news === gotUp(consumer) && !this.#state.is('watching')) {
      this.#isOutdated = true
      this.forget()
    } else if (news !== consumer) return
    worker.onWoken()
  }

  /** In this process, something is about to be written for it, or just was. What a sleeper needs to know, it is told. */
  expect(): void {
    if (this.isAsleep) return
    this.stir()
    this.#options.worker.onWoken()
  }

  /** The session is gone, and with it the lock and the notifications; or nobody watches any more. */
  forget(): void {
    this.#wakeUp()
    this.#busyAt = performance.now()
  }

  /** Relies on nobody any more, and nobody on it. */
  getUp(): void {
    const watches = this.#state.is('watching')
    this.#wakeUp()
    if (watches) this.#session.unwatch()
  }

  #wakeUp(): void {
    if (this.isAsleep) this.#state.go(this.#state.is('checking') ? 'asking' : 'awake')
  }

  /** How long to wait before looking again, where a look that has found nothing would wait for so long. */
  pause(ms: number): number {
    const now = performance.now()
    // With a backlog it would get up again at once, and each time tell the others.
    if (this.#options.worker.hasBacklog === true) this.getUp()
    else if (this.isAsleep || now >= this.#busyAt + drowsyMs) {
      const asks = this.#state.is('awake', 'watched') && now >= this.#askAt
      if (asks && this.#database.sessions && this.#session.isOpen) void this.#ask()
    }
    return this.rest(ms)
  }

  /** The same for what has to be done now and then, and of which the next is due in so long, if there is any. */
  rest(ms: number, dueInMs: number | null = null): number {
    const pauseMs = this.isAsleep ? Math.max(asleepMs, ms) : ms
    return Math.min(pauseMs, Math.max(1, dueInMs ?? Infinity))
  }

  /** Asks whether it may watch; or, of one that sleeps while somebody else watches, whether that is still so. */
  async #ask(): Promise<void> {
    this.#isOutdated = false
    this.#state.go(this.isAsleep ? 'checking' : 'asking')
    const { consumer, worker } = this.#options
    try {
      const { ours, watched } = await this.#session.watch(consumer)
      this.#askAt = performance.now() + (watched ? asleepMs : drowsyMs)
      const slept = this.isAsleep
      const isWatched = watched && !this.#isOutdated
      this.#state.go(ours ? 'watching' : isWatched ? 'watched' : 'awake')
      if (ours || (isWatched && !slept)) worker.onWoken()
    } catch {
      this.#state.go('awake')
      this.#busyAt = performance.now()
    }
  }
}
