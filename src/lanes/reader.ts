import { Marks, parseSnapshot, type Watermark } from './watermark.ts'
import type { Lane } from './lane.ts'
import type { Parking } from './parking.ts'
import { byLane } from './rows.ts'
import type { LaneRead } from '../database/sql/reading.ts'

/** A row that a read has brought. */
export interface ReadRow {
  readonly lane: number
  readonly seq: number
  readonly key: string | null
  /** More than is read at once: it has come without its content. */
  readonly beyond: boolean | null
}

/** What a read asks of a lane. */
export interface Asked {
  readonly lane: Lane
  readonly bound: number
  readonly budget: number
}

export interface Reading<Row, At> {
  readonly at: At
  /** May be worked on, by seq. Those of parked keys are not among them, nor what was out of date. */
  readonly rows: readonly Row[]
  /** Whether the read has brought anything at all. */
  readonly found: boolean
  /** Whether some of it was thrown away, and has to be read again. */
  readonly outdated: boolean
  /** Whether there was more than is read at once. */
  readonly beyond: boolean
  /** Moves what was read of parked keys to where the others of their key wait. */
  follow(): Promise<void>
  /** Lets the next reads start higher, in no lane above `limit`. All rows up to there are dealt with or in flight. */
  advance(limit?: (lane: Lane) => number): void
}

export interface LaneReaderParts<At> {
  readonly lanes: { holds(lane: number, fence: number): boolean }
  readonly parking: Parking
  /** How many of a lane at least, and at most. */
  readonly budget: { readonly min: number; readonly max: number }
  /** With so many in a read, no lane gives more than it has given. */
  readonly enough?: number
  /** Where reads of a lane start. */
  readonly watermarkOf?: (lane: Lane) => Watermark
  /** A seq that the read has seen, beside those that it has brought. */
  readonly seen?: (at: At) => number
}

/**
 * Reads lanes, for relay and claimer alike. It alone decides how much of a lane is read, where a read starts, whether what
 * it has brought is out of date, and what of it has to wait behind a parked key.
 *
 * A read is out of date when rows have come back below it since it set out, when a straggler has ended below its bound, when
 * it has found another server, and when the lane is no longer held under its fence: what it has brought of a key must not go before what it has not seen.
 */
export class LaneReader<Row extends ReadRow, At extends LaneRead> {
  readonly #parts: LaneReaderParts<At>
  readonly #budgets = new Map<number, number>()
  readonly #more = new Set<number>()
  #marks = new Marks()
  #turn = 0

  constructor(parts: LaneReaderParts<At>) {
    this.#parts = parts
  }

  /** The lanes are gone, perhaps with the server: of another one, no mark says anything. */
  forget(): void {
    this.#marks = new Marks()
  }

  /** A lane that has just been taken gives little at first. */
  begin(lane: number): void {
    this.#budgets.set(lane, this.#parts.budget.min)
  }

  budgetOf(lane: number): number {
    return this.#budgets.get(lane) ?? this.#parts.budget.min
  }

  /** Whether the last read of the lane was cut short. */
  hasMore(lane: number): boolean {
    return this.#more.has(lane)
  }

  /**
   * Reads. `ask` gets at least one lane, and returns at least one row: one with lane null stands for "nothing there".
   * Of more rows than `room`, the rest would be looked at in vain.
   */
  async read(
    given: readonly Lane[],
    room: number,
    ask: (asked: readonly Asked[], mark: boolean) => Promise<readonly (Row | (At & { lane: null }))[]>,
  ): Promise<Reading<Row, At>> {
    const { lanes, parking, watermarkOf = ({ watermark }: Lane) => watermark, seen = () => 0 } = this.#parts
    // From another one each time: where there is room for little, what the first lanes have may be all that fits.
    this.#turn = (this.#turn + 1) % Math.max(1, given.length)
    const views = [...given.slice(this.#turn), ...given.slice(0, this.#turn)].map((lane) => {
      const watermark = watermarkOf(lane)
      return {
        lane,
        watermark,
        lowered: watermark.lowered,
        laneLowered: lane.watermark.lowered,
        known: Infinity,
      }
    })
    const budgets = this.#budgetsOf(views, room)
    const marks = this.#marks
    const answer = await ask(
      views.map(({ lane, watermark }, index) => ({
        lane,
        bound: watermark.tentative,
        budget: budgets[index]!,
      })),
      marks.wanted,
    )
    const at = answer[0] as unknown as At
    const snapshot = parseSnapshot(at.snapshot)
    const found = answer.filter((row): row is Row => row.lane !== null).toSorted((a, b) => a.seq - b.seq)
    const rowsOf = byLane(found)
    /** Lanes of which this read counts, and where what fits of them ends. */
    const ends = new Map<number, number>()
    let [outdated, beyond] = [false, false]
    for (const [index, view] of views.entries()) {
      const { lane, watermark } = view
      const own = rowsOf.get(lane.lane) ?? []
      const isCut = this.#adapt(lane.lane, own.length, budgets[index]!, found.length)
      const isOld =
        !at.here ||
        watermark.mustReread(snapshot) ||
        watermark.lowered !== view.lowered ||
        lane.watermark.lowered !== view.laneLowered
      if (isOld || !lanes.holds(lane.lane, lane.fence)) {
        outdated ||= own.length > 0
        view.known = -Infinity
        continue
      }
      const end = own.find((row) => row.beyond === true)?.seq ?? Infinity
      if (end !== Infinity) this.#more.add(lane.lane)
      beyond ||= end !== Infinity
      view.known = Math.min(isCut ? own.at(-1)!.seq : Infinity, end - 1)
      ends.set(lane.lane, end)
    }
    const [rows, behind]: [Row[], Row[]] = [[], []]
    for (const row of found) {
      if (row.seq >= (ends.get(row.lane) ?? 0)) continue
      if (parking.holdsBack(row.lane, row.key, row.seq)) behind.push(row)
      else rows.push(row)
    }
    const last = Math.max(found.at(-1)?.seq ?? 0, seen(at))
    if (at.xid !== null && last > 0) marks.add(last, at.xid)
    return {
      at,
      rows,
      found: found.length > 0,
      outdated,
      beyond,
      follow: async () => {
        for (const [number, own] of byLane(behind)) {
          const { lane } = views.find((view) => view.lane.lane === number)!
          await parking.follow(
            lane,
            own.map(({ seq }) => seq),
          )
        }
      },
      advance: (limit = () => Infinity) => {
        for (const { lane, watermark, lowered, known } of views)
          watermark.advance(marks, snapshot, Math.min(known, limit(lane)), lowered)
      },
    }
  }

  #budgetsOf(views: readonly { readonly lane: Lane }[], room: number): readonly number[] {
    const budgets = views.map(({ lane }) => this.budgetOf(lane.lane))
    const share = Math.min(1, room / budgets.reduce((sum, budget) => sum + budget, 0))
    return share === 1 ? budgets : budgets.map((budget) => Math.max(1, Math.floor(budget * share)))
  }

  /** A lane that gave all it was asked for may have more, and gives more the next time, unless reads have grown too large. */
  #adapt(lane: number, count: number, asked: number, total: number): boolean {
    const { budget, enough = Infinity } = this.#parts
    const now = this.budgetOf(lane)
    const isCut = count >= asked
    if (isCut) this.#more.add(lane)
    else this.#more.delete(lane)
    if (isCut && total < enough) this.#budgets.set(lane, Math.min(now * 2, budget.max))
    else if (!isCut || total >= 2 * enough) this.#budgets.set(lane, Math.max(budget.min, now >> 1))
    return isCut
  }
}
