import type { Database, Statement } from '../database/database.ts'
import { waitingSql } from '../database/sql/waiting.ts'
import type { Emit } from '../events.ts'
import type { Lane } from './lanes.ts'

interface Returned {
  readonly first: number | null
  readonly last: number | null
  readonly count: number
  readonly lowered: number | null
  /** Nothing of the key waits any more. */
  readonly free: boolean
}

interface ParkedRow {
  readonly lane: number
  readonly key: string
  readonly released_to: number
}

/** A message that has failed, and holds its key back. */
export interface FailedHead {
  readonly key: string
  readonly seq: number
  readonly reason: string
  /** If it is a dead letter now; otherwise it is moved like the others, or stays. */
  readonly dead?: { readonly id: string; readonly attempts: number; readonly error: string } | undefined
}

interface ParkedKey {
  /** Rows of the key up to here are back in the lane and may go on. */
  releasedTo: number
  due: boolean
}

/** How many messages of a key are put back at a time. */
const releaseBatch = 200
/** And of how many keys of a lane, for how long: after an operator has redriven thousands, leases go on being renewed. */
const releaseKeys = 20
const releaseMs = 200

/**
 * The keys that are held back in the lanes of one worker.
 *
 * A message that has failed and has a key must not be overtaken by the later ones of its key, and must not hold up the
 * other keys of its lane. So all messages of the key move out of the lane, and those that arrive later follow when they
 * are read. When the time has come, they return to where they stood, first things first: their seq is their place.
 *
 * Only the holder of a lane moves its messages, one move at a time, and every move names the lane's fence.
 */
export class Parking {
  readonly #database: Database
  readonly #consumer: string
  readonly #emit: Emit
  readonly #sql: {
    readonly park: Statement
    readonly follow: Statement
    readonly release: Statement
    readonly parkedKeys: Statement
    readonly dueKeys: Statement
  }
  readonly #keys = new Map<number, Map<string, ParkedKey>>()
  #turn: Promise<unknown> = Promise.resolve()

  constructor(database: Database, consumer: string, emit: Emit) {
    this.#database = database
    this.#consumer = consumer
    this.#emit = emit
    const sql = waitingSql(database.schema)
    this.#sql =
      consumer === ''
        ? { ...sql, park: sql.parkOutbox, follow: sql.followOutbox, release: sql.releaseOutbox }
        : sql
  }

  /** Whether a message must wait outside its lane. */
  holdsBack(lane: number, key: string | null, seq: number): boolean {
    if (key === null) return false
    const parked = this.#keys.get(lane)?.get(key)
    return parked !== undefined && !(parked.due && seq <= parked.releasedTo)
  }

  /** Learns what is parked in lanes that have just been taken. */
  async load(lanes: readonly { readonly lane: number }[]): Promise<void> {
    if (lanes.length === 0) return
    await this.#exclusively(async () => {
      const rows = await this.#database.keep<ParkedRow & { due: boolean }>(this.#sql.parkedKeys, [
        this.#consumer,
        lanes.map(({ lane }) => lane),
      ])
      for (const { lane } of lanes) this.#keys.delete(lane)
      for (const { lane, key, released_to: releasedTo, due } of rows)
        this.#of(lane).set(key, { releasedTo, due })
    })
  }

  /**
   * Holds the key of a message back, for a time or until redriven (null), and moves what is in hand of it out of its
   * lane. Returns whether a message that is dead was buried.
   */
  async park(
    lane: Lane,
    { key, seq, reason, dead }: FailedHead,
    forMs: number | null,
    seqs: readonly number[],
  ): Promise<boolean> {
    return this.#exclusively(async () => {
      // Before it is known: if the answer is lost, the key may be parked, and nothing of it may go ahead.
      this.#of(lane.lane).set(key, { releasedTo: 0, due: false })
      const [done] = await this.#database.keep<{ buried: boolean }>(this.#sql.park, [
        this.#consumer,
        lane.lane,
        lane.fence,
        key,
        forMs,
        seqs,
        reason,
        seq,
        dead?.id,
        dead?.attempts,
        dead?.error,
      ])
      if (done === undefined) return false
      this.#emit({ type: 'parked', key, forMs })
      return done.buried
    })
  }

  /**
   * Moves messages of parked keys that have been read from the lane to where the others of their key wait. Those whose
   * key has been struck off since they were read stay, and the next read has to find them: by what this worker knew, it
   * held them back, so that nothing else would. What it knew may be long out of date, if the answer that its key was
   * struck off was lost with a connection.
   */
  async follow(lane: Lane, seqs: readonly number[]): Promise<void> {
    await this.#exclusively(async () => {
      const values = [this.#consumer, lane.lane, lane.fence, seqs]
      const free = await this.#database.keep<{ seq: number; key: string }>(this.#sql.follow, values)
      for (const { seq, key } of free) {
        this.#of(lane.lane).delete(key)
        lane.floor.lower(seq)
      }
    })
  }

  /**
   * Lets keys go on whose time has come. `idle` says whether nothing of a key is in hand, so that what is put back is
   * bounded. Returns the lanes in which something is back.
   */
  async release(
    held: ReadonlyMap<number, Lane>,
    idle: (lane: number, key: string) => boolean,
  ): Promise<readonly Lane[]> {
    if (held.size === 0) return []
    const due = await this.#loadDue([...held.keys()])
    const changed: Lane[] = []
    const enough = performance.now() + releaseMs
    // From anywhere on, so that no lane is always the last.
    const first = Math.floor(Math.random() * due.length)
    for (const { lane: number, key } of [...due.slice(first), ...due.slice(0, first)]) {
      if (performance.now() > enough) break
      const lane = held.get(number)
      const parked = this.#of(number).get(key)
      // Parked anew meanwhile, since its message has failed again, it is no longer due.
      if (lane === undefined || parked?.due !== true || !idle(number, key)) continue
      if (await this.#releaseKey(lane, key, parked)) changed.push(lane)
    }
    return changed
  }

  /** What an operator has redriven may be of a key that was not parked before, and its place is before what is new. */
  async #loadDue(lanes: readonly number[]): Promise<readonly ParkedRow[]> {
    return this.#exclusively(async () => {
      const rows = await this.#database.keep<ParkedRow>(this.#sql.dueKeys, [
        this.#consumer,
        lanes,
        releaseKeys,
      ])
      for (const { lane, key, released_to: releasedTo } of rows)
        this.#of(lane).set(key, { releasedTo, due: true })
      return rows
    })
  }

  async #releaseKey(lane: Lane, key: string, parked: ParkedKey): Promise<boolean> {
    return this.#exclusively(async () => {
      const values = [this.#consumer, lane.lane, lane.fence, key, releaseBatch]
      const [back] = await this.#database
        .keep<Returned>(this.#sql.release, values)
        .catch((error: unknown) => {
          // The answer is lost, and messages may be back anywhere in the lane.
          lane.floor.lower(1)
          throw error
        })
      if (back!.free) this.#of(lane.lane).delete(key)
      if (back!.count === 0) return false
      parked.releasedTo = back!.last!
      lane.floor.lower(back!.first!)
      lane.lowered = back!.lowered!
      return true
    })
  }

  /** One move at a time: a key that is found empty must not get followers before it is struck off. */
  #exclusively<Result>(work: () => Promise<Result>): Promise<Result> {
    const result = this.#turn.then(work)
    this.#turn = result.catch(() => {})
    return result
  }

  #of(lane: number): Map<string, ParkedKey> {
    let keys = this.#keys.get(lane)
    if (keys === undefined) this.#keys.set(lane, (keys = new Map<string, ParkedKey>()))
    return keys
  }
}
