import { describeError, HandleTimeoutError, type RetryLaterError } from '../base/errors.ts'
import { verdictOn } from '../base/backoff.ts'
import type { TwinboxEvent } from '../base/events.ts'
import type { Claim } from './claim.ts'
import type { ResolvedHandler } from './handlers.ts'

export type FoundBy = Extract<TwinboxEvent, { type: 'message_failed' }>['foundBy']

export type FailureOptions = Pick<ResolvedHandler, 'maxAttempts' | 'backoffMsMin' | 'backoffMsMax' | 'onDead'>

/** What becomes of a message whose attempt has failed. */
export interface Verdict {
  readonly foundBy: FoundBy
  /** Of the dead letter, and of a key that is held back. */
  readonly reason: string
  /** Null if it is not tried again. */
  readonly retryInMs: number | null
}

/** How long failed messages wait: as judged, or until a test has seen all that happens before. */
export interface Pacing {
  /** In milliseconds, as the verdict is. */
  retryIn(claim: Claim, ms: number): number
}

export const asJudged: Pacing = { retryIn: (_, ms) => ms }

/** `told` is what may be said of the error. */
export function judge(
  attempt: number,
  error: unknown,
  told: unknown,
  options: FailureOptions,
  foundBy: FoundBy = error instanceof HandleTimeoutError ? 'timeout' : 'error',
): Verdict {
  // Other than of a handler's error, it is known what it says, and dead letters are looked for by it.
  const reason = foundBy === 'schema' ? `invalid: ${saidBy(told)}` : describeError(told)
  return { foundBy, reason, retryInMs: verdictOn(attempt, options, askedBy(error)) }
}

const saidBy = (told: unknown): string => describeError(told instanceof Error ? told.message : told)

/** By code and not by class: a handler may have loaded another copy of this package than the command that runs it. */
function askedBy(error: unknown): 'dead' | number | null {
  const code = error instanceof Error && 'code' in error ? error.code : null
  if (code === 'RETRY_LATER') return (error as RetryLaterError).afterMs
  return code === 'DEAD_LETTER' ? 'dead' : null
}
