import type { Database } from '../../src/database/database.ts'
import { redriveDeadLetters } from '../../src/operate/dead.ts'
import { soakSql } from '../sql/soak.ts'

const lookMs = 1000

/**
 * Redrives the dead letters that hold a key of the outbox back, as somebody on duty would. The others stay what they are: the
 * rest of their key has gone on, so it is too late for their order.
 */
export class Operator {
  redriven = 0
  readonly #database: Database
  readonly #timer: NodeJS.Timeout
  #looking: Promise<void> | null = null

  constructor(database: Database) {
    this.#database = database
    this.#timer = setInterval(() => {
      // The database may be out of reach just now; there is a next time.
      this.#looking ??= this.#look()
        .catch(() => {})
        .finally(() => (this.#looking = null))
    }, lookMs)
  }

  async stop(): Promise<void> {
    clearInterval(this.#timer)
    await this.#looking
  }

  async #look(): Promise<void> {
    const { schema } = this.#database
    const rows = await this.#database.query(soakSql(schema).holding)
    if (rows.length === 0) return
    const numbers = rows.slice(0, 500).map(({ number }) => number)
    this.redriven += (
      await redriveDeadLetters(this.#database, { consumer: null, numbers }, { by: 'soak' })
    ).count
  }
}
