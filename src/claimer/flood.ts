import { floodSql, type First } from '../database/sql/flood.ts'
import type { Place } from '../database/sql/statement.ts'
import { roomOf, type ClaimerContext } from './context.ts'
import type { InFlight } from './in-flight.ts'

/** Where reads have left something behind for so long, others may wait behind it. */
const patienceMs = 500
/** A look in vain takes at most this part of the time, unless it is so slow that nobody would be found; one that pays, more. */
const vainShare = 0.01
const paidShare = 0.2
/** A look for topics that have nothing in flight, which mostly finds some, and these may be the flood's own. */
const firstsShare = 0.05
const lookMsMin = 200
const lookMsMax = 10_000
/** How far behind what is in flight it is looked: a look in vain is followed by one four times as far. */
const spanMin = 4000
const spanMax = 1_000_000
/** Of so many topics it is known which were served last, and so many are found at once. */
const topicsMax = 1000

/** How a claimer takes what is behind a flood, in these lanes. It says whether there was anything. */
export interface Taking {
  /** What topics other than these have within so many seqs. */
  others(
    lanes: Lanes,
    sought: { readonly without: readonly string[]; readonly span: number },
  ): Promise<boolean>
  /** These messages. */
  firsts(lanes: Lanes, chosen: readonly Place[]): Promise<boolean>
}

/** With where reads of them start. */
type Lanes = ReadonlyMap<number, number>

/**
 * Topics that have more waiting than is in flight: in the order of arrival, whatever comes behind would wait until all of that
 * has been handled. So every now and then it is looked for what other topics have there.
 */
export class Flood {
  readonly #context: ClaimerContext
  readonly #taking: Taking
  readonly #sql: ReturnType<typeof floodSql>
  /** Since when reads have left something behind in a lane. */
  #since = new Map<number, number>()
  readonly #firsts = { at: 0, span: spanMin }
  readonly #served = new Served()
  readonly #others = { at: 0, span: spanMin }

  constructor(context: ClaimerContext, taking: Taking) {
    this.#context = context
    this.#taking = taking
    this.#sql = floodSql(context.database.schema)
  }

  /** After each read, with the lanes that have perhaps more than was read. Looks, if it is time, into those that have had for a while. */
  async look(behind: Lanes): Promise<void> {
    const now = performance.now()
    this.#since = new Map([...behind.keys()].map((lane) => [lane, this.#since.get(lane) ?? now]))
    const lanes = new Map([...behind].filter(([lane]) => this.#since.get(lane)! <= now - patienceMs))
    if (lanes.size === 0) {
      this.#firsts.span = this.#others.span = spanMin
      return
    }
    await inTurn(this.#firsts, () => this.#lookForFirsts(lanes))
    await inTurn(this.#others, () => this.#lookForOthers(lanes))
  }

  /** With so much in flight, a topic can go on until the next look. */
  get #enough(): number {
    const { concurrency, batchSize } = this.#context.settings
    return Math.min(concurrency, batchSize)
  }

  /**
   * One message of each topic that has none in flight, first of those that have had none for the longest time. Of a flood over
   * many topics some have always just run out: in the order of arrival, their next ones would be all that is found.
   */
  async #lookForFirsts(lanes: Lanes): Promise<number> {
    const { database, consumer, settings, inFlight } = this.#context
    const topics = [...topicsOf(inFlight)]
    // Then what others have is what any other topic has.
    if (topics.every(([, count]) => count >= this.#enough)) return vainShare
    const { span } = this.#firsts
    // Near and far in turn, since what is found says nothing of what was not.
    this.#firsts.span = span >= spanMax ? spanMin : span * 4
    const room = roomOf(this.#context, true)
    if (room === null) return firstsShare
    const without = topics.map(([topic]) => topic)
    this.#served.note(without)
    const found = await database.keep(this.#sql.firsts, {
      ...{ consumer, lanes: [...lanes.keys()], bounds: [...lanes.values()], span, without, most: topicsMax },
    })
    const chosen = this.#served.order(found).slice(0, Math.min(room.rows, settings.concurrency * 2))
    if (chosen.length === 0) return vainShare
    if (await this.#taking.firsts(lanes, chosen)) this.#served.note(chosen.map(({ topic }) => topic))
    return firstsShare
  }

  /** What topics have that have too little in flight to go on until the next look. */
  async #lookForOthers(lanes: Lanes): Promise<number> {
    const topics = [...topicsOf(this.#context.inFlight)]
    const without = topics.flatMap(([topic, count]) => (count >= this.#enough ? [topic] : []))
    if (without.length === 0) return vainShare
    const { span } = this.#others
    if (await this.#taking.others(lanes, { without, span })) return paidShare
    this.#others.span = Math.min(span * 4, spanMax)
    return vainShare
  }
}

/** Which topics have had something in flight, and in which order. Those of which nothing is known have had none for longest. */
class Served {
  readonly #topics = new Set<string>()

  note(topics: readonly string[]): void {
    for (const topic of topics) {
      this.#topics.delete(topic)
      this.#topics.add(topic)
    }
    for (const topic of this.#topics) {
      if (this.#topics.size <= topicsMax) return
      this.#topics.delete(topic)
    }
  }

  order(found: readonly First[]): readonly First[] {
    const places = new Map([...this.#topics].map((topic, place) => [topic, place]))
    return found.toSorted((a, b) => (places.get(a.topic) ?? -1) - (places.get(b.topic) ?? -1))
  }
}

/** Looks if it is time. `look` says which part of the time it may take. */
async function inTurn(turn: { at: number }, look: () => Promise<number>): Promise<void> {
  const began = performance.now()
  if (began < turn.at) return
  const share = await look()
  const now = performance.now()
  turn.at = now + Math.min(Math.max(lookMsMin, (now - began) / share), lookMsMax)
}

/** How many of each topic are in flight. */
function topicsOf(inFlight: InFlight): ReadonlyMap<string, number> {
  const counts = new Map<string, number>()
  for (const { topic } of inFlight.all()) counts.set(topic, (counts.get(topic) ?? 0) + 1)
  return counts
}
