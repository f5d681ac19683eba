import type { Database } from '../database/database.ts'
import { gotUp, sleepSql } from '../database/sql/sleep.ts'
import type { Session } from './session.ts'
import type { MembershipOptions } from './options.ts'

/** So long without work, a worker falls asleep; and after so long with it, one that was woken gets up. */
const drowsyMs = 20
/** So often a sleeper looks all the same: after a lease that lapsed, or a watcher that died, nobody wakes it. */
const asleepMs = 1250

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
  readonly #database: Database
  readonly #session: Session
  readonly #consumer: string
  readonly #hasBacklog: MembershipOptions['hasBacklog']
  readonly #onWoken: () => void
  /** Whether it relies on being told of what is written. */
  #asleep = false
  /** Whether the lock is ours. */
  #watches = false
  /** Whether it is just being asked who watches, and when that may be asked next. */
  #asking = false
  #askAt = 0
  /** When there was work, and since when there has been, without a pause in which it could have fallen asleep. */
  #busyAt = performance.now()
  #busySince = this.#busyAt

  constructor(
    database: Database,
    session: Session,
    { consumer, hasBacklog, onWoken }: Pick<MembershipOptions, 'consumer' | 'hasBacklog' | 'onWoken'>,
  ) {
    this.#database = database
    this.#session = session
    this.#consumer = consumer
    this.#hasBacklog = hasBacklog
    this.#onWoken = onWoken
  }

  get isAsleep(): boolean {
    return this.#asleep
  }

  /** There is work, found by looking. */
  stir(): void {
    const now = performance.now()
    if (now >= this.#busyAt + drowsyMs) this.#busySince = now
    this.#busyAt = now
    // Whoever notifies waits at its commit for all others that do: with so much to do, nobody shall have to.
    if (this.#asleep && now >= this.#busySince + drowsyMs) this.getUp()
  }

  /** Another process of this worker's kind, or somebody who writes for it, has said something. */
  hear(news: string): void {
    if (news === gotUp(this.#consumer) && !this.#watches) {
      this.#asleep = false
      this.#busyAt = performance.now()
    } else if (news !== this.#consumer) return
    this.#onWoken()
  }

  /** In this process, something is about to be written for it, or just was. What a sleeper needs to know, it is told. */
  expect(): void {
    if (this.#asleep) return
    this.stir()
    this.#onWoken()
  }

  /** The session is gone, and with it the lock and the notifications. */
  forget(): void {
    this.#asleep = false
    this.#watches = false
    this.#busyAt = performance.now()
  }

  /** Relies on nobody any more, and nobody on it. */
  getUp(): void {
    this.#asleep = false
    if (!this.#watches) return
    this.#watches = false
    const { getUp } = sleepSql(this.#database.schema)
    this.#session.run(getUp, [this.#consumer, gotUp(this.#consumer)]).catch(() => {})
  }

  /** How long to wait before looking again, where a look that has found nothing would wait for so long. */
  pause(ms: number): number {
    const now = performance.now()
    // With a backlog it would get up again at once, and each time tell the others.
    if (this.#hasBacklog?.() === true) this.getUp()
    else if (this.#asleep || now >= this.#busyAt + drowsyMs) {
      const asks = !this.#watches && !this.#asking && now >= this.#askAt
      if (asks && this.#database.sessions && this.#session.isOpen) void this.#fallAsleep()
    }
    return this.rest(ms)
  }

  /** The same for what has to be done now and then, and of which the next is due in so long, if there is any. */
  rest(ms: number, dueInMs: number | null = null): number {
    const pauseMs = this.#asleep ? Math.max(asleepMs, ms) : ms
    return Math.min(pauseMs, Math.max(1, dueInMs ?? Infinity))
  }

  /** Or, of one that sleeps while somebody else watches, looks whether that is still so. */
  async #fallAsleep(): Promise<void> {
    this.#asking = true
    const sql = sleepSql(this.#database.schema)
    try {
      const [found] = await this.#session.run<{ ours: boolean; watched: boolean }>(sql.fallAsleep, [
        this.#consumer,
      ])
      const { ours, watched } = found!
      this.#watches = ours
      this.#askAt = performance.now() + (watched ? asleepMs : drowsyMs)
      const before = this.#asleep
      this.#asleep = ours || watched
      if (ours || (this.#asleep && !before)) this.#onWoken()
    } catch {
      this.forget()
    } finally {
      this.#asking = false
    }
  }
}
