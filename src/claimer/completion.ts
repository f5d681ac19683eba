import type { Statement } from '../database/database.ts'
import { inboxSql } from '../database/sql/inbox.ts'
import { plainArray } from '../database/sql/statement.ts'
import type { ClaimerContext } from './context.ts'
import type { Claim } from './hand.ts'

/**
 * How claims are completed: deleted, and if the claimer keeps a history, written down there in the same statement.
 * @param within whether it is a statement of the handler's transaction, whose outcome may have to be asked for
 */
export function completion(
  {
    database,
    consumer,
    settings,
    lanes,
  }: Pick<ClaimerContext, 'database' | 'consumer' | 'settings' | 'lanes'>,
  claims: readonly Claim[],
  within = false,
): [Statement, unknown[]] {
  const { complete, completeWithin, completeOneWithin, completeAndKeep } = inboxSql(database.schema)
  const keeps = settings.keepHandledMs > 0
  if (within && !keeps && claims.length === 1) {
    const { lane, seq, fence, id } = claims[0]!
    return [completeOneWithin, [consumer, lane, seq, fence, id]]
  }
  const values = [
    consumer,
    claims.map(({ lane }) => lane),
    claims.map(({ seq }) => seq),
    claims.map(({ fence }) => fence),
    plainArray(claims.map(({ id }) => id)),
  ]
  if (!keeps) return [within ? completeWithin : complete, values]
  return [completeAndKeep, [...values, claims.map(({ attempt }) => attempt), lanes.workerId]]
}
