import type pg from 'pg'
import { bounded, giveBack, surviveErrors, useClient } from '../database/client.ts'
import type { Database } from '../database/database.ts'
import { begin, commit } from '../database/sql/server.ts'

/** A pool's own rules, how old a connection may become or who is next, have to come round. */
const heldMsMax = 1000

/** The connection of one handler's transaction. */
export interface Seat {
  readonly client: pg.PoolClient
  /** By the monotonic clock, since when it has been away from its pool. */
  readonly since: number
  /** A transaction has been begun on it, and nothing done in it. */
  readonly begun: boolean
}

/**
 * The connections on which handlers' transactions run. While there is more to handle, what ends one transaction begins
 * the next on the same connection: a round trip less for each, and no way through the pool.
 */
export class Transactions {
  readonly #database: Database
  #begun: Seat[] = []

  constructor(database: Database) {
    this.#database = database
  }

  /** One with a transaction that another handler's end has begun, or one of the pool's. */
  take(): Seat | Promise<Seat> {
    const begun = this.#isWanted() ? undefined : this.#begun.pop()
    return begun ?? this.#connect()
  }

  async #connect(): Promise<Seat> {
    const client = await this.#database.pool.connect()
    surviveErrors(client)
    return { client, since: performance.now(), begun: false }
  }

  /** Begins the transaction, if that is still to be done. */
  async begin({ client, begun }: Seat): Promise<void> {
    // On a connection that swallows bytes it would never end.
    if (!begun) await client.query(bounded(begin))
  }

  /** Whether the next transaction may begin on it. Who waits for a connection of a pooler, only the pooler knows. */
  mayStay({ since }: Seat): boolean {
    return this.#database.sessions && !this.#isWanted() && performance.now() < since + heldMsMax
  }

  /** Whether somebody waits for a connection of the pool. */
  #isWanted(): boolean {
    return this.#database.pool.waitingCount > 0
  }

  /** Its transaction has been committed, and the next one begun if `begun`. */
  leave(seat: Seat, begun: boolean): void {
    if (begun) this.#begun.push({ ...seat, begun })
    else seat.client.release()
  }

  /** Something has gone wrong in its transaction. With `destroyed`, nobody shall ever use the connection again. */
  giveUp({ client }: Seat, error: unknown, destroyed: boolean): void {
    if (destroyed) client.release(true)
    else giveBack(client, error)
  }

  /** Ends those that nobody has taken. */
  async end(): Promise<void> {
    const idle = this.#begun
    if (idle.length === 0) return
    this.#begun = []
    await Promise.allSettled(
      idle.map(({ client }) => useClient(client, async () => client.query(bounded(commit)))),
    )
  }
}
