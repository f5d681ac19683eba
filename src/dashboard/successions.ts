import type { WorkerStatus } from '../operate/workers.ts'

/** What one worker has of the lanes that another one held. */
export interface Successor {
  readonly id: number
  readonly lanes: number
  /** From the verdict to its first and its last of them. */
  readonly firstMs: number
  readonly lastMs: number
}

/** What became of the lanes of a worker that was found dead or evicted. */
export interface Succession {
  /** Whether the lanes were seen to change hands. Nobody watches while no page is open. */
  readonly seen: boolean
  readonly successors: readonly Successor[]
  /** Lanes that are still the dead one's. */
  readonly left: number
}

/**
 * Remembers who held which lane, poll by poll: the rows say who holds a lane and since when, and not who did before. Without it, a
 * takeover could not be told from lanes that a worker which has just begun was given.
 */
export class Successions {
  readonly #holders = new Map<string, WorkerStatus>()
  /** By the id of the one that held them before. */
  readonly #taken = new Map<number, { readonly by: number; readonly at: Date }[]>()
  /** Those that ended before anybody watched. */
  readonly #missed = new Set<number>()
  #begun = false

  /** Takes in a poll. */
  see(workers: readonly WorkerStatus[]): void {
    const known = new Set(workers.map(({ id }) => id))
    for (const id of [...this.#taken.keys(), ...this.#missed]) {
      if (known.has(id)) continue
      this.#taken.delete(id)
      this.#missed.delete(id)
    }
    if (!this.#begun) for (const { id, endedAt } of workers) if (endedAt !== null) this.#missed.add(id)
    this.#begun = true
    const held = new Set<string>()
    for (const worker of workers) {
      for (const [index, lane] of worker.lanes.entries()) {
        const place = `${worker.kind} ${worker.consumer ?? ''} ${lane}`
        const before = this.#holders.get(place)
        if (before !== undefined && before.id !== worker.id) {
          const taken = this.#taken.get(before.id) ?? []
          taken.push({ by: worker.id, at: worker.lanesTaken[index]! })
          this.#taken.set(before.id, taken)
        }
        this.#holders.set(place, worker)
        held.add(place)
      }
    }
    // What a living worker does not hold any more, it has given back. A dead one's lanes may be nobody's for a while.
    const living = new Set(workers.flatMap(({ id, alive }) => (alive ? [id] : [])))
    for (const [place, { id }] of this.#holders)
      if (!held.has(place) && (living.has(id) || !known.has(id))) this.#holders.delete(place)
  }

  /** What became of the lanes of this one, which has ended. */
  of({ id, endedAt, lanes }: WorkerStatus): Succession {
    const successors = new Map<number, number[]>()
    for (const { by, at } of this.#taken.get(id) ?? []) {
      const afterMs = at.getTime() - (endedAt ?? at).getTime()
      // Handed over in good order, before.
      if (afterMs < 0) continue
      const times = successors.get(by) ?? []
      times.push(afterMs)
      successors.set(by, times)
    }
    return {
      seen: !this.#missed.has(id),
      successors: [...successors].map(([by, times]) => ({
        ...{ id: by, lanes: times.length },
        ...{ firstMs: Math.min(...times), lastMs: Math.max(...times) },
      })),
      left: lanes.length,
    }
  }
}
