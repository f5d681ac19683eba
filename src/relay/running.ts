import type { Database } from '../database/database.ts'
import { layout } from '../database/layout.ts'
import { waitingSql } from '../database/sql/waiting.ts'
import { emitter, type Emit } from '../base/events.ts'
import type { Failpoint } from '../base/failpoint.ts'
import { onPublished } from '../base/hints.ts'
import { redaction } from '../base/redaction.ts'
import type { Lane } from '../lanes/lane.ts'
import { Lanes } from '../lanes/lanes.ts'
import type { LaneHolder } from '../lanes/options.ts'
import { Parking } from '../lanes/parking.ts'
import { highestOf } from '../lanes/repair.ts'
import type { Failover } from '../membership/failover.ts'
import { Flow } from '../membership/flow.ts'
import { Membership } from '../membership/membership.ts'
import type { Holder, RegistrationOptions } from '../membership/options.ts'
import { startLoop, type Loop } from '../base/loop.ts'
import type { RelayOptions, RelaySettings } from './options.ts'
import { watchBroker, type Outage } from './outage.ts'
import { Pipeline } from './pipeline.ts'
import { promoteDue } from '../upkeep/due.ts'
import { relayTasks, startPruning, type Pruning, type PruneTask } from '../upkeep/prune.ts'
import { startRecurring } from '../upkeep/recur.ts'
import { loopReports, settledWithin } from '../membership/worker.ts'

const pipelineCount = 2
const housekeepingMs = 200
/** So long after a hint, what comes due is looked for. */
const houseHurryMs = 10

/** One running relay: puts its parts together, starts them, stops them in the right order. */
export class RunningRelay implements Holder, LaneHolder {
  readonly membership: Membership
  readonly #database: Database
  readonly #settings: RelaySettings
  readonly #lanes: Lanes
  readonly #parking: Parking
  readonly #pipelines: Pipeline[]
  readonly #outage: Outage
  readonly #emit: Emit
  #loops: Loop[] = []
  #house: Loop | null = null
  #hurried = false
  #unlisten = (): void => {}
  #pruning: Pruning | null = null
  #stopRecurring = async (): Promise<void> => {}

  constructor(
    database: Database,
    options: RelayOptions,
    settings: RelaySettings,
    failover: Failover,
    failpoint: Failpoint,
  ) {
    this.#database = database
    this.#settings = settings
    const flow = new Flow()
    this.#emit = flow.counting(
      emitter(options, () => ({ kind: 'relay', consumer: null, workerId: this.membership.id })),
    )
    const registration: RegistrationOptions = {
      ...settings,
      database,
      kind: 'relay',
      consumer: '',
      failover,
      coordination: options.coordination,
      emit: this.#emit,
      flow,
    }
    this.membership = new Membership(registration, this)
    this.#lanes = new Lanes({
      database,
      membership: this.membership,
      consumer: '',
      count: layout.lanes,
      ...settings,
      failover,
      emit: this.#emit,
      holder: this,
    })
    this.#parking = new Parking(database, '', this.#emit)
    this.#outage = watchBroker({ database, membership: this.membership, emit: this.#emit })
    this.#pipelines = Array.from(
      { length: pipelineCount },
      (_, number) =>
        new Pipeline({
          database,
          broker: options.broker,
          onDead: options.onDead ?? 'park',
          strictSend: options.strictSend ?? false,
          settings,
          lanes: () =>
            [...this.#lanes.held.values()].filter(
              (lane) => lane.lane % pipelineCount === number && !lane.draining,
            ),
          lanesOf: this.#lanes,
          parking: this.#parking,
          sleep: this.membership.sleep,
          emit: this.#emit,
          telemetry: options.telemetry,
          redact: redaction(options.redactError, this.#emit),
          failpoint,
          wakeLanes: () => this.#lanes.wake(),
          onBroker: (error, retryInMs) => this.#outage.report(error, retryInMs),
        }),
    )
  }

  get inFlight(): number {
    return this.#pipelines.reduce((sum, pipeline) => sum + pipeline.inFlight, 0)
  }

  get sureUntil(): number {
    return this.#lanes.sureUntil
  }

  get highest(): number {
    return highestOf(this.#lanes.held)
  }

  onBehind(): Promise<void> {
    return this.#lanes.lower()
  }

  onAbandoned(): void {
    this.#lanes.wake()
  }

  onPeers(): void {
    this.#lanes.wake()
  }

  onVoid(reason: string): void {
    this.#lanes.forget(reason)
    this.onLowered()
  }

  onReturn(formerId: number): Promise<void> {
    return this.#lanes.giveBack(formerId)
  }

  lowestInFlight(lane: number): number | null {
    return this.#pipelines[lane % pipelineCount]!.lowestInFlight(lane)
  }

  async onTaken(lanes: readonly Lane[]): Promise<void> {
    await this.#parking.load(lanes)
    setImmediate(() => this.onWoken())
  }

  onLowered(): void {
    for (const pipeline of this.#pipelines) pipeline.forget()
  }

  onLost(lanes: readonly Lane[]): void {
    for (const pipeline of this.#pipelines) pipeline.drop(lanes)
  }

  async start(): Promise<void> {
    await this.membership.join()
    await this.#lanes.start(loopReports(this.#emit, 'keeping lanes').onError)
    this.#loops = this.#pipelines.map((pipeline) =>
      startLoop(() => pipeline.run(), loopReports(this.#emit, 'relaying')),
    )
    this.#house = startLoop(() => this.#keepHouse(), loopReports(this.#emit, 'housekeeping'))
    this.#unlisten = onPublished(this.#database.schema, () => this.membership.sleep.expect())
    const { keepDeadMs } = this.#settings
    const dead: PruneTask[] = keepDeadMs > 0 ? [{ kind: 'dead', consumer: '', olderThanMs: keepDeadMs }] : []
    this.#pruning = startPruning(this.#database, [...relayTasks, ...dead], this.#emit)
    const { onError } = loopReports(this.#emit, 'publishing schedules')
    this.#stopRecurring = startRecurring(
      this.#database,
      this.#emit,
      (ms) => this.membership.sleep.rest(ms),
      onError,
    )
    this.#emit({ type: 'started' })
  }

  async stop(): Promise<void> {
    this.#unlisten()
    await this.#pruning?.stop()
    const ended = Promise.all([
      this.#stopRecurring(),
      this.#house?.stop(),
      ...this.#loops.map((loop) => loop.stop()),
    ])
    if (!(await settledWithin(ended, this.#settings.stopTimeoutMs))) {
      for (const pipeline of this.#pipelines) pipeline.abort('The relay is stopping.')
      await settledWithin(ended, 2000)
    }
    for (const pipeline of this.#pipelines) {
      await pipeline
        .settle()
        .catch((error: unknown) => this.#emit({ type: 'trouble', error, doing: 'stopping' }))
    }
    const released = await this.#lanes.stop().catch((error: unknown) => {
      this.#emit({ type: 'trouble', error, doing: 'giving lanes back' })
      return 0
    })
    await this.membership.leave()
    this.#emit({ type: 'stopped', released })
  }

  onWoken(): void {
    for (const pipeline of this.#pipelines) pipeline.hurry()
    this.#loops.forEach((loop) => loop.wake())
    if (this.#hurried) return
    // It may be something that comes due later. What is due now goes first, and one look does for many hints.
    this.#hurried = true
    setTimeout(() => {
      this.#hurried = false
      this.#house?.wake()
    }, houseHurryMs).unref()
  }

  /** What comes due: deferred messages, and parked keys of our lanes; and that the broker is away. */
  async #keepHouse(): Promise<number> {
    await this.#outage.keepHouse()
    const { found, dueInMs } = await promoteDue({
      promote: () =>
        this.#database.keep(waitingSql(this.#database.schema).promoteOutbox, {
          most: this.#settings.batchSize,
        }),
      release: () =>
        this.#parking.release(
          this.#lanes.held,
          (lane, key) => !this.#pipelines[lane % pipelineCount]!.hasKey(lane, key),
        ),
      onFound: () => this.#loops.forEach((loop) => loop.wake()),
    })
    return found ? 0 : this.membership.sleep.rest(housekeepingMs, dueInMs)
  }
}
