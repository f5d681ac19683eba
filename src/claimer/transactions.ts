import type pg from 'pg'
import { bounded, surviveErrors, useClient } from '../database/client.ts'
import type { Database } from '../database/database.ts'
import { evidenceOf, type Evidence } from '../database/evidence.ts'
import { begin, commit, rollback, takesWrites } from '../database/sql/server.ts'
import { sqlstate } from '../database/sqlstate.ts'

/** A pool's own rules, how old a connection may become or who is next, have to come round. */
const heldMsMax = 1000
/** Nothing waits for a lock to roll back. It may wait for a statement that a handler has left running. */
const rollbackMsMax = 5000

/** The connection of one handler's transaction. */
export interface PooledConnection {
  readonly client: pg.PoolClient
  readonly evidence: Evidence
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
  #begun: PooledConnection[] = []

  constructor(database: Database) {
    this.#database = database
  }

  /** One with a transaction that another handler's end has begun, or one of the pool's. */
  take(): PooledConnection | Promise<PooledConnection> {
    if (this.#isWanted()) return this.#connect()
    for (;;) {
      const begun = this.#begun.pop()
      if (begun === undefined) return this.#connect()
      begun.evidence.forget()
      if (begun.evidence.gone === null) return begun
      // What has happened to it while nobody had it is not the next message's fault.
      begun.client.release(true)
    }
  }

  async #connect(): Promise<PooledConnection> {
    const client = await this.#database.connect()
    surviveErrors(client)
    const evidence = evidenceOf(client)
    evidence.forget()
    return { client, evidence, since: performance.now(), begun: false }
  }

  /** Begins the transaction, if that is still to be done. */
  async begin({ client, begun }: PooledConnection): Promise<void> {
    // On a connection that swallows bytes it would never end.
    if (!begun) await client.query(bounded(begin))
  }

  /** Whether the next transaction may begin on it. Who waits for a connection of a pooler, only the pooler knows. */
  mayStay({ since }: PooledConnection): boolean {
    return this.#database.sessions && !this.#isWanted() && performance.now() < since + heldMsMax
  }

  /** Whether somebody waits for a connection of the pool. */
  #isWanted(): boolean {
    return this.#database.pool.waitingCount > 0
  }

  /** Its transaction has been committed, and the next one begun if `begun`. */
  leave(pooled: PooledConnection, begun: boolean): void {
    if (begun) this.#begun.push({ ...pooled, begun })
    else pooled.client.release()
  }

  /** Nobody shall ever use the connection again: the handler that had it may still be running. */
  discard({ client }: PooledConnection): void {
    client.release(true)
  }

  /**
   * Something has gone wrong in its transaction, which is rolled back. Whether the connection was sound, and has gone
   * back to its pool; only trying tells.
   */
  async rollBack({ client, evidence }: PooledConnection): Promise<boolean> {
    const sound = evidence.gone === null && (await this.#undo(client, evidence).catch(() => false))
    client.release(!sound)
    return sound
  }

  async #undo(client: pg.PoolClient, { heard }: Evidence): Promise<boolean> {
    await client.query(bounded(rollback, rollbackMsMax))
    if (sqlstate(heard) !== '25006') return true
    // The server was demoted; or the handler has made its own transaction read-only.
    const { rows } = await client.query<{ writable: boolean }>(bounded(takesWrites))
    return rows[0]!.writable
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
