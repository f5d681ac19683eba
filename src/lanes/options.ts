import type { Emit } from '../base/events.ts'
import type { Database } from '../database/database.ts'
import type { Failover } from '../membership/failover.ts'
import type { Membership } from '../membership/membership.ts'
import type { Lane } from './lane.ts'

/** Which lanes a worker shares with others, and who is told of them, see `Lanes`. */
export interface LanesOptions {
  readonly database: Database
  readonly membership: Membership
  /** '' for the outbox. */
  readonly consumer: string
  readonly count: number
  readonly leaseMs: number
  readonly failover: Failover
  readonly failoverGraceMs: number
  readonly emit: Emit
  readonly holder: LaneHolder
}

/** The worker whose lanes they are: what it is asked, and told. */
export interface LaneHolder {
  /** The lowest seq of the lane that is in flight: the watermark may not be written down above it. Null if there is none. */
  lowestInFlight(lane: number): number | null
  /** Whether others may make lanes over to this worker. */
  readonly mayInherit?: boolean
  /** Lanes are there to be worked on. */
  onTaken(lanes: readonly Lane[]): void | Promise<void>
  /** Lanes are to be read from their beginning, and no mark of before counts. */
  onLowered(): void
  /** Lanes have been lost to others; what is in flight of them must not be settled. */
  onLost(lanes: readonly Lane[], reason: string): void
}
