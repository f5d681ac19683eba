import { begin, type Telemetry, type Trace } from '../base/telemetry.ts'
import type { Failpoint } from '../base/failpoint.ts'
import type { Claim } from './claim.ts'
import type { ClaimerContext } from './context.ts'
import type { ResolvedHandler } from './handlers.ts'
import { contextOf } from './handler-context.ts'
import { call, handling } from './handling.ts'
import { lost } from './interruptions.ts'
import type { Payloads } from './payloads.ts'
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
  payloads: Payloads | null,
): typeof handledAtOnce | PromiseLike<unknown> | undefined {
  const { failpoint, consumer, telemetry } = context
  const claim = claims[0]!
  const simple = handler?.transaction === false && !handler.batch && handler.handleTimeoutMs === 0
  const late = performance.now() >= claim.expiresAt
  if (!simple || late || claims.length > 1 || claim.attempt > handler.maxAttempts) return undefined
  if (payloads !== null && !payloads.fitsAtOnce(claim)) return undefined
  try {
    const trace = telemetry === undefined ? null : traceOf(telemetry, context, claim)
    claim.trace = trace
    const before = failpoint('claimer.before_handle')
    const unwatched = before === undefined && trace === null
    const work = unwatched
      ? handled(consumer, handler, claims)
      : watched(consumer, handler, claims, trace, before)
    return isThenable(work) ? work : handledAtOnce
  } catch (error) {
    return Promise.reject(error)
  }
}

const handled = (consumer: string, handler: ResolvedHandler, claims: readonly Claim[]): unknown =>
  call(handler, claims, contextOf(consumer, claims, claims[0]!.abort))

// Apart, since functions would be made for each message that hardly any message needs.
function watched(
  consumer: string,
  handler: ResolvedHandler,
  claims: readonly Claim[],
  trace: Trace | null,
  before: ReturnType<Failpoint>,
): unknown {
  const run = (): unknown => handled(consumer, handler, claims)
  const begun = (): unknown => (trace === null ? run() : trace.run(run))
  return before === undefined ? begun() : before.then(begun)
}

const traceOf = (
  telemetry: Telemetry,
  { membership, consumer }: Pick<ClaimerContext, 'membership' | 'consumer'>,
  claim: Claim,
): Trace | null => begin(telemetry, handling(membership), () => [claim.traced(consumer)])

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
    const completed = await settlement.complete(claims)
    const after = failpoint('claimer.after_commit')
    if (after !== undefined) await after
    const durationMs = performance.now() - startedAt
    for (const claim of completed) {
      inFlight.remove(claim)
      claim.trace?.end()
      const { id, topic, attempt } = claim
      emit({ type: 'handled', ids: [id], topic, attempt, durationMs })
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
