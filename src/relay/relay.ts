import type { Database } from '../database/database.ts'
import { layout } from '../database/layout.ts'
import { waitingSql } from '../database/sql/waiting.ts'
import { OptionError, type BrokerError } from '../base/errors.ts'
import { emitter, type Emit, type FailoverStrategy } from '../base/events.ts'
import { noFailpoint, type Failpoint } from '../base/failpoint.ts'
import { onPublished } from '../base/hints.ts'
import { failoverStrategies } from '../membership/failover.ts'
import { Lanes } from '../lanes/lanes.ts'
import { Parking } from '../lanes/parking.ts'
import { highestOf } from '../lanes/repair.ts'
import { Membership } from '../membership/membership.ts'
import { startLoop, type Loop } from '../base/loop.ts'
import { oneOf } from '../base/options.ts'
import { readSettings, type RelayOptions, type RelaySettings } from './options.ts'
import { Pipeline } from './pipeline.ts'
import { promoteDue } from '../upkeep/due.ts'
import { relayTasks, startPruning, type Pruning, type PruneTask } from '../upkeep/prune.ts'
import { startRecurring } from '../upkeep/recur.ts'
import { createWorker, loopReports, settledWithin, type Worker } from '../membership/worker.ts'

/**
 * Creates a relay: a worker that reads the outbox and sends each message to the broker.
 *
 * At least once: a message leaves the outbox only after the broker has confirmed it, so a relay that dies in between
 * leaves it to another one, which sends it again; the inbox drops the second copy. Messages of one key are sent in the
 * order in which they were published. Run as many relays as you like; they share the lanes of the outbox fairly.
 *
 * While the broker is out of reach, nothing is held against any message; the relay tries again with backoff, for ever.
 *
 * @throws OptionError
 */
export function createRelay(options: RelayOptions, failpoint: Failpoint = noFailpoint): Worker {
  const settings = readSettings(options)
  if (typeof options.broker?.send !== 'function') {
    throw new OptionError(
      'broker',
      'broker is required: rabbitmq(…), kafka(…) or postgres(…), or one of your own.',
    )
  }
  const failover = oneOf('failover', options.failover, failoverStrategies)
  let relay: Relay | null = null
  return createWorker(
    { ...options, poolSize: 2 },
    {
      kind: 'relay',
      consumer: null,
      id: () => relay?.membership.id ?? null,
      probe: async () => options.broker.probe?.(),
      start: async (database) => {
        relay = new Relay(database, options, settings, failover, failpoint)
        await relay.start()
      },
      stop: async () => relay?.stop(),
    },
  )
}

const pipelineCount = 2
const housekeepingMs = 200
/** So long after a hint, what comes due is looked for. */
const houseHurryMs = 10

class Relay {
  readonly membership: Membership
  readonly #database: Database
  readonly #settings: RelaySettings
  readonly #lanes: Lanes
  readonly #parking: Parking
  readonly #pipelines: Pipeline[]
  readonly #emit: Emit
  #loops: Loop[] = []
  #house: Loop | null = null
  #hurried = false
  #unlisten = (): void => {}
  #pruning: Pruning | null = null
  #stopRecurring = async (): Promise<void> => {}
  #downSince: number | null = null

  constructor(
    database: Database,
    options: RelayOptions,
    settings: RelaySettings,
    failover: FailoverStrategy,
    failpoint: Failpoint,
  ) {
    this.#database = database
    this.#settings = settings
    this.#emit = emitter(options, () => ({
      kind: 'relay',
      consumer: null,
      workerId: this.membership.id,
    }))
    this.membership = new Membership({
      ...settings,
      database,
      kind: 'relay',
      consumer: '',
      failover,
      emit: this.#emit,
      inFlight: () => this.#pipelines.reduce((sum, pipeline) => sum + pipeline.inFlight, 0),
      sureUntil: () => this.#lanes.sureUntil,
      highest: () => highestOf(this.#lanes.held),
      onBehind: () => this.#lanes.lower(),
      onAbandoned: () => this.#lanes.wake(),
      onPeers: () => this.#lanes.wake(),
      onWoken: () => this.#hurry(),
      onVoid: (reason) => {
        this.#lanes.forget(reason)
        for (const pipeline of this.#pipelines) pipeline.forget()
      },
      onReturn: (formerId) => this.#lanes.giveBack(formerId),
    })
    this.#lanes = new Lanes({
      database,
      membership: this.membership,
      consumer: '',
      count: layout.lanes,
      ...settings,
      failover,
      emit: this.#emit,
      lowestInFlight: (lane) => this.#pipelines[lane % pipelineCount]!.lowestInFlight(lane),
      onTaken: async (lanes) => {
        await this.#parking.load(lanes)
        setImmediate(() => this.#hurry())
      },
      onLowered: () => this.#pipelines.forEach((pipeline) => pipeline.forget()),
      onLost: (lanes) => this.#pipelines.forEach((pipeline) => pipeline.drop(lanes)),
    })
    this.#parking = new Parking(database, '', this.#emit)
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
          failpoint,
          wakeLanes: () => this.#lanes.wake(),
          onBroker: (error, retryInMs) => this.#report(error, retryInMs),
        }),
    )
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

  #hurry(): void {
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

  /** What comes due: deferred messages, and parked keys of our lanes. */
  async #keepHouse(): Promise<number> {
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

  #report(error: BrokerError | null, retryInMs: number): void {
    if (error !== null && this.#downSince === null) {
      this.#downSince = performance.now()
      this.#emit({ type: 'broker_down', error, retryInMs })
    } else if (error === null && this.#downSince !== null) {
      this.#emit({ type: 'broker_up', downMs: performance.now() - this.#downSince })
      this.#downSince = null
    }
  }
}
