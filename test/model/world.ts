import * as fc from 'fast-check'
import type pg from 'pg'
import { vi } from 'vitest'
import { sqlstate } from '../../src/database/sqlstate.ts'
import type { TwinboxEvent } from '../../src/base/events.ts'
import {
  createClaimer,
  createOutbox,
  createRelay,
  redriveDeadLetters,
  type Broker,
  type Message,
  type Worker,
  RetryLaterError,
} from '../../src/index.ts'
import { Random } from '../../proof/soak/random.ts'
import { placesOf } from '../../proof/sql/places.ts'
import type { Parameters, ValuesOf } from '../../src/database/sql/parameter.ts'
import type { Statement } from '../../src/database/sql/statement.ts'
import { moody, type Mood, type MoodyBroker } from '../../proof/stage/moody.ts'
import { apart, type TestDatabase } from '../support/postgres.ts'
import { owning, type SteppedLoop } from './loops.ts'

/** One thing that happens. `pick` decides all that is open about it. */
interface Step {
  readonly act:
    | 'publish'
    | 'savepoint'
    | 'roll back to'
    | 'commit'
    | 'abort'
    | 'elsewhere'
    | 'work'
    | 'handle'
    | 'fail'
    | 'wait'
    | 'freeze'
    | 'cut'
    | 'join'
    | 'leave'
    | 'mood'
    | 'redrive'
    | 'set back'
    | 'truncate'
  readonly pick: number
}

const weights = {
  ...{ publish: 16, savepoint: 2, 'roll back to': 2, commit: 8, abort: 1, elsewhere: 2 },
  ...{ work: 36, handle: 16, fail: 14, wait: 6, freeze: 4, cut: 2, join: 2, leave: 1 },
  ...{ mood: 10, redrive: 1, 'set back': 1, truncate: 1 },
} as const satisfies Record<Step['act'], number>
const entries = (Object.entries(weights) as [Step['act'], number][]).filter(([, weight]) => weight > 0)
export const history: fc.Arbitrary<readonly Step[]> = fc.array(
  fc.noBias(
    fc.record({
      act: fc.oneof(...entries.map(([act, weight]) => ({ weight, arbitrary: fc.constant(act) }))),
      pick: fc.nat(1_000_000),
    }),
  ),
  { minLength: 60, maxLength: 160, size: 'max' },
)

export const topic = 'model'
export const consumer = 'model'
export const publishers = 3
/** The second is in the lane of the first, which is the one that imports. */
const keys = ['a', 'a3', 'b', 'c', null]
/** Less than a key may have in flight, and more than one. */
const keyWindow = 4
const runSize = 4
/** What may have a message handled again whose effect is no part of its completion. */
const repeating = /^(lease_lost|trouble|worker_dead|takeover|lanes_released)$/
/** A retry that is so far off parks its key, instead of keeping it in flight. */
const parkedMs = 8000

/** How the broker may be, beside what it is. */
const moods: readonly (Mood | null)[] = [
  null,
  { refuses: 0.3, buries: 0.3, repeats: 0, forgets: 0, delayMs: 0 },
  { refuses: 0.1, buries: 0, repeats: 0.5, forgets: 0.3, delayMs: 3 },
]

/** Where each message got its place, and when a sequence of places went back. */
export const places = placesOf('twinbox', 'model')

/** What a publisher has written in its open transaction. */
interface Published {
  readonly id: string
  readonly key: string | null
  /** When its statement began, and when its transaction was committed, by a counter. */
  readonly begunAt: number
  committedAt: number
}

interface Publisher {
  readonly client: pg.Client
  isOpen: boolean
  written: Published[]
  /** How much was written at the savepoint. */
  saved: number | null
}

interface Member {
  readonly worker: Worker
  readonly loops: SteppedLoop[]
  isFrozen: boolean
}

interface Handling {
  readonly by: Member
  finish(): Promise<void>
  fail(isPatient: boolean): void
}

/** What ends or begins at a time, in the database, does so earlier. */
const passing = `with ${[
  ['lane', 'lease_until'],
  ['inbox', 'lease_until'],
  ['deferred', 'due_at'],
  ['parked', 'until'],
  ['worker', 'reserved_until'],
]
  .map(
    ([table, column]) => `${table} as (
      update twinbox.${table} set ${column} = ${column} - $1 * interval '1 millisecond' where isfinite(${column}))`,
  )
  .join(',')} select`

function isDeadlock(error: unknown): false {
  if (sqlstate(error) === '40P01') return false
  throw error
}

/** Where a sequence had gone back, a place may be taken, perhaps by a transaction that is open and would be waited for. */
function isTaken(error: unknown): null {
  if (/^(23505|55P03)$/.test(sqlstate(error) ?? '')) return null
  throw error
}

/** How often what is to be survived has happened, in all histories. */
export const happened = new Map<string, number>()

/** One history's world. */
export class World {
  readonly committed: Published[] = []
  readonly members: Member[] = []
  readonly #database: TestDatabase
  readonly #broker: MoodyBroker
  #random = new Random(0)
  readonly #publishers: readonly Publisher[]
  readonly #elsewhere: pg.Client
  #isElsewhere = false
  readonly #handlings: Handling[] = []
  #underWay: Promise<unknown>[] = []
  readonly #troubles: string[] = []
  /** What is written down is true as long as nobody has set it back. */
  #isSetBack = false
  #foundBelow = false
  readonly #isWindowed: boolean
  #mayRepeat = false
  #tick = 0
  #n = 0

  constructor(
    database: TestDatabase,
    broker: Broker,
    clients: readonly pg.Client[],
    elsewhere: pg.Client,
    isWindowed: boolean,
  ) {
    this.#database = database
    this.#isWindowed = isWindowed
    this.#broker = moody(broker, () => this.#random.next())
    this.#elsewhere = elsewhere
    this.#publishers = clients.map((client) => ({ client, isOpen: false, written: [], saved: null }))
  }

  async join(kind: 'relay' | 'claimer'): Promise<void> {
    const options = {
      // Each as if of a process of its own.
      database: apart(this.#database.url),
      leaseMs: 6000,
      heartbeatMs: 1000,
      deadAfterMs: 5000,
      stopTimeoutMs: 0,
      onEvent: (event: TwinboxEvent) => {
        happened.set(event.type, (happened.get(event.type) ?? 0) + 1)
        if (repeating.test(event.type)) this.#mayRepeat = true
        if (event.type === 'trouble') this.#troubles.push(`${event.doing}: ${String(event.error)}`)
        if (event.type === 'found_below' && !this.#isSetBack) this.#foundBelow = true
        if (event.type === 'sequence_mended')
          this.#underWay.push(this.#run(places.mended, { box: event.table, to: event.to, at: 0 }))
      },
    }
    const loops: SteppedLoop[] = []
    const member: Member = {
      loops,
      isFrozen: false,
      worker:
        kind === 'relay'
          ? createRelay({
              ...options,
              broker: this.#broker,
              // Some send one message of a key at a time.
              strictSend: this.members.length % 2 === 0,
              batchSize: 8,
              maxAttempts: 1000,
              backoffMsMin: 1,
              backoffMsMax: 2000,
            })
          : createClaimer(
              {
                ...options,
                consumer,
                concurrency: 3,
                // Some read little of each lane, and some so much that a key may be hot.
                batchSize: this.members.length % 2 === 0 ? 8 : 256,
                maxAttempts: 1000,
                backoffMsMin: 1,
                backoffMsMax: 20,
                ...(this.#isWindowed ? { keyWindow } : {}),
                ...(!this.#isWindowed && this.members.length % 2 === 1 ? { runSize } : {}),
              },
              {
                '#': this.#isWindowed
                  ? {
                      transaction: false,
                      handle: (message) => this.#handle(member, message, this.#database.pool),
                    }
                  : (message, { client }) => this.#handle(member, message, client),
              },
            ),
    }
    this.members.push(member)
    await owning.run(loops, () => member.worker.start())
  }

  #handle(by: Member, message: Message, client: Pick<pg.ClientBase, 'query'>): Promise<void> {
    return new Promise((resolve, reject) => {
      this.#handlings.push({
        by,
        finish: () =>
          client.query('insert into effects (id, key) values ($1, $2)', [message.id, message.key]).then(
            () => resolve(),
            (error: unknown) => reject(error as Error),
          ),
        fail: (isPatient) =>
          reject(isPatient ? new RetryLaterError({ afterMs: parkedMs }) : new Error('on purpose')),
      })
    })
  }

  async step({ act, pick }: Step): Promise<void> {
    const publisher = this.#publishers[pick % publishers]!
    const rest = Math.floor(pick / publishers)
    switch (act) {
      case 'publish':
        return this.#publish(publisher, rest)
      case 'savepoint':
        if (!publisher.isOpen) return
        await publisher.client.query('savepoint s')
        publisher.saved = publisher.written.length
        return
      case 'roll back to':
        if (publisher.saved === null) return
        await publisher.client.query('rollback to s')
        publisher.written.length = publisher.saved
        return
      case 'commit':
      case 'abort':
        return publisher.isOpen ? this.#end(publisher, act) : undefined
      case 'elsewhere':
        return this.#toggleElsewhere()
      case 'work':
        return this.#work(pick)
      case 'handle':
      case 'fail':
        return this.#settle(act, pick)
      case 'wait':
        return this.#waitLong(1 + (pick % 14))
      case 'freeze':
      case 'cut':
      case 'join':
      case 'leave':
        return this.#disturb(act, pick)
      case 'mood':
        this.#random = new Random(pick)
        this.#broker.mood = moods[pick % moods.length]!
        return
      case 'redrive':
        return this.#redrive()
      case 'set back':
        this.#isSetBack = true
        await this.#run(places.setBack, {
          box: pick % 2 === 0 ? 'outbox' : 'inbox',
          by: 1 + (pick % 40),
          at: 0,
        })
        return
      case 'truncate':
        this.#isSetBack = true
        return this.#truncate(pick % 2 === 0 ? 'worker' : 'lane')
      default:
        throw new Error('There is no such step.')
    }
  }

  async #publish(publisher: Publisher, pick: number): Promise<void> {
    if (!publisher.isOpen) await publisher.client.query("begin; set local lock_timeout = '300ms'")
    publisher.isOpen = true
    const begunAt = ++this.#tick
    // Now and then one key imports more than is read of a lane at once.
    const isImport = pick % 12 === 0
    const messages = Array.from({ length: isImport ? 30 : 1 + (pick % 3) }, (_, index) => ({
      ...{ topic, key: isImport ? 'a' : keys[(pick + index * 7) % keys.length]!, payload: { n: this.#n++ } },
    }))
    const published = await createOutbox().publishMany(publisher.client, messages).catch(isTaken)
    if (published === null) return this.#end(publisher, 'abort')
    for (const [index, { id }] of published.entries())
      publisher.written.push({ id, key: messages[index]!.key, begunAt, committedAt: 0 })
  }

  async #end(publisher: Publisher, act: 'commit' | 'abort'): Promise<void> {
    await publisher.client.query(act === 'commit' ? 'commit' : 'rollback')
    const committedAt = ++this.#tick
    if (act === 'commit')
      for (const message of publisher.written) this.committed.push(Object.assign(message, { committedAt }))
    Object.assign(publisher, { isOpen: false, written: [], saved: null })
  }

  /** The dead letters of the outbox, each of which holds the rest of its key back. */
  #run<Takes extends Parameters>(statement: Statement<Takes>, values: ValuesOf<Takes>): Promise<unknown> {
    return this.#database.query(statement.text, statement.bind(values))
  }

  async #redrive(): Promise<void> {
    await redriveDeadLetters(this.#database.pool, { consumer: null }, { by: 'the model' })
  }

  async #truncate(table: 'worker' | 'lane'): Promise<void> {
    await this.#database
      .query(`set lock_timeout = '1s'; truncate twinbox.${table}; reset lock_timeout`)
      .catch((error: unknown) => {
        if (!/^(55P03|40P01)$/.test(sqlstate(error) ?? '')) throw error
      })
  }

  /** A writer of another database of the server holds an xid that no transaction here depends on. */
  async #toggleElsewhere(): Promise<void> {
    if (this.#isElsewhere) await this.#elsewhere.query('commit')
    else await this.#elsewhere.query('begin; select pg_current_xact_id()')
    this.#isElsewhere = !this.#isElsewhere
  }

  async #work(pick: number): Promise<void> {
    const able = this.members.filter(({ isFrozen }) => !isFrozen)
    const member = able[pick % able.length]
    if (member === undefined) return
    const rest = Math.floor(pick / able.length)
    const steps = member.loops.filter((_, index) => (rest >> index) % 2 === 0).map((loop) => loop.step())
    // Now and then they are not waited for, and what comes next happens in their middle.
    if (pick % 3 > 0) await Promise.race([Promise.all(steps), this.#quiet()])
    else this.#underWay.push(...steps)
  }

  async #settle(act: 'handle' | 'fail', pick: number): Promise<void> {
    const able = this.#handlings.filter(({ by }) => !by.isFrozen)
    const handling = able[pick % able.length]
    if (handling === undefined) return
    const rest = Math.floor(pick / able.length)
    this.#handlings.splice(this.#handlings.indexOf(handling), 1)
    if (act === 'fail') handling.fail(rest % 2 === 0)
    else await handling.finish()
    await this.#quiet()
  }

  /** Long enough for what needs nothing but the database to have happened. */
  #quiet(): Promise<void> {
    return new Promise((resolve) => setTimeout(resolve, 3))
  }

  async #disturb(act: Step['act'], pick: number): Promise<void> {
    const member = this.members[pick % this.members.length]
    if (member === undefined || act === 'join') {
      if (this.members.length < 5) await this.join(pick % 2 === 0 ? 'relay' : 'claimer')
    } else if (act === 'freeze') member.isFrozen = !member.isFrozen
    else if (act === 'leave' && !member.isFrozen) {
      this.members.splice(this.members.indexOf(member), 1)
      await this.#leave(member)
    } else if (act === 'cut' && member.worker.id !== null) {
      await this.#database.query(
        `select count(pg_terminate_backend(a.pid)) from twinbox.worker as w join pg_stat_activity as a
          on starts_with(w.application, nullif(a.application_name, '')) where w.id = $1 and a.datname = current_database()`,
        [member.worker.id],
      )
      await this.#quiet()
    }
  }

  async #leave(member: Member): Promise<void> {
    const stopped = member.worker.stop()
    for (const handling of this.#handlings.filter(({ by }) => by === member)) {
      this.#handlings.splice(this.#handlings.indexOf(handling), 1)
      handling.fail(false)
    }
    await stopped
  }

  /** Those who are not frozen go on giving signs of life, and looking for those who are. */
  async #waitLong(pieces: number): Promise<void> {
    for (let piece = 0; piece < pieces; piece++) {
      await this.wait(500)
      const living = this.members.filter(({ isFrozen }) => !isFrozen)
      await Promise.all(living.flatMap(({ loops }) => loops.slice(0, 2).map((loop) => loop.step())))
    }
  }

  /** Time passes, for the workers and for the database. */
  async wait(ms: number): Promise<void> {
    // Deadlocked with what a worker is just writing, it is tried again.
    while (!(await this.#database.query(passing, [ms]).then(() => true, isDeadlock))) continue
    // The workers' clock last: if one renews a lease in between, it believes in less than it has.
    vi.advanceTimersByTime(ms)
  }

  /** Everybody lives, and all that was committed has to come to its end. */
  async drain(): Promise<void> {
    for (const publisher of this.#publishers) if (publisher.isOpen) await this.#end(publisher, 'commit')
    if (this.#isElsewhere) await this.#toggleElsewhere()
    for (const member of this.members) member.isFrozen = false
    this.#broker.mood = null
    for (const kind of ['relay', 'claimer'] as const)
      if (!this.members.some(({ worker }) => worker.kind === kind)) await this.join(kind)
    for (let round = 0; ; round++) {
      const [left] = await this.#database.query<{ messages: number; dead: number; effects: number }>(
        `select (select count(*) from twinbox.outbox)::int + (select count(*) from twinbox.inbox)::int
          + (select count(*) from twinbox.deferred)::int + (select count(*) from twinbox.parked_message)::int
            as messages,
          (select count(*) from twinbox.dead_letter)::int as dead,
          (select count(*) from effects)::int as effects`,
      )
      if (left!.messages + left!.dead === 0) break
      if (round > 400) {
        const [stuck] = await this.#database.query(`select
          (select json_agg(json_build_object('lane', lane, 'key', key, 'seq', seq, 'due', attempt)) from (table twinbox.outbox limit 5) as o) as outbox,
          (select json_agg(json_build_object('lane', lane, 'key', key, 'seq', seq, 'attempt', attempt, 'holder', holder)) from (table twinbox.inbox limit 5) as i) as inbox,
          (select json_agg(json_build_object('lane', lane, 'key', key, 'seq', seq)) from (table twinbox.parked_message limit 5) as p) as parked_messages,
          (select json_agg(p) from (select consumer, lane, key, until, blocker, released_to, reason from twinbox.parked limit 5) as p) as parked,
          (select json_agg(l) from (select consumer, lane, holder, fence, watermark, lowered, lease_until > now() as held from twinbox.lane
            where holder is not null limit 5) as l) as lanes,
          (select json_agg(w) from (select id, kind, ended_by from twinbox.worker) as w) as workers, now()`)
        const counts = {
          ...left,
          committed: this.committed.length,
          troubles: [...new Set(this.#troubles.slice(-20))],
        }
        throw new Error(`Not drained: ${JSON.stringify({ ...counts, stuck })}`)
      }
      await Promise.all(this.members.flatMap(({ loops }) => loops.map((loop) => loop.step())))
      while (this.#handlings.length > 0) await this.#settle('handle', 0)
      if (left!.dead > 0) await this.#redrive()
      await this.wait(300)
    }
  }

  async close(): Promise<void> {
    for (const { client, isOpen } of this.#publishers) if (isOpen) await client.query('rollback')
    if (this.#isElsewhere) await this.#toggleElsewhere()
    await Promise.allSettled(this.#underWay)
    await Promise.all(this.members.map((member) => this.#leave(member)))
  }

  /** What is wrong, in words. */
  async faults(): Promise<string[]> {
    const effects = await this.#database.query<{ id: string }>('select id from effects order by at')
    // The first time, if it was handled again.
    const at = new Map(effects.map(({ id }, index) => [id, index] as const).toReversed())
    const faults: string[] = []
    if (at.size < effects.length && !(this.#isWindowed && this.#mayRepeat)) faults.push('handled twice')
    const known = new Set(this.committed.map(({ id }) => id))
    if (effects.some(({ id }) => !known.has(id))) faults.push('handled, and never committed')
    if (this.committed.some(({ id }) => !at.has(id))) faults.push('lost')
    if (this.#foundBelow) faults.push('left below a watermark, until it was looked for')
    await Promise.allSettled(this.#underWay)
    const keyed = this.committed.filter(({ key }) => key !== null)
    for (const first of keyed) {
      for (const then of keyed) {
        // Of two, the one that was committed before the other was begun comes first.
        if (first.key !== then.key || first.committedAt > then.begunAt) continue
        if (at.get(first.id)! < at.get(then.id)!) continue
        const [pair] = await this.#database.query<{ excused: boolean }>(
          `select ${places.excuses('$1::uuid', '$2::uuid')} as excused`,
          [then.id, first.id],
        )
        if (pair!.excused) continue
        const [where] = await this.#database.query<{ places: unknown; backs: unknown }>(
          `select (select json_agg(p order by serial) from twinbox.model_place as p where id in ($1, $2)) as places,
            (select json_agg(b) from twinbox.model_back as b) as backs`,
          [first.id, then.id],
        )
        faults.push(`out of order: ${JSON.stringify({ first, then, ...where })}`)
      }
    }
    return faults
  }
}
