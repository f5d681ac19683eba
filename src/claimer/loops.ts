import type { Claim } from './claim.ts'
import type { PausedTopic } from './circuits.ts'
import type { ClaimerContext } from './context.ts'
import type { Dispatcher } from './dispatcher.ts'
import type { KeyedClaims } from './keyed.ts'
import type { Unhandled } from './unhandled.ts'
import type { UnkeyedClaims } from './unkeyed.ts'
import { waitingSql } from '../database/sql/waiting.ts'
import { onReceived } from '../base/hints.ts'
import { startLoop, type Loop } from '../base/loop.ts'
import { loopReports } from '../membership/worker.ts'
import { promoteDue } from '../upkeep/due.ts'
import { startPruning, type PruneTask, type Pruning } from '../upkeep/prune.ts'

interface Parts {
  readonly keyed: KeyedClaims
  readonly unkeyed: UnkeyedClaims
  readonly unhandled: Unhandled
  readonly dispatcher: Dispatcher
}

const housekeepingMs = 200
/** So much later than where the last was found, a sleeper looks where it was not. */
const otherMs = 2

/** What a claimer does again and again: it reads, claims, renews, and brings back what comes due. */
export class Loops {
  readonly #context: ClaimerContext
  readonly #parts: Parts
  #read: Loop | null = null
  #claim: Loop | null = null
  #house: Loop | null = null
  #due: Loop | null = null
  #pruning: Pruning | null = null
  #unlisten = (): void => {}

  constructor(context: ClaimerContext, parts: Parts) {
    this.#context = context
    this.#parts = parts
  }

  start(): void {
    const { database, consumer, settings, membership, emit } = this.#context
    const { keyed, unkeyed } = this.#parts
    this.#read = startLoop(() => keyed.read(), loopReports(emit, 'reading lanes'))
    this.#claim = startLoop(() => unkeyed.claim(), loopReports(emit, 'claiming rows'))
    // Each its own loop: leases are renewed also while what is due cannot be promoted.
    this.#house = startLoop(() => this.#keepHouse(), loopReports(emit, 'housekeeping'))
    this.#due = startLoop(() => this.#promote(), loopReports(emit, 'promoting what is due'))
    this.#unlisten = onReceived(database.schema, consumer, () => membership.sleep.expect())
    const { keepHandledMs, keepDeadMs } = settings
    const tasks: PruneTask[] = [
      ...(keepHandledMs > 0 ? [{ kind: 'handled', consumer, olderThanMs: keepHandledMs } as const] : []),
      ...(keepDeadMs > 0 ? [{ kind: 'dead', consumer, olderThanMs: keepDeadMs } as const] : []),
    ]
    if (tasks.length > 0) this.#pruning = startPruning(database, tasks, emit)
  }

  async stop(): Promise<void> {
    this.#unlisten()
    const loops = [this.#pruning, this.#read, this.#claim, this.#house, this.#due]
    await Promise.all(loops.map(async (loop) => loop?.stop()))
  }

  wake(): void {
    this.#read?.wake()
    this.#claim?.wake()
  }

  /** Something has come, with a key or without. Side by side, the look that finds nothing holds up the one that does. */
  wakeInTurn(): void {
    const { keyed, unkeyed } = this.#parts
    const isKeyed = keyed.polling.foundAt > unkeyed.polling.foundAt
    const [first, other] = isKeyed ? [this.#read, this.#claim] : [this.#claim, this.#read]
    first?.wake()
    if (this.#context.membership.sleep.isAsleep) setTimeout(() => other?.wake(), otherMs)
    else other?.wake()
  }

  /** Messages have been handled. Looks for more without waiting, where the last look has left something behind. */
  fetchMore(done: readonly Claim[]): void {
    const { keyed, unkeyed } = this.#parts
    unkeyed.handled(done.length)
    if (done.some(({ quarantined }) => quarantined)) {
      unkeyed.sweep()
      return this.wake()
    }
    if (unkeyed.wanted) this.#claim?.wake()
    if (keyed.wants(done)) this.#read?.wake()
  }

  /** What is in flight: to be renewed, or to be handled again since its backoff has ended. */
  async #keepHouse(): Promise<number> {
    const { settings, inFlight, membership } = this.#context
    const { unkeyed, dispatcher } = this.#parts
    try {
      await unkeyed.keepHouse()
      await dispatcher.keepHouse()
    } finally {
      dispatcher.dispatch()
    }
    return inFlight.size > 0
      ? Math.min(housekeepingMs, settings.leaseMs / 8)
      : membership.sleep.rest(housekeepingMs)
  }

  /** What comes due, and what had no handler until now. */
  async #promote(): Promise<number> {
    const { database, consumer, settings, inFlight, lanes, parking, circuits, membership } = this.#context
    const { found, dueInMs } = await promoteDue({
      promote: () =>
        database.keep(waitingSql(database.schema).promote, { consumer, most: settings.batchSize }),
      release: () => parking.release(lanes.held, (lane, key) => !inFlight.hasKey(lane, key)),
      share: (paused) => circuits.keepHouse(paused === null ? [] : (JSON.parse(paused) as PausedTopic[])),
      comeBack: () => this.#parts.unhandled.keepHouse(),
      onFound: () => {
        this.#parts.unkeyed.sweep()
        this.wake()
      },
    })
    if (found) return 0
    return inFlight.size > 0 ? housekeepingMs : membership.sleep.rest(housekeepingMs, dueInMs)
  }
}
