import type { ClaimerContext } from './context.ts'

/** Where reads have left something behind for so long, others may wait behind it. */
const patienceMs = 500
/** A look in vain takes at most this part of the time, unless it is so slow that nobody would be found; one that pays, more. */
const vainShare = 0.01
const paidShare = 0.2
const lookMsMin = 200
const lookMsMax = 10_000
/** How far behind what is in flight it is looked: a look in vain is followed by one four times as far. */
const spanMin = 4000
const spanMax = 1_000_000

/**
 * A topic that has more waiting than is in flight: in the order of arrival, whatever comes behind it would wait until all of
 * it has been handled. So every now and then it is looked for what other topics have there.
 */
export class Flood {
  readonly #context: ClaimerContext
  /** Since when reads have left something behind in a lane. */
  #since = new Map<number, number>()
  #span = spanMin
  #lookAt = 0

  constructor(context: ClaimerContext) {
    this.#context = context
  }

  /**
   * After each read, with the lanes that have perhaps more than was read. Calls `look`, if it is time, with those of which
   * that has been so for a while, and with the topics that have enough in flight to go on until the next look. It says
   * whether it has found something.
   */
  async look(
    behind: readonly number[],
    look: (without: readonly string[], lanes: ReadonlySet<number>, span: number) => Promise<boolean>,
  ): Promise<void> {
    const at = performance.now()
    this.#since = new Map(behind.map((lane) => [lane, this.#since.get(lane) ?? at]))
    if (at < this.#lookAt) return
    const lanes = new Set(behind.filter((lane) => this.#since.get(lane)! <= at - patienceMs))
    if (lanes.size === 0) {
      this.#span = spanMin
      return
    }
    const { inFlight, settings } = this.#context
    const enough = Math.min(settings.concurrency, settings.batchSize)
    const without = [...inFlight.topics()].flatMap(([topic, count]) => (count >= enough ? [topic] : []))
    const found = without.length > 0 && (await look(without, lanes, this.#span))
    if (!found && without.length > 0) this.#span = Math.min(this.#span * 4, spanMax)
    const now = performance.now()
    this.#lookAt =
      now + Math.min(Math.max(lookMsMin, (now - at) / (found ? paidShare : vainShare)), lookMsMax)
  }
}
