import type { Emit } from '../base/events.ts'

/** So many topics are told of, the busiest. */
export const busyMax = 20
/** So long ago is forgotten. */
const windowMs = 10_000
/** Of a second, so many topics are counted: with 200,000 of them, adding up would stop the worker's work. */
const countedMax = 1000

/**
 * What a worker has sent or handled lately, by topic, for others to see: its row says it at each heartbeat. Nothing else knows it of a
 * box that keeps pace: what comes and goes between two looks at the tables is in none of them.
 */
export class Flow {
  #counts = new Map<string, number>()
  #since = performance.now()
  #past: { readonly since: number; readonly counts: ReadonlyMap<string, number> }[] = []

  /** Counts what is emitted, and passes it on. */
  counting(emit: Emit): Emit {
    return (happening) => {
      if (happening.type === 'handled' || happening.type === 'dropped')
        this.#count(happening.topic, happening.ids.length)
      else if (happening.type === 'sent')
        for (const [topic, count] of Object.entries(happening.topics)) this.#count(topic, count)
      emit(happening)
    }
  }

  /** The busiest topics of the last ten seconds, with messages a second. Called at each heartbeat. */
  tell(): { readonly busyTopics: readonly string[]; readonly busyRates: readonly number[] } {
    const now = performance.now()
    this.#past.push({ since: this.#since, counts: this.#counts })
    this.#counts = new Map()
    this.#since = now
    while (this.#past.length > 1 && this.#past[0]!.since < now - windowMs) this.#past.shift()
    const seconds = Math.max(1, now - this.#past[0]!.since) / 1000
    const sums = new Map<string, number>()
    for (const { counts } of this.#past)
      for (const [topic, count] of counts) sums.set(topic, (sums.get(topic) ?? 0) + count)
    const busiest = [...sums].toSorted(([, one], [, other]) => other - one).slice(0, busyMax)
    return {
      busyTopics: busiest.map(([topic]) => topic),
      busyRates: busiest.map(([, count]) => count / seconds),
    }
  }

  #count(topic: string, count: number): void {
    const before = this.#counts.get(topic)
    if (before === undefined && this.#counts.size >= countedMax) return
    this.#counts.set(topic, (before ?? 0) + count)
  }
}

/** Of a worker that neither sends nor handles. */
export const noFlow = new Flow()
