import { setTimeout as sleep } from 'node:timers/promises'
import type { Database } from '../../src/database/database.ts'
import { withTransaction } from '../../src/database/transaction.ts'
import { soakSql } from '../sql/soak.ts'
import { isConflict, isPassing, sqlstate } from '../../src/database/sqlstate.ts'
import { TransactionError } from '../../src/base/errors.ts'
import type { NewMessage } from '../../src/message/message.ts'
import { report } from '../../src/terminal/failure.ts'
import { remarkLines } from '../../src/terminal/output.ts'
import { createOutbox, type Outbox } from '../../src/outbox/outbox.ts'
import type { Run } from '../stage/broker.ts'
import { now, type History } from './history.ts'
import { hashOf, type Body } from './message.ts'

export interface LoadOptions {
  readonly seed: number
  /** Messages per second, of this publisher. */
  readonly rate: number
  /** Webhooks, so many and no more; null for messages that are hard to bear, without an end. */
  readonly webhooks: number | null
  readonly keys: number
  /** One in so many messages ends the process of its first handler; 0 for none. */
  readonly oneInDies: number
}

/** A business transaction. */
export interface Transaction {
  readonly messages: readonly NewMessage[]
  /** Whether it takes the ordering lock of its keys: then they have an order of their commits. */
  readonly locked: boolean
  /** Whether it is rolled back after it has published. */
  readonly fails: boolean
  /** What it publishes and takes back by a savepoint, however the rest ends. */
  readonly part: NewMessage | null
}

/** Where the transactions come from. */
export interface Source {
  /** Whether one that has failed by itself comes again. */
  readonly persists: boolean
  /** The next ones, one after the other, of so many messages at most; none if there is nothing to do now. */
  next(atMost: number): Transaction[]
  /** The rest may come. */
  proceed(): void
}

/** How many business transactions run at a time. */
const concurrency = 3
/** So many transactions, and so many messages, fit into one life of a publisher. */
export const numbersPerLife = 1_000_000_000

/** Stands for whatever a business transaction can fail with after it has published. */
class RolledBack extends Error {}

/** Its place in the outbox has been given before: the sequence had gone back, and no worker has mended it yet. */
const isTaken = (error: unknown): boolean =>
  sqlstate(error) === '23505' && (error as { constraint?: string }).constraint === 'outbox_pkey'

/** Publishes as an application would, at a steady rate, and through any outage of the database. */
export class Load {
  readonly #database: Database
  readonly #history: History
  readonly #onPublished: (count: number) => void
  readonly #outbox: Outbox
  readonly #sql: ReturnType<typeof soakSql>
  readonly #source: Source
  #rate: number
  #due = 0
  #filledAt = performance.now()
  #tx: number
  #wanted = true
  #running: Promise<unknown> = Promise.resolve()

  constructor(parts: {
    readonly run: Run
    readonly database: Database
    readonly history: History
    readonly source: Source
    readonly rate: number
    /** No other publisher of the run has it. */
    readonly life: number
    readonly onPublished: (count: number) => void
  }) {
    this.#database = parts.database
    this.#history = parts.history
    this.#source = parts.source
    this.#onPublished = parts.onPublished
    this.#outbox = createOutbox({ schema: parts.run.schema })
    this.#sql = soakSql(parts.run.schema)
    this.#rate = parts.rate
    this.#tx = parts.life * numbersPerLife
  }

  start(): void {
    this.#running = Promise.all(Array.from({ length: concurrency }, () => this.#publish()))
    // Waited for when it is stopped; until then, what is wrong with it ends the process.
    this.#running.catch((error: unknown) => {
      remarkLines(report(error, true))
      process.exit(1)
    })
  }

  proceed(): void {
    this.#source.proceed()
  }

  setRate(perSecond: number): void {
    this.#fill()
    this.#rate = perSecond
  }

  async stop(): Promise<void> {
    this.#wanted = false
    await this.#running
  }

  #fill(): void {
    const at = performance.now()
    // Not more than a second's worth is made up for: after an outage there shall be no flood.
    this.#due = Math.min(this.#due + ((at - this.#filledAt) * this.#rate) / 1000, this.#rate)
    this.#filledAt = at
  }

  async #publish(): Promise<void> {
    while (this.#wanted) {
      this.#fill()
      const transactions = this.#due < 1 ? [] : this.#source.next(Math.ceil(this.#due))
      if (transactions.length === 0) await sleep(20)
      for (const transaction of transactions) {
        this.#due -= transaction.messages.length
        while (!(await this.#transact(transaction)) && this.#source.persists);
      }
    }
  }

  /** Whether it came to the end that it was to come to. */
  async #transact({ messages, locked, fails, part }: Transaction): Promise<boolean> {
    const tx = this.#tx++
    let written = 0
    const begun = now()
    this.#history.note('publish', tx, messages.length, begun)
    try {
      await withTransaction(this.#database, async (client) => {
        if (part !== null) {
          await client.query(this.#sql.savepoint)
          await this.#outbox.publishMany(client, [part], { orderingLock: locked })
          await client.query(this.#sql.undo)
        }
        const published = await this.#outbox.publishMany(client, messages, { orderingLock: locked })
        const fresh = messages.flatMap((message, index) =>
          published[index]!.duplicate ? [] : [{ ...message, id: published[index]!.id }],
        )
        const bodies = fresh.map(({ payload }) => payload as Body)
        written = fresh.length
        await this.#database.run(client, this.#sql.record, {
          numbers: bodies.map(({ n }) => n),
          ids: fresh.map(({ id }) => id),
          topics: fresh.map(({ topic }) => topic),
          keys: fresh.map(({ key }) => key ?? null),
          hashes: bodies.map((body) => hashOf(body)),
          tx,
          locked,
          dedupeKeys: fresh.map(({ dedupeKey }) => dedupeKey ?? null),
        })
        const known = published.flatMap(({ id, duplicate }, index) =>
          duplicate ? [{ id, dedupeKey: messages[index]!.dedupeKey }] : [],
        )
        if (known.length > 0) {
          await this.#database.run(client, this.#sql.duplicate, {
            ids: known.map(({ id }) => id),
            dedupeKeys: known.map(({ dedupeKey }) => dedupeKey ?? null),
          })
        }
        if (fails) throw new RolledBack()
        this.#history.note('commit', tx, written)
      })
      this.#history.note('ok', tx, written, begun)
      this.#onPublished(written)
      return true
    } catch (error) {
      const open = error instanceof TransactionError && error.code === 'COMMIT_UNKNOWN'
      this.#history.note(open ? 'info' : 'fail', tx, written, begun)
      if (error instanceof RolledBack) return true
      if (open) return false
      const passes =
        isPassing(error) || isConflict(error) || isTaken(error) || error instanceof TransactionError
      if (!passes) throw error
      await sleep(100)
      return false
    }
  }
}
