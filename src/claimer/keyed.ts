import { inboxSql } from '../database/sql/inbox.ts'
import { readingSql, type KeyedRead, type KeyedRow, type OrNot } from '../database/sql/reading.ts'
import type { Parameters } from '../database/sql/parameter.ts'
import { isKeyed } from '../database/layout.ts'
import type { Given, Statement } from '../database/sql/statement.ts'
import { Polling } from '../membership/polling.ts'
import type { Lane } from '../lanes/lane.ts'
import { LaneReader, type Reading } from '../lanes/reader.ts'
import { askingOf } from './asking.ts'
import { roomOf, type ClaimerContext, type Room } from './context.ts'
import { Claim } from './claim.ts'
import { Flood } from './flood.ts'
import { HotKeys } from './hot.ts'
import type { Unhandled } from './unhandled.ts'

const budgetMin = 8
/** No lane gives more than its part of so many: of one with a hot key nothing else could be handled side by side. */
const lanesMin = 8
/** So many rows a read past hot keys goes through at most, of all its lanes together. */
const pastMax = 1000

/** The last seq that a read past hot keys has looked at, how many those were, and the highest seq of the lane. */
interface End {
  readonly last: number | null
  readonly count: number
  readonly highest: number | null
}

const endsOf = ({ ends = '{}' }: KeyedRead): Record<string, End> => JSON.parse(ends) as Record<string, End>

/**
 * Claims of messages with a key: reads on in the lanes that this claimer holds, whenever little of a lane is left in
 * flight. Holding the lane is the claim, so reading writes nothing but how far it has come.
 */
export class KeyedClaims {
  readonly #context: ClaimerContext
  readonly #unhandled: Unhandled
  readonly #sql: ReturnType<typeof readingSql>
  readonly #reader: LaneReader<KeyedRow, KeyedRead>
  readonly #hot: HotKeys
  readonly #pastReader: LaneReader<KeyedRow, KeyedRead>
  readonly #flood: Flood
  readonly #othersReader: LaneReader<KeyedRow, KeyedRead>
  /** Whether something was left that there was no room for. */
  #left = false
  readonly polling: Polling
  /** Lanes to whose end the last read past hot keys has looked. */
  readonly #seen = new Set<number>()
  #pastAt = 0
  #pastPauseMs = 0

  constructor(context: ClaimerContext, unhandled: Unhandled) {
    const { database, settings, membership, inFlight } = context
    this.#context = context
    this.#unhandled = unhandled
    this.#sql = readingSql(database.schema)
    this.polling = new Polling(settings, membership.sleep)
    this.#hot = new HotKeys(inFlight, (claim) => context.circuits.pauses(claim))
    const max = Math.max(budgetMin, Math.ceil(settings.batchSize / lanesMin))
    this.#reader = new LaneReader({ ...context, budget: { min: budgetMin, max } })
    this.#flood = new Flood(context, {
      others: (lanes, sought) =>
        this.#readBehind(lanes, (asking) => this.#keep(this.#sql.readOthers, { ...asking, ...sought })),
      firsts: (lanes, chosen) =>
        this.#readBehind(lanes, (asking) => {
          const places = { chosenLanes: chosen.map(({ lane }) => lane), chosen: chosen.map(({ seq }) => seq) }
          return this.#keep(this.#sql.readFirsts, { ...asking, ...places })
        }),
    })
    this.#othersReader = new LaneReader({ ...context, budget: { min: budgetMin, max: budgetMin } })
    this.#pastReader = new LaneReader({
      ...context,
      // At least as many as stay in flight: a read that finds nothing among what is of hot keys makes the budget no
      // smaller.
      budget: { min: 2 * budgetMin, max: Math.max(2 * budgetMin, max) },
      watermarkOf: (lane) => this.#hot.watermarkOf(lane),
      // One mark then serves all of the backlog that is gone through.
      seen: (at) => Math.max(0, ...Object.values(endsOf(at)).map(({ highest }) => highest ?? 0)),
    })
  }

  /** Something is about to come: look often again. */
  hurry(): void {
    this.polling.hurry()
    this.#pastPauseMs = 0
    this.#pastAt = Math.min(this.#pastAt, performance.now() + this.#context.settings.pollMs)
  }

  /** The lanes are gone, perhaps with the server. */
  forget(): void {
    this.#reader.forget()
    this.#pastReader.forget()
    this.#othersReader.forget()
  }

  /** Lanes are ours now. What their last holder had in flight when it died has been attempted once more. */
  async take(lanes: readonly Lane[]): Promise<void> {
    const { database, consumer, parking } = this.#context
    const abandoned = lanes.filter((lane) => lane.abandoned)
    if (abandoned.length > 0) {
      await database.keep(inboxSql(database.schema).charge, {
        consumer,
        lanes: abandoned.map(({ lane }) => lane),
        fences: abandoned.map(({ fence }) => fence),
        watermarks: abandoned.map(({ watermark }) => watermark.confirmed),
      })
    }
    await parking.load(lanes)
    await this.#unhandled.take(lanes)
    for (const { lane } of lanes) this.#reader.begin(lane)
  }

  /** Whether reading at once would pay, now that these are done: more is waiting in their lanes. */
  wants(done: readonly Claim[]): boolean {
    if (this.#left) {
      const room = roomOf(this.#context)
      return room !== null && room.rows >= this.#context.settings.batchSize
    }
    return done.some(({ lane, past }) =>
      past ? this.#pastReader.hasMore(lane) : this.#reader.hasMore(lane) && this.#isLow(lane),
    )
  }

  /** Reads, and returns how long to wait before the next time. */
  read(): Promise<number> {
    return this.#context.quarantine.claim('keyed', () => this.#read())
  }

  async #read(): Promise<number> {
    const { settings, lanes } = this.#context
    const able = [...lanes.held.values()].filter(
      (lane) => isKeyed(lane) && !lane.draining && !this.#unhandled.isComing(lane.lane),
    )
    const low = able.filter(({ lane }) => this.#isLow(lane))
    const room = roomOf(this.#context)
    this.#left = low.length > 0 && room === null
    let pauseMs = settings.pollMsMax
    if (room !== null) {
      if (low.length > 0) pauseMs = await this.#readInOrder(low, room)
      pauseMs = Math.min(pauseMs, await this.#readPast(able.filter((lane) => !low.includes(lane))))
    }
    const behind = able.filter(
      ({ lane }) => room === null || this.#reader.hasMore(lane) || !this.#isLow(lane),
    )
    await this.#flood.look(new Map(behind.map(({ lane, watermark }) => [lane, watermark.tentative])))
    return pauseMs
  }

  /** Reads what stands behind a flood. Before it there is the flood, so nothing is known of where reads may start. */
  async #readBehind(
    lanes: ReadonlyMap<number, number>,
    read: (asking: ReturnType<typeof askingOf>) => Promise<readonly OrNot<KeyedRow, KeyedRead>[]>,
  ): Promise<boolean> {
    const room = roomOf(this.#context, true)
    const held = [...this.#context.lanes.held.values()]
    const behind = held.filter(({ lane, draining }) => lanes.has(lane) && !draining)
    if (room === null || behind.length === 0) return false
    const reading = await this.#othersReader.read(behind, room.rows, (asked, mark) =>
      read(askingOf(this.#context, asked, mark, room)),
    )
    this.#takeInFlight(reading.rows, true)
    await reading.follow()
    return reading.found
  }

  async #readInOrder(low: readonly Lane[], room: Room): Promise<number> {
    const reading = await this.#reader.read(low, room.rows, (asked, mark) =>
      this.#keep(this.#sql.read, askingOf(this.#context, asked, mark, room)),
    )
    this.#left = reading.beyond
    this.#takeInFlight(reading.rows, false)
    await this.#settle(reading)
    const pauseMs = this.polling.next(reading.found)
    return this.wants([]) ? 0 : pauseMs
  }

  /** Reads what other keys have in lanes whose messages in flight are of a few keys that have many. */
  async #readPast(full: readonly Lane[]): Promise<number> {
    const { settings } = this.#context
    if (full.length === 0) return Infinity
    const now = performance.now()
    if (now < this.#pastAt) return this.#pastAt - now
    this.#pastAt = now + settings.pollMs
    const lanes = full.filter((lane) => {
      const others = this.#hot.look(lane)
      return others !== null && others <= this.#pastReader.budgetOf(lane.lane) >> 1
    })
    if (lanes.length === 0) return Infinity
    const room = roomOf(this.#context)
    if (room === null) return settings.pollMsMax
    // Most go to lanes of which the last read has not seen the end.
    const most = Math.ceil(pastMax / Math.max(1, lanes.filter(({ lane }) => !this.#seen.has(lane)).length))
    const reading = await this.#pastReader.read(lanes, room.rows, (asked, mark) =>
      this.#keep(this.#sql.readPast, {
        ...askingOf(this.#context, asked, mark, room),
        without: asked.map(({ lane }) => this.#hot.keysOf(lane)),
        look: most,
      }),
    )
    this.#takeInFlight(reading.rows, true)
    const ends = endsOf(reading.at)
    await this.#settle(reading, ({ lane }) => (ends[lane]!.count < most ? Infinity : ends[lane]!.last!))
    for (const { lane } of lanes) {
      if (ends[lane]!.count < most) this.#seen.add(lane)
      else this.#seen.delete(lane)
    }
    const { pollMs, pollMsMax } = settings
    const goesOn = reading.found || lanes.some(({ lane }) => !this.#seen.has(lane))
    if (reading.found) this.#context.membership.sleep.stir()
    this.#pastPauseMs = goesOn ? pollMs : Math.min(Math.max(this.#pastPauseMs * 2, pollMs), pollMsMax)
    this.#pastAt = performance.now() + this.#pastPauseMs
    return this.#pastPauseMs
  }

  async #keep<Takes extends Parameters>(
    statement: Statement<Takes, OrNot<KeyedRow, KeyedRead>>,
    ...given: Given<Takes>
  ): Promise<readonly OrNot<KeyedRow, KeyedRead>[]> {
    const { database, failpoint } = this.#context
    const rows = await database.keep(statement, ...given)
    await failpoint('claimer.after_claim')
    return rows
  }

  #takeInFlight(rows: readonly KeyedRow[], past: boolean): void {
    if (rows.length === 0) return
    const { inFlight, membership } = this.#context
    for (const row of rows) inFlight.add(new Claim(row, membership.server, true, past))
    this.#context.emit({ type: 'claimed', ids: rows.map(({ id }) => id) })
    this.#context.dispatch()
  }

  /** What was left out for caution is still to be read. */
  async #settle(
    reading: Reading<KeyedRow, KeyedRead>,
    end: (lane: Lane) => number = () => Infinity,
  ): Promise<void> {
    await reading.follow()
    const { left_out: leftOut } = reading.at
    reading.advance((lane) => (leftOut ? lane.watermark.confirmed : end(lane)))
  }

  #isLow(lane: number): boolean {
    const { inFlight, circuits } = this.#context
    return (
      inFlight.countInOrder(lane) - (circuits.waiting().lanes.get(lane) ?? 0) <=
      this.#reader.budgetOf(lane) >> 1
    )
  }
}
