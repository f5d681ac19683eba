import { KeyedClaims } from './keyed.ts'
import { UnkeyedClaims } from './unkeyed.ts'
import { Circuits, type PausedTopic } from './circuits.ts'
import { Dispatcher } from './dispatcher.ts'
import type { Claim } from './claim.ts'
import { InFlight } from './in-flight.ts'
import { handlersByTopic, type Handlers, type ResolvedHandler } from './handlers.ts'
import { Settlement } from './settlement.ts'
import { Quarantine } from './quarantine.ts'
import { Unhandled, unknownPolicies, type UnhandledOptions } from './unhandled.ts'
import type { ClaimerOptions } from './options.ts'
import { claimerNumbers, type ClaimerContext, type ClaimerNumber } from './context.ts'
import type { Database } from '../database/database.ts'
import { inboxLanes, isKeyed } from '../database/layout.ts'
import { loadKysely } from '../database/kysely.ts'
import { waitingSql } from '../database/sql/waiting.ts'
import { LeaseLostError, OptionError } from '../base/errors.ts'
import { emitter, type Emit } from '../base/events.ts'
import { noFailpoint, type Failpoint } from '../base/failpoint.ts'
import { onReceived } from '../base/hints.ts'
import { failoverStrategies } from '../membership/failover.ts'
import { Lanes } from '../lanes/lanes.ts'
import { Parking } from '../lanes/parking.ts'
import { highestOf } from '../lanes/repair.ts'
import { Membership } from '../membership/membership.ts'
import { startLoop, type Loop } from '../base/loop.ts'
import {
  checkHeartbeat,
  checkConsumer,
  oneOf,
  readBoolean,
  readNumbers,
  refuseUnknown,
  requireOrder,
} from '../base/options.ts'
import { promoteDue } from '../upkeep/due.ts'
import { startPruning, type PruneTask, type Pruning } from '../upkeep/prune.ts'
import {
  createWorker,
  loopReports,
  settledWithin,
  workerOptionNames,
  type Worker,
} from '../membership/worker.ts'

/**
 * Creates a claimer: a worker that takes a consumer's messages from the inbox and runs their handlers.
 *
 * Effectively once: a handler that works in the transaction it is given commits its effects and the completion
 * together, or not at all. Messages with a key are handled one at a time per key, in order; messages without one by
 * whoever is free. When a claimer dies, the others take over what it held.
 *
 * Not promised: effects outside of the transaction happen at least once; give `idempotencyKey` to other systems.
 *
 * @throws OptionError
 */
export function createClaimer<Tables = unknown>(
  options: ClaimerOptions,
  handlers: Handlers<Tables>,
  failpoint: Failpoint = noFailpoint,
): Worker {
  refuseUnknown('createClaimer', options, [
    ...workerOptionNames,
    ...claimerNumbers,
    'consumer',
    'onDead',
    'unknown',
    'circuit',
    'failover',
    'avoidLastHolder',
  ])
  checkConsumer(options.consumer)
  const settings = readNumbers(options, claimerNumbers)
  checkHeartbeat(settings)
  requireOrder(settings, 'pollMs', 'pollMsMax', 'the pause grows from one to the other')
  requireOrder(settings, 'backoffMsMin', 'backoffMsMax', 'the pause grows from one to the other')
  if (typeof handlers !== 'object' || handlers === null) {
    throw new OptionError(
      'handlers',
      'createClaimer takes an object of handlers by topic as its second argument.',
    )
  }
  const handlerOf = handlersByTopic(handlers as Handlers<never>, {
    ...settings,
    onDead: options.onDead ?? 'park',
  })
  const unhandled: UnhandledOptions = {
    policy: oneOf('unknown', options.unknown, unknownPolicies),
    topics: Object.keys(handlers),
    handles: (topic) => handlerOf(topic) !== undefined,
  }
  const failover = oneOf('failover', options.failover, failoverStrategies)
  const avoidLastHolder = readBoolean('avoidLastHolder', options.avoidLastHolder, false)
  const circuit = readBoolean('circuit', options.circuit, true)
  let claimer: Claimer | null = null
  return createWorker(
    { ...options, poolSize: settings.concurrency },
    {
      kind: 'claimer',
      consumer: options.consumer,
      id: () => claimer?.membership.id ?? null,
      start: async (database) => {
        claimer = new Claimer(
          database,
          options,
          settings,
          { failover, avoidLastHolder },
          handlerOf,
          unhandled,
          circuit,
          failpoint,
        )
        await claimer.start()
      },
      stop: async () => claimer?.stop(),
    },
  )
}

type Settings = Record<ClaimerNumber, number>

const housekeepingMs = 200

/** One running claimer: puts its parts together, starts them, stops them in the right order. */
class Claimer {
  readonly membership: Membership
  readonly #database: Database
  readonly #consumer: string
  readonly #settings: Settings
  readonly #emit: Emit
  readonly #lanes: Lanes
  readonly #parking: Parking
  readonly #inFlight: InFlight
  readonly #unhandled: Unhandled
  readonly #circuits: Circuits
  readonly #keyed: KeyedClaims
  readonly #unkeyed: UnkeyedClaims
  readonly #dispatcher: Dispatcher
  #readLoop: Loop | null = null
  #claimLoop: Loop | null = null
  #houseLoop: Loop | null = null
  #dueLoop: Loop | null = null
  #unlisten = (): void => {}
  #pruning: Pruning | null = null
  /** Rows that were in flight when this claimer was given up on, or had to fear it. */
  #left: readonly Claim[] = []

  constructor(
    database: Database,
    options: ClaimerOptions,
    settings: Settings,
    sharing: Pick<ClaimerContext, 'failover' | 'avoidLastHolder'>,
    handlerOf: (topic: string) => ResolvedHandler | undefined,
    unhandled: UnhandledOptions,
    circuit: boolean,
    failpoint: Failpoint,
  ) {
    const { consumer } = options
    this.#database = database
    this.#consumer = consumer
    this.#settings = settings
    const quarantine = new Quarantine(settings.batchSize)
    this.#inFlight = new InFlight(quarantine, (claim, defect) => this.#giveUp(claim, defect))
    this.#emit = emitter(options, () => ({ kind: 'claimer', consumer, workerId: this.membership.id }))
    this.membership = new Membership({
      ...settings,
      database,
      ...sharing,
      kind: 'claimer',
      consumer,
      topics: unhandled.topics,
      emit: this.#emit,
      inFlight: () => this.#inFlight.size,
      hasBacklog: () => this.#inFlight.waitingRows > 0,
      sureUntil: () => Math.min(this.#lanes.sureUntil, this.#unkeyed.sureUntil),
      highest: () => highestOf(this.#lanes.held),
      onBehind: () => this.#lanes.lower(),
      onAbandoned: () => {
        quarantine.reset()
        this.#unkeyed.sweep()
        this.#lanes.wake()
        this.#wake()
      },
      onPeers: () => this.#lanes.wake(),
      onWoken: () => this.#hurry(),
      onVoid: (reason) => {
        this.#left = [...this.#inFlight.all()].filter(({ keyed }) => !keyed)
        this.#lanes.forget(reason)
        this.#keyed.forget()
        this.#unkeyed.forget()
        this.#lose([...this.#inFlight.all()], reason)
      },
      onReturn: async (formerId) => {
        await this.#unkeyed.release(this.#left)
        await this.#lanes.giveBack(formerId)
        this.#left = []
      },
    })
    this.#lanes = new Lanes({
      database,
      membership: this.membership,
      consumer,
      count: inboxLanes,
      ...settings,
      ...sharing,
      emit: this.#emit,
      // Rows of partitions have leases of their own; who holds the partition only moves its watermark.
      lowestInFlight: (lane) => (isKeyed({ lane }) ? this.#inFlight.lowest(lane) : null),
      mayInherit: () => this.#unhandled.isMixed,
      onTaken: async (lanes) => {
        await this.#keyed.take(lanes.filter(isKeyed))
        setImmediate(() => this.#wake())
      },
      onLowered: () => {
        this.#keyed.forget()
        this.#unkeyed.forget()
        this.#wake()
      },
      onLost: (lanes, reason) =>
        this.#lose(
          lanes.filter(isKeyed).flatMap(({ lane }) => [...this.#inFlight.all(lane)]),
          reason,
        ),
    })
    this.#parking = new Parking(database, consumer, this.#emit)
    const reread: ClaimerContext['reread'] = (claims) => {
      for (const { lane, seq } of claims.flatMap((claim) => this.#inFlight.drop(claim))) {
        this.#lanes.held.get(lane)?.watermark.lower(seq)
      }
    }
    const dispatch = (): void => this.#dispatcher.dispatch()
    this.#circuits = new Circuits({
      enabled: circuit,
      database,
      consumer,
      inFlight: this.#inFlight,
      lanes: this.#lanes,
      emit: this.#emit,
      reread,
      dispatch,
      putOff: (claim, forMs) => settlement.putOff(claim, forMs),
    })
    const context: ClaimerContext = {
      database,
      consumer,
      settings,
      ...sharing,
      membership: this.membership,
      lanes: this.#lanes,
      parking: this.#parking,
      inFlight: this.#inFlight,
      quarantine,
      circuits: this.#circuits,
      emit: this.#emit,
      telemetry: options.telemetry,
      failpoint,
      lose: (claims, reason) => this.#lose(claims, reason),
      reread,
      dispatch,
    }
    const settlement = new Settlement(context, () => this.#dispatcher.isStopping)
    this.#unhandled = new Unhandled(context, unhandled)
    this.#keyed = new KeyedClaims(context, this.#unhandled)
    this.#unkeyed = new UnkeyedClaims(context, this.#unhandled)
    this.#dispatcher = new Dispatcher({
      context,
      settlement,
      handlerOf,
      unhandled: this.#unhandled,
      onDone: (claims) => this.#fetchMore(claims),
      release: (claims) => this.#unkeyed.release(claims),
    })
  }

  async start(): Promise<void> {
    await Promise.all([this.membership.join(), loadKysely()])
    await this.#lanes.start(loopReports(this.#emit, 'keeping lanes').onError)
    this.#readLoop = startLoop(() => this.#keyed.read(), loopReports(this.#emit, 'reading lanes'))
    this.#claimLoop = startLoop(() => this.#unkeyed.claim(), loopReports(this.#emit, 'claiming rows'))
    // Each its own loop: leases are renewed also while what is due cannot be promoted.
    this.#houseLoop = startLoop(() => this.#keepHouse(), loopReports(this.#emit, 'housekeeping'))
    this.#dueLoop = startLoop(() => this.#promote(), loopReports(this.#emit, 'promoting what is due'))
    this.#unlisten = onReceived(this.#database.schema, this.#consumer, () => this.membership.sleep.expect())
    const { keepHandledMs, keepDeadMs } = this.#settings
    const consumer = this.#consumer
    const tasks: PruneTask[] = [
      ...(keepHandledMs > 0 ? [{ kind: 'handled', consumer, olderThanMs: keepHandledMs } as const] : []),
      ...(keepDeadMs > 0 ? [{ kind: 'dead', consumer, olderThanMs: keepDeadMs } as const] : []),
    ]
    if (tasks.length > 0) this.#pruning = startPruning(this.#database, tasks, this.#emit)
    this.#emit({ type: 'started' })
  }

  async stop(): Promise<void> {
    this.#unlisten()
    await this.#pruning?.stop()
    const handled = this.#dispatcher.stop()
    const loops = [this.#readLoop, this.#claimLoop, this.#houseLoop, this.#dueLoop]
    await Promise.all(loops.map(async (loop) => loop?.stop()))
    if (!(await settledWithin(handled, this.#settings.stopTimeoutMs))) {
      for (const claim of this.#inFlight.all()) claim.abort.abort(new Error('The claimer is stopping.'))
      await settledWithin(handled, 2000)
    }
    const left = [...this.#inFlight.all()]
    const report = (doing: string) => (error: unknown) => this.#emit({ type: 'trouble', error, doing })
    await this.#unkeyed.release(left.filter(({ keyed }) => !keyed)).catch(report('giving rows back'))
    // The claims are kept until then: a lane's watermark may not be written down above what is in flight of it.
    await this.#lanes.stop().catch(report('giving lanes back'))
    for (const claim of left) this.#inFlight.remove(claim)
    await this.membership.leave()
    this.#emit({ type: 'stopped', released: left.length })
  }

  #hurry(): void {
    this.#keyed.hurry()
    this.#unkeyed.hurry()
    this.#wake()
  }

  #wake(): void {
    this.#readLoop?.wake()
    this.#claimLoop?.wake()
  }

  /** What is in flight: to be renewed, or to be handled again since its backoff has ended. */
  async #keepHouse(): Promise<number> {
    try {
      await this.#unkeyed.keepHouse()
      await this.#dispatcher.keepHouse()
    } finally {
      this.#dispatcher.dispatch()
    }
    const { leaseMs } = this.#settings
    return this.#inFlight.size > 0
      ? Math.min(housekeepingMs, leaseMs / 8)
      : this.membership.sleep.rest(housekeepingMs)
  }

  /** What comes due, and what had no handler until now. */
  async #promote(): Promise<number> {
    const { found, dueInMs } = await promoteDue({
      promote: () =>
        this.#database.keep(waitingSql(this.#database.schema).promote, {
          consumer: this.#consumer,
          most: this.#settings.batchSize,
        }),
      release: () =>
        this.#parking.release(this.#lanes.held, (lane, key) => !this.#inFlight.hasKey(lane, key)),
      share: (paused) =>
        this.#circuits.keepHouse(paused === null ? [] : (JSON.parse(paused) as PausedTopic[])),
      comeBack: () => this.#unhandled.keepHouse(),
      onFound: () => {
        this.#unkeyed.sweep()
        this.#wake()
      },
    })
    if (found) return 0
    return this.#inFlight.size > 0 ? housekeepingMs : this.membership.sleep.rest(housekeepingMs, dueInMs)
  }

  /** Looks for more without waiting for the next poll, where the last look has left something behind. */
  #fetchMore(done: readonly Claim[]): void {
    this.#unkeyed.handled(done.length)
    if (done.some(({ quarantined }) => quarantined)) {
      this.#unkeyed.sweep()
      return this.#wake()
    }
    if (this.#unkeyed.wanted) this.#claimLoop?.wake()
    if (this.#keyed.wants(done)) this.#readLoop?.wake()
  }

  /** Nobody can say any more what becomes of it: a lane is given back with all that is in flight of it, and so is a row. */
  #giveUp(claim: Claim, defect: Error): void {
    const report = (doing: string) => (error: unknown) => this.#emit({ type: 'trouble', error, doing })
    report('handling')(defect)
    const lane = claim.keyed ? this.#lanes.held.get(claim.lane) : undefined
    if (lane !== undefined) this.#lanes.giveUp(lane, defect.message).catch(report('giving lanes back'))
    else if (!claim.keyed) this.#unkeyed.release([claim]).catch(report('giving rows back'))
    if (this.#inFlight.has(claim)) this.#lose([claim], defect.message)
  }

  #lose(claims: readonly Claim[], reason: string): void {
    if (claims.length === 0) return
    for (const claim of claims) {
      this.#inFlight.remove(claim)
      claim.abort.abort(new LeaseLostError(reason))
    }
    this.#emit({ type: 'lease_lost', ids: claims.map(({ id }) => id), lanes: [], reason })
  }
}
