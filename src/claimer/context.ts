import type { Database } from '../database/database.ts'
import type { Emit } from '../base/events.ts'
import type { Failpoint } from '../base/failpoint.ts'
import type { Lanes } from '../lanes/lanes.ts'
import type { Parking } from '../lanes/parking.ts'
import type { Failover } from '../membership/failover.ts'
import type { Membership } from '../membership/membership.ts'
import type { Telemetry } from '../base/telemetry.ts'
import { limits } from '../base/options.ts'
import type { Circuits } from './circuits.ts'
import type { Claim, Told } from './claim.ts'
import type { InFlight } from './in-flight.ts'
import type { ClaimerSettings } from './options.ts'
import type { Quarantine } from './quarantine.ts'
import type { Pacing } from './verdict.ts'

/** What the parts of one claimer share. */
export interface ClaimerContext {
  readonly database: Database
  readonly consumer: string
  readonly settings: ClaimerSettings
  readonly failover: Failover
  readonly avoidLastHolder: boolean
  readonly membership: Membership
  readonly lanes: Lanes
  readonly parking: Parking
  readonly inFlight: InFlight
  readonly quarantine: Quarantine
  readonly circuits: Circuits
  readonly emit: Emit
  readonly telemetry: Telemetry | undefined
  readonly told: Told
  readonly failpoint: Failpoint
  readonly pacing: Pacing
  /** These claims are somebody else's now. Their handlers are told, and nothing of them will be settled. */
  readonly lose: (claims: readonly Claim[], reason: string) => void
  /**
   * What became of these is not known, or they are not where they were. What is still there of them is read again, with
   * all that follows it in its key, unless the lane has been lost.
   */
  readonly reread: (claims: readonly Claim[]) => void
  /** Something in flight can be handled now. */
  readonly dispatch: () => void
}

/** Handlers are few beside this; what is claimed ahead may not fill the memory with large payloads. */
const inFlightBytesMax = 32 * 1024 * 1024

/** How much more may be claimed at once, in bytes and in messages. A larger message comes alone. */
export interface Room {
  readonly bytes: number
  readonly rows: number
}

/** Null if enough is in flight. Behind a flood there is a quarter more, for other topics. */
export function roomOf({ inFlight, settings, circuits }: ClaimerContext, behindFlood = false): Room | null {
  const share = behindFlood ? 1.25 : 1
  const rows = Math.ceil(settings.batchSize * 2 * share) - (inFlight.size - circuits.waiting().total)
  const bytes = Math.min(inFlightBytesMax * share - inFlight.bytes, limits.batchBytes)
  return rows <= 0 || bytes <= 0 ? null : { rows, bytes }
}
