import type { Database } from '../../src/database/database.ts'
import { withTransaction } from '../../src/database/transaction.ts'
import { soakSql } from '../sql/soak.ts'
import { isConnectionLost, isPassing, sqlstate } from '../../src/database/sqlstate.ts'
import { TransactionError } from '../../src/base/errors.ts'
import type { NewMessage } from '../../src/message/message.ts'
import { createOutbox, type Outbox } from '../../src/outbox/outbox.ts'
import type { Run } from '../stage/broker.ts'
import { now, type History } from './history.ts'
import { hashOf, type Body, type Temper } from './message.ts'
import { Random } from './random.ts'

export interface LoadOptions {
  readonly seed: number
  /** Messages per second, of this publisher. */
  readonly rate: number
  readonly keys: number
  /** One in so many messages ends the process of its first handler; 0 for none. */
  readonly oneInDies: number
}

/** How many business transactions run at a time. */
const concurrency = 3
const batchMax = 24
/** So many keys are hot: a third of all messages with a key are theirs. */
const hotKeys = 16
/** Of the ways in which messages are handled. */
const shares = { 'soak.single': 2, 'soak.batch': 1, 'soak.plain': 1 } as const
/** Of all messages, and how large these are: as large as a message of RabbitMQ or Kafka usually may be, less its headers. */
const oneInLarge = 1 / 1000
const largeLength = 1_000_000
/** So many messages fit into one life of a publisher. */
const numbersPerLife = 1_000_000_000

/** Stands for whatever a business transaction can fail with after it has published. */
class RolledBack extends Error {}

/** Its place in the outbox has been given before: the sequence had gone back, and no worker has mended it yet. */
const isTaken = (error: unknown): boolean =>
  sqlstate(error) === '23505' && (error as { constraint?: string }).constraint === 'outbox_pkey'

/** Publishes as an application would, at a steady rate, and through any outage of the database. */
export class Load {
  readonly #database: Database
  readonly #history: History
  readonly #options: LoadOptions
  readonly #onPublished: (count: number) => void
  readonly #outbox: Outbox
  readonly #sql: ReturnType<typeof soakSql>
  #random = new Random(0)
  #rate: number
  #due = 0
  #filledAt = performance.now()
  #n = 0
  #wanted = true
  #running: Promise<unknown> = Promise.resolve()

  constructor(
    run: Run,
    database: Database,
    history: History,
    options: LoadOptions,
    onPublished: (count: number) => void,
  ) {
    this.#database = database
    this.#history = history
    this.#options = options
    this.#onPublished = onPublished
    this.#outbox = createOutbox({ schema: run.schema })
    this.#sql = soakSql(run.schema)
    this.#rate = options.rate
  }

  async start(): Promise<void> {
    const life = await this.#insist(async () => {
      const [row] = await this.#database.query(this.#sql.life)
      return row!.life
    })
    this.#random = new Random(this.#options.seed * 1000 + life)
    this.#n = life * numbersPerLife
    this.#running = Promise.all(Array.from({ length: concurrency }, () => this.#publish()))
    // Waited for when it is stopped; until then, what is wrong with it ends the process.
    this.#running.catch((error: unknown) => {
      process.stderr.write(`${error instanceof Error ? error.stack : String(error)}\n`)
      process.exit(1)
    })
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
      if (this.#due < 1) {
        await new Promise((resolve) => setTimeout(resolve, 20))
        continue
      }
      const count = Math.min(this.#random.whole(1, batchMax), Math.ceil(this.#due))
      this.#due -= count
      await this.#transact(count)
    }
  }

  async #transact(count: number): Promise<void> {
    const random = this.#random
    const tx = this.#n
    const locked = random.chance(0.5)
    const messages = Array.from({ length: count }, () => this.#message(locked))
    const fails = random.chance(0.05)
    const partly = random.chance(0.05)
    let written = 0
    const begun = now()
    this.#history.note('publish', tx, count, begun)
    try {
      await withTransaction(this.#database, async (client) => {
        if (partly) {
          // What is undone in part is undone, however the rest ends.
          await client.query(this.#sql.savepoint)
          await this.#outbox.publishMany(client, [this.#message(locked)], { orderingLock: locked })
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
    } catch (error) {
      const open = error instanceof TransactionError && error.code === 'COMMIT_UNKNOWN'
      this.#history.note(open ? 'info' : 'fail', tx, written, begun)
      if (error instanceof RolledBack || open) return
      if (!isPassing(error) && !isTaken(error) && !(error instanceof TransactionError)) throw error
      await new Promise((resolve) => setTimeout(resolve, 100))
    }
  }

  #message(locked: boolean): NewMessage {
    const random = this.#random
    const n = this.#n++
    const keyed = random.chance(0.5)
    // Those that are locked have keys of their own: only then all transactions of a key are.
    const name = random.chance(1 / 3)
      ? `hot${random.whole(1, hotKeys)}`
      : `${random.whole(1, this.#options.keys)}`
    const topic = random.weighted(shares)
    const temper = this.#temper()
    const length = random.chance(oneInLarge) ? largeLength : random.whole(0, 300)
    const payload: Body = {
      n,
      text: `Ünïcode \u2028 "${'x'.repeat(length)}"`,
      ...(temper === undefined ? {} : { temper }),
    }
    return {
      topic,
      payload,
      key: keyed ? `${locked ? 'locked' : 'free'} ${name}` : null,
      ...(random.chance(0.1)
        ? { dedupeKey: `d${Math.floor(Date.now() / 2000)}-${random.whole(0, 200)}` }
        : {}),
    }
  }

  #temper(): Temper | undefined {
    const random = this.#random
    const { oneInDies } = this.#options
    if (random.chance(0.004)) return 'throw'
    if (random.chance(0.0002)) return 'hang'
    if (random.chance(0.0002)) return 'poison'
    if (random.chance(0.0005)) return 'cut'
    return oneInDies > 0 && random.chance(1 / oneInDies) ? 'die' : undefined
  }

  async #insist<Result>(work: () => Promise<Result>): Promise<Result> {
    for (;;) {
      try {
        return await work()
      } catch (error) {
        if (!isConnectionLost(error)) throw error
        await new Promise((resolve) => setTimeout(resolve, 200))
      }
    }
  }
}
