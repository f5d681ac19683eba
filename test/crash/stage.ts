import type { ChildProcess } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import type pg from 'pg'
import { breaches } from '../../proof/sql/ledger.ts'
import { Crew, type Member } from '../../proof/stage/crew.ts'
import type { TwinboxEvent } from '../../src/base/events.ts'
import type { NewMessage } from '../../src/message/message.ts'
import { createOutbox } from '../../src/outbox/outbox.ts'
import { createTestDatabase, type TestDatabase } from '../support/postgres.ts'
import { removeTopology } from '../support/servers/rabbitmq.ts'
import { compiled } from '../support/shared.ts'
import { lastWords } from './dying.ts'
import type { Said } from './program.ts'
import type { BrokerSpec, Misbehaviour, Program } from './worker.ts'

await compiled('build')

/** How long an event may take, however busy the machine is. */
const patienceMs = 55_000

async function works(hiring: Promise<Member<string>>): Promise<void> {
  const { role, state, process } = await hiring
  if (state === 'working') return
  throw new Error(`The ${role} ended before it had started, with ${process.signalCode ?? process.exitCode}.`)
}

/** A child process running `program.ts`, and what it has said. */
export class Actor {
  readonly events: (TwinboxEvent & { readonly at: number })[] = []
  readonly started: Promise<void>
  /** The signal or code with which it ended. */
  readonly ended: Promise<string | number>
  /** Where it died, if it was told to. */
  lastWords = ''
  /** Resolves when it is there. */
  readonly dying: Promise<void>
  readonly #role: Program['role']
  readonly #child: ChildProcess
  readonly #waiting: { matches: (event: TwinboxEvent) => boolean; resolve: (event: TwinboxEvent) => void }[] =
    []

  constructor(program: Program) {
    const { role } = program
    this.#role = role
    const crew = new Crew<Program['role'], Program, Said>(
      new URL('../../.build/test/crash/program.js', import.meta.url),
    )
    crew.onNews = (_, { at, event }) => {
      this.events.push({ ...event, at })
      for (const waiter of this.#waiting.filter(({ matches }) => matches(event))) {
        this.#waiting.splice(this.#waiting.indexOf(waiter), 1)
        waiter.resolve(event)
      }
    }
    // How it ends is for the test to judge.
    crew.onUnexpected = () => {}
    this.started = works(
      crew.hire(role, role, program, { stdio: ['ignore', 'ignore', 'inherit', 'ipc', 'pipe'] }),
    )
    this.started.catch(() => {})
    this.#child = crew.members[0]!.process
    const pipe = this.#child.stdio[lastWords]!
    pipe.on('data', (words: Buffer) => (this.lastWords += words.toString()))
    this.dying = new Promise((resolve) => pipe.once('data', () => resolve()))
    // Not at its exit, when what it has said may not have been read yet.
    this.ended = new Promise((resolve) =>
      this.#child.once('close', (code, signal) => resolve(signal ?? code ?? -1)),
    )
  }

  /** The first event of a type that it emits, or has emitted, and that matches. */
  next<Type extends TwinboxEvent['type']>(
    type: Type,
    matches: (event: Extract<TwinboxEvent, { type: Type }>) => boolean = () => true,
  ): Promise<Extract<TwinboxEvent, { type: Type }>> {
    type Wanted = Extract<TwinboxEvent, { type: Type }>
    const fits = (event: TwinboxEvent): boolean => event.type === type && matches(event as Wanted)
    const past = this.events.find(fits)
    if (past !== undefined) return Promise.resolve(past as TwinboxEvent as Wanted)
    const coming = new Promise<Wanted>((resolve, reject) => {
      // Before the runner gives up on the test, since the runner cannot say what was waited for.
      const timer = setTimeout(() => reject(new Error(this.#missing(type))), patienceMs).unref()
      this.#waiting.push({
        matches: fits,
        resolve: (event) => {
          clearTimeout(timer)
          resolve(event as Wanted)
        },
      })
    })
    // A test may have been over long before.
    coming.catch(() => {})
    return coming
  }

  #missing(type: TwinboxEvent['type']): string {
    const said = JSON.stringify(this.events.slice(-8))
    return `The ${this.#role} has emitted no fitting "${type}" within ${patienceMs} ms. Its last of ${this.events.length} events: ${said}`
  }

  kill(signal: NodeJS.Signals): void {
    this.#child.kill(signal)
  }

  async end(signal: NodeJS.Signals = 'SIGTERM'): Promise<string | number> {
    if (this.#child.exitCode === null && this.#child.signalCode === null) this.#child.kill(signal)
    return this.ended
  }
}

/**
 * The actors, those first that have emitted it first. One of several claimers may get nothing: a faster one may have
 * handled everything before it looks.
 */
export async function firstTo(
  type: TwinboxEvent['type'],
  actors: readonly Actor[],
): Promise<[Actor, ...Actor[]]> {
  const first = await Promise.any(actors.map((actor) => actor.next(type).then(() => actor)))
  return [first, ...actors.filter((actor) => actor !== first)]
}

/**
 * A database with a ledger of what was published and the effects of what was handled, both written in the same
 * transactions as the real thing. So the database itself knows what should have happened, whatever the processes
 * believe.
 */
export class Stage {
  readonly database: TestDatabase
  readonly broker: BrokerSpec
  /** Its own, since a topic of Kafka outlives the test. */
  readonly topic = unique('crash')
  /** Where the actors find the database. */
  readonly #url: string
  readonly #actors: Actor[] = []
  #n = 0

  private constructor(database: TestDatabase, broker: BrokerSpec, url: string) {
    this.database = database
    this.broker = broker
    this.#url = url
  }

  static async open(
    broker: BrokerSpec = { kind: 'postgres' },
    { database: given, url }: { readonly database?: TestDatabase; readonly url?: string } = {},
  ): Promise<Stage> {
    const database = given ?? (await createTestDatabase())
    await database.query(`
      create table ledger (at bigserial, id uuid, key text, n int);
      create table pardon (at timestamptz default now());
      create table touched (key text primary key, times int);
      create table effects (at bigserial, id uuid, key text, n int, attempt int, worker int);`)
    return new Stage(database, broker, url ?? database.url)
  }

  start(program: Omit<Program, 'database' | 'topic'> & { readonly database?: string }): Actor {
    const actor = new Actor(this.describe(program))
    this.#actors.push(actor)
    return actor
  }

  /** The whole of a program that runs here. */
  describe(program: Omit<Program, 'database' | 'topic'> & { readonly database?: string }): Program {
    return { database: this.#url, broker: this.broker, topic: this.topic, ...program }
  }

  /**
   * Publishes messages with these keys, in one transaction, and notes them in the ledger. With `first`, the handler
   * does that at its first attempt at each of them.
   */
  async publish(
    keys: readonly (string | null)[],
    first?: Misbehaviour,
    timing: Pick<NewMessage, 'delayMs'> = {},
  ): Promise<void> {
    await this.database.transaction((client) => this.#publish(client, keys, first, timing))
  }

  /** The same under a lock, as a business row would be: then even concurrent publishers of a key have an order. */
  async publishLocked(keys: readonly string[]): Promise<void> {
    await this.database.transaction(async (client) => {
      await client.query('select pg_advisory_xact_lock(1)')
      await this.#publish(client, keys)
    })
  }

  async #publish(
    client: pg.PoolClient,
    keys: readonly (string | null)[],
    first?: Misbehaviour,
    timing: Pick<NewMessage, 'delayMs'> = {},
  ): Promise<void> {
    const numbers = keys.map(() => this.#n++)
    const published = await createOutbox().publishMany(
      client,
      keys.map((key, index) => ({
        topic: this.topic,
        key,
        payload: { n: numbers[index], first },
        ...timing,
      })),
    )
    await client.query(
      'insert into public.ledger (id, key, n) select * from unnest($1::uuid[], $2::text[], $3::int[])',
      [published.map(({ id }) => id), keys, numbers],
    )
  }

  /** Publishes one that shall never be handled. It is not in the ledger. */
  async publishVain(message: Partial<NewMessage>): Promise<void> {
    await this.database.transaction((client) =>
      createOutbox().publish(client, { topic: this.topic, payload: { n: -1 }, ...message }),
    )
  }

  /** Publishes messages whose handler ends the process. They are not in the ledger. */
  async publishDeadly(): Promise<number> {
    const messages = [null, 'deadly'].map((key) => ({ topic: this.topic, key, payload: { deadly: true } }))
    await this.database.transaction((client) => createOutbox().publishMany(client, messages))
    return messages.length
  }

  /** Resolves when a query's column `done` is true. */
  async until(query: string, withinMs = 80_000): Promise<void> {
    const deadline = Date.now() + withinMs
    while ((await this.database.query<{ done: boolean }>(query))[0]?.done !== true) {
      if (Date.now() > deadline) {
        const inbox = await this.database.query(
          'select lane, seq, attempt, holder, fence, key from twinbox.inbox',
        )
        const workers = await this.database.query('select id, kind, ended_by from twinbox.worker order by id')
        throw new Error(`Never true: ${query} ${JSON.stringify({ inbox, workers })}`)
      }
      await new Promise((resolve) => setTimeout(resolve, 25))
    }
  }

  /** Resolves when as many effects are there as the ledger has entries, and nothing is under way any more. */
  async drained(withinMs = 80_000): Promise<void> {
    const deadline = Date.now() + withinMs
    for (;;) {
      const [state] = await this.database.query<Record<string, number>>(`select
        (select count(*)::int from ledger l where not exists (select from effects e where e.id = l.id)) as missing,
        (select count(*)::int from twinbox.outbox) as outbox, (select count(*)::int from twinbox.inbox) as inbox,
        (select count(*)::int from twinbox.deferred) as deferred, (select count(*)::int from twinbox.parked) as parked,
        (select count(*)::int from twinbox.dead_letter) as dead`)
      if (Object.values(state!).every((count) => count === 0)) return
      if (Date.now() > deadline) {
        const left = await this.database
          .query(`select m.*, l.holder as lane_holder, l.fence as lane_fence, l.watermark
          from (
            select '' as consumer, lane, seq, id, key, attempt, null::int as holder from twinbox.outbox
            union all select consumer, lane, seq, id, key, attempt, holder from twinbox.inbox
          ) as m join twinbox.lane as l using (consumer, lane) limit 5`)
        const workers = await this.database.query(
          'select id, kind, in_flight, ended_by, beat_at from twinbox.worker order by id',
        )
        const said = this.#actors.map(({ events }) => events.slice(-8))
        throw new Error(`Not drained: ${JSON.stringify({ state, left, workers, said })}`)
      }
      await new Promise((resolve) => setTimeout(resolve, 25))
    }
  }

  /** What went wrong, by the database's own account. Empty if nothing did. */
  async faults(): Promise<string[]> {
    const faults: string[] = []
    const books = { ledger: 'ledger', effects: 'effects', nth: 'at', same: ['key', 'n'] }
    for (const [rule, query] of Object.entries(breaches(books))) {
      const rows = await this.database.query(query)
      if (rows.length > 0) faults.push(`${rule}: ${JSON.stringify(rows.slice(0, 5))} (${rows.length})`)
    }
    return faults
  }

  async close(): Promise<void> {
    await Promise.all(this.#actors.map((actor) => actor.end('SIGKILL')))
    const { broker } = this
    // A server that a test has stopped has nothing left to take away.
    if (broker.kind === 'rabbitmq')
      await removeTopology(broker.url, broker.exchange, broker.queue).catch(() => {})
    await this.database.drop()
  }
}

/** A name that no other test uses. */
export const unique = (prefix: string): string => `${prefix}.${randomBytes(5).toString('hex')}`
