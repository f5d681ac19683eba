import { setTimeout as sleep } from 'node:timers/promises'
import type { Database } from '../../src/database/database.ts'
import { demoSql } from '../sql/demo.ts'
import type { View } from '../stage/view.ts'
import type { DemoRun } from './run.ts'

/** Nothing of this may hang: the longest that a run may take, and that it may stand still. */
const deadlineMs = (messages: number): number => 90_000 + messages * 30
const standstillMs = 30_000

/** What has not reached its end yet. */
/** Looks how far things are until they are where they should be, and not for ever. */
export class Watch {
  published = 0
  handled = 0
  /** What a worker met last. */
  complaint = ''
  #changedAt = performance.now()
  readonly #run: DemoRun
  readonly #database: Database
  readonly #view: View
  readonly #startedAt: number

  constructor(run: DemoRun, database: Database, view: View, startedAt: number) {
    this.#run = run
    this.#database = database
    this.#view = view
    this.#startedAt = startedAt
  }

  get stoodStillMs(): number {
    return performance.now() - this.#changedAt
  }

  async until(
    condition: (progress: { published: number; handled: number }) => Promise<boolean>,
  ): Promise<void> {
    const sql = demoSql(this.#run.schema)
    for (;;) {
      const [now] = await this.#database.query(sql.progress)
      if (now!.published !== this.published || now!.handled !== this.handled)
        this.#changedAt = performance.now()
      ;({ published: this.published, handled: this.handled } = now!)
      this.#view.update(this.published, this.handled)
      if (await condition(now!)) return
      const late = performance.now() - this.#startedAt > deadlineMs(this.#run.messages)
      if (late || this.stoodStillMs > standstillMs) throw new Error(await this.#diagnosis(late))
      await sleep(50)
    }
  }

  async #diagnosis(late: boolean): Promise<string> {
    const [left] = await this.#database.query(demoSql(this.#run.schema).left)
    const { outbox, inbox, deferred, parked, dead_letters: dead, reason } = left!
    return (
      `${late ? 'The demo took too long' : `Nothing has happened for ${standstillMs / 1000} s`}: of ${this.#run.messages} messages ` +
      `${this.published} were published and ${this.handled} handled; ${outbox} are in the outbox, ${inbox} in the inbox, ` +
      `${deferred} deferred, ${parked} parked, ${dead} dead letters${reason === null ? '' : ` (${reason})`}.` +
      (this.complaint === '' ? '' : ` The last complaint came from ${this.complaint}`)
    )
  }
}
