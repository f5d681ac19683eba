import type { Move, Route } from '../brokers/move.ts'
import type { Database } from '../database/database.ts'
import { anyPartition } from '../database/layout.ts'
import { movingSql, type MovingRead } from '../database/sql/moving.ts'
import { outboxSql } from '../database/sql/outbox.ts'
import type { HeadRow } from '../database/sql/reading.ts'
import type { Lane } from '../lanes/lane.ts'
import type { Lanes } from '../lanes/lanes.ts'
import type { Parking } from '../lanes/parking.ts'
import { LaneReader, type Asked } from '../lanes/reader.ts'
import { byLane } from '../lanes/rows.ts'
import { takes } from '../message/message.ts'
import { limits } from '../base/options.ts'
import { isConnectionLost } from '../database/sqlstate.ts'
import type { LaneRead, OrNot } from '../database/sql/reading.ts'

/** A message that the broker has taken, the fence of its lane when it was read, and on which server that was. */
export type Confirmed = Pick<HeadRow, 'lane' | 'seq' | 'id'> &
  Pick<Lane, 'fence'> & { readonly server: string }

/** What one read has brought. */
export interface OutboxBatch {
  readonly batch: readonly HeadRow[]
  /** The lanes that were read, under these fences. */
  readonly fences: ReadonlyMap<number, number>
  /** And on this server. */
  readonly server: string
  /** Whether it has come with its contents: it is to be sent. */
  readonly content: boolean
  /** What the read itself has moved, which is nothing or all that it has found; `batch` is empty then. */
  readonly moved: readonly HeadRow[]
  /** Whether a lane may have more. */
  readonly more: boolean
  /** Whether something of it was thrown away, and has to be read again. */
  readonly outdated: boolean
  /** Moves what was read of parked keys to where the others of their key wait. */
  readonly follow: () => Promise<void>
  /** Lets the next reads start higher, but not above what was read and is still there. */
  readonly advance: (unsettled: ReadonlySet<number>) => void
}

export interface HeadReaderParts {
  readonly database: Database
  readonly batchSize: number
  readonly strictSend: boolean | readonly string[]
  readonly lanes: Lanes
  readonly parking: Parking
}

const budgetMin = 16
/** A read that follows one of more leaves the moving to a statement that is made for many. */
const fewMax = 16
/** Read at once, of all lanes of a pipeline together; a larger message alone. A relay's heap may have 256 MB. */
const bytesMax = limits.batchBytes

/** Reads the heads of lanes, a few of each, more of those that have more. */
export class OutboxReader {
  readonly #parts: HeadReaderParts
  readonly #sql: ReturnType<typeof outboxSql>
  readonly #reader: LaneReader<HeadRow, LaneRead>
  /** How many the last read has brought. */
  #last = 0

  constructor(parts: HeadReaderParts) {
    this.#parts = parts
    this.#sql = outboxSql(parts.database.schema)
    const { batchSize } = parts
    this.#reader = new LaneReader({ ...parts, budget: { min: budgetMin, max: batchSize }, enough: batchSize })
  }

  /** The lanes are gone, perhaps with the server. */
  forget(): void {
    this.#reader.forget()
  }

  /**
   * Deletes what was confirmed, and reads on in the same round trip; without contents, what `move` can move. Where that is likely to
   * be little of which there is nothing to ask, the read moves it itself.
   */
  async read(lanes: readonly Lane[], all: readonly Confirmed[], move: Move | null): Promise<OutboxBatch> {
    const { server } = this.#parts.lanes.membership
    const route = all.length === 0 && this.#mayMove(lanes) ? (move?.route() ?? null) : null
    let content = move === null
    let moved: readonly HeadRow[] = []
    const reading = await this.#reader.read(lanes, Infinity, async (asked, mark) => {
      const found = route === null ? null : await this.#readAndMove(asked, mark, route, server)
      if (found?.[0]?.moved === true)
        moved = found.filter((row): row is HeadRow & MovingRead => row.lane !== null)
      // It has met what has to be asked about: whoever sends it finds out.
      if (route !== null && found === null) content = true
      return found ?? this.#step(asked, mark, all, content, server)
    })
    this.#last = reading.rows.length
    const fences = new Map(lanes.map(({ lane, fence }) => [lane, fence]))
    const more = lanes.some(({ lane }) => this.#reader.hasMore(lane))
    const told = { fences, server, content, moved, more, outdated: reading.outdated }
    if (moved.length > 0)
      return { ...told, batch: [], follow: async () => {}, advance: () => reading.advance() }
    /** Where a topic that takes one message of a key at a time has left the second. */
    const cut = new Map<number, number>()
    const keysTaken = new Set<string>()
    /** What follows in them, of whatever topic, comes after what was left. */
    const keysLeft = new Set<string>()
    const batch: HeadRow[] = []
    for (const row of reading.rows) {
      if (
        row.key !== null &&
        keysTaken.has(row.key) &&
        (keysLeft.has(row.key) || this.#isStrict(row.topic))
      ) {
        keysLeft.add(row.key)
        if (!cut.has(row.lane)) cut.set(row.lane, row.seq - 1)
      } else {
        if (row.key !== null) keysTaken.add(row.key)
        batch.push(row)
      }
    }
    const advance = (unsettled: ReadonlySet<number>): void => {
      const first = Math.min(...unsettled)
      reading.advance(({ lane }) => Math.min(cut.get(lane) ?? Infinity, first - 1))
    }
    return { ...told, batch, follow: () => reading.follow(), advance }
  }

  async #step(
    asked: readonly Asked[],
    mark: boolean,
    all: readonly Confirmed[],
    content: boolean,
    server: string,
  ): Promise<OrNot<HeadRow, LaneRead>[]> {
    const confirmed = all.filter((each) => each.server === server)
    const confirmedOf = byLane(confirmed)
    // Of a lane that was lost and taken again nothing is deleted that was sent under the fence of before: passed over, it would
    // stand below the watermark for good.
    const left = (lane: Lane): number[] =>
      (confirmedOf.get(lane.lane) ?? []).filter(({ fence }) => fence === lane.fence).map(({ seq }) => seq)
    const confirmedLanes = [...new Map(confirmed.map(({ lane, fence }) => [lane, fence]))]
    return this.#parts.database.keep(this.#sql.step, {
      goneLanes: confirmed.map(({ lane }) => lane),
      goneSeqs: confirmed.map(({ seq }) => seq),
      goneIds: confirmed.map(({ id }) => id),
      ...heads(asked),
      mark,
      confirmed: asked.map(({ lane }) => left(lane)),
      heldLanes: confirmedLanes.map(([lane]) => lane),
      heldFences: confirmedLanes.map(([, fence]) => fence),
      server,
      bytes: bytesMax,
      content,
    })
  }

  /** Of what comes of a lane, nothing may depend on what has still to come back into it, by what this worker knows; the rest the statement asks. */
  #mayMove(lanes: readonly Lane[]): boolean {
    const { strictSend, parking } = this.#parts
    if (this.#last > fewMax || strictSend !== false) return false
    return !parking.holdsAny(lanes) && !lanes.some(({ watermark }) => watermark.awaitsStragglers)
  }

  /** Null if it has failed, and done nothing. */
  async #readAndMove(
    asked: readonly Asked[],
    mark: boolean,
    { topics, takers, version }: Route,
    server: string,
  ): Promise<OrNot<HeadRow, MovingRead>[] | null> {
    const { database } = this.#parts
    try {
      return await database.keep(movingSql(database.schema).readAndMove, {
        ...heads(asked),
        fences: asked.map(({ lane }) => lane.fence),
        lowered: asked.map(({ lane }) => lane.lowered),
        mark,
        server,
        bytes: bytesMax,
        rows: limits.fanOutRows,
        ...{ topics, takers, version },
        firstPartition: anyPartition(),
      })
    } catch (error) {
      // Whether it was done, the next read tells.
      if (isConnectionLost(error)) throw error
      return null
    }
  }

  #isStrict(topic: string): boolean {
    const strict = this.#parts.strictSend
    return typeof strict === 'boolean' ? strict : takes(strict, topic)
  }
}

/** Where a statement reads, and how much. */
const heads = (asked: readonly Asked[]) => ({
  lanes: asked.map(({ lane }) => lane.lane),
  bounds: asked.map(({ bound }) => bound),
  budgets: asked.map(({ budget }) => budget),
})
