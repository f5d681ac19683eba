import { describeError } from '../base/errors.ts'
import type { Database } from '../database/database.ts'
import { limited } from '../database/limited.ts'
import { examineWork } from '../doctor/work.ts'
import type { Finding } from '../doctor/finding.ts'

export interface Diagnosis {
  readonly at: Date
  readonly findings: readonly Finding[]
  /** Why the doctor could not look, or null. */
  readonly failure: string | null
}

/** The doctor counts what has waited for too long, which takes a second with a million: so of the time, one part in so many. */
const sparing = 400
/** And after so long the server ends each of its statements: one that waits for a lock, by which others wait behind it. */
export const lookMs = 5000
const everyMs = { min: 20_000, max: 600_000 }

/** What the doctor says of the work, looked at again from time to time while somebody watches. */
export class Findings {
  latest: Diagnosis | null = null
  readonly #database: Database
  readonly #now: () => Date
  #dueAt = -Infinity
  #running: Promise<void> | null = null

  /** @param now by the database's clock */
  constructor(database: Database, now: () => Date) {
    this.#database = database
    this.#now = now
  }

  /** Looks if it is time to. The end of it is not waited for, unless nothing is known yet. */
  async refresh(): Promise<void> {
    if (this.#running === null && performance.now() >= this.#dueAt) {
      this.#running = this.#look().finally(() => void (this.#running = null))
    }
    if (this.latest === null) await this.#running
  }

  async close(): Promise<void> {
    this.#dueAt = Infinity
    await this.#running
  }

  async #look(): Promise<void> {
    const startedAt = performance.now()
    try {
      this.latest = {
        at: this.#now(),
        findings: await examineWork(limited(this.#database, lookMs)),
        failure: null,
      }
    } catch (error) {
      this.latest = { at: this.#now(), findings: this.latest?.findings ?? [], failure: describeError(error) }
    }
    const now = performance.now()
    this.#dueAt = Math.max(
      this.#dueAt,
      now + Math.min(everyMs.max, Math.max(everyMs.min, (now - startedAt) * sparing)),
    )
  }
}
