import type { Emit } from '../base/events.ts'
import { busyMax, others } from '../database/layout.ts'

/** So long ago is forgotten. */
const windowMs = 10_000
/** Of a second, so many topics are counted by themselves: with 200,000 of them, adding up would stop the worker's work. */
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
    let rest = sums.get(others) ?? 0
    sums.delete(others)
    const all = [...sums].toSorted(([, one], [, other]) => other - one)
    const told = all.slice(0, busyMax)
    for (const [, count] of all.slice(busyMax)) rest += count
    if (rest > 0) told.push([others, rest])
    return { busyTopics: told.map(([topic]) => topic), busyRates: told.map(([, count]) => count / seconds) }
  }

  #count(topic: string, count: number): void {
    const name = this.#counts.size < countedMax || this.#counts.has(topic) ? topic : others
    this.#counts.set(name, (this.#counts.get(name) ?? 0) + count)
  }
}

/** Of a worker that neither sends nor handles. */
export const noFlow = new Flow()
