import type { Database } from '../database/database.ts'
import { circuitSql } from '../database/sql/circuit.ts'
import { completionSql } from '../database/sql/completion.ts'
import { inboxSql } from '../database/sql/inbox.ts'
import type { Place } from '../database/sql/statement.ts'
import { unhandledSql } from '../database/sql/unhandled.ts'
import { waitingSql } from '../database/sql/waiting.ts'
import { distinct } from '../database/sql/parameter.ts'

/** A message that is held. The id too: after a failover that has lost the latest transactions its place is another one's. */
export interface Held extends Place {
  /** Of its lane or, without a key, its own: under which it was read. */
  readonly fence: number
  readonly id: string
}

export const placeOf = ({ lane, seq }: Place): string => `${lane} ${seq}`

/** A failed attempt of a message. */
export interface Failed<Of extends Held> {
  readonly of: Of
  /** How many there have been. */
  readonly attempt: number
  /** What its history says. */
  readonly record: string
}

export interface Deferred<Of extends Held> {
  readonly of: Of
  readonly attempt: number
  /** What its history says of this attempt; null if nothing has failed. */
  readonly record: string | null
  readonly retryInMs: number
}

export interface Buried<Of extends Held> {
  readonly of: Of
  readonly attempt: number
  readonly reason: string
  /** What its history says of this attempt; null if nothing has failed. */
  readonly record: string | null
}

/**
 * Ends what is held of one box: of a consumer's inbox or, with the consumer '', of the outbox. What holds keys back is in
 * `parking.ts`; nothing else writes what becomes of a message.
 *
 * Each statement names the fence under which the message was read, and each method returns those that were still held: what
 * it has not touched is in other hands, and nothing may be said of it. Events come after that.
 */
export class Settler {
  readonly #database: Database
  readonly #consumer: string
  readonly #sql: ReturnType<typeof statementsOf>

  constructor(database: Database, consumer: string) {
    this.#database = database
    this.#consumer = consumer
    this.#sql = statementsOf(database.schema, consumer)
  }

  /** They were handled. With a worker, a history is kept in the same statement. */
  async complete<Of extends Held & { readonly attempt: number; readonly server: string }>(
    held: readonly Of[],
    worker: number | null,
  ): Promise<readonly Of[]> {
    const ended: Of[] = []
    // Mostly they are all of one.
    for (const server of new Set(held.map((each) => each.server))) {
      const there = held.filter((each) => each.server === server)
      const attempts = there.map(({ attempt }) => attempt)
      const write = (claims: Claims): Promise<readonly Place[]> =>
        worker === null
          ? this.#database.keep(this.#sql.complete, { ...claims, server })
          : this.#database.keep(this.#sql.completeAndKeep, { ...claims, server, attempts, worker })
      ended.push(...(await this.#end(there, write)))
    }
    return ended
  }

  /** They have failed, and are tried again where they are. `attempt` is what is written down. */
  retry<Of extends Held>(failed: readonly Failed<Of>[]): Promise<readonly Of[]> {
    return this.#end(
      failed.map(({ of }) => of),
      (claims) =>
        this.#database.keep(this.#sql.retry, {
          ...claims,
          attempts: failed.map(({ attempt }) => attempt),
          errors: failed.map(({ record }) => record),
        }),
    )
  }

  /** They wait elsewhere for their next attempt; that of `avoid` only if nobody else is there. */
  defer<Of extends Held>(failed: readonly Deferred<Of>[], avoid: number | null): Promise<readonly Of[]> {
    const { numbers, once } = distinct(failed.map(({ record }) => record))
    return this.#end(
      failed.map(({ of }) => of),
      (claims) =>
        this.#database.keep(this.#sql.defer, {
          ...claims,
          delaysMs: failed.map(({ retryInMs }) => retryInMs),
          attempts: failed.map(({ attempt }) => attempt),
          errorNumbers: numbers,
          errors: once,
          avoid,
        }),
    )
  }

  /** They become dead letters. */
  bury<Of extends Held>(buried: readonly Buried<Of>[]): Promise<readonly Of[]> {
    const { numbers, once } = distinct(buried.map(({ record }) => record))
    return this.#end(
      buried.map(({ of }) => of),
      (claims) =>
        this.#database.keep(this.#sql.bury, {
          ...claims,
          attempts: buried.map(({ attempt }) => attempt),
          reasons: buried.map(({ reason }) => reason),
          errorNumbers: numbers,
          errors: once,
        }),
    )
  }

  /** Nobody here has a handler for them: they wait apart, and no attempt is counted. */
  setAside<Of extends Held>(held: readonly Of[]): Promise<readonly Of[]> {
    return this.#end(held, (claims) => this.#database.keep(this.#sql.setAside, claims))
  }

  /** More is in flight than can be kept while their topic pauses: they are due again later, and no attempt is counted. */
  putOff<Of extends Held>(held: readonly Of[], forMs: number): Promise<readonly Of[]> {
    return this.#end(held, (claims) => this.#database.keep(this.#sql.putOff, { ...claims, forMs }))
  }

  async #end<Of extends Held>(
    held: readonly Of[],
    write: (claims: Claims) => Promise<readonly Place[]>,
  ): Promise<readonly Of[]> {
    if (held.length === 0) return held
    const rows = await write({
      consumer: this.#consumer,
      lanes: held.map(({ lane }) => lane),
      seqs: held.map(({ seq }) => seq),
      fences: held.map(({ fence }) => fence),
      ids: held.map(({ id }) => id),
    })
    // Mostly all of them.
    if (rows.length === held.length) return held
    const ended = new Set(rows.map(placeOf))
    return held.filter((each) => ended.has(placeOf(each)))
  }
}

/** What is held, as each of the statements names it. */
interface Claims {
  readonly consumer: string
  readonly lanes: readonly number[]
  readonly seqs: readonly number[]
  readonly fences: readonly number[]
  readonly ids: readonly string[]
}

const statementsOf = (schema: string, consumer: string) => {
  const { defer, bury, deferOutbox, buryOutbox } = waitingSql(schema)
  return {
    ...completionSql(schema),
    retry: inboxSql(schema).fail,
    ...(consumer === '' ? { defer: deferOutbox, bury: buryOutbox } : { defer, bury }),
    setAside: unhandledSql(schema).setAside,
    putOff: circuitSql(schema).putOff,
  }
}
