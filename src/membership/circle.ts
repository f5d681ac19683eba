import type { WorkerKind } from '../base/events.ts'
import type { Database } from '../database/database.ts'
import { workerSql, type Beat, type Peer } from '../database/sql/worker.ts'
import { Line } from './line.ts'

/** What a heartbeat says of a worker. */
export interface Words {
  readonly id: number
  readonly inFlight: number
  readonly busyTopics: readonly string[]
  readonly busyRates: readonly number[]
  readonly locked: boolean
  readonly sign: string | null
}

/** What was read of all workers that share the work, by whichever of them here. */
export interface Look {
  /** By the monotonic clock, when it was asked. */
  readonly at: number
  readonly peers: readonly Peer[]
  /** Of whom it was a sign of life. Of others that spoke the row is locked by somebody, or has ended. */
  readonly beaten: ReadonlySet<number>
  readonly beat: Beat | null
}

/** A worker, as its circle asks it. */
export interface Voice {
  /** What it has to say by now, asked with `isDue` at the latest; null if that is nothing. */
  speak(isDue: boolean): Words | null
  /** What it has said was sent, and this came of it. */
  heard(look: Look): void
  /** Somebody was found dead. */
  onNews(): void
}

/** Of whom a circle looks for peers. */
interface Kin {
  readonly kind: WorkerKind
  readonly consumer: string
  /** So long ago one may have ended of whom it hears. */
  readonly windowMs: number
}

/** A look that is so young serves whoever has not seen it. More of that, and a death would be found later. */
const freshMs = 100

const circles = new WeakMap<Line, Map<string, Circle>>()

/**
 * The workers of a process that share their work: they beat in one statement, with a look at the others of their kind, and what
 * one has read serves all. Each judges by itself. One whose row is locked by somebody does not beat, and keeps nobody waiting.
 */
export class Circle {
  readonly #line: Line
  readonly #sql: ReturnType<typeof workerSql>
  readonly #kin: Kin
  readonly #voices = new Set<Voice>()
  /** Those that want to beat by the next statement. */
  #due = new Set<Voice>()
  #next: Promise<Look> | null = null
  #busy: Promise<unknown> = Promise.resolve()
  #last: Look | null = null
  readonly #verdicts = new Map<string, Promise<void>>()

  private constructor(line: Line, schema: string, kin: Kin) {
    this.#line = line
    this.#sql = workerSql(schema)
    this.#kin = kin
  }

  static of(database: Database, kin: Kin): Circle {
    const line = Line.of(database)
    const known = circles.get(line) ?? new Map<string, Circle>()
    circles.set(line, known)
    const key = JSON.stringify(kin)
    const circle = known.get(key) ?? new Circle(line, database.schema, kin)
    known.set(key, circle)
    return circle
  }

  enter(voice: Voice): void {
    this.#voices.add(voice)
  }

  leave(voice: Voice): void {
    this.#voices.delete(voice)
    this.#due.delete(voice)
  }

  /**
   * How long one of them shall wait before its next look, where alone it would wait for so long. All at the same moment, they would
   * have one look in that time; one after the other, the first of them finds a death as soon as if each looked by itself.
   */
  pauseMs(alone: number): number {
    return this.#voices.size > 1 && alone > 2 * freshMs ? alone * (0.4 + 0.6 * Math.random()) : alone
  }

  /**
   * A look by which this worker beats, if that is due. If it is not, a young one of others will do that is another than it has
   * `seen` last; with null, it asks for one from now on.
   */
  look(database: Database, voice: Voice, isDue: boolean, seen: Look | null): Promise<Look> {
    const last = this.#last
    if (!isDue && last !== null && seen !== null && last !== seen && performance.now() - last.at <= freshMs)
      return Promise.resolve(last)
    return this.lookAnew(database, isDue ? voice : null)
  }

  /** A look that is asked from now on. */
  lookAnew(database: Database, due: Voice | null = null): Promise<Look> {
    if (due !== null) this.#due.add(due)
    this.#next ??= this.#send(database)
    return this.#next
  }

  /** Has one of those who come to the same verdict at the same time carry it out, and tells the others of it. */
  async carryOut(verdict: string, work: () => Promise<void>): Promise<void> {
    const underWay = this.#verdicts.get(verdict)
    // If it fails, the next look finds the same.
    if (underWay !== undefined) return underWay.catch(() => {})
    const carried = work().finally(() => this.#verdicts.delete(verdict))
    this.#verdicts.set(verdict, carried)
    await carried
    for (const voice of this.#voices) voice.onNews()
  }

  async #send(database: Database): Promise<Look> {
    // Until then, others join.
    await this.#busy
    await new Promise((resolve) => setImmediate(resolve))
    this.#next = null
    const due = this.#due
    this.#due = new Set()
    const look = this.#ask(database, due)
    this.#busy = look.catch(() => {})
    return look
  }

  async #ask(database: Database, due: ReadonlySet<Voice>): Promise<Look> {
    const spoken = [...this.#voices].flatMap((voice) => {
      const words = voice.speak(due.has(voice))
      return words === null ? [] : [{ voice, words }]
    })
    const at = performance.now()
    if (spoken.length === 0) {
      const peers = await this.#line.runNow(database, this.#sql.peers, this.#kin)
      return (this.#last = { at, peers, beaten: new Set(), beat: null })
    }
    const all = spoken.map(({ words }) => words)
    const rows = await this.#line.runNow(database, this.#sql.beat, {
      ...this.#kin,
      ids: all.map(({ id }) => id),
      inFlights: all.map(({ inFlight }) => inFlight),
      locked: all.map(({ locked }) => locked),
      signs: all.map(({ sign }) => sign ?? ''),
      busyIds: all.flatMap(({ id, busyTopics }) => busyTopics.map(() => id)),
      busyTopics: all.flatMap(({ busyTopics }) => busyTopics),
      busyRates: all.flatMap(({ busyRates }) => busyRates),
    })
    const { server, file, position } = rows[0]!
    const look = {
      at,
      peers: rows.flatMap((row) => (row.id === null ? [] : [row as Peer])),
      beaten: new Set(rows.flatMap(({ id, beaten }) => (beaten && id !== null ? [id] : []))),
      beat: { server, file, position },
    }
    this.#last = look
    for (const { voice } of spoken) voice.heard(look)
    return look
  }
}
