import { createHash } from 'node:crypto'
import { OptionError } from '../base/errors.ts'
import type { FailoverStrategy } from '../base/events.ts'
import { oneOf } from '../base/options.ts'
import { layout } from '../database/layout.ts'

/** The default comes first. */
export const failoverStrategies = [
  'first-free',
  'round-robin',
  'random',
  'least-work',
  'sticky',
] as const satisfies [FailoverStrategy, ...FailoverStrategy[]]

/** A living worker that may continue the work of a dead one. */
export interface Assignee {
  readonly id: number
  /** As its machine calls itself. */
  readonly host: string
  /** By its last heartbeat. */
  readonly inFlight: number
}

/** A part of what a dead worker held. */
export interface AbandonedPart {
  /** The dead worker. */
  readonly id: number
  readonly host: string
  /** All that it had in flight, by its last heartbeat. */
  readonly inFlight: number
  /** The lane that it held; null for a part of its messages without a key. */
  readonly lane: number | null
  /** Which of the 64 parts of these messages; of a lane, its number. */
  readonly part: number
}

/**
 * Decides who of the living gets a part of what a dead worker held: one of them, or null for whoever comes first, after
 * `failoverGraceMs` if another part has an assignee. It is called once for each lane and for each of 64 parts of the messages without a key, by the worker that has found the death, which waits
 * for it: it has to be quick, and to give no promise. If it throws, or gives somebody else, all goes to whoever comes
 * first, and an event `trouble` says why.
 */
export type FailoverFunction = (dead: AbandonedPart, living: readonly Assignee[]) => Assignee | null

/** Who gets what a dead worker leaves. */
export interface Failover {
  /** What events call it. */
  readonly name: FailoverStrategy | 'custom'
  /** Null: whoever comes first. */
  readonly deal: Deal | null
}

/** Who gets each of these parts; null for whoever comes first. */
type Deal = (parts: readonly AbandonedPart[], living: readonly Assignee[]) => readonly (number | null)[]

/** Who gets what for a while. Null: whoever comes first. */
export interface Inheritance {
  /** The assignee of each lane by its number, null where the dead one held none. */
  readonly lanes: (number | null)[]
  readonly rows: (number | null)[]
}

/** @throws OptionError */
export function readFailover(value: unknown): Failover {
  if (typeof value === 'function') return { name: 'custom', deal: dealBy(value as FailoverFunction) }
  try {
    const name = oneOf('failover', value, failoverStrategies)
    return { name, deal: deals[name] }
  } catch (error) {
    if (!(error instanceof OptionError)) throw error
    throw new OptionError('failover', `${error.message} Or give a function: (dead, living) => assignee.`)
  }
}

/**
 * Deals out what a dead worker held. The one who found it dead decides for all, and writes it down in the same
 * statement as the death: no two survivors ever disagree about whose an abandoned message is.
 * @throws what a function of the user's throws
 */
export function dealOut(
  { deal }: Failover,
  { lanes: held, ...dead }: Assignee & { readonly lanes: readonly number[] },
  living: readonly Assignee[],
): Inheritance | null {
  if (deal === null || living.length === 0) return null
  const lanes = Array<number | null>(Math.max(-1, ...held) + 1).fill(null)
  const assignees = deal(
    held.map((lane) => ({ ...dead, lane, part: lane })),
    living,
  )
  for (const [index, lane] of held.entries()) lanes[lane] = assignees[index]!
  const parts = Array.from({ length: layout.rowParts }, (_, part) => ({ ...dead, lane: null, part }))
  const rows = [...deal(parts, living)]
  // Nothing that is reserved for nobody waits.
  return [...lanes, ...rows].every((id) => id === null) ? null : { lanes, rows }
}

const deals: Readonly<Record<FailoverStrategy, Deal | null>> = {
  'first-free': null,
  // In turn, beginning after the dead one, so that the odd part does not always go to the same.
  'round-robin': (parts, living) => {
    const turn = living.map(({ id }) => id).toSorted((a, b) => a - b)
    const first = Math.max(
      0,
      turn.findIndex((id) => id > (parts[0]?.id ?? 0)),
    )
    return parts.map((_, index) => turn[(first + index) % turn.length]!)
  },
  random: (parts, living) => parts.map(() => living[Math.floor(Math.random() * living.length)]!.id),
  'least-work': (parts, living) => {
    const loads = living.map(({ id, inFlight }) => ({ id, load: inFlight }))
    // Even an empty part counts: of several that are idle, not the first should get everything.
    const size = Math.max(parts[0]?.inFlight ?? 0, 1) / parts.length
    return parts.map(() => {
      const least = loads.reduce((best, other) => (other.load < best.load ? other : best))
      least.load += size
      return least.id
    })
  },
  // By rendezvous hashing, see Thaler and Ravishankar, "Using name-based mappings to increase hit rates", 1998: whoever else
  // comes or goes, a part goes to the same worker. Ids are given out anew at each start, so a worker is known by its host
  // and its place among the workers there.
  sticky: (parts, living) => {
    const names = namesOf(living)
    return parts.map(({ lane, part }) => {
      const weights = living.map(({ id }) =>
        hash(`${names.get(id)!} ${lane === null ? 'rows' : 'lane'} ${part}`),
      )
      return living[weights.indexOf(weights.toSorted().at(-1)!)]!.id
    })
  },
}

function namesOf(living: readonly Assignee[]): ReadonlyMap<number, string> {
  const counts = new Map<string, number>()
  return new Map(
    living
      .toSorted((a, b) => a.id - b.id)
      .map(({ id, host }) => {
        const place = counts.get(host) ?? 0
        counts.set(host, place + 1)
        return [id, `${place} ${host}`]
      }),
  )
}

const hash = (text: string): string => createHash('sha256').update(text).digest('hex')

const dealBy =
  (decide: FailoverFunction): Deal =>
  (parts, living) =>
    parts.map((part) => {
      const assignee: unknown = decide(part, living)
      if (assignee === null) return null
      const chosen = living.find((one) => one === assignee)
      if (chosen === undefined)
        throw new TypeError('failover gave neither null nor one of the living workers.')
      return chosen.id
    })
