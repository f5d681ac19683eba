import { completionAndCommit } from './completion.ts'
import type { ClaimerContext } from './context.ts'
import type { Claim } from './claim.ts'
import { completeAtOnce, handleAtOnce, handledAtOnce } from './atonce.ts'
import { handle, handling } from './handling.ts'
import { noHandlerOf, type ResolvedHandler } from './handlers.ts'
import { Failures } from './failures.ts'
import { causeOf } from './interruptions.ts'
import type { Opener } from './opener.ts'
import type { Payloads } from './payloads.ts'
import { theirs } from './theirs.ts'
import { together } from './together.ts'
import type { Settlement } from './settlement.ts'
import { Stuck } from './stuck.ts'
import { Transactions } from './transactions.ts'
import type { Unhandled } from './unhandled.ts'
import { begin } from '../base/telemetry.ts'

export interface DispatcherParts {
  readonly context: ClaimerContext
  readonly transaction: Opener<unknown> | undefined
  readonly settlement: Settlement
  readonly handlerOf: (topic: string) => ResolvedHandler | undefined
  /** Null if no topics are defined. */
  readonly payloads: Payloads | null
  /** Messages have been handled. */
  readonly onDone: (claims: readonly Claim[]) => void
  readonly unhandled: Unhandled
  /** Rows go back to where others find them. */
  readonly release: (claims: readonly Claim[]) => Promise<void>
}

/** Handlers that are not async keep the event loop for no longer than this: sockets and heartbeats must come round. */
const turnMs = 5

/** Gives what is in flight to its handlers, as many at a time as `concurrency` allows, and sees to what becomes of it. */
export class Dispatcher {
  readonly #parts: DispatcherParts
  readonly #transactions: Transactions
  readonly #failures: Failures
  readonly #stuck: Stuck
  /** Handlers that run now. What they have done may still be on its way to the database. */
  #handling = 0
  readonly #running = new Set<Promise<void>>()
  #stopping = false
  #dispatching = false

  constructor(parts: DispatcherParts) {
    this.#parts = parts
    this.#transactions = new Transactions(parts.context.database)
    this.#failures = new Failures(parts, () => this.#stopping)
    this.#stuck = new Stuck(parts.context)
  }

  /** Tells of handlers that do not end. */
  keepHouse(): Promise<void> {
    return this.#stuck.keepHouse()
  }

  get isStopping(): boolean {
    return this.#stopping
  }

  /** Starts no more, and resolves when what is running has ended. */
  async stop(): Promise<void> {
    this.#stopping = true
    while (this.#running.size > 0) await Promise.allSettled(this.#running)
  }

  dispatch(): void {
    // A handler that is not async ends within the call that starts it.
    if (this.#dispatching) return
    this.#dispatching = true
    const startedAt = performance.now()
    const handled: Claim[] = []
    const unknown: Claim[] = []
    try {
      this.#startHandlers(startedAt, handled, unknown)
    } finally {
      this.#dispatching = false
    }
    if (handled.length > 0) this.#track(this.#complete(handled, startedAt))
    if (unknown.length > 0) this.#track(this.#passOver(unknown))
  }

  /** As many as there are places for. What was handled within this turn goes to `handled`, what has no handler to `unknown`. */
  #startHandlers(startedAt: number, handled: Claim[], unknown: Claim[]): void {
    const { inFlight, lanes, membership, settings, circuits } = this.#parts.context
    while (!this.#stopping && this.#handling < settings.concurrency) {
      const at = performance.now()
      if (at >= startedAt + turnMs) {
        setImmediate(() => this.dispatch())
        return
      }
      const claim = inFlight.next()
      if (claim === null) return
      const leased = claim.keyed ? lanes.trusted : membership.sure && at < claim.leasedUntil
      if (!leased) {
        // Too long since the last renewal or sign of life: by now others may hold it. The watchdog will tell.
        inFlight.proceed(claim)
        lanes.wake()
        return
      }
      if (circuits.pauses(claim)) {
        circuits.hold(claim)
        continue
      }
      const handler = this.#parts.handlerOf(claim.topic)
      if (handler === undefined && this.#parts.unhandled.policy !== 'fail') {
        unknown.push(claim, ...inFlight.more(claim, settings.batchSize))
        continue
      }
      const places = settings.concurrency - this.#handling
      const claims = together(inFlight, claim, handler, places, this.#failures.isAlone)
      const work = handleAtOnce(this.#parts.context, handler, claims, this.#parts.payloads)
      if (work === handledAtOnce) {
        circuits.succeeded(claims)
        handled.push(claim)
        inFlight.handled(claim)
      } else this.#track(this.#run(handler, claims, work))
    }
  }

  /** So that a stop can wait for it. It never rejects. */
  #track(run: Promise<void>): void {
    this.#running.add(run)
    void run.then(() => this.#running.delete(run))
  }

  /** Completes what was handled at once. */
  async #complete(claims: readonly Claim[], startedAt: number): Promise<void> {
    await completeAtOnce(this.#parts.context, this.#parts.settlement, claims, startedAt)
    // The next of their keys may start.
    this.dispatch()
    this.#parts.onDone(claims)
  }

  async #passOver(claims: readonly Claim[]): Promise<void> {
    await this.#parts.unhandled.passOver(claims, this.#parts.settlement)
    this.dispatch()
    this.#parts.onDone(claims)
  }

  async #run(
    handler: ResolvedHandler | undefined,
    claims: readonly Claim[],
    work: PromiseLike<unknown> | undefined,
  ): Promise<void> {
    this.#handling++
    let free = (): void => {
      free = () => {}
      this.#handling--
      this.dispatch()
    }
    try {
      await this.#failures.inTurn(claims, () => this.#handle(handler, claims, work, () => free()))
    } catch (error) {
      // A settlement that a stop has cut short, in an outage of the database: nobody else would hear of it.
      this.#parts.context.emit({ type: 'trouble', error, doing: 'settling' })
    }
    free()
    this.dispatch()
    this.#parts.onDone(claims)
    await this.#transactions.end()
  }

  /** Handles them; `onHandled` is told as soon as somebody else may have this handler's place. */
  async #handle(
    handler: ResolvedHandler | undefined,
    taken: readonly Claim[],
    work: PromiseLike<unknown> | undefined,
    onHandled: () => void,
  ): Promise<void> {
    const { consumer, settings, failpoint, inFlight, emit, membership, telemetry, circuits, told } =
      this.#parts.context
    const { settlement, payloads } = this.#parts
    const startedAt = performance.now()
    const options = handler ?? { ...settings, onDead: 'park' as const }
    // Each attempt was counted when it was claimed, and none of them came back: the message kills its workers.
    for (const claim of taken) {
      if (claim.attempt <= options.maxAttempts) continue
      const error = new Error(
        `The last of its ${claim.attempt - 1} attempts ended with the death of its worker.`,
      )
      await settlement.fail(claim, error, options, 'death')
    }
    for (const claim of taken) {
      if (inFlight.has(claim) && performance.now() >= claim.expiresAt) await settlement.expire(claim)
    }
    // Waiting for nothing would cost the handler the connection that the one before has left it.
    if (this.#failures.owes(taken)) await this.#failures.settleOwed(taken, options)
    if (payloads !== null && work === undefined) {
      const failed = await payloads.read(taken, options).finally(this.#stuck.begin(taken))
      if (failed !== null) return this.#failures.settle(options, failed.claims, failed.error)
    }
    const claims = taken.filter(({ state }) => state === 'handling')
    const first = claims[0]
    if (first === undefined) return
    let ended = this.#stuck.begin(claims)
    const trace =
      work === undefined
        ? begin(telemetry, handling(membership), () => claims.map((claim) => claim.traced(consumer)))
        : first.trace
    try {
      if (handler === undefined) throw noHandlerOf(first.topic)
      const complete = async (done: readonly Claim[]): Promise<readonly Claim[]> => {
        circuits.succeeded(done)
        for (const claim of done) inFlight.handled(claim)
        const completing = settlement.complete(done)
        // Other handlers need not wait for the completion. It is under way before that of the next of its key can be.
        onHandled()
        const completed = await completing
        for (const claim of completed) inFlight.remove(claim)
        return completed
      }
      const parts = {
        transactions: this.#transactions,
        consumer,
        failpoint,
        complete,
        ending: (goOn: boolean) => {
          inFlight.settle(claims)
          return completionAndCommit(this.#parts.context, claims, goOn)
        },
        theirs: handler.transaction ? theirs(this.#parts.context, this.#parts.transaction, claims) : null,
        goesOn: (called: readonly Claim[]) => void (ended = this.#stuck.goOn(ended, called)),
        hasNext: () => !this.#stopping && inFlight.hasNext(claims),
        trace,
      }
      await handle(parts, handler, claims, work)
      ended()
      trace?.end()
      this.#failures.handled(claims)
      for (const claim of claims) inFlight.remove(claim)
      emit({
        type: 'handled',
        ids: claims.map(({ id }) => id),
        topic: first.topic,
        attempt: claims.length === 1 ? first.attempt : Math.max(...claims.map(({ attempt }) => attempt)),
        durationMs: performance.now() - startedAt,
      })
    } catch (error) {
      ended()
      trace?.end((index) => told(causeOf(error), claims[index]!))
      // Whatever has become of it, the handler has ended.
      onHandled()
      await this.#failures.settle(options, claims, error)
    }
  }
}
