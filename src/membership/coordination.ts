import { OptionError } from '../base/errors.ts'
import type { WorkerKind } from '../base/events.ts'

/**
 * A way beside the database to show that a worker lives, and to see who else does: `zookeeper(…)` of `twinbox/zookeeper`.
 * It never says who may write: that is decided by fences, in Postgres.
 */
export interface Coordination {
  /** Loads what it needs. @throws OptionError that says what to install */
  prepare(): Promise<void>
  /** Begins to give a sign of life. Returns at once; `told` hears when it is given. */
  enter(entrant: Entrant, told: Told): SignOfLife
}

/** As who a worker gives its sign, and among whom it looks for those of others. */
export interface Entrant {
  readonly database: string
  readonly schema: string
  readonly kind: WorkerKind
  /** '' for relays. */
  readonly consumer: string
  readonly workerId: number
}

/** What a worker shows beside its row, for as long as it lives. It ends with the process, without anybody's doing. */
export interface SignOfLife {
  /** What the worker's row has to say, for others to look for; null while it is not given. */
  readonly text: string | null
  /** By the monotonic clock, until when it was heard of for sure. */
  readonly heardAt: number
  /** So long after it was heard of last, nobody sees it any more. */
  readonly sessionMs: number
  /** Another one after each break, in which signs may have gone unseen; null while none can be seen. */
  readonly sight: number | null
  /** Whether the sign in a row is not to be seen, although it would be. */
  misses(text: string): boolean
  /** The same, with all that was known anywhere when it was asked. False if nobody can tell. */
  confirms(text: string): Promise<boolean>
  /** Ends it; others see it at once. */
  leave(): Promise<void>
}

/** Told by a sign of life what becomes of it. */
export interface Told {
  /** It is given, for the first time or again. */
  onGiven(): void
  /** It may come back. */
  onAway(error: unknown): void
  /** It will not come back; another one can be given. */
  onEnded(error: unknown): void
  /** Somebody has gone. */
  onNews(): void
}

/** @throws OptionError for what `zookeeper()` has not made */
export function checkCoordination(value: Coordination | undefined): Coordination | null {
  if (value === undefined) return null
  if (typeof value === 'object' && value !== null && typeof value.enter === 'function') return value
  throw new OptionError(
    'coordination',
    'coordination must be what zookeeper({ servers }) of twinbox/zookeeper returns, or be left out.',
  )
}
