import type { Database } from '../database/database.ts'
import type { Emit, WorkerKind } from '../base/events.ts'
import type { Peer } from '../database/sql/worker.ts'
import type { Coordination } from './coordination.ts'
import type { Failover } from './failover.ts'
import type { Flow } from './flow.ts'

/** As what a worker is registered, see `Registration`. */
export interface RegistrationOptions {
  readonly database: Database
  readonly kind: WorkerKind
  /** '' for relays. */
  readonly consumer: string
  /** What it handles or receives, for others to see: names and patterns. */
  readonly topics?: readonly string[] | undefined
  readonly heartbeatMs: number
  readonly deadAfterMs: number
  readonly leaseMs: number
  /** Who gets what a dead worker of its kind leaves; of a kind that holds nothing, nobody. */
  readonly failover: Failover
  readonly failoverGraceMs: number
  /** Another way to show that it lives, and to see who does. */
  readonly coordination?: Coordination | undefined
  readonly emit: Emit
  /** What it sends or handles, for others to see; of one that does neither, nothing. */
  readonly flow?: Flow | undefined
}

/** A worker that is registered: what it is asked, and told. One object, mostly the worker itself. */
export interface Member {
  /** How much it has in flight, for others to see. */
  readonly inFlight: number
}

/** A member that holds what others may take over, see `Membership`. */
export interface Holder extends Member {
  /** Whether it has more in flight than it can work on at once. Some never have. */
  readonly hasBacklog?: boolean
  /** By the monotonic clock, until when it is sure of all its leases. */
  readonly sureUntil: number
  /** The highest place below which it takes all for done. */
  readonly highest: number
  /** The sequence had gone back behind that. */
  onBehind(): Promise<void>
  /** Abandoned work may be taken now: somebody was found dead, or what was reserved for others no longer is. */
  onAbandoned(): void
  /** Somebody who shares the work has come or gone. */
  onPeers(): void
  /** Somebody has written something that it may have waited for. */
  onWoken(): void
  /** It has been given up on, or must fear it. All that it held is void; it comes back under a new id. */
  onVoid(reason: string): void
  /** Contact again, before it is registered anew: what nobody has taken over may be given back. */
  onReturn(formerId: number): Promise<void>
}

/** Told by a registration what it has seen, if its worker holds what others may take over; see `Membership`. */
export interface Company {
  /** Who is there, with the dead, and who of the others lives. */
  onSeen(known: readonly Peer[], living: readonly Peer[]): void
  /** It was registered, at this moment. */
  onJoined(at: number): void
  /** Whether nobody is expected to come or go. */
  readonly isCalm: boolean
  /** Its session is gone, with the lock and the notifications. */
  onSessionGone(): void
  onNotified(news: string): void
}
