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
  #state: 'awake' | 'dozing' | 'asleep' = 'awake'
  /** Whether the lock is ours. */
  #watches = false
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

  /** There is work, found by looking. */
  stir(): void {
    this.#busyAt = performance.now()
    if (this.#state !== 'awake') this.#getUp(true)
  }

  /** Somebody has written something for this consumer. */
  wake(consumer: string): void {
    if (consumer !== this.#consumer) return
    this.#busyAt = performance.now()
    if (this.#state !== 'awake') this.#getUp(false)
    this.#onWoken()
  }

  /** The session is gone, and with it the lock and the notifications. */
  forget(): void {
    this.#state = 'awake'
    this.#watches = false
    this.#busyAt = performance.now()
  }

  /** How long to wait before looking again, where a look that has found nothing would wait for so long. */
  pause(ms: number): number {
    // With a backlog it would get up again at once, and each time tell the others.
    const drowsy = performance.now() - this.#busyAt >= drowsyMs && this.#hasBacklog?.() !== true
    if (
      drowsy &&
      this.#database.sessions &&
      this.#session.isOpen &&
      this.#state !== 'dozing' &&
      !this.#watches
    )
      void this.#fallAsleep()
    return this.rest(ms)
  }

  /** The same for what has to be done now and then, and of which the next is due in so long, if there is any. */
  rest(ms: number, dueInMs: number | null = null): number {
    const pauseMs = this.#state === 'asleep' ? Math.max(asleepMs, ms) : ms
    return Math.min(pauseMs, Math.max(1, dueInMs ?? Infinity))
  }

  async #fallAsleep(): Promise<void> {
    const before = this.#state
    this.#state = 'dozing'
    const busyAt = this.#busyAt
    const sql = sleepSql(this.#database.schema)
    try {
      const [found] = await this.#session.run<{ ours: boolean; watched: boolean }>(sql.fallAsleep, [
        this.#consumer,
      ])
      this.#watches = found!.ours
      // Woken meanwhile.
      if (this.#busyAt !== busyAt) return this.#getUp(true)
      this.#busyAt = performance.now() - (found!.ours ? drowsyMs : 0)
      this.#state = found!.ours || found!.watched ? 'asleep' : 'awake'
      if (this.#state === 'asleep' && before !== 'asleep') this.#onWoken()
    } catch {
      this.forget()
    }
  }

  #getUp(tell: boolean): void {
    const watched = this.#watches
    this.#state = 'awake'
    this.#watches = false
    if (!watched) return
    const { getUp } = sleepSql(this.#database.schema)
    this.#session.run(getUp, [this.#consumer, tell]).catch(() => {})
  }
}
