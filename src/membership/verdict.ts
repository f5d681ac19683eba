import type { DeathSign } from '../base/events.ts'
import { workerSql, type Peer } from '../database/sql/worker.ts'
import { dealOut, type Assignee, type Inheritance } from './failover.ts'
import type { Session } from './session.ts'
import type { RegistrationOptions } from './options.ts'

/**
 * Declares a worker dead, decides who shall have what it held, and closes what it has left open. Nothing is done if
 * somebody else was faster, or if it has beaten meanwhile.
 */
export async function declareDead(
  options: RegistrationOptions,
  session: Session,
  peer: Peer,
  foundBy: DeathSign,
  assignees: readonly Assignee[],
): Promise<void> {
  const { database, consumer, failover, failoverGraceMs, emit } = options
  const sql = workerSql(database.schema)
  const lanes = failover.deal === null ? [] : await session.run(sql.lanesOf, { consumer, worker: peer.id })
  const { id, host, in_flight: inFlight } = peer
  let inheritance: Inheritance | null = null
  let refusal: { readonly error: unknown } | null = null
  try {
    inheritance = dealOut(failover, { id, host, inFlight, lanes: lanes.map(({ lane }) => lane) }, assignees)
  } catch (error) {
    // A death has to be declared, whatever a function of the user's does.
    refusal = { error }
  }
  const [dead] = await session.run(sql.declareDead, {
    id: peer.id,
    foundBy,
    beat: peer.beat,
    laneAssignees: inheritance?.lanes ?? null,
    rowAssignees: inheritance?.rows ?? null,
    reservedMs: inheritance === null ? null : failoverGraceMs,
  })
  if (dead === undefined) return
  // Several find a death at the same time: the one whose word holds tells of the function that failed.
  if (refusal !== null) emit({ type: 'trouble', error: refusal.error, doing: 'failover' })
  emit({
    type: 'worker_dead',
    deadWorkerId: peer.id,
    foundBy,
    silentMs: dead.silent_ms,
    strategy: failover.name,
  })
  await session.run(sql.disconnect, { worker: peer.id })
}
