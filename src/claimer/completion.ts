import { completionSql } from '../database/sql/completion.ts'
import type { ClaimerContext } from './context.ts'
import type { Claim } from './claim.ts'

type Parts = Pick<ClaimerContext, 'database' | 'consumer' | 'settings' | 'lanes'>

/** The worker that the history of what was handled names; null if none is kept. */
export const historian = ({ settings, lanes }: Pick<Parts, 'settings' | 'lanes'>): number | null =>
  settings.keepHandledMs > 0 ? lanes.membership.id : null

/** The server on which all of them were claimed. A transaction is on one: what was claimed on two is not held there. */
export function completedServer(claims: readonly Claim[]): string {
  const servers = new Set(claims.map(({ server }) => server))
  return servers.size === 1 ? claims[0]!.server : ''
}

/** The completion of claims as the end of their handler's transaction, all of them or none, which may begin the next one. */
export function completionAndCommit(parts: Parts, claims: readonly Claim[], goOn: boolean): string {
  const { completeAndCommit } = completionSql(parts.database.schema)
  return completeAndCommit(parts.consumer, claims, historian(parts), completedServer(claims), goOn)
}
