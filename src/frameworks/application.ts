import { OptionError } from '../base/errors.ts'
import type { OnEvent, WorkerKind } from '../base/events.ts'
import { refuseUnknown } from '../base/options.ts'
import type { Broker } from '../brokers/broker.ts'
import type { Config, AnyConsumerConfig } from '../config.ts'
import type { Worker } from '../membership/worker.ts'
import { createHealth, type Health, type HealthReport } from '../observe/health.ts'
import { logEvents, type Logger } from '../observe/logging.ts'
import { createOutbox, type Outbox, type OutboxOptions } from '../outbox/outbox.ts'
import { createWorkers } from '../workers.ts'

/** What an application says of Twinbox, whatever framework it is written with. Its consumers are described by the framework's own options. */
export interface ApplicationOptions extends Omit<Config, 'consumers' | 'broker'> {
  /**
   * A broker, or a function that opens one when the workers start. Either is closed when they have stopped. Needed by relays and receivers.
   */
  readonly broker?: Config['broker']
  /**
   * Which workers run in this process: `[]` for an application that only publishes, whose messages are sent and handled by others.
   * @default ['receiver', 'claimer', 'relay']
   */
  readonly workers?: readonly WorkerKind[] | undefined
  /** Limits of what is published. @default those of `createOutbox` */
  readonly outbox?: Omit<OutboxOptions, 'topics' | 'schema' | 'preparedStatements' | 'telemetry'> | undefined
  /**
   * For the health of this process: after how long without progress work is stuck. In milliseconds. @default 60_000
   */
  readonly stuckAfterMs?: number | undefined
  /** Told of everything that happens, beside the framework's logger. */
  readonly onEvent?: OnEvent | undefined
}

/** The names of these options; a framework adds its own. */
export const applicationOptionNames = [
  ...(['database', 'schema', 'preparedStatements', 'coordination', 'telemetry', 'redactError'] as const),
  ...(['broker', 'topics', 'relay', 'workers', 'outbox', 'stuckAfterMs', 'onEvent'] as const),
] as const

const allKinds: readonly WorkerKind[] = ['receiver', 'claimer', 'relay']

/**
 * The outbox of an application and the workers of its process: all of them are started, or none; then they are stopped, once.
 */
export class Application {
  readonly outbox: Outbox
  readonly kinds: readonly WorkerKind[]
  readonly #options: ApplicationOptions
  readonly #logger: Logger
  readonly #needsBroker: boolean
  readonly #workers: Worker[] = []
  #broker: Broker | null = null
  #health: Health | null = null
  #started: Promise<void> | null = null
  #stopped: Promise<void> | null = null

  /** @throws OptionError, before anything is opened */
  constructor(where: string, options: ApplicationOptions, logger: Logger) {
    this.#options = options
    this.#logger = logger
    this.kinds = readKinds(options.workers)
    const { database, broker, topics, schema, preparedStatements, telemetry, outbox = {} } = options
    const publishing = `workers: [] is for an application that only publishes.`
    if (database === undefined && this.kinds.length > 0)
      throw new OptionError('database', `${where} needs a database for its workers. ${publishing}`)
    this.#needsBroker = this.kinds.some((kind) => kind !== 'claimer')
    if (broker === undefined && this.#needsBroker)
      throw new OptionError('broker', `${where} needs a broker for its relay and receivers. ${publishing}`)
    refuseUnknown('outbox', outbox, ['maxPayloadBytes', 'dedupeWindowMs', 'maxPending'])
    this.outbox = createOutbox({ topics, schema, preparedStatements, telemetry, ...outbox })
  }

  /**
   * Starts all workers; if one of them cannot start, stops those that have, and closes what was opened.
   * @throws what the start of a worker throws, OptionError
   */
  start(consumers: readonly (readonly [name: string, AnyConsumerConfig])[]): Promise<void> {
    this.#started ??= this.#start(consumers).catch(async (error: unknown) => {
      // What fails while it is undone matters less than why it is.
      await this.#end().catch(() => {})
      throw error
    })
    return this.#started
  }

  /**
   * Takes nothing new, lets handlers end, gives back all leases and closes the broker. A start that is under way ends first.
   * @throws what the stop of a worker throws, after all others have stopped
   */
  stop(): Promise<void> {
    this.#stopped ??= (this.#started ?? Promise.resolve()).then(
      () => this.#end(),
      // Then it was undone.
      () => {},
    )
    return this.#stopped
  }

  /** Of an application without workers all is well: there is nothing in it that could be stuck. */
  async check(): Promise<HealthReport> {
    if (this.kinds.length === 0) return { live: true, ready: true, problems: [] }
    if (this.#health !== null && this.#stopped === null) return this.#health.check()
    const why =
      this.#stopped === null ? 'Its workers have not started.' : 'Its workers stop, or have stopped.'
    return { live: true, ready: false, problems: [{ who: 'application', why, restart: false }] }
  }

  async #start(consumers: readonly (readonly [name: string, AnyConsumerConfig])[]): Promise<void> {
    if (this.kinds.length === 0 || this.#stopped !== null) return
    const { database, schema, stuckAfterMs, broker, relay, topics } = this.#options
    const { preparedStatements, coordination, telemetry, redactError } = this.#options
    this.#health = createHealth(database!, { schema, stuckAfterMs })
    if (this.#needsBroker) {
      this.#broker = (typeof broker === 'function' ? await broker() : broker) ?? null
      if (this.#broker === null) throw new OptionError('broker', 'broker is a function that gives no broker.')
    }
    const shared = { database: database!, schema, preparedStatements, coordination, telemetry, redactError }
    const workers = createWorkers({
      ...{ kinds: this.kinds, consumers, relay, topics, broker: this.#broker },
      shared: { ...shared, onEvent: this.#observe(this.#health) },
    })
    for (const worker of workers) {
      if (this.#stopped !== null) return
      this.#workers.push(worker)
      this.#health.watch(worker)
      await worker.start()
    }
  }

  #observe(health: Health): OnEvent {
    const log = logEvents(this.#logger)
    return (event) => {
      health.onEvent(event)
      log(event)
      // Its promise is waited for by whoever tells.
      return this.#options.onEvent?.(event)
    }
  }

  async #end(): Promise<void> {
    const ends = await Promise.allSettled(this.#workers.map((worker) => worker.stop()))
    ends.push(...(await Promise.allSettled([this.#health?.close(), this.#broker?.close()])))
    const failed = ends.find((end) => end.status === 'rejected')
    if (failed !== undefined) throw failed.reason
  }
}

/** Those of a framework's options: each an object, by name. @throws OptionError */
export function readConsumers<Consumer>(
  given: Readonly<Record<string, Consumer>> = {},
): [string, Consumer][] {
  const isObject = (value: unknown): boolean => typeof value === 'object' && value !== null
  if (!isObject(given))
    throw new OptionError('consumers', 'consumers must be an object of consumers by name.')
  const consumers = Object.entries(given)
  const wrong = consumers.find(([, consumer]) => !isObject(consumer))
  if (wrong !== undefined)
    throw new OptionError('consumers', `The consumer "${wrong[0]}" must be described by an object.`)
  return consumers
}

function readKinds(given: readonly WorkerKind[] | undefined): readonly WorkerKind[] {
  if (given === undefined) return allKinds
  if (!Array.isArray(given) || given.some((kind) => !allKinds.includes(kind)))
    throw new OptionError('workers', `workers must be a list of any of: ${allKinds.join(', ')}.`)
  return given
}
