import { begin } from '../base/telemetry.ts'
import type { Claim } from './claim.ts'
import type { ClaimerContext } from './context.ts'
import type { ResolvedHandler } from './handlers.ts'
import { call, contextOf, handling, lost } from './handling.ts'
import type { Settlement } from './settlement.ts'

export const handledAtOnce = Symbol('handled')

/**
 * A message whose handler has no transaction and is not async is handled here and now, without a promise: they would
 * cost more than all the rest. What a handler gives that is async is handed on. The handler alone decides, never who watches:
 * what tests kill and traces show is what runs in production.
 */
export function handleAtOnce(
  context: Pick<ClaimerContext, 'failpoint' | 'consumer' | 'telemetry' | 'membership'>,
  handler: ResolvedHandler | undefined,
  claims: readonly Claim[],
): typeof handledAtOnce | PromiseLike<unknown> | undefined {
  const { failpoint, consumer, telemetry, membership } = context
  const claim = claims[0]!
  const simple = handler?.transaction === false && !handler.batch && handler.handleTimeoutMs === 0
  const late = performance.now() >= claim.expiresAt
  if (!simple || late || claims.length > 1 || claim.attempt > handler.maxAttempts) return undefined
  const run = (): unknown => call(handler, claims, contextOf(consumer, claims, claim.abort))
  try {
    const trace = begin(telemetry, handling(membership), () => [claim.traced(consumer)])
    claim.trace = trace
    const begun = (): unknown => (trace === null ? run() : trace.run(run))
    const before = failpoint('claimer.before_handle')
    const work = before === undefined ? begun() : before.then(begun)
    return isThenable(work) ? work : handledAtOnce
  } catch (error) {
    return Promise.reject(error)
  }
}

/** Completes what was handled at once, in one statement. It never rejects. */
export async function completeAtOnce(
  context: ClaimerContext,
  settlement: Settlement,
  claims: readonly Claim[],
  startedAt: number,
): Promise<void> {
  const { inFlight, emit, lose, reread, failpoint } = context
  for (const claim of claims) claim.forgetContent()
  try {
    const before = failpoint('claimer.before_settle')
    if (before !== undefined) await before
    const completed = await settlement.complete(claims)
    const after = failpoint('claimer.after_commit')
    if (after !== undefined) await after
    for (const claim of completed) {
      inFlight.remove(claim)
      claim.trace?.end()
      const { id, topic, attempt } = claim
      emit({ type: 'handled', ids: [id], topic, attempt, durationMs: performance.now() - startedAt })
    }
    if (completed.length === claims.length) return
    const rest = claims.filter((claim) => !completed.includes(claim))
    for (const claim of rest) claim.trace?.end(() => lost([claim]))
    const held = rest.filter((claim) => inFlight.has(claim))
    // Completed, or somebody else's: the next read of their places tells.
    reread(held)
    if (held.length > 0) lose(held, lost(held).message)
  } catch (error) {
    emit({ type: 'trouble', error, doing: 'settling' })
    for (const claim of claims) claim.trace?.end(() => error)
  }
}

function isThenable(value: unknown): value is PromiseLike<unknown> {
  return typeof value === 'object' && value !== null && 'then' in value
}
