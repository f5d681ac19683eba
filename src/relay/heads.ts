import type { Database } from '../database/database.ts'
import { outboxSql } from '../database/sql/outbox.ts'
import { arrayText } from '../database/sql/statement.ts'
import { Marks, parseSnapshot, type Snapshot } from '../leases/floor.ts'
import type { Lane } from '../leases/lane.ts'
import type { Lanes } from '../leases/lanes.ts'
import type { Parking } from '../leases/parking.ts'
import { byLane } from '../leases/rows.ts'
import { topicMatches } from '../message.ts'
import { limits } from '../options.ts'

interface Row {
  readonly snapshot: string
  readonly xid: number | null
  /** Null in the one row that stands for "nothing there". */
  readonly lane: number | null
  readonly seq: number
  readonly attempt: number
  readonly id: string
  readonly topic: string
  readonly key: string | null
  readonly headers: string | null
  readonly payload: string | null
  readonly body: Buffer | null
  readonly content_type: string | null
  readonly published_at: Date
  readonly expires_at: Date | null
  readonly expired: boolean | null
  /** More than is read at once: it has come without its content. */
  readonly beyond: boolean | null
}

/** A message at the head of a lane. */
export type Head = Row & { readonly lane: number }

/** A message that the broker has taken, and the fence of its lane when it was read. */
export type Confirmed = Pick<Head, 'lane' | 'seq' | 'id'> & { readonly fence: number }

/** What one read has brought. */
export interface Heads {
  readonly batch: readonly Head[]
  /** The lanes that were read, under these fences. */
  readonly fences: ReadonlyMap<number, number>
  /** By lane, the places of messages whose keys are held back: they have to follow the others of their key. */
  readonly following: ReadonlyMap<Lane, readonly number[]>
  /** Whether something of it was thrown away, and has to be read again. */
  readonly outdated: boolean
  readonly snapshot: Snapshot
  /** Lanes of which not everything was taken, and the seq up to which it was. */
  readonly cut: ReadonlyMap<number, number>
  /** To measure the floors by. */
  readonly marks: Marks
  /** What each lane's floor said of itself when the read set out. */
  readonly lowered: ReadonlyMap<number, number>
}

export interface HeadReaderParts {
  readonly database: Database
  readonly batchSize: number
  readonly strictSend: boolean | readonly string[]
  readonly lanes: Lanes
  readonly parking: Parking
}

const quotaMin = 16
/** Read at once, of all lanes of a strand together; a larger message alone. A relay's heap may have 256 MB. */
const bytesMax = limits.batchBytes

/** Reads the heads of lanes, a few of each, more of those that have more. */
export class HeadReader {
  readonly #parts: HeadReaderParts
  readonly #sql: ReturnType<typeof outboxSql>
  readonly #quota = new Map<number, number>()
  #turn = 0
  #marks = new Marks()

  constructor(parts: HeadReaderParts) {
    this.#parts = parts
    this.#sql = outboxSql(parts.database.schema)
  }

  /** The lanes are gone, perhaps with the server: of another one, no mark says anything. */
  forget(): void {
    this.#marks = new Marks()
  }

  /** Deletes what was confirmed, and reads on in the same round trip. */
  async read(held: readonly Lane[], confirmed: readonly Confirmed[]): Promise<Heads> {
    const { database, parking, batchSize } = this.#parts
    // From another one each time: where messages are large, those of the first lanes may be all that fits.
    this.#turn = (this.#turn + 1) % Math.max(1, held.length)
    const lanes = [...held.slice(this.#turn), ...held.slice(0, this.#turn)]
    const marks = this.#marks
    const lowered = new Map(lanes.map(({ lane, floor }) => [lane, floor.lowered]))
    const fences = new Map(lanes.map(({ lane, fence }) => [lane, fence]))
    const confirmedOf = byLane(confirmed)
    const confirmedLanes = [...new Map(confirmed.map(({ lane, fence }) => [lane, fence]))]
    const rows = await database.keep<Row>(this.#sql.step, [
      arrayText(confirmed.map(({ lane }) => lane)),
      arrayText(confirmed.map(({ seq }) => seq)),
      arrayText(confirmed.map(({ id }) => id)),
      arrayText(lanes.map(({ lane }) => lane)),
      arrayText(lanes.map(({ floor }) => floor.bound)),
      arrayText(lanes.map(({ lane }) => this.#quotaOf(lane))),
      marks.wanted,
      lanes.map(({ lane }) => arrayText((confirmedOf.get(lane) ?? []).map(({ seq }) => seq))),
      arrayText(confirmedLanes.map(([lane]) => lane)),
      arrayText(confirmedLanes.map(([, fence]) => fence)),
      bytesMax,
    ])
    const snapshot = parseSnapshot(rows[0]!.snapshot)
    const found = rows.filter((row): row is Head => row.lane !== null).toSorted((a, b) => a.seq - b.seq)
    const cut = new Map<number, number>()
    const reread = new Set<number>()
    const rowsOf = byLane(found)
    for (const lane of lanes) {
      this.#adapt(lane.lane, rowsOf.get(lane.lane) ?? [], found.length / batchSize, cut)
      // Also if something has come back below meanwhile: what this read has brought of its key must not go before it.
      if (lane.floor.mustReread(snapshot) || lane.floor.lowered !== lowered.get(lane.lane)) {
        reread.add(lane.lane)
        cut.set(lane.lane, lane.floor.clean)
      }
    }
    const following = new Map<Lane, number[]>()
    const batch: Head[] = []
    const keysTaken = new Set<string>()
    for (const row of found) {
      const lane = this.#parts.lanes.held.get(row.lane)
      if (lane === undefined || lane.fence !== fences.get(row.lane) || reread.has(row.lane)) continue
      if (row.beyond === true) {
        cut.set(row.lane, Math.min(cut.get(row.lane) ?? Infinity, row.seq - 1))
      } else if (parking.holdsBack(row.lane, row.key, row.seq)) {
        following.set(lane, [...(following.get(lane) ?? []), row.seq])
      } else if (row.key !== null && keysTaken.has(row.key) && this.#isStrict(row.topic)) {
        cut.set(row.lane, Math.min(cut.get(row.lane) ?? Infinity, row.seq - 1))
      } else {
        if (row.key !== null) keysTaken.add(row.key)
        batch.push(row)
      }
    }
    if (rows[0]!.xid !== null && found.length > 0) marks.add(found.at(-1)!.seq, rows[0]!.xid)
    const outdated = found.some(({ lane }) => reread.has(lane))
    return { batch, fences, following, outdated, snapshot, cut, marks, lowered }
  }

  /** Lets the next reads start higher, but not above what was read and is still there. */
  advance(
    lanes: readonly Lane[],
    { snapshot, cut, marks, lowered }: Heads,
    unsettled: ReadonlySet<number>,
  ): void {
    const first = Math.min(...unsettled)
    for (const lane of lanes) {
      const known = Math.min(cut.get(lane.lane) ?? Infinity, first - 1)
      lane.floor.advance(marks, snapshot, known, lowered.get(lane.lane))
    }
  }

  /** Each lane that filled its quota has more. It may give more of it, as long as that does not make batches too large. */
  #adapt(lane: number, own: readonly Head[], fullness: number, cut: Map<number, number>): void {
    const quota = this.#quotaOf(lane)
    const filled = own.length >= quota
    if (filled) cut.set(lane, own.at(-1)!.seq)
    if (filled && fullness < 1) this.#quota.set(lane, Math.min(quota * 2, this.#parts.batchSize))
    else if (!filled || fullness >= 2) this.#quota.set(lane, Math.max(quotaMin, quota >> 1))
  }

  #quotaOf(lane: number): number {
    return this.#quota.get(lane) ?? quotaMin
  }

  #isStrict(topic: string): boolean {
    const strict = this.#parts.strictSend
    return typeof strict === 'boolean' ? strict : strict.some((pattern) => topicMatches(pattern, topic))
  }
}
