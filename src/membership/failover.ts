import { layout } from '../database/layout.ts'
import type { FailoverStrategy } from '../base/events.ts'

/** The default comes first. */
export const failoverStrategies = ['first-free', 'round-robin', 'random', 'least-work'] as const satisfies [
  FailoverStrategy,
  ...FailoverStrategy[],
]

/** A living worker that may continue the work of a dead one. */
export interface Assignee {
  readonly id: number
  readonly inFlight: number
}

/** Who gets what for a while. Null: whoever comes first. */
export interface Inheritance {
  /** The assignee of each lane by its number, null where the dead one held none. */
  readonly lanes: (number | null)[]
  readonly rows: number[]
}

/**
 * Deals out what a dead worker held. The one who found it dead decides for all, and writes it down in the same
 * statement as the death: no two survivors ever disagree about whose an abandoned message is.
 */
export function dealOut(
  strategy: FailoverStrategy,
  dead: { readonly id: number; readonly lanes: readonly number[]; readonly inFlight: number },
  living: readonly Assignee[],
): Inheritance | null {
  if (strategy === 'first-free' || living.length === 0) return null
  const lanes = Array<number | null>(Math.max(-1, ...dead.lanes) + 1).fill(null)
  const deal = deals[strategy]
  const assignees = deal(dead.lanes.length, living, dead.id, dead.inFlight / (dead.lanes.length || 1))
  for (const [index, lane] of dead.lanes.entries()) lanes[lane] = assignees[index]!
  return { lanes, rows: deal(layout.rowParts, living, dead.id, dead.inFlight / layout.rowParts) }
}

type Deal = (parts: number, living: readonly Assignee[], dead: number, partSize: number) => number[]

const deals: Readonly<Record<Exclude<FailoverStrategy, 'first-free'>, Deal>> = {
  // In turn, beginning after the dead one, so that the odd part does not always go to the same.
  'round-robin': (parts, living, dead) => {
    const turn = living.map(({ id }) => id).toSorted((a, b) => a - b)
    const first = Math.max(
      0,
      turn.findIndex((id) => id > dead),
    )
    return Array.from({ length: parts }, (_, index) => turn[(first + index) % turn.length]!)
  },
  random: (parts, living) =>
    Array.from({ length: parts }, () => living[Math.floor(Math.random() * living.length)]!.id),
  'least-work': (parts, living, _dead, partSize) => {
    const loads = living.map(({ id, inFlight }) => ({ id, load: inFlight }))
    // Even an empty part counts: of several that are idle, not the first should get everything.
    const size = Math.max(partSize, 1 / parts)
    return Array.from({ length: parts }, () => {
      const least = loads.reduce((best, other) => (other.load < best.load ? other : best))
      least.load += size
      return least.id
    })
  },
}
