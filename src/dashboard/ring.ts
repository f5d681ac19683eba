import type { Poll } from './poll.ts'

/** How one box stood at one time. */
interface Point {
  readonly at: number
  readonly depth: number
  readonly lagMs: number
  readonly inRate: number | null
  readonly outRate: number | null
}

/** The points of one box as a chart takes them: seconds since 1970, and what was found then. */
export interface Series {
  readonly at: readonly number[]
  readonly depth: readonly number[]
  /** In seconds. */
  readonly lag: readonly number[]
  readonly in: readonly (number | null)[]
  readonly out: readonly (number | null)[]
}

const keptMs = 3_600_000
/** Charts of more lines than that tell nobody anything. */
const boxesMax = 100

/** What polls have found in the last hour, for charts. It is empty when the process starts, and has gaps where nobody watched. */
export class Ring {
  readonly #boxes = new Map<string, Point[]>()

  add(poll: Poll): void {
    const at = poll.lookedAt.getTime()
    for (const box of [{ ...poll.outbox, consumer: '' }, ...poll.consumers]) {
      const points = this.#boxes.get(box.consumer) ?? []
      // Polls between two looks at what waits repeat the one before.
      if (points.at(-1)?.at === at || (points.length === 0 && this.#boxes.size >= boxesMax)) continue
      const { depth, lagMs, inRate, outRate } = box
      points.push({ at, depth, lagMs: lagMs ?? 0, inRate, outRate })
      this.#boxes.set(box.consumer, points)
    }
    for (const [consumer, points] of this.#boxes) {
      const first = points.findIndex((point) => point.at > at - keptMs)
      if (first === -1) this.#boxes.delete(consumer)
      else if (first > 0) points.splice(0, first)
    }
  }

  /** Of each box what came after a time, in milliseconds since 1970. */
  since(after: number): Readonly<Record<string, Series>> {
    return Object.fromEntries(
      [...this.#boxes].map(([consumer, all]) => {
        const points = all.filter(({ at }) => at > after)
        const column = <Value>(of: (point: Point) => Value): Value[] => points.map(of)
        return [
          consumer === '' ? 'outbox' : `inbox of ${consumer}`,
          {
            at: column(({ at }) => at / 1000),
            depth: column(({ depth }) => depth),
            lag: column(({ lagMs }) => lagMs / 1000),
            in: column(({ inRate }) => inRate),
            out: column(({ outRate }) => outRate),
          },
        ]
      }),
    )
  }
}
