import type { Broker, DeliveredEvent, IncomingMessage, Subscription } from '../brokers/broker.ts'
import type { Database } from '../database/database.ts'
import { inboxLanes } from '../database/layout.ts'
import { laneSql } from '../database/sql/lane.ts'
import { receive, type InboxMessage } from '../database/inbox.ts'
import { OptionError, type BrokerError } from '../base/errors.ts'
import { emitter, type Emit } from '../base/events.ts'
import { noFailpoint, type Failpoint } from '../base/failpoint.ts'
import { hintReceived } from '../base/hints.ts'
import { redaction, type Redact } from '../base/redaction.ts'
import type { Member } from '../membership/options.ts'
import { Registration } from '../membership/registration.ts'
import type { Loop } from '../base/loop.ts'
import { checkTopicPattern } from '../message/message.ts'
import {
  checkHeartbeat,
  callable,
  checkConsumer,
  limits,
  numberOptions,
  oneOf,
  readNumbers,
  refuseUnknown,
  whole,
} from '../base/options.ts'
import type { Identity } from './delivery.ts'
import { collisionPolicies, Intake, type Collisions } from './intake.ts'
import { keepSubscribed } from './subscribing.ts'
import { startPruning, type Pruning } from '../upkeep/prune.ts'
import {
  createWorker,
  loopReports,
  settledWithin,
  workerNumbers,
  workerOptionNames,
  type Worker,
  type WorkerOptions,
} from '../membership/worker.ts'

export interface ReceiverOptions extends WorkerOptions {
  readonly broker: Broker
  /** The name under which claimers will share what is received. */
  readonly consumer: string
  /** Topic names or AMQP patterns: `order.*`, `order.#`. */
  readonly topics: readonly string[]
  /** Most deliveries in one batch, which has 8 MiB at most; a larger message is a batch of its own. @default 500 */
  readonly batchSize?: number | undefined
  /**
   * The largest body that is taken: a larger one becomes a dead letter with its first 64 KiB, and what is behind it goes
   * on. Set it if `maxPayloadBytes` of a publisher is larger. Up to 64 MiB. @default 16_777_216 (16 MiB)
   */
  readonly maxPayloadBytes?: number | undefined
  /**
   * How long the inbox remembers what it has seen. A redelivery after that is handled again, so it has to exceed the
   * longest time that the broker may keep a message. In milliseconds. @default 604_800_000 (7 days)
   */
  readonly dedupeWindowMs?: number | undefined
  /**
   * How long no receiver of the consumer has to have named a topic before this one, which does not name it either,
   * unsubscribes the consumer from it; 0 for never. Until then old and new versions run side by side, and a deploy can be taken
   * back. In milliseconds. @default 3_600_000 (1 hour)
   */
  readonly unsubscribeAfterMs?: number | undefined
  /**
   * Identifies messages that are not CloudEvents. Return null for what is no message: it becomes a dead letter. Without
   * it, the `message-id` header counts, then the broker's position (Kafka), and else the message becomes a dead letter,
   * since without an identity a redelivery could not be told from a new message.
   */
  readonly identify?: ((incoming: IncomingMessage) => Identity | null) | undefined
  /**
   * The topic of a delivery, which selects its handler; one that no pattern of `topics` takes becomes a dead letter. Needed where
   * the broker's name says less than that, as with many topics in one of Kafka's: `({ attributes }) => attributes.type`. The
   * broker has checked who may send to the topic under which it delivers, and nothing of what the sender writes.
   * @default the topic under which the broker has delivered it
   */
  readonly topicOf?: ((event: DeliveredEvent) => string) | undefined
  /** With `topicOf`: what to subscribe to at the broker, names or patterns of its topics. @default `topics` */
  readonly from?: readonly string[] | undefined
  /**
   * CloudEvents sources of outboxes, beside that of the broker: their messages keep their ids. Of others, source and id
   * together make the id. @default none
   */
  readonly sources?: readonly string[] | undefined
  /**
   * What becomes of a message whose identity another one with other content has had. `bury`: it is a dead letter, with a
   * reason that begins with `collision`. `drop`: it is gone as a duplicate, for producers whose retries differ from what they
   * repeat. @default 'bury'
   */
  readonly collisions?: Collisions | undefined
}

const numbers = [...workerNumbers, 'batchSize', 'dedupeWindowMs', 'unsubscribeAfterMs'] as const

/**
 * Creates a receiver: a worker that writes a consumer's deliveries from the broker into its inbox.
 *
 * A delivery is acknowledged only after the inbox has it, and the inbox takes each message once inside the dedupe
 * window. While the database is out of reach the receiver waits with what it has; nothing is sent back to the broker,
 * whose delivery limit would drop it.
 *
 * With the Postgres broker there is nothing to receive, since the relay writes to the inbox itself: the receiver then
 * keeps the subscription.
 *
 * @throws OptionError
 */
export function createReceiver(options: ReceiverOptions, failpoint: Failpoint = noFailpoint): Worker {
  refuseUnknown('createReceiver', options, [
    ...workerOptionNames,
    ...numbers,
    'broker',
    'consumer',
    'topics',
    'identify',
    'topicOf',
    'from',
    'sources',
    'collisions',
    'maxPayloadBytes',
  ])
  checkConsumer(options.consumer)
  const settings = readNumbers(options, numbers)
  checkHeartbeat(settings)
  if (typeof options.broker?.subscribe !== 'function') {
    throw new OptionError(
      'broker',
      'broker is required: rabbitmq(…), kafka(…) or postgres(…), or one of your own.',
    )
  }
  if (!Array.isArray(options.topics) || options.topics.length === 0) {
    throw new OptionError(
      'topics',
      'topics is required: a list of topic names or patterns such as ["order.*"].',
    )
  }
  const from = options.from ?? options.topics
  for (const topic of [...options.topics, ...from]) checkTopicPattern(topic)
  if (options.from !== undefined && options.topicOf === undefined) {
    throw new OptionError('from', 'from needs topicOf, to say which of the topics a delivery has.')
  }
  callable('topicOf', options.topicOf)
  const collisions = oneOf('collisions', options.collisions, collisionPolicies)
  const sources = [
    ...(options.sources ?? []),
    ...(options.broker.source === undefined ? [] : [options.broker.source]),
  ]
  const { min, max } = numberOptions.maxPayloadBytes
  const maxPayloadBytes = whole('maxPayloadBytes', options.maxPayloadBytes, limits.receivedBytes, min, max)
  let receiver: Receiver | null = null
  return createWorker(
    { ...options, poolSize: 3 },
    {
      kind: 'receiver',
      consumer: options.consumer,
      id: () => receiver?.registration.id ?? null,
      probe: async () => options.broker.probe?.(),
      start: async (database) => {
        receiver = new Receiver(
          database,
          { ...options, maxPayloadBytes, from, sources, collisions },
          settings,
          failpoint,
        )
        await receiver.start()
      },
      stop: async () => receiver?.stop(),
    },
  )
}

interface Checked extends ReceiverOptions {
  readonly maxPayloadBytes: number
  readonly from: readonly string[]
  readonly sources: readonly string[]
  readonly collisions: Collisions
}

class Receiver implements Member {
  readonly registration: Registration
  readonly #database: Database
  readonly #options: Checked
  readonly #intake: Intake
  readonly #settings: Record<(typeof numbers)[number], number>
  readonly #failpoint: Failpoint
  readonly #emit: Emit
  readonly #redact: Redact
  #subscription: Subscription | null = null
  readonly #stopping = new AbortController()
  #pruning: Pruning | null = null
  #subscribing: Loop | null = null
  inFlight = 0
  #downSince: number | null = null

  constructor(
    database: Database,
    options: Checked,
    settings: Record<(typeof numbers)[number], number>,
    failpoint: Failpoint,
  ) {
    this.#database = database
    this.#options = options
    this.#settings = settings
    this.#failpoint = failpoint
    this.#emit = emitter(options, () => ({
      kind: 'receiver',
      consumer: options.consumer,
      workerId: this.registration.id,
    }))
    this.#redact = redaction(options.redactError, this.#emit)
    this.#intake = new Intake({
      database,
      reading: { ...options, redact: this.#redact },
      batchSize: settings.batchSize,
      batchBytes: limits.batchBytes,
      emit: this.#emit,
      collisions: options.collisions,
      stopping: this.#stopping.signal,
      store: (messages) => this.#store(messages),
    })
    const { heartbeatMs, deadAfterMs, leaseMs } = settings
    this.registration = new Registration(
      {
        ...{ database, kind: 'receiver', consumer: options.consumer, topics: options.from },
        ...{ heartbeatMs, deadAfterMs, leaseMs, emit: this.#emit },
        // A receiver holds nothing that others could take: the broker decides who gets what.
        ...{ failover: 'first-free', failoverGraceMs: 0 },
      },
      this,
    )
  }

  async start(): Promise<void> {
    const { broker, consumer, from: topics } = this.#options
    await this.registration.join()
    await this.#database.query(laneSql(this.#database.schema).create, { consumer, count: inboxLanes })
    this.#subscription = await broker.subscribe(
      {
        consumer,
        topics,
        batchSize: this.#settings.batchSize,
        batchBytes: limits.batchBytes,
        onTrouble: (error) => this.#lost(error),
        onReceiving: () => this.#found(),
      },
      (batch) => this.#onBatch(batch),
    )
    this.#subscribing = keepSubscribed(
      this.#database,
      { broker, consumer, topics, unsubscribeAfterMs: this.#settings.unsubscribeAfterMs },
      this.#emit,
      loopReports(this.#emit, 'keeping the subscription'),
    )
    this.#pruning = startPruning(
      this.#database,
      [{ kind: 'seen', consumer, olderThanMs: this.#settings.dedupeWindowMs }],
      this.#emit,
    )
    this.#emit({ type: 'started' })
  }

  async stop(): Promise<void> {
    this.#stopping.abort()
    await Promise.all([this.#pruning?.stop(), this.#subscribing?.stop()])
    const stopped = this.#subscription?.stop() ?? Promise.resolve()
    if (!(await settledWithin(stopped, this.#settings.stopTimeoutMs))) {
      this.#emit({
        type: 'trouble',
        error: new Error('The broker did not end the subscription in time.'),
        doing: 'stopping',
      })
    }
    await this.registration.leave()
    this.#emit({ type: 'stopped', released: 0 })
  }

  #lost(error: BrokerError): void {
    this.#downSince ??= performance.now()
    this.#emit({ type: 'broker_down', error, retryInMs: 0 })
  }

  #found(): void {
    if (this.#downSince === null) return
    this.#emit({ type: 'broker_up', downMs: performance.now() - this.#downSince })
    this.#downSince = null
  }

  async #onBatch(batch: readonly IncomingMessage[]): Promise<void> {
    const { broker, consumer } = this.#options
    const startedAt = performance.now()
    this.inFlight = batch.length
    const { fresh, refused, collisions } = await this.#intake.take(batch)
    this.inFlight = 0
    this.#found()
    this.#emit({
      type: 'received',
      fresh,
      duplicates: batch.length - refused - fresh,
      collisions,
      broker: broker.name,
      durationMs: performance.now() - startedAt,
    })
    hintReceived(this.#database.schema, consumer)
  }

  async #store(messages: readonly InboxMessage[]): Promise<number> {
    await this.#failpoint('receiver.before_commit')
    const { broker, telemetry } = this.#options
    const fresh = await receive(this.#database, messages, {
      telemetry,
      broker: broker.name,
      workerId: this.registration.id,
      redact: this.#redact,
    })
    await this.#failpoint('receiver.after_commit')
    return fresh
  }
}
