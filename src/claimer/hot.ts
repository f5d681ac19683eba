import { Watermark } from '../lanes/watermark.ts'
import type { Lane } from '../lanes/lane.ts'
import type { Claim } from './claim.ts'
import type { InFlight } from './in-flight.ts'

/** A key with so many messages in flight is hot, until it has fewer than the second. */
const hotFrom = 4
const hotUntil = 2

interface Past {
  /** Of what the other keys have in the lane, all up to here is dealt with or in flight. */
  readonly watermark: Watermark
  readonly lowered: number
  /** The hot keys, and up to where all of each is dealt with or in flight. */
  readonly keys: Map<string, number>
}

/**
 * Keys that fill what may be in flight of their lane. One customer imports 100,000 messages: read in the order of the
 * lane, the messages of all other keys would wait behind them, one customer in 64.
 *
 * So what the others have in the lane is read past the hot keys, from a watermark of its own. The reads in order go on
 * beside it and leave nothing out; what is forgotten here is only read once more.
 */
export class HotKeys {
  readonly #inFlight: InFlight
  readonly #pauses: (claim: Claim) => boolean
  readonly #lanes = new WeakMap<Lane, Past>()

  /** @param pauses whether a claim waits for its topic to go on: such ones keep nobody from being read */
  constructor(inFlight: InFlight, pauses: (claim: Claim) => boolean) {
    this.#inFlight = inFlight
    this.#pauses = pauses
  }

  /** Finds the hot keys of a lane. Returns how many messages of other keys are in flight, or null if no key is hot. */
  look(lane: Lane): number | null {
    const counts = new Map<string, number>()
    for (const { key } of this.#inFlight.all(lane.lane)) counts.set(key!, (counts.get(key!) ?? 0) + 1)
    const past = this.#of(lane)
    for (const [key, from] of past.keys) {
      if ((counts.get(key) ?? 0) >= hotUntil) continue
      past.keys.delete(key)
      past.watermark.lower(Math.max(from, lane.watermark.confirmed) + 1)
    }
    for (const [key, count] of counts)
      if (count >= hotFrom && !past.keys.has(key)) past.keys.set(key, past.watermark.confirmed)
    if (past.keys.size === 0) return null
    let others = 0
    for (const claim of this.#inFlight.all(lane.lane))
      if (!past.keys.has(claim.key!) && !this.#pauses(claim)) others++
    return others
  }

  keysOf(lane: Lane): readonly string[] {
    return [...this.#of(lane).keys.keys()]
  }

  /** Where reads past the hot keys start. */
  watermarkOf(lane: Lane): Watermark {
    return this.#of(lane).watermark
  }

  /** What has come back below belongs to any key. And where reads in order have come further, all before is done. */
  #of(lane: Lane): Past {
    let past = this.#lanes.get(lane)
    if (past?.lowered !== lane.watermark.lowered || past.watermark.tentative < lane.watermark.confirmed) {
      past = {
        watermark: new Watermark(lane.watermark.confirmed),
        lowered: lane.watermark.lowered,
        keys: new Map<string, number>(),
      }
      this.#lanes.set(lane, past)
    }
    return past
  }
}
