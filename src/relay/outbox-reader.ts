import type { Database } from '../database/database.ts'
import { outboxSql } from '../database/sql/outbox.ts'
import type { HeadRow } from '../database/sql/reading.ts'
import type { Lane } from '../lanes/lane.ts'
import type { Lanes } from '../lanes/lanes.ts'
import type { Parking } from '../lanes/parking.ts'
import { LaneReader } from '../lanes/reader.ts'
import { byLane } from '../lanes/rows.ts'
import { takes } from '../message/message.ts'
import { limits } from '../base/options.ts'
import type { LaneRead } from '../database/sql/reading.ts'

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
/** Read at once, of all lanes of a pipeline together; a larger message alone. A relay's heap may have 256 MB. */
const bytesMax = limits.batchBytes

/** Reads the heads of lanes, a few of each, more of those that have more. */
export class OutboxReader {
  readonly #parts: HeadReaderParts
  readonly #sql: ReturnType<typeof outboxSql>
  readonly #reader: LaneReader<HeadRow, LaneRead>

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

  /** Deletes what was confirmed, and reads on in the same round trip; without contents, what is to be moved where it is. */
  async read(lanes: readonly Lane[], all: readonly Confirmed[], content: boolean): Promise<OutboxBatch> {
    const { database } = this.#parts
    const { server } = this.#parts.lanes.membership
    const confirmed = all.filter((each) => each.server === server)
    const confirmedOf = byLane(confirmed)
    // Of a lane that was lost and taken again nothing is deleted that was sent under the fence of before: passed over, it would
    // stand below the watermark for good.
    const left = (lane: Lane): number[] =>
      (confirmedOf.get(lane.lane) ?? []).filter(({ fence }) => fence === lane.fence).map(({ seq }) => seq)
    const confirmedLanes = [...new Map(confirmed.map(({ lane, fence }) => [lane, fence]))]
    const reading = await this.#reader.read(lanes, Infinity, (asked, mark) =>
      database.keep(this.#sql.step, {
        goneLanes: confirmed.map(({ lane }) => lane),
        goneSeqs: confirmed.map(({ seq }) => seq),
        goneIds: confirmed.map(({ id }) => id),
        lanes: asked.map(({ lane }) => lane.lane),
        bounds: asked.map(({ bound }) => bound),
        budgets: asked.map(({ budget }) => budget),
        mark,
        confirmed: asked.map(({ lane }) => left(lane)),
        heldLanes: confirmedLanes.map(([lane]) => lane),
        heldFences: confirmedLanes.map(([, fence]) => fence),
        server,
        bytes: bytesMax,
        content,
      }),
    )
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
    const fences = new Map(lanes.map(({ lane, fence }) => [lane, fence]))
    const advance = (unsettled: ReadonlySet<number>): void => {
      const first = Math.min(...unsettled)
      reading.advance(({ lane }) => Math.min(cut.get(lane) ?? Infinity, first - 1))
    }
    return { batch, fences, server, outdated: reading.outdated, follow: () => reading.follow(), advance }
  }

  #isStrict(topic: string): boolean {
    const strict = this.#parts.strictSend
    return typeof strict === 'boolean' ? strict : takes(strict, topic)
  }
}
