import type { Database } from '../../src/database/database.ts'
import { serverFacts } from '../../src/database/sql/server.ts'
import { soakSql, type Left } from '../sql/soak.ts'
import type { Company, Member } from './company.ts'
import type { Nemesis } from './nemesis.ts'
import { slopeOf } from './report.ts'
import type { Sample } from './timeline.ts'

interface Progress {
  readonly published: number
  readonly handled: number
  readonly dead: number
}

/** A process needs some time until its memory says something. */
const warmUpMs = 20_000
const slopeAfterMs = 60_000

/** How far a run is: what its processes tell as they tell it, and what the tables say, now and then. */
export class Gauge {
  readonly samples: Sample[] = []
  /** What a worker met last. */
  complaint = ''
  /** By their own account, which misses what a killed process had not told yet. */
  published = 0
  handled = 0
  readonly #database: Database
  readonly #company: Company
  readonly #nemesis: Nemesis
  readonly #sql: ReturnType<typeof soakSql>
  readonly #sampleMs: number
  #startedAt = 0
  #left: Left | null = null
  #looking = false
  #sampledAt = 0
  #before = { published: 0, handled: 0 }
  #takeovers = 0
  #changedAt = performance.now()
  /** By process: when it was first heard of, and what it had said of its memory since it was warm. */
  readonly #memory = new Map<string, { since: number; points: { seconds: number; bytes: number }[] }>()

  /** @param sampleMs how often it looks at the tables */
  constructor(database: Database, company: Company, nemesis: Nemesis, sampleMs: number) {
    this.#sampleMs = sampleMs
    this.#database = database
    this.#company = company
    this.#nemesis = nemesis
    this.#sql = soakSql(database.schema)
  }

  start(startedAt: number): void {
    this.#startedAt = startedAt
    this.#sampledAt = Date.now()
    this.#company.onTally = (post, tally) => {
      this.published += tally.published
      this.handled += tally.handled
      if (tally.handled > 0 || tally.published > 0) this.#changedAt = performance.now()
      for (const { event } of tally.events) {
        if (event.type === 'takeover') this.#takeovers++
        if ('error' in event) this.complaint = `${post.name}: ${String(event.error)}`
      }
      const now = Date.now()
      const name = `${post.name}.${post.hired}`
      let memory = this.#memory.get(name)
      if (memory === undefined) this.#memory.set(name, (memory = { since: now, points: [] }))
      if (now - memory.since < warmUpMs) return
      memory.points.push({ seconds: (now - memory.since) / 1000, bytes: tally.rss })
    }
  }

  stop(): void {
    this.#company.onTally = () => {}
  }

  /** Looks at the tables, if it is time to; never waits for a database that is just being restarted. */
  async look(): Promise<void> {
    const now = Date.now()
    if (this.#looking || now - this.#sampledAt < this.#sampleMs) return
    this.#looking = true
    void this.#read().finally(() => (this.#looking = false))
    const seconds = (now - this.#sampledAt) / 1000
    this.#sampledAt = now
    const { outbox = 0, inbox = 0, deferred = 0, parked = 0, lag = 0 } = this.#left ?? {}
    this.samples.push({
      at: (now - this.#startedAt) / 1000,
      published: (this.published - this.#before.published) / seconds,
      handled: (this.handled - this.#before.handled) / seconds,
      lag,
      backlog: outbox + inbox + deferred + parked,
      takeovers: this.#takeovers,
    })
    this.#before = { published: this.published, handled: this.handled }
    this.#takeovers = 0
  }

  async #read(): Promise<void> {
    this.#left = await this.#database.query(this.#sql.left).then(
      ([left]) => left!,
      () => null,
    )
  }

  /** Whether more waits than a few seconds of load. */
  isBehind(rate: number): boolean {
    return this.#left !== null && this.#left.outbox + this.#left.inbox > rate * 8
  }

  get isEmpty(): boolean {
    const left = this.#left
    return left !== null && left.outbox + left.inbox + left.deferred + left.parked === 0
  }

  /** Empty tables are not enough: with a broker between them, messages may be on the way. */
  async isComplete(): Promise<boolean> {
    const exact = await this.exact()
    return exact !== null && exact.handled + exact.dead >= exact.published
  }

  /** By the tables; null if they are out of reach. */
  async exact(): Promise<Progress | null> {
    try {
      const [exact] = await this.#database.query(this.#sql.progress)
      this.published = exact!.published
      this.handled = Math.max(this.handled, exact!.handled)
      return exact!
    } catch {
      return null
    }
  }

  get stoodStillMs(): number {
    return performance.now() - this.#changedAt
  }

  /** From here on a new patience. */
  calm(): void {
    this.#changedAt = performance.now()
    this.#left = null
  }

  /** What is not where it should be, and what may be why. */
  leftovers(): string {
    const complaint = this.complaint === '' ? '' : ` The last complaint came from ${this.complaint}`
    return `${this.published} were published and ${this.handled} handled; what is left is ${JSON.stringify(this.#left)}.${complaint}`
  }

  /** A line for each process that works on messages. */
  lines(): string[] {
    return this.#company.posts.map(({ name, member, hired }) => {
      const pid = `pid ${member?.process.pid ?? '-'}`.padEnd(12)
      const before = hired > 1 ? `, after ${hired - 1} others` : ''
      const state = member === null ? 'missing' : holding(member)
      return `${name.padEnd(12)} ${pid} ${state}${before}`
    })
  }

  /** How the faults stand. */
  trouble(planned: number): string {
    const { strikes } = this.#nemesis
    const kills = this.#company.kills + this.#company.suicides
    const left = this.#left
    const waiting =
      left === null
        ? 'the database is out of reach'
        : `${left.outbox} in the outbox, ${left.inbox} in the inbox`
    return `${strikes.length}/${planned} faults, ${kills} kills; ${waiting}`
  }

  memorySlope(): { processes: number; median: number; max: number } | null {
    const slopes = [...this.#memory.values()]
      .filter(({ points }) => (points.at(-1)?.seconds ?? 0) * 1000 >= slopeAfterMs + warmUpMs)
      .map(({ points }) => Math.round(slopeOf(points) * 100) / 100)
      .toSorted((a, b) => a - b)
    if (slopes.length === 0) return null
    return { processes: slopes.length, median: slopes[slopes.length >> 1]!, max: slopes.at(-1)! }
  }

  async serverVersion(): Promise<string> {
    const [facts] = await this.#database.query(serverFacts)
    return `${Math.floor(facts!.version / 10_000)}.${facts!.version % 10_000}`
  }
}

const verb = { relay: 'sent', receiver: 'received', claimer: 'handled' } as const

/** What a process holds and has done, in words. */
export function holding({ role, state, lanes, claimed, done }: Member): string {
  if (state !== 'working' || !(role in verb)) return state
  return [
    ...(role === 'receiver' ? [] : [`${lanes.size} lanes`]),
    ...(role === 'claimer' ? [`${Math.max(0, claimed - done)} in flight`] : []),
    `${verb[role as keyof typeof verb]} ${done}`,
  ].join(', ')
}
