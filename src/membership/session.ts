import type pg from 'pg'
import type { Database } from '../database/database.ts'
import type { Parameters } from '../database/sql/parameter.ts'
import type { Given, Statement } from '../database/sql/statement.ts'
import { workerSql } from '../database/sql/worker.ts'
import { Line } from './line.ts'

export interface SessionOptions {
  /** It has ended by itself. */
  readonly onEnd: () => void
  /** Whatever has ended it, it is gone, with all that it held. */
  readonly onGone: () => void
  readonly onNotified: (payload: string) => void
  /** After so long without an answer, a worker that drops its session drops it for all others as well. */
  readonly patienceMs?: number
}

/**
 * What the connection shows of the server: it answers and takes writes, or no writes; it was told that another process of
 * the server's has crashed; or it is gone, has come anew, or leads to another server.
 */
export type Sight = 'well' | 'read-only' | 'crashed' | 'lost'

/**
 * A worker's part of a connection that is apart from the work: a full pool must not look like death. It holds the advisory lock that
 * Postgres frees within milliseconds after the process was killed. Other workers of the process may have theirs on the same one.
 */
export class Session {
  readonly #database: Database
  readonly #options: SessionOptions
  readonly #sql: ReturnType<typeof workerSql>
  readonly #line: Line
  #client: pg.Client | null = null
  /** Whose lock is held; null if none is. */
  #lockedId: number | null = null
  /** The consumer for whose sleepers it watches. */
  #watches: string | null = null

  constructor(database: Database, options: SessionOptions) {
    this.#database = database
    this.#options = options
    this.#sql = workerSql(database.schema)
    this.#line = Line.of(database)
  }

  get isOpen(): boolean {
    return this.#client !== null
  }

  /** Whether the lock is held. */
  get locked(): boolean {
    return this.#lockedId !== null
  }

  async open(): Promise<void> {
    this.#client = await this.#line.join(this.#listener, this.#database)
  }

  async run<Takes extends Parameters, Row>(
    statement: Statement<Takes, Row>,
    ...given: Given<Takes>
  ): Promise<Row[]> {
    return this.#line.run(this.#database, this.#opened(), statement, ...given)
  }

  /** How it is, if it was open before that moment and that server is behind it. */
  async look(since: number, server: string | null): Promise<Sight> {
    const client = this.#client
    if (client !== null && this.#line.openedAt < since) {
      const [seen] = await this.run(this.#sql.look).catch(() => [])
      if (seen?.server === server && this.#client === client) return seen.writable ? 'well' : 'read-only'
    }
    return this.#line.crashAt > since ? 'crashed' : 'lost'
  }

  /** Behind a pooler a session lock would belong to whoever uses the server connection next: then there is none. */
  async lock(workerId: number): Promise<void> {
    if (!this.#database.sessions) return
    const client = this.#client
    const [lock] = await this.run(this.#sql.lock, { id: workerId })
    if (lock!.locked && this.#client === client) this.#lockedId = workerId
  }

  /** Watches for those who sleep, unless somebody else does; others of this process may as well. */
  async watch(consumer: string): Promise<{ readonly ours: boolean; readonly watched: boolean }> {
    const client = this.#opened()
    const found = await this.#line.watch(this.#database, client, consumer)
    if (found.ours && this.#client !== client) {
      this.#line.unwatch(this.#database, client, consumer)
      throw new Error('Connection terminated: the worker gave its session up.')
    }
    if (found.ours) this.#watches = consumer
    return found
  }

  /** Watches no more. */
  unwatch(): void {
    if (this.#client !== null && this.#watches !== null)
      this.#line.unwatch(this.#database, this.#client, this.#watches)
    this.#watches = null
  }

  /** At once, and without a word to those who share the connection, unless it has to be ended for all of them. */
  drop(): void {
    const client = this.#client
    if (client === null) return this.#forget()
    void this.#leaveLocks(client)
    this.#line.drop(this.#listener, client, this.#options.patienceMs ?? Infinity)
    this.#forget()
  }

  async end(): Promise<void> {
    const client = this.#client
    if (client === null) return this.#forget()
    const left = this.#leaveLocks(client)
    this.#forget()
    await left
    await this.#line.leave(this.#listener, client)
  }

  /** The connection may live on, for others. */
  async #leaveLocks(client: pg.Client): Promise<void> {
    this.unwatch()
    const id = this.#lockedId
    if (id !== null) await this.#line.run(this.#database, client, this.#sql.unlock, { id }).catch(() => {})
  }

  #opened(): pg.Client {
    // Dropped by the watchdog, between two statements of a round.
    if (this.#client === null) throw new Error('Connection terminated: the worker gave its session up.')
    return this.#client
  }

  readonly #listener = {
    onEnd: (client: pg.Client): void => {
      if (this.#client !== client) return
      this.#forget()
      this.#options.onEnd()
    },
    onNotified: (news: string): void => this.#options.onNotified(news),
  }

  #forget(): void {
    this.#client = null
    this.#lockedId = null
    this.#watches = null
    this.#options.onGone()
  }
}
