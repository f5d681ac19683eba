import { circuitSql } from '../database/sql/circuit.ts'
import { unhandledSql } from '../database/sql/unhandled.ts'
import { distinct } from '../database/sql/statement.ts'
import { waitingSql } from '../database/sql/waiting.ts'
import { describeError, errorRecord, HandleTimeoutError, type RetryLaterError } from '../errors.ts'
import type { TwinboxEvent } from '../events.ts'
import { backoffMs } from '../backoff.ts'
import { reconnectMs } from '../loop.ts'
import type { HeldKey } from '../leases/parking.ts'
import { completion, placeOf, placesOf, type Place } from './completion.ts'
import type { ClaimerContext } from './context.ts'
import { Gathering } from './gathering.ts'
import type { Claim } from './claim.ts'
import type { ResolvedHandler } from './handlers.ts'
import { Retries } from './retries.ts'

/** A key that is held back no longer than this waits in memory; for longer, its messages leave the lane. */
const holdMsMax = 5000
/** A key with so many messages in hand would crowd the others out of its lane's window while it waits. */
const holdCountMax = 100

type FoundBy = Extract<TwinboxEvent, { type: 'message_failed' }>['foundBy']

export type FailureOptions = Pick<ResolvedHandler, 'maxAttempts' | 'backoffMsMin' | 'backoffMsMax' | 'onDead'>

/** Ends claims: completes them, puts them off, or buries them. Every statement names the fence. */
export class Settlement {
  readonly #parts: ClaimerContext
  readonly #isStopping: () => boolean
  readonly #waiting: ReturnType<typeof waitingSql>
  readonly #completing = new Gathering((groups: readonly (readonly Claim[])[]) => this.#completeAll(groups))
  readonly #retries: Retries

  constructor(parts: ClaimerContext, isStopping: () => boolean) {
    this.#parts = parts
    this.#isStopping = isStopping
    this.#waiting = waitingSql(parts.database.schema)
    this.#retries = new Retries(parts, (claims, write) => this.#insist(claims, write))
  }

  /** Completes claims whose handlers had no transaction. What ends in the same moment goes in one statement. */
  complete(claims: readonly Claim[]): Promise<readonly Claim[]> {
    for (const claim of claims) claim.settling = true
    return this.#completing.add(claims)
  }

  /** Nobody here has a handler for these: they wait apart. No attempt is counted. */
  async setAside(claims: readonly Claim[]): Promise<readonly Claim[]> {
    const { database, consumer } = this.#parts
    for (const claim of claims) claim.settling = true
    const { setAside } = unhandledSql(database.schema)
    const rows = await this.#insist(claims, () => database.keep<Place>(setAside, placesOf(consumer, claims)))
    const gone = new Set(rows.map(placeOf))
    return claims.filter((claim) => gone.has(placeOf(claim)))
  }

  /** Its topic pauses, and more of it is in hand than can be kept: it waits elsewhere, what follows of its key behind it. */
  async putOff(claim: Claim, forMs: number): Promise<void> {
    const { database, consumer, hand } = this.#parts
    claim.settling = true
    if (claim.keyed) {
      await this.#insist([claim], () => this.#park(claim, forMs * (1 + Math.random()), 'paused'))
      return
    }
    const { putOff } = circuitSql(database.schema)
    await this.#insist([claim], () => database.keep(putOff, [...placesOf(consumer, [claim]), forMs]))
    hand.remove(claim)
  }

  async #completeAll(groups: readonly (readonly Claim[])[]): Promise<readonly (readonly Claim[])[]> {
    const claims = groups.flat()
    const rows = await this.#insist(claims, () =>
      this.#parts.database.keep<Place>(...completion(this.#parts, claims)),
    )
    // Mostly all of them; who has lost something has to look which.
    if (rows.length === claims.length) return groups
    const done = new Set(rows.map(placeOf))
    return groups.map((group) => group.filter((claim) => done.has(placeOf(claim))))
  }

  /** An attempt has failed: the message is tried again later, or not at all. Whether that could be written down. */
  async fail(
    claim: Claim,
    error: unknown,
    options: FailureOptions,
    foundBy: FoundBy = error instanceof HandleTimeoutError ? 'timeout' : 'error',
  ): Promise<boolean> {
    const { database, hand, lanes, emit, reread } = this.#parts
    const reason = describeError(error)
    const record = errorRecord(error, claim.attempt, lanes.workerId)
    const dead = asksFor(error, 'DEAD_LETTER') || claim.attempt >= options.maxAttempts
    const retryInMs = dead
      ? null
      : asksFor(error, 'RETRY_LATER')
        ? (error as RetryLaterError).afterMs
        : backoffMs(claim.attempt, options.backoffMsMin, options.backoffMsMax)
    claim.settling = true
    const stays = retryInMs !== null && this.#retries.stays(claim, retryInMs)
    const bury = async (): Promise<boolean> => {
      if (claim.keyed && options.onDead === 'park') {
        return this.#park(claim, null, reason, { attempts: claim.attempt, error: record })
      }
      const buried = [
        ...placesOf(this.#parts.consumer, [claim]),
        [claim.attempt],
        [reason],
        ...distinct([record]),
      ]
      return (await database.keep(this.#waiting.bury, buried)).length > 0
    }
    const settled =
      retryInMs === null
        ? await this.#insist([claim], bury)
        : await this.#retries.write({ claim, retryInMs, record }, stays)
    if (!settled) {
      if (!hand.has(claim)) return false
      reread([claim])
      emit({
        type: 'lease_lost',
        ids: [claim.id],
        lanes: [],
        reason: 'The failed attempt could not be written down.',
      })
      return false
    }
    emit({
      type: 'message_failed',
      id: claim.id,
      topic: claim.topic,
      key: claim.key,
      attempt: claim.attempt,
      error,
      foundBy,
      retryInMs,
    })
    if (retryInMs === null) this.#buried(claim, claim.attempt, reason)
    // Let go of while it was written down: the next holder has it.
    else if (!hand.has(claim)) return true
    else if (!stays) hand.remove(claim)
    else if (!claim.keyed || (retryInMs <= holdMsMax && hand.ofKey(claim).length <= holdCountMax)) {
      claim.attempt++
      this.again(claim, retryInMs)
    } else {
      await this.#insist([claim], () => this.#park(claim, retryInMs, reason))
    }
    return true
  }

  /** Nobody wants it any more: it becomes a dead letter, and its key goes on. No attempt is counted. */
  async expire(claim: Claim): Promise<void> {
    const { database, consumer, hand, emit, reread } = this.#parts
    const attempts = claim.attempt - 1
    const place = placesOf(consumer, [claim])
    const settled = await this.#insist([claim], () =>
      database.keep(this.#waiting.bury, [...place, [attempts], ['expired'], null, null]),
    )
    if (settled.length > 0) return this.#buried(claim, attempts, 'expired')
    if (!hand.has(claim)) return
    reread([claim])
    emit({
      type: 'lease_lost',
      ids: [claim.id],
      lanes: [],
      reason: 'That it has expired could not be written down.',
    })
  }

  #buried(claim: Claim, attempt: number, reason: string): void {
    const { hand, emit } = this.#parts
    emit({ type: 'dead_letter', id: claim.id, topic: claim.topic, attempt, reason })
    // An outage may have made this worker let go of it meanwhile, and of its key.
    if (!hand.has(claim)) return
    const rest = hand.ofKey(claim).find((other) => other !== claim)
    hand.remove(claim)
    if (rest !== undefined) hand.proceed(rest)
  }

  /** Handles it again after a pause, as the same claim. */
  again(claim: Claim, afterMs: number): void {
    this.#retries.again(claim, afterMs)
  }

  /** Moves a key's messages out of its lane, and buries the one that has failed if it is `dead`: whether it has. */
  async #park(
    claim: Claim,
    forMs: number | null,
    reason: string,
    dead: HeldKey['failure'] = null,
  ): Promise<boolean> {
    const { hand, lanes, parking, reread } = this.#parts
    const lane = lanes.held.get(claim.lane)
    if (lane === undefined || lane.fence !== claim.fence) return false
    const others = hand.ofKey(claim).filter((other) => other !== claim)
    const held: HeldKey = {
      lane,
      key: claim.key!,
      seq: claim.seq,
      id: claim.id,
      reason,
      dead: dead !== null,
      failure: dead,
      forMs,
      rest: others.map(({ seq }) => seq),
    }
    const buried = (await parking.park([held])).get(held) ?? false
    const moved = dead === null ? [claim, ...others] : others
    for (const other of moved) hand.remove(other)
    // What has been claimed while the key was being parked would be handled before those. From now on, nothing is.
    const late = hand.ofKey(claim).filter((other) => other !== claim)
    if (late.length === 0) return buried
    // By itself: what is buried cannot be buried again.
    await this.#insist(late, () =>
      parking.follow(
        lane,
        late.map(({ seq }) => seq),
      ),
    )
    // If the key went on meanwhile, they are still there.
    reread(late.filter((other) => hand.has(other)))
    return buried
  }

  /** Goes on trying through an outage of the database, for as long as any of the claims is still ours. */
  async #insist<Result>(claims: readonly Claim[], write: () => Promise<Result>): Promise<Result> {
    for (let failures = 1; ; failures++) {
      try {
        return await write()
      } catch (error) {
        const { hand, emit } = this.#parts
        if (this.#isStopping() || !claims.some((claim) => hand.has(claim))) throw error
        const retryInMs = reconnectMs(failures, 50, 2000)
        emit({ type: 'trouble', error, doing: 'settling' })
        await new Promise((resolve) => setTimeout(resolve, retryInMs))
      }
    }
  }
}

/** By code and not by class: a handler may have loaded another copy of this package than the command that runs it. */
function asksFor(error: unknown, code: 'DEAD_LETTER' | 'RETRY_LATER'): boolean {
  return error instanceof Error && 'code' in error && error.code === code
}
