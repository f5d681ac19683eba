import type { Database } from '../database/database.ts'
import { sleepSql } from '../database/sql/sleep.ts'
import type { Session } from './session.ts'
import type { MembershipOptions } from './workers.ts'

/** So long without work, a worker falls asleep: sooner than the pauses between its looks would become long. */
const drowsyMs = 20
/** So often a sleeper looks all the same: after a lease that lapsed, or a watcher that died, nobody wakes it. */
const asleepMs = 1000

/**
 * The sleep of a worker that finds nothing to do: instead of looking again and again, it has itself woken by whoever
 * writes something for it.
 *
 * One of the sleepers of a consumer holds a lock, by which writers know that they have to wake them; the others hear it
 * as well. Before it relies on that, it looks once more: what was written before the lock was held, nobody tells it.
 * Behind a pooler, where a session has neither locks nor notifications, nobody sleeps.
 */
export class Sleep {
  readonly #database: Database
  readonly #session: Session
  readonly #consumer: string
  readonly #hasBacklog: MembershipOptions['hasBacklog']
  readonly #onWoken: () => void
  #asleep = false
  /** Whether the lock is ours. */
  #watches = false
  /** Whether it is just being asked who watches, and when that may be asked next. */
  #asking = false
  #askAt = 0
  #busyAt = performance.now()

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
    this.#busyAt = performance.now()
    if (this.#asleep) this.#getUp(true)
  }

  /** Somebody has written something for this consumer. */
  wake(consumer: string): void {
    if (consumer !== this.#consumer) return
    this.#busyAt = performance.now()
    if (this.#asleep) this.#getUp(false)
    this.#onWoken()
  }

  /** The session is gone, and with it the lock and the notifications. */
  forget(): void {
    this.#asleep = false
    this.#watches = false
    this.#busyAt = performance.now()
  }

  /** How long to wait before looking again, where a look that has found nothing would wait for so long. */
  pause(ms: number): number {
    const now = performance.now()
    // With a backlog it would get up again at once, and each time tell the others.
    const drowsy = now >= this.#busyAt + drowsyMs && this.#hasBacklog?.() !== true
    const asks = !this.#watches && !this.#asking && now >= this.#askAt
    if (drowsy && asks && this.#database.sessions && this.#session.isOpen) void this.#fallAsleep()
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
    const busyAt = this.#busyAt
    const sql = sleepSql(this.#database.schema)
    try {
      const [found] = await this.#session.run<{ ours: boolean; watched: boolean }>(sql.fallAsleep, [
        this.#consumer,
      ])
      const { ours, watched } = found!
      this.#watches = ours
      // Woken meanwhile.
      if (this.#busyAt !== busyAt) return this.#getUp(true)
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

  #getUp(tell: boolean): void {
    const watched = this.#watches
    this.#asleep = false
    this.#watches = false
    if (!watched) return
    const { getUp } = sleepSql(this.#database.schema)
    this.#session.run(getUp, [this.#consumer, tell]).catch(() => {})
  }
}
