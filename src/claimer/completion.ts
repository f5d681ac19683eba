import type { Statement } from '../database/database.ts'
import { completionSql } from '../database/sql/completion.ts'
import { arrayText } from '../database/sql/statement.ts'
import type { ClaimerContext } from './context.ts'
import type { Claim } from './claim.ts'

type Parts = Pick<ClaimerContext, 'database' | 'consumer' | 'settings' | 'lanes'>

/** Where a row of the inbox stands. */
export interface Place {
  readonly lane: number
  readonly seq: number
}

export const placeOf = ({ lane, seq }: Place): string => `${lane} ${seq}`

/** Claims as the first parameters of each statement that ends them. */
export const placesOf = (consumer: string, claims: readonly Claim[]): unknown[] => [
  consumer,
  arrayText(claims.map(({ lane }) => lane)),
  arrayText(claims.map(({ seq }) => seq)),
  arrayText(claims.map(({ fence }) => fence)),
  arrayText(claims.map(({ id }) => id)),
]

/** How claims are completed: deleted, and if the claimer keeps a history, written down there in the same statement. */
export function completion(
  { database, consumer, settings, lanes }: Parts,
  claims: readonly Claim[],
): [Statement, unknown[]] {
  const { complete, completeAndKeep } = completionSql(database.schema)
  const values = placesOf(consumer, claims)
  if (settings.keepHandledMs === 0) return [complete, values]
  return [completeAndKeep, [...values, claims.map(({ attempt }) => attempt), lanes.workerId]]
}

/** The same as the end of their handler's transaction, all of them or none, which may begin the next one. */
export function completionAndCommit(
  { database, consumer, settings, lanes }: Parts,
  claims: readonly Claim[],
  goOn: boolean,
): string {
  const worker = settings.keepHandledMs > 0 ? lanes.workerId : null
  return completionSql(database.schema).completeAndCommit(consumer, claims, worker, goOn)
}
