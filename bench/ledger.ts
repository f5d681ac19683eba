import { breachCounts, rules, type Rule } from '../proof/sql/ledger.ts'
import { createOutbox } from '../src/outbox/outbox.ts'
import { postgres } from '../src/brokers/postgres/postgres.ts'
import type { Scratch } from './scratch.ts'

export const consumer = 'bench'
const topic = 'bench.message'

/** What a message carries. */
export interface Body {
  readonly n: number
  /** The first handler that gets it is held up by a long statement. */
  readonly stick?: true
}

/** What happened to the messages of one stretch, by the database's own account: how many broke each rule, and more. */
export type Account = Readonly<Record<Rule | 'published', number>> & {
  /** Messages that were claimed, or whose handler began, more than once. Harmless, but work done in vain. */
  readonly claimedAgain: number
  /** Messages that were sent more than once, and dropped by the inbox. */
  readonly sentAgain: number
}

const tables = `
  create table ledger (
    at bigserial, id uuid, key text, n int, published_at timestamptz default clock_timestamp());
  create table effects (
    at bigserial, id uuid, key text, n int, attempt int, worker int, handled_at timestamptz default clock_timestamp());
  -- Unlogged: without WAL there is no commit to wait for, so that taking notes costs the workers little.
  create unlogged table starts (id uuid);
  create index on starts (id);
  create unlogged table sends (id uuid);`

const audit = `select
  (select count(*)::int from ledger) as published,
  ${breachCounts({ ledger: 'ledger', effects: 'effects', nth: 'at', same: ['key', 'n'] })},
  (select count(*)::int from (
    select id from effects where attempt > 1 union select id from starts group by id having count(*) > 1) as x
  ) as "claimedAgain",
  (select count(*)::int from (select id from sends group by id having count(*) > 1) as x) as "sentAgain"`

/**
 * What was published and what was handled, each written in the transaction of the real thing, so that it is known what
 * should have happened, whatever the processes believe.
 */
export class Ledger {
  readonly #scratch: Scratch
  #n = 0

  private constructor(scratch: Scratch) {
    this.#scratch = scratch
  }

  static async open(scratch: Scratch): Promise<Ledger> {
    await scratch.query(tables)
    // What a receiver would do: with Postgres as the broker it has nothing else to do.
    const broker = postgres({ database: scratch.url })
    await broker.subscribe({ consumer, topics: [topic], batchSize: 1 }, async () => {})
    await broker.close()
    return new Ledger(scratch)
  }

  /** Publishes messages with these keys in one transaction. One caller at a time, so that keys have an order. */
  async publish(keys: readonly (string | null)[], extra: Omit<Body, 'n'> = {}): Promise<readonly string[]> {
    return this.#scratch.transaction(async (client) => {
      const messages = keys.map((key) => ({ topic, key, payload: { n: this.#n++, ...extra } }))
      const published = await createOutbox().publishMany(client, messages)
      const ids = published.map(({ id }) => id)
      await client.query(
        'insert into ledger (id, key, n) select * from unnest($1::uuid[], $2::text[], $3::int[])',
        [ids, keys, messages.map(({ payload }) => payload.n)],
      )
      return ids
    })
  }

  /** Resolves when everything has been handled. */
  async drained(): Promise<void> {
    await this.#scratch.until(
      'Waiting for everything to be handled',
      `select *, outbox + inbox + deferred + parked + dead = 0 as done from (select
        (select count(*)::int from twinbox.outbox) as outbox, (select count(*)::int from twinbox.inbox) as inbox,
        (select count(*)::int from twinbox.deferred) as deferred, (select count(*)::int from twinbox.parked) as parked,
        (select count(*)::int from twinbox.dead_letter) as dead) as x`,
    )
  }

  async audit(): Promise<Account> {
    const [account] = await this.#scratch.query<Account>(audit)
    return account!
  }

  /** A new page. Only when everything has been handled and nobody works any more. */
  async clear(): Promise<void> {
    await this.#scratch.query('truncate ledger, effects, starts, sends')
  }
}

/** What is wrong by an account, in words. Empty if nothing is. */
export function faultsOf(account: Account): string[] {
  return rules.flatMap((rule) => (account[rule] > 0 ? [`${rule}: ${account[rule]}`] : []))
}

/** Publishes without end at a steady rate: half of the messages with keys. */
export class Load {
  /** Messages per second. */
  rate: number
  readonly #ledger: Ledger
  readonly #key: () => string
  #running: Promise<void> | null = null
  #wanted = false
  /** What somebody else wants to have published: two publishers would leave the order of a key open. */
  #turn: Promise<unknown> = Promise.resolve()

  constructor(ledger: Ledger, rate: number, key: () => string = evenly) {
    this.#ledger = ledger
    this.rate = rate
    this.#key = key
  }

  /** What publishing meets is told at once: figures without the load would look good, and mean nothing. */
  start(onFailure: (error: Error) => void): void {
    this.#wanted = true
    this.#running ??= this.#run().catch(onFailure)
  }

  async stop(): Promise<void> {
    this.#wanted = false
    await this.#running
    this.#running = null
  }

  /** Publishes this too, in its turn. */
  async publish(keys: readonly (string | null)[], extra?: Omit<Body, 'n'>): Promise<readonly string[]> {
    const turn = this.#turn.then(() => this.#ledger.publish(keys, extra))
    this.#turn = turn.catch(() => {})
    return turn
  }

  /** `count` keys, about half of them null. */
  keys(count: number): (string | null)[] {
    return Array.from({ length: count }, () => (Math.random() < 0.5 ? this.#key() : null))
  }

  async #run(): Promise<void> {
    let last = performance.now()
    let due = 0
    while (this.#wanted) {
      const at = performance.now()
      // Not more than one second's worth is made up for: after a pause of the machine there shall be no flood.
      due = Math.min(due + ((at - last) * this.rate) / 1000, this.rate, 500)
      last = at
      const batch = Math.floor(due)
      if (batch > 0) await this.publish(this.keys(batch))
      due -= batch
      await new Promise((wake) => setTimeout(wake, 25))
    }
  }
}

const evenly = (): string => `k${Math.floor(Math.random() * 100)}`

/** One key has `share` of the keyed messages. */
export const skewed = (share: number) => (): string => (Math.random() < share ? 'hot' : evenly())
