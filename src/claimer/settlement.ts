import { errorRecord } from '../base/record.ts'
import { reconnectMs } from '../base/loop.ts'
import type { HeldKey } from '../lanes/parking.ts'
import { Settler, type Buried } from '../lanes/settler.ts'
import { historian } from './completion.ts'
import type { ClaimerContext } from './context.ts'
import { Gathering } from './gathering.ts'
import type { Claim } from './claim.ts'
import { Retries } from './retries.ts'
import { judge, type FailureOptions, type FoundBy } from './verdict.ts'

/** A key that is held back no longer than this waits in memory; for longer, its messages leave the lane. */
const holdMsMax = 5000
/** A key with so many messages in flight would crowd the others out of its lane's window while it waits. */
const holdCountMax = 100

/** Ends claims: completes them, puts them off, or buries them. Every statement names the fence. */
export class Settlement {
  readonly #parts: ClaimerContext
  readonly #isStopping: () => boolean
  readonly #settler: Settler
  readonly #completing = new Gathering((groups: readonly (readonly Claim[])[]) => this.#completeAll(groups))
  readonly #retries: Retries

  constructor(parts: ClaimerContext, isStopping: () => boolean) {
    this.#parts = parts
    this.#isStopping = isStopping
    this.#settler = new Settler(parts.database, parts.consumer)
    this.#retries = new Retries(parts, this.#settler, (claims, write) => this.#insist(claims, write))
  }

  /**
   * Completes claims whose handlers had no transaction. What ends in the same moment goes in one statement, and one statement follows
   * the other: of a key that goes on meanwhile, nothing is completed before what was handled before it.
   */
  async complete(claims: readonly Claim[]): Promise<readonly Claim[]> {
    const { inFlight } = this.#parts
    inFlight.settle(claims.filter(({ state }) => state !== 'handled'))
    try {
      return await this.#completing.add(claims)
    } catch (error) {
      for (const claim of claims) inFlight.stall(claim)
      throw error
    }
  }

  /** Nobody here has a handler for these: they wait apart. No attempt is counted. */
  setAside(claims: readonly Claim[]): Promise<readonly Claim[]> {
    this.#parts.inFlight.settle(claims)
    return this.#insist(claims, () => this.#settler.setAside(claims))
  }

  /**
   * Whether these rows were completed is not known: the next claim finds what is left of them. They stay in flight
   * until that is written down, or their next claim would count as one after a death.
   */
  async giveBack(
    claims: readonly Claim[],
    release: (claims: readonly Claim[]) => Promise<void>,
  ): Promise<void> {
    if (claims.length === 0) return
    this.#parts.inFlight.settle(claims)
    await this.#insist(claims, () => release(claims))
    this.#parts.reread(claims.filter((claim) => this.#parts.inFlight.has(claim)))
  }

  /** Its topic pauses, and more of it is in flight than can be kept: it waits elsewhere, what follows of its key behind it. */
  async putOff(claim: Claim, forMs: number): Promise<void> {
    if (!(await this.#parts.inFlight.completedBefore(claim))) return
    this.#parts.inFlight.settle([claim])
    if (claim.keyed) {
      await this.#insist([claim], () => this.#park(claim, forMs * (1 + Math.random()), 'paused'))
      return
    }
    await this.#insist([claim], () => this.#settler.putOff([claim], forMs))
    this.#parts.inFlight.remove(claim)
  }

  async #completeAll(groups: readonly (readonly Claim[])[]): Promise<readonly (readonly Claim[])[]> {
    const claims = groups.flat()
    const before = this.#parts.failpoint('claimer.before_settle')
    if (before !== undefined) await before
    const completed = await this.#insist(claims, () => this.#settler.complete(claims, historian(this.#parts)))
    // Mostly all of them; who has lost something has to look which.
    if (completed.length === claims.length) return groups
    const done = new Set(completed)
    return groups.map((group) => group.filter((claim) => done.has(claim)))
  }

  /** An attempt has failed: the message is tried again later, or not at all. Whether that could be written down. */
  async fail(claim: Claim, error: unknown, options: FailureOptions, found?: FoundBy): Promise<boolean> {
    const { inFlight, lanes, emit, reread, pacing } = this.#parts
    if (!(await inFlight.completedBefore(claim))) return false
    const told = this.#parts.told(error, claim)
    const verdict = judge(claim.attempt, error, told, options, found)
    const { foundBy, reason } = verdict
    const record = errorRecord(told, claim.attempt, lanes.membership.id)
    const retryInMs = verdict.retryInMs === null ? null : pacing.retryIn(claim, verdict.retryInMs)
    inFlight.settle([claim])
    const stays = retryInMs !== null && this.#retries.stays(claim, retryInMs)
    const bury = async (): Promise<boolean> => {
      if (claim.keyed && options.onDead === 'park') {
        return this.#park(claim, null, reason, { attempts: claim.attempt, error: record })
      }
      return this.#bury({ of: claim, attempt: claim.attempt, reason, record })
    }
    const settled =
      retryInMs === null
        ? await this.#insist([claim], bury)
        : await this.#retries.write({ claim, retryInMs, record }, stays)
    if (!settled) {
      if (!inFlight.has(claim)) return false
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
      error: told,
      foundBy,
      retryInMs,
    })
    if (retryInMs === null) this.#buried(claim, claim.attempt, reason)
    // Let go of while it was written down: the next holder has it.
    else if (!inFlight.has(claim)) return true
    else if (!stays) inFlight.remove(claim)
    else if (!claim.keyed || (retryInMs <= holdMsMax && inFlight.ofKey(claim).length <= holdCountMax)) {
      claim.attempt++
      this.again(claim, retryInMs)
    } else {
      await this.#insist([claim], () => this.#park(claim, retryInMs, reason))
    }
    return true
  }

  /** Nobody wants it any more: it becomes a dead letter, and its key goes on. No attempt is counted. */
  async expire(claim: Claim): Promise<void> {
    const { inFlight, emit, reread } = this.#parts
    const attempt = claim.attempt - 1
    if (!(await inFlight.completedBefore(claim))) return
    inFlight.settle([claim])
    const settled = await this.#insist([claim], () =>
      this.#bury({ of: claim, attempt, reason: 'expired', record: null }),
    )
    if (settled) return this.#buried(claim, attempt, 'expired')
    if (!inFlight.has(claim)) return
    reread([claim])
    emit({
      type: 'lease_lost',
      ids: [claim.id],
      lanes: [],
      reason: 'That it has expired could not be written down.',
    })
  }

  async #bury(buried: Buried<Claim>): Promise<boolean> {
    return (await this.#settler.bury([buried])).length > 0
  }

  #buried(claim: Claim, attempt: number, reason: string): void {
    const { inFlight, emit } = this.#parts
    emit({ type: 'dead_letter', id: claim.id, topic: claim.topic, attempt, reason })
    inFlight.remove(claim)
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
    const { inFlight, lanes, parking, reread } = this.#parts
    const lane = lanes.held.get(claim.lane)
    if (lane === undefined || lane.fence !== claim.fence) return false
    const others = inFlight.ofKey(claim).filter((other) => other !== claim)
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
    for (const other of others) inFlight.remove(other)
    // What has been claimed while the key was being parked would be handled before those. From now on, nothing is.
    const late = inFlight.ofKey(claim).filter((other) => other !== claim)
    if (late.length > 0) {
      // By itself: what is buried cannot be buried again.
      const follow = (): Promise<void> =>
        parking.follow(
          lane,
          late.map(({ seq }) => seq),
        )
      await this.#insist(late, follow)
      // If the key went on meanwhile, they are still there.
      reread(late.filter((other) => inFlight.has(other)))
    }
    // Not before: what is behind it would be handled.
    if (dead === null) inFlight.remove(claim)
    return buried
  }

  /** Goes on trying through an outage of the database, for as long as any of the claims is still ours. */
  async #insist<Result>(claims: readonly Claim[], write: () => Promise<Result>): Promise<Result> {
    for (let failures = 1; ; failures++) {
      try {
        return await write()
      } catch (error) {
        const { inFlight, emit } = this.#parts
        if (this.#isStopping() || !claims.some((claim) => inFlight.has(claim))) throw error
        const retryInMs = reconnectMs(failures, 50, 2000)
        emit({ type: 'trouble', error, doing: 'settling' })
        await new Promise((resolve) => setTimeout(resolve, retryInMs))
      }
    }
  }
}
