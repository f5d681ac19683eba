import type pg from 'pg'
import type { Database, Statement } from '../database/database.ts'

/**
 * A worker's own connection, apart from the work: a full pool must not look like death. It holds the advisory lock that
 * Postgres frees within milliseconds after the process was killed.
 */
export class Session {
  /** Whether the lock is held. */
  locked = false
  readonly #database: Database
  readonly #lockStatement: Statement
  readonly #onEnd: () => void
  #client: pg.Client | null = null

  constructor(database: Database, lockStatement: Statement, onEnd: () => void) {
    this.#database = database
    this.#lockStatement = lockStatement
    this.#onEnd = onEnd
  }

  get isOpen(): boolean {
    return this.#client !== null
  }

  async open(): Promise<void> {
    const client = await this.#database.openSession()
    client.on('end', () => {
      if (this.#client !== client) return
      this.#client = null
      this.locked = false
      this.#onEnd()
    })
    this.#client = client
  }

  async run<Row>(statement: Statement, values: readonly unknown[] = []): Promise<Row[]> {
    // Dropped by the watchdog, between two statements of a round.
    if (this.#client === null) throw new Error('Connection terminated: the worker gave its session up.')
    return this.#database.run<Row>(this.#client, statement, values)
  }

  /** Behind a pooler a session lock would belong to whoever uses the server connection next: then there is none. */
  async lock(workerId: number): Promise<void> {
    if (!this.#database.sessions) return
    const [lock] = await this.run<{ locked: boolean }>(this.#lockStatement, [workerId])
    this.locked = lock!.locked
  }

  /** At once: a connection that swallows bytes would wait for its own end for ever, and with it whoever waits for it. */
  drop(): void {
    const client = this.#client as unknown as { connection: { stream: { destroy(): void } } } | null
    this.#client = null
    this.locked = false
    client?.connection.stream.destroy()
  }

  async end(): Promise<void> {
    const client = this.#client
    this.#client = null
    await client?.end().catch(() => {})
  }
}
