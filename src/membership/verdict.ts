import { workerSql, type Peer } from '../database/sql/worker.ts'
import { dealOut, type Assignee } from './failover.ts'
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
  foundBy: 'lock' | 'heartbeat',
  assignees: readonly Assignee[],
): Promise<void> {
  const { database, consumer, failover, failoverGraceMs, emit } = options
  const sql = workerSql(database.schema)
  const lanes = failover === 'first-free' ? [] : await session.run(sql.lanesOf, { consumer, worker: peer.id })
  const inheritance = dealOut(
    failover,
    { id: peer.id, lanes: lanes.map(({ lane }) => lane), inFlight: peer.in_flight },
    assignees,
  )
  const [dead] = await session.run(sql.declareDead, {
    id: peer.id,
    foundBy,
    beat: peer.beat,
    laneAssignees: inheritance?.lanes ?? null,
    rowAssignees: inheritance?.rows ?? null,
    reservedMs: inheritance === null ? null : failoverGraceMs,
  })
  if (dead === undefined) return
  emit({
    type: 'worker_dead',
    deadWorkerId: peer.id,
    foundBy,
    silentMs: dead.silent_ms,
    strategy: failover,
  })
  await session.run(sql.disconnect, { worker: peer.id })
}
