import type { WorkerStatus } from '../operate/workers.ts'

/** By what a worker's lanes are known in the picture. */
export interface Mark {
  /** A to Z, then AA. */
  readonly letter: string
  /** One of eight colours with their patterns. */
  readonly shade: number
}

export const shades = 8

/**
 * Gives each worker that holds lanes a mark, which no other one of its box has. A worker keeps its mark for as long as it is known: if
 * marks moved up when one dies, the picture would change everywhere, and nobody would see where.
 */
export class Marks {
  readonly #boxes = new Map<string, Map<number, number>>()

  /** Takes in a poll. */
  see(workers: readonly WorkerStatus[]): void {
    const known = new Set(workers.map(({ id }) => id))
    for (const [box, marks] of this.#boxes) {
      for (const id of marks.keys()) if (!known.has(id)) marks.delete(id)
      if (marks.size === 0) this.#boxes.delete(box)
    }
    for (const worker of workers.toSorted((a, b) => a.id - b.id)) {
      const box = boxOf(worker)
      const marks = this.#boxes.get(box) ?? new Map<number, number>()
      if (worker.kind === 'receiver' || marks.has(worker.id) || worker.lanes.length === 0) continue
      const used = new Set(marks.values())
      let free = 0
      while (used.has(free)) free++
      marks.set(worker.id, free)
      this.#boxes.set(box, marks)
    }
  }

  /** Null for one that has held no lane. */
  of(worker: WorkerStatus): Mark | null {
    const number = this.#boxes.get(boxOf(worker))?.get(worker.id)
    return number === undefined ? null : { letter: letterOf(number), shade: number % shades }
  }
}

const boxOf = ({ kind, consumer }: WorkerStatus): string => `${kind} ${consumer ?? ''}`

const letterOf = (number: number): string =>
  (number < 26 ? '' : letterOf(Math.floor(number / 26) - 1)) + String.fromCharCode(65 + (number % 26))
