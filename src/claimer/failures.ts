import { setTimeout as sleep } from 'node:timers/promises'
import { isConflict } from '../database/sqlstate.ts'
import { LeaseLostError } from '../base/errors.ts'
import type { Claim } from './claim.ts'
import type { ClaimerContext } from './context.ts'
import { Conflict, Interrupted, Interruptions } from './interruptions.ts'
import type { Settlement } from './settlement.ts'
import type { FailureOptions } from './verdict.ts'

/** A message whose transaction has lost against others so often is put off like any that fails. */
const conflictsMax = 5
/** How often a quarantined message that waits looks whether the worker's own connection is back. */
const lookMs = 50

interface FailuresParts {
  readonly context: ClaimerContext
  readonly settlement: Settlement
  /** Rows go back to where others find them. */
  readonly release: (claims: readonly Claim[]) => Promise<void>
}

/** What becomes of messages whose handler did not end well. */
export class Failures {
  readonly #parts: FailuresParts
  readonly #isStopping: () => boolean
  readonly #interruptions: Interruptions
  #turn: Promise<void> = Promise.resolve()

  constructor(parts: FailuresParts, isStopping: () => boolean) {
    this.#parts = parts
    this.#isStopping = isStopping
    this.#interruptions = new Interruptions(parts.context.membership)
  }

  /** Whether it is not to be handled in a batch. */
  readonly isAlone = (claim: Claim): boolean =>
    claim.alone || claim.tries || this.#interruptions.quarantines(claim)

  /**
   * Messages that may have crashed the server take turns: of several at once nobody would know again whose fault it was. Nor would anybody
   * before the worker's own connection is back, since it is the one that is asked.
   */
  inTurn(claims: readonly Claim[], work: () => Promise<void>): Promise<void> {
    if (!claims.some((claim) => this.#interruptions.quarantines(claim))) return work()
    const turn = this.#afterwards(this.#turn, work)
    this.#turn = turn.catch(() => {})
    return turn
  }

  async #afterwards(before: Promise<void>, work: () => Promise<void>): Promise<void> {
    await before
    const { membership } = this.#parts.context
    while (!this.#isStopping() && (await membership.look(performance.now())) !== 'well') await sleep(lookMs)
    // What still waits is given back by the stop.
    if (!this.#isStopping()) await work()
  }

  /** These were handled. */
  handled(claims: readonly Claim[]): void {
    this.#interruptions.acquit(claims)
    this.#parts.context.circuits.succeeded(claims)
  }

  /** Whether failures of these could not be written down when they happened. */
  owes(taken: readonly Claim[]): boolean {
    return taken.some((claim) => this.#interruptions.owedBy(claim) !== undefined)
  }

  /** Writes down the failures that could not be when they happened. The others may be behind those in their keys: they wait. */
  async settleOwed(taken: readonly Claim[], options: FailureOptions): Promise<void> {
    const { inFlight } = this.#parts.context
    for (const claim of taken.filter((each) => this.#interruptions.owedBy(each) === undefined))
      inFlight.proceed(claim)
    for (const claim of taken) {
      const error = this.#interruptions.owedBy(claim)
      if (error === undefined || !inFlight.has(claim)) continue
      if (await this.#parts.settlement.fail(claim, error, options)) this.#interruptions.settled(claim)
    }
  }

  async settle(options: FailureOptions, claims: readonly Claim[], error: unknown): Promise<void> {
    const { settlement } = this.#parts
    const { inFlight, lose, reread, circuits } = this.#parts.context
    const held = claims.filter((claim) => inFlight.has(claim))
    // Their handlers have returned, and the stop that has cut the completion short gives them back.
    if (held.some(({ state }) => state === 'handled') && !(error instanceof LeaseLostError)) throw error
    inFlight.unsettle(held)
    // Of several, only some were lost, and it is not known which: the others must stay in flight.
    if (error instanceof LeaseLostError && claims.length === 1) {
      reread(held)
      return lose(held, error.message)
    }
    // What a stop has cut short is given back by it.
    if (held.length === 0 || (this.#isStopping() && held.every(({ abort }) => abort.aborted))) return
    if (error instanceof Interrupted) return this.#interrupted(error, held)
    const conflict = error instanceof Conflict || isConflict(error)
    if (conflict && held.every((claim) => claim.conflicts++ < conflictsMax)) {
      for (const claim of held) settlement.again(claim, Math.random() * 10 * (claim.conflicts - 1))
    } else if (claims.length > 1) {
      // All of it was rolled back. One by one it will turn out whose fault it was.
      for (const claim of held) {
        claim.alone = true
        settlement.again(claim, 0)
      }
    } else {
      const [claim] = held as [Claim]
      const reason = error instanceof Conflict ? error.cause : error
      if (!circuits.failed(claim, reason)) return void (await settlement.fail(claim, reason, options))
      if (claim.abort.aborted) claim.renewAbort()
      circuits.hold(claim)
    }
  }

  /** Their handler's connection was lost. */
  async #interrupted(error: Interrupted, claims: readonly Claim[]): Promise<void> {
    const { inFlight, emit, reread, told } = this.#parts.context
    const { settlement, release } = this.#parts
    const blamed = await this.#interruptions.blames(error, claims)
    if (!blamed) emit({ type: 'trouble', error: told(error.cause, claims[0]!), doing: 'handling' })
    const held = claims.filter((claim) => inFlight.has(claim))
    if (error.open) {
      reread(held.filter(({ keyed }) => keyed))
      return settlement.giveBack(
        held.filter(({ keyed }) => !keyed),
        release,
      )
    }
    for (const claim of held) settlement.again(claim, blamed ? 0 : 100 + Math.random() * 200)
  }
}
