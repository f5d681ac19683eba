import { randomBytes } from 'node:crypto'
import { describeError, OptionError } from '../base/errors.ts'

/** Work on many messages that a form has started: how far it is, and what has come of it. */
export interface Job {
  readonly id: string
  /** What is done to what: `Redrive dead letters of billing`. */
  readonly title: string
  readonly by: string
  readonly reason: string | null
  readonly startedAt: Date
  readonly endedAt: Date | null
  /** `stopping`: it was told to stop, and ends after the batch that it is at. */
  readonly state: 'running' | 'stopping' | 'done' | 'stopped' | 'failed'
  /** How many the dry run has counted; null if it did not count to the end. */
  readonly expected: number | null
  readonly done: number
  /** What has come of it, in words; null while it runs. */
  readonly said: string | null
}

/** How a job is told to end, and tells how far it is. */
export interface Watch {
  readonly signal: AbortSignal
  readonly onProgress: (done: number) => void
}

/** So many at a time: each holds a connection while a batch of its runs. */
const runningMax = 3
/** So many that have ended are remembered; the audit remembers all that they did. */
const endedMax = 50

/**
 * What forms have started and goes on beside the pages: it needs no browser, and ends with the dashboard. Its list is this
 * process's alone and is gone with it; what was done until then stays done, and stands in the audit.
 */
export class Jobs {
  readonly #jobs = new Map<string, Job>()
  readonly #running = new Map<string, { readonly stopping: AbortController; ended: Promise<void> }>()

  readonly #now: () => Date
  readonly #onChange: () => void

  /** @param now by the database's clock. @param onChange called whenever one has changed */
  constructor(now: () => Date, onChange: () => void = () => undefined) {
    this.#now = now
    this.#onChange = onChange
  }

  /** The latest first. */
  get all(): readonly Job[] {
    return [...this.#jobs.values()].toReversed()
  }

  find(id: string | null): Job | null {
    return id === null ? null : (this.#jobs.get(id) ?? null)
  }

  /**
   * Starts one. `work` resolves with what it says at the end, also if it was stopped.
   *
   * @throws OptionError if three are running
   */
  start(
    what: Pick<Job, 'title' | 'by' | 'reason' | 'expected'>,
    work: (watch: Watch) => Promise<string>,
  ): Job {
    if (this.#running.size >= runningMax) {
      throw new OptionError(
        'jobs',
        `${runningMax} jobs are running in this process: wait for one of them to end, or stop it. Nothing was changed.`,
      )
    }
    const id = randomBytes(9).toString('base64url')
    const state = { startedAt: this.#now(), endedAt: null, state: 'running', done: 0, said: null } as const
    this.#jobs.set(id, { id, ...what, ...state })
    const running = { stopping: new AbortController(), ended: Promise.resolve() }
    this.#running.set(id, running)
    running.ended = this.#run(id, work, running.stopping.signal)
    return this.#jobs.get(id)!
  }

  async #run(id: string, work: (watch: Watch) => Promise<string>, signal: AbortSignal): Promise<void> {
    try {
      const said = await work({ signal, onProgress: (done) => this.#change(id, { done }) })
      this.#change(id, { state: signal.aborted ? 'stopped' : 'done', said })
    } catch (error) {
      // What a signal ends with is no failure.
      const isStop = signal.aborted && error === signal.reason
      this.#change(id, { state: isStop ? 'stopped' : 'failed', said: isStop ? '' : describeError(error) })
    }
    this.#change(id, { endedAt: this.#now() })
    this.#running.delete(id)
    const ended = [...this.#jobs.keys()].filter((each) => !this.#running.has(each))
    for (const old of ended.slice(0, Math.max(0, ended.length - endedMax))) this.#jobs.delete(old)
  }

  /** Tells a job to end after the batch that it is at. False if it does not run. */
  stop(id: string): boolean {
    const running = this.#running.get(id)
    if (running === undefined) return false
    this.#change(id, { state: 'stopping' })
    running.stopping.abort()
    return true
  }

  /** Stops all, and waits until they have ended. */
  async close(): Promise<void> {
    const running = [...this.#running.entries()]
    for (const [id] of running) this.stop(id)
    await Promise.all(running.map(([, { ended }]) => ended))
  }

  #change(id: string, to: Partial<Job>): void {
    this.#jobs.set(id, { ...this.#jobs.get(id)!, ...to })
    this.#onChange()
  }
}
