import { randomUUID } from 'node:crypto'
import { postgres } from '../../src/brokers/postgres/postgres.ts'
import {
  createClaimer,
  createOutbox,
  createReceiver,
  createRelay,
  createSchedules,
  type Handlers,
  type NewMessage,
  type Worker,
} from '../../src/index.ts'
import type { TestDatabase } from '../support/postgres.ts'
import { until } from '../support/until.ts'

/** A shop at work: two consumers, eight workers, some that died, keys that are parked, dead letters, schedules, an evening's errors. */
export class Scene {
  readonly #database: TestDatabase
  readonly #workers: Worker[] = []
  #published = 0

  private constructor(database: TestDatabase) {
    this.#database = database
  }

  static async open(database: TestDatabase): Promise<Scene> {
    const scene = new Scene(database)
    await scene.#leaveDead()
    await scene.#begin()
    await scene.#schedule()
    await scene.publish(40)
    await scene.#bury(130)
    await until(async () => {
      const [row] = await database.query<{ ready: boolean }>(
        `select (select count(*) from twinbox.parked) >= 2 and (select count(*) from twinbox.unhandled) > 0
          and (select count(*) from twinbox.deferred) > 0 as ready`,
      )
      return row!.ready
    })
    return scene
  }

  /** Orders, some of which nobody can pay for. */
  async publish(count: number): Promise<void> {
    const messages = Array.from({ length: count }, (): NewMessage => {
      const n = ++this.#published
      const topic = topics[n % topics.length]!
      return {
        topic,
        // Without a key, some: these go to whoever is free.
        ...(n % 3 === 0 ? {} : { key: `order-${n % 17}` }),
        payload: { order: `order-${n}`, total: (n * 37) % 500 },
        headers: { traceparent: `00-${randomUUID().replaceAll('-', '')}-00f067aa0ba902b7-01` },
      }
    })
    await this.#database.transaction((client) => createOutbox().publishMany(client, messages))
  }

  async close(): Promise<void> {
    await Promise.all(this.#workers.map((worker) => worker.stop()))
  }

  async #begin(): Promise<void> {
    const shared = { database: this.#database.url }
    const broker = postgres({ database: this.#database.url })
    const claimer = (consumer: string, handlers: Handlers<unknown>): Worker =>
      createClaimer(
        { ...shared, consumer, concurrency: 4, maxAttempts: 3, backoffMsMin: 600_000, backoffMsMax: 900_000 },
        handlers,
      )
    this.#workers.push(
      ...[1, 2].map(() => createRelay({ ...shared, broker })),
      createReceiver({ ...shared, broker, consumer: 'billing', topics: ['order.*', 'payment.#'] }),
      createReceiver({ ...shared, broker, consumer: 'shipping', topics: ['order.placed', 'parcel.lost'] }),
      ...[1, 2, 3].map(() => claimer('billing', { 'order.*': accept, 'payment.captured': refuse })),
      ...[1, 2].map(() => claimer('shipping', { 'order.placed': accept })),
    )
    for (const worker of this.#workers) await worker.start()
    for (const [index, { id }] of this.#workers.entries())
      await this.#database.query(
        'update twinbox.worker set host = $2, pid = $3, started_at = $4 where id = $1',
        [
          ...[id, `shop-${(index % 3) + 1}`, 4100 + index * 7],
          new Date(Date.now() - 3_600_000 * (index + 1)),
        ],
      )
  }

  /** Some who are gone, each in its own way. */
  async #leaveDead(): Promise<void> {
    for (const [index, [kind, by, silentMs]] of endings.entries())
      await this.#database.query(
        `insert into twinbox.worker (kind, consumer, host, pid, version, application, started_at, beat_at, ended_at, ended_by)
        values ($1, $2, $3, $4, '0.1.0', 'nobody', now() - interval '5 hours', now() - $5 * interval '1 ms' - $6 * interval '1 ms',
          now() - $5 * interval '1 ms', $7)`,
        [
          kind,
          kind === 'relay' ? '' : 'billing',
          `shop-${index + 1}`,
          3000 + index,
          90_000 * (index + 1),
          silentMs,
          by,
        ],
      )
  }

  async #schedule(): Promise<void> {
    const schedules = createSchedules({ database: this.#database.url })
    await schedules.set({
      name: 'daily-report',
      cron: '0 6 * * 1-5',
      timeZone: 'Europe/Berlin',
      topic: 'report.due',
      payload: {},
    })
    await schedules.set({
      name: 'remind-carts',
      cron: '*/15 * * * *',
      topic: 'cart.remind',
      payload: {},
      catchUp: 'skip',
    })
    await schedules.set({
      name: 'close-books',
      cron: '30 2 1 * *',
      topic: 'books.close',
      key: 'books',
      payload: {},
      catchUp: 'all',
    })
    await schedules.pause('close-books')
  }

  /** Dead letters of an evening on which the bank was away, and of a bug. */
  async #bury(count: number): Promise<void> {
    // Of the day before, and mended since: a job may redrive them for minutes.
    await this.#database.query(
      `insert into twinbox.dead_letter (consumer, seq, id, topic, payload, attempt, reason, died_at, received_at, published_at, headers, errors)
      select 'billing', n, gen_random_uuid(), 'order.paid', '{"total":1}', 3, 'URIError: URI malformed', at, at, at, '{}', '[]'
      from (select n, now() - interval '1 day' - n * interval '1 minute' as at from generate_series(1000, 1239) as n) as yesterday`,
    )
    await this.#database.query(
      `insert into twinbox.dead_letter (consumer, seq, id, topic, key, payload, attempt, reason, died_at, received_at, published_at, headers, errors)
      select case when n % 5 = 0 then 'shipping' else 'billing' end, n, gen_random_uuid(),
        case when n % 5 = 0 then 'order.placed' else 'payment.captured' end, case when n % 2 = 0 then 'order-' || n end,
        '{"total":1}', 3, case when n % 5 = 0 then 'TypeError: Cannot read properties of undefined (reading ''street'')'
          else 'Error: connect ETIMEDOUT 10.0.0.7:443' end,
        now() - n * interval '1 minute', now() - n * interval '70 seconds', now() - n * interval '70 seconds', '{}', '[]'
      from generate_series(1, $1) as n`,
      [count],
    )
  }
}

const topics = ['order.placed', 'order.paid', 'payment.captured', 'payment.refund.asked', 'order.placed']

const endings = [
  ['claimer', 'lock', 640],
  ['relay', 'heartbeat', 5310],
  ['claimer', 'evict', 420],
  ['receiver', 'stop', 12],
] as const

const accept = async (): Promise<void> => {}

/** The bank is away. */
const refuse = async (): Promise<never> => {
  throw new TypeError('The bank has answered with a page of HTML.')
}
