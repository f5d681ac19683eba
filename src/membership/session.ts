import type { Parameters } from '../database/sql/parameter.ts'
import type { sleepSql } from '../database/sql/sleep.ts'
import type { Given, Statement } from '../database/sql/statement.ts'
import type { workerSql } from '../database/sql/worker.ts'
import type pg from 'pg'
import type { Database } from '../database/database.ts'

export interface SessionOptions {
  readonly lock: ReturnType<typeof workerSql>['lock']
  readonly listen: ReturnType<typeof sleepSql>['listen']
  /** The connection has ended by itself. */
  readonly onEnd: () => void
  /** Whatever has ended it, it is gone, with all that it held. */
  readonly onGone: () => void
  readonly onNotified: (payload: string) => void
}

/**
 * What the connection shows of the server: it answers and takes writes, or no writes; it was told that another process of
 * the server's has crashed; or it is gone, has come anew, or leads to another server.
 */
export type Sight = 'well' | 'read-only' | 'crashed' | 'lost'

/**
 * A worker's own connection, apart from the work: a full pool must not look like death. It holds the advisory lock that
 * Postgres frees within milliseconds after the process was killed.
 */
export class Session {
  /** Whether the lock is held. */
  locked = false
  readonly #database: Database
  readonly #options: SessionOptions
  #client: pg.Client | null = null
  /** By the monotonic clock, when it was opened, and when one of its kind was told of a crash. */
  #openedAt = -Infinity
  #crashAt = -Infinity
  #turn: Promise<unknown> = Promise.resolve()

  constructor(database: Database, options: SessionOptions) {
    this.#database = database
    this.#options = options
  }

  get isOpen(): boolean {
    return this.#client !== null
  }

  async open(): Promise<void> {
    const client = await this.#database.openSession()
    client.on('end', () => {
      if (this.#client !== client) return
      this.#forget()
      this.#options.onEnd()
    })
    client.on('notice', ({ code }) => {
      if (code === '57P02') this.#crashAt = performance.now()
    })
    this.#client = client
    this.#openedAt = performance.now()
    if (!this.#database.sessions) return
    client.on('notification', ({ payload }) => this.#options.onNotified(payload ?? ''))
    await this.run(this.#options.listen)
  }

  async run<Takes extends Parameters, Row>(
    statement: Statement<Takes, Row>,
    ...given: Given<Takes>
  ): Promise<Row[]> {
    const client = this.#client
    // Dropped by the watchdog, between two statements of a round.
    if (client === null) throw new Error('Connection terminated: the worker gave its session up.')
    // One after the other: a client of pg has no queue that it would stand by.
    const turn = this.#turn.then(() => this.#database.runKept(client, statement, ...given))
    this.#turn = turn.catch(() => {})
    return turn
  }

  /** How it is, if it was open before that moment and that server is behind it. */
  async look(
    statement: ReturnType<typeof workerSql>['look'],
    since: number,
    server: string | null,
  ): Promise<Sight> {
    const client = this.#client
    if (client !== null && this.#openedAt < since) {
      const [seen] = await this.run(statement).catch(() => [])
      if (seen?.server === server && this.#client === client) return seen.writable ? 'well' : 'read-only'
    }
    return this.#crashAt > since ? 'crashed' : 'lost'
  }

  /** Behind a pooler a session lock would belong to whoever uses the server connection next: then there is none. */
  async lock(workerId: number): Promise<void> {
    if (!this.#database.sessions) return
    const [lock] = await this.run(this.#options.lock, { id: workerId })
    this.locked = lock!.locked
  }

  /** At once: a connection that swallows bytes would wait for its own end for ever, and with it whoever waits for it. */
  drop(): void {
    const client = this.#client as unknown as { connection: { stream: { destroy(): void } } } | null
    this.#forget()
    client?.connection.stream.destroy()
  }

  async end(): Promise<void> {
    const client = this.#client
    this.#forget()
    await client?.end().catch(() => {})
  }

  #forget(): void {
    this.#client = null
    this.locked = false
    this.#options.onGone()
  }
}
