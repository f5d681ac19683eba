import type { Database } from '../database/database.ts'
import { parkingSql, type ParkedRow } from '../database/sql/parking.ts'
import type { Emit } from '../base/events.ts'
import type { Lane } from './lane.ts'
import { distinct } from '../database/sql/parameter.ts'

/** A key that is held back behind one of its messages. */
export interface HeldKey {
  readonly lane: Lane
  readonly key: string
  readonly seq: number
  readonly id: string
  readonly reason: string
  /** Whether that message is a dead letter now. Otherwise it waits with the others of its key. */
  readonly dead: boolean
  /** What it failed with last, and its attempts with that one; null if that has been written down, or it has not failed. */
  readonly failure: { readonly attempts: number; readonly error: string } | null
  /** For how long; null until redriven. */
  readonly forMs: number | null
  /** The places of the others of the key that leave the lane. */
  readonly rest: readonly number[]
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
  readonly #sql: Pick<ReturnType<typeof parkingSql>, 'park' | 'follow' | 'release' | 'parkedKeys' | 'dueKeys'>
  readonly #keys = new Map<number, Map<string, ParkedKey>>()
  #turn: Promise<unknown> = Promise.resolve()

  constructor(database: Database, consumer: string, emit: Emit) {
    this.#database = database
    this.#consumer = consumer
    this.#emit = emit
    const sql = parkingSql(database.schema)
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

  /** Whether anything may have to wait outside of one of these lanes, as far as this worker knows. */
  holdsAny(lanes: readonly { readonly lane: number }[]): boolean {
    return lanes.some(({ lane }) => (this.#keys.get(lane)?.size ?? 0) > 0)
  }

  /** Learns what is parked in lanes that have just been taken. */
  async load(lanes: readonly { readonly lane: number }[]): Promise<void> {
    if (lanes.length === 0) return
    await this.#exclusively(async () => {
      const rows = await this.#database.keep(this.#sql.parkedKeys, {
        consumer: this.#consumer,
        lanes: lanes.map(({ lane }) => lane),
      })
      for (const { lane } of lanes) this.#keys.delete(lane)
      for (const { lane, key, released_to: releasedTo, due } of rows)
        this.#of(lane).set(key, { releasedTo, due })
    })
  }

  /**
   * Holds keys back, and moves what is in flight of them out of their lanes. Returns those that are held back now, of
   * which the lane was still ours, and whether the message that has failed was there to be buried.
   */
  async park(keys: readonly HeldKey[]): Promise<ReadonlyMap<HeldKey, boolean>> {
    return this.#exclusively(async () => {
      // Before it is known: if the answer is lost, the key may be parked, and nothing of it may go ahead.
      for (const { lane, key } of keys) this.#of(lane.lane).set(key, { releasedTo: 0, due: false })
      const rest = keys.flatMap(({ lane, key, rest: seqs }) =>
        seqs.map((seq) => ({ lane: lane.lane, seq, key })),
      )
      const { numbers, once } = distinct(keys.map(({ failure }) => failure?.error ?? null))
      const rows = await this.#database.keep(this.#sql.park, {
        consumer: this.#consumer,
        lanes: keys.map(({ lane }) => lane.lane),
        fences: keys.map(({ lane }) => lane.fence),
        keys: keys.map(({ key }) => key),
        forMs: keys.map(({ forMs }) => forMs),
        seqs: keys.map(({ seq }) => seq),
        ids: keys.map(({ id }) => id),
        reasons: keys.map(({ reason }) => reason),
        attempts: keys.map(({ failure }) => failure?.attempts ?? null),
        errorNumbers: numbers,
        dead: keys.map(({ dead }) => dead),
        restLanes: rest.map(({ lane }) => lane),
        restSeqs: rest.map(({ seq }) => seq),
        restKeys: rest.map(({ key }) => key),
        errors: once,
      })
      const buried = new Map(rows.map((row) => [row.key, row.buried]))
      const parked = keys.filter(({ key }) => buried.has(key))
      for (const { key, forMs } of parked) this.#emit({ type: 'parked', key, forMs })
      return new Map(parked.map((held) => [held, buried.get(held.key)!]))
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
      const values = { consumer: this.#consumer, lane: lane.lane, fence: lane.fence, seqs }
      const free = await this.#database.keep(this.#sql.follow, values)
      for (const { seq, key } of free) {
        this.#of(lane.lane).delete(key)
        lane.watermark.lower(seq)
      }
    })
  }

  /**
   * Lets keys go on whose time has come. `idle` says whether nothing of a key is in flight, so that what is put back is
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
      const rows = await this.#database.keep(this.#sql.dueKeys, {
        consumer: this.#consumer,
        lanes,
        most: releaseKeys,
      })
      for (const { lane, key, released_to: releasedTo } of rows)
        this.#of(lane).set(key, { releasedTo, due: true })
      return rows
    })
  }

  async #releaseKey(lane: Lane, key: string, parked: ParkedKey): Promise<boolean> {
    return this.#exclusively(async () => {
      const { lane: number, fence } = lane
      const values = { consumer: this.#consumer, lane: number, fence, key, most: releaseBatch }
      const [back] = await this.#database.keep(this.#sql.release, values).catch((error: unknown) => {
        // The answer is lost, and messages may be back anywhere in the lane.
        lane.watermark.lower(1)
        throw error
      })
      if (back!.free) this.#of(lane.lane).delete(key)
      if (back!.count === 0) return false
      parked.releasedTo = back!.last!
      lane.watermark.lower(back!.first!)
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
