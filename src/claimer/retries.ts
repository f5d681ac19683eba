import type { Settler } from '../lanes/settler.ts'
import type { Claim } from './claim.ts'
import type { ClaimerContext } from './context.ts'
import { Gathering } from './gathering.ts'

/** A failed attempt, after which the message is tried again. */
interface Failure {
  readonly claim: Claim
  readonly retryInMs: number
  /** What its history says. */
  readonly record: string
}

type Insist = <Result>(claims: readonly Claim[], write: () => Promise<Result>) => Promise<Result>

/** A message without a key waits in flight no longer than this: another claimer may have more luck with it. */
const holdMsMax = 1000

/**
 * Messages that are tried again: each failure is written down before the next attempt, and what fails in the same moment
 * goes in one statement.
 *
 * One with a key stays in flight, since its key waits for it. So does one without a key if its pause is short: moving
 * it to `deferred`, back, and claiming it again takes five writes of rows where one tells of the failure.
 */
export class Retries {
  readonly #parts: ClaimerContext
  readonly #insist: Insist
  readonly #settler: Settler
  readonly #failing = new Gathering((failures: readonly Failure[]) => this.#failAll(failures))
  readonly #deferring = new Gathering((failures: readonly Failure[]) => this.#deferAll(failures))
  /** How many without a key wait in flight. */
  #waiting = 0

  constructor(parts: ClaimerContext, settler: Settler, insist: Insist) {
    this.#parts = parts
    this.#settler = settler
    this.#insist = insist
  }

  /**
   * Whether the message stays in flight until then. Of those without a key only a few, so that there is room for
   * others; and none that somebody else shall have, or that a dead claimer had in flight: the next quarantined messages
   * wait for that.
   */
  stays(claim: Claim, forMs: number): boolean {
    const { avoidLastHolder, membership, settings } = this.#parts
    if (claim.keyed) return true
    if (claim.quarantined || forMs > holdMsMax || (avoidLastHolder && membership.living > 1)) return false
    return forMs === 0 || this.#waiting < settings.batchSize / 2
  }

  /** Writes the failure down, of a message that stays in flight or goes to `deferred`. False if it was lost. */
  write(failure: Failure, stays: boolean): Promise<boolean> {
    return (stays ? this.#failing : this.#deferring).add(failure)
  }

  /** Handles it again after a pause, as the same claim. */
  again(claim: Claim, afterMs: number): void {
    const { inFlight, dispatch } = this.#parts
    if (claim.abort.aborted) claim.renewAbort()
    if (afterMs === 0) return inFlight.proceed(claim)
    inFlight.pause(claim)
    if (!claim.keyed) this.#waiting++
    // A timer may be early by a part of a millisecond, and the key would wait for the next housekeeping.
    setTimeout(
      () => {
        if (!claim.keyed) this.#waiting--
        inFlight.proceed(claim)
        dispatch()
      },
      Math.ceil(afterMs) + 1,
    ).unref()
  }

  #failAll(failures: readonly Failure[]): Promise<readonly boolean[]> {
    // The next attempt of a row is counted with its claim, so that a death counts: here as well.
    const failed = failures.map(({ claim, record }) => ({
      ...{ of: claim, record, attempt: claim.keyed ? claim.attempt : claim.attempt + 1 },
    }))
    return this.#writeAll(failures, () => this.#settler.retry(failed))
  }

  #deferAll(failures: readonly Failure[]): Promise<readonly boolean[]> {
    const { lanes, avoidLastHolder } = this.#parts
    const failed = failures.map(({ claim, record, retryInMs }) => ({
      ...{ of: claim, record, retryInMs, attempt: claim.attempt },
    }))
    return this.#writeAll(failures, () =>
      this.#settler.defer(failed, avoidLastHolder ? lanes.membership.id : null),
    )
  }

  async #writeAll(
    failures: readonly Failure[],
    write: () => Promise<readonly Claim[]>,
  ): Promise<readonly boolean[]> {
    const claims = failures.map(({ claim }) => claim)
    const written = new Set(await this.#insist(claims, write))
    return claims.map((claim) => written.has(claim))
  }
}
