import type { Database } from '../database/database.ts'
import type { Emit, FailoverStrategy, WorkerKind } from '../base/events.ts'

/** How a worker takes its place among those that share its work, see `Membership`. */
export interface MembershipOptions {
  readonly database: Database
  readonly kind: WorkerKind
  /** '' for relays. */
  readonly consumer: string
  /** What it handles or receives, for others to see: names and patterns. */
  readonly topics?: readonly string[] | undefined
  readonly heartbeatMs: number
  readonly deadAfterMs: number
  readonly leaseMs: number
  readonly failover: FailoverStrategy
  readonly failoverGraceMs: number
  readonly emit: Emit
  /** How much the worker has in flight, for others to see. */
  readonly inFlight: () => number
  /** Whether it has more in flight than it can work on at once. Some never have. */
  readonly hasBacklog?: () => boolean
  /** By the monotonic clock, until when the worker is sure of all its leases. */
  readonly sureUntil: () => number
  /** The highest place below which this worker takes all for done; 0 if it reads no lanes. */
  readonly highest?: () => number
  /** The sequence had gone back behind that. */
  readonly onBehind?: () => Promise<void>
  /** Abandoned work may be taken now: somebody was found dead, or what was reserved for others no longer is. */
  readonly onAbandoned: () => void
  /** Somebody who shares the work has come or gone. */
  readonly onPeers: () => void
  /** Somebody has written something that this worker may have waited for. */
  readonly onWoken: () => void
  /** This worker has been given up on, or must fear it. All that it held is void; it comes back under a new id. */
  readonly onVoid: (reason: string) => void
  /** Contact again, before it is registered anew: what nobody has taken over may be given back. */
  readonly onReturn: (formerId: number) => Promise<void>
}
