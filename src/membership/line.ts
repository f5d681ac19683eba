import type pg from 'pg'
import type { Connections } from '../database/connections.ts'
import type { Database } from '../database/database.ts'
import { destroy } from '../database/pool.ts'
import { gotUp, sleepSql } from '../database/sql/sleep.ts'
import type { Parameters } from '../database/sql/parameter.ts'
import type { Given, Statement } from '../database/sql/statement.ts'
import { isConnectionLost, sqlstate } from '../database/sqlstate.ts'

/** Whoever is on a line. */
export interface Listener {
  /** The line has ended by itself, or somebody had to end it. */
  onEnd(client: pg.Client): void
  onNotified(news: string): void
}

const lines = new WeakMap<Connections, Line>()

/**
 * The one connection, apart from the work, by which the workers of a process show that they live: it holds their advisory locks,
 * and hears the notifications for all of them. Each of them can leave it without a word to the others. Ended is it for all, and
 * only where it is of no more use.
 */
export class Line {
  readonly #listeners = new Set<Listener>()
  readonly #sql: ReturnType<typeof sleepSql>
  #client: pg.Client | null = null
  #opening: Promise<pg.Client> | null = null
  #turn: Promise<unknown> = Promise.resolve()
  /** By the monotonic clock, since when an answer is waited for; null if none is. */
  #waitsSince: number | null = null
  /** Consumers for whose sleepers it watches, and for how many. */
  readonly #watches = new Map<string, number>()
  readonly #asked = new Map<string, Promise<unknown>>()
  /** By the monotonic clock, when it was opened, and when one of its kind was told of a crash. */
  openedAt = -Infinity
  crashAt = -Infinity

  private constructor(schema: string) {
    this.#sql = sleepSql(schema)
  }

  /** That of all who share their connections. */
  static of({ connections, schema }: Pick<Database, 'connections' | 'schema'>): Line {
    const line = lines.get(connections) ?? new Line(schema)
    lines.set(connections, line)
    return line
  }

  /** The connection, opened unless it is. */
  async join(listener: Listener, database: Database): Promise<pg.Client> {
    while (this.#client === null) await (this.#opening ??= this.#open(database))
    this.#listeners.add(listener)
    return this.#client
  }

  /** One after the other: a client of pg has no queue that it would stand by. */
  async run<Takes extends Parameters, Row>(
    database: Pick<Database, 'runKept'>,
    client: pg.Client,
    statement: Statement<Takes, Row>,
    ...given: Given<Takes>
  ): Promise<Row[]> {
    const turn = this.#turn.then(async () => {
      if (this.#client !== client) throw new Error('Connection terminated: the worker gave its session up.')
      this.#waitsSince = performance.now()
      try {
        return await database.runKept(client, statement, ...given)
      } catch (error) {
        // What the server has answered says that it can be heard. It may have become one that takes no writes.
        const state = sqlstate(error)
        if (state === null || state === '25006' || isConnectionLost(error)) this.#end(client)
        throw error
      } finally {
        if (this.#client === client) this.#waitsSince = null
      }
    })
    this.#turn = turn.catch(() => {})
    return turn
  }

  /** On the connection as it is by now. */
  async runNow<Takes extends Parameters, Row>(
    database: Pick<Database, 'runKept'>,
    statement: Statement<Takes, Row>,
    ...given: Given<Takes>
  ): Promise<Row[]> {
    if (this.#client === null) throw new Error('Connection terminated: the worker gave its session up.')
    return this.run(database, this.#client, statement, ...given)
  }

  /**
   * Leaves at once. The last one ends it, and so does whoever has waited for an answer for so long: a connection that swallows bytes
   * would wait for its own end for ever, and with it all who wait for it.
   */
  drop(listener: Listener, client: pg.Client, patienceMs: number): void {
    this.#listeners.delete(listener)
    if (this.#client !== client) return
    const isSilent = this.#waitsSince !== null && performance.now() - this.#waitsSince >= patienceMs
    if (this.#listeners.size === 0 || isSilent) this.#end(client)
  }

  /** Leaves in good order: the last one waits for the end. */
  async leave(listener: Listener, client: pg.Client): Promise<void> {
    this.#listeners.delete(listener)
    if (this.#client !== client || this.#listeners.size > 0) return
    this.#forget()
    await client.end().catch(() => {})
  }

  /** Watches for one more sleeper of a consumer, if nobody else does. */
  async watch(
    database: Pick<Database, 'runKept'>,
    client: pg.Client,
    consumer: string,
  ): Promise<{ readonly ours: boolean; readonly watched: boolean }> {
    // Asked twice, the server would count it twice.
    while (this.#asked.has(consumer)) await this.#asked.get(consumer)
    const count = this.#client === client ? (this.#watches.get(consumer) ?? 0) : 0
    if (count > 0) {
      this.#watches.set(consumer, count + 1)
      return { ours: true, watched: false }
    }
    const asking = this.run(database, client, this.#sql.fallAsleep, { consumer })
    const asked = asking.catch(() => {}).then(() => this.#asked.delete(consumer))
    this.#asked.set(consumer, asked)
    const [found] = await asking
    if (found!.ours && this.#client === client) this.#watches.set(consumer, 1)
    return found!
  }

  /** For one less. With the last one nobody does, and who sleeps elsewhere is told. */
  unwatch(database: Pick<Database, 'runKept'>, client: pg.Client, consumer: string): void {
    if (this.#client !== client) return
    const left = (this.#watches.get(consumer) ?? 0) - 1
    if (left > 0) this.#watches.set(consumer, left)
    else if (this.#watches.delete(consumer))
      this.run(database, client, this.#sql.getUp, { consumer, news: gotUp(consumer) }).catch(() => {})
  }

  async #open(database: Database): Promise<pg.Client> {
    try {
      const client = await database.openSession()
      client.on('end', () => this.#end(client))
      client.on('notice', ({ code }) => {
        if (code === '57P02') this.crashAt = performance.now()
      })
      this.#client = client
      this.openedAt = performance.now()
      if (!database.sessions) return client
      client.on('notification', ({ payload }) => {
        if (this.#client === client)
          for (const listener of [...this.#listeners]) listener.onNotified(payload ?? '')
      })
      await this.run(database, client, this.#sql.listen).catch((error: unknown) => {
        this.#end(client)
        throw error
      })
      return client
    } finally {
      this.#opening = null
    }
  }

  #end(client: pg.Client): void {
    if (this.#client !== client) return
    const listeners = [...this.#listeners]
    this.#forget()
    destroy(client)
    for (const listener of listeners) listener.onEnd(client)
  }

  #forget(): void {
    this.#client = null
    this.#waitsSince = null
    this.#listeners.clear()
    this.#watches.clear()
  }
}
