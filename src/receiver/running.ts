import type { IncomingMessage, Subscription } from '../brokers/broker.ts'
import type { Database } from '../database/database.ts'
import { inboxLanes } from '../database/layout.ts'
import { laneSql } from '../database/sql/lane.ts'
import { receive, type InboxMessage } from '../database/inbox.ts'
import type { BrokerError } from '../base/errors.ts'
import { emitter, type Emit } from '../base/events.ts'
import type { Failpoint } from '../base/failpoint.ts'
import { hintReceived } from '../base/hints.ts'
import type { Loop } from '../base/loop.ts'
import { redaction, type Redact } from '../base/redaction.ts'
import { limits } from '../base/options.ts'
import type { Member } from '../membership/options.ts'
import { readFailover } from '../membership/failover.ts'
import { Registration } from '../membership/registration.ts'
import { loopReports, settledWithin } from '../membership/worker.ts'
import { startPruning, type Pruning } from '../upkeep/prune.ts'
import { Intake } from './intake.ts'
import type { ReceiverSettings } from './options.ts'
import { keepSubscribed } from './subscribing.ts'

/** A receiver from its start to its stop. */
export class RunningReceiver implements Member {
  readonly registration: Registration
  readonly #database: Database
  readonly #intake: Intake
  readonly #settings: ReceiverSettings
  readonly #failpoint: Failpoint
  readonly #emit: Emit
  readonly #redact: Redact
  #subscription: Subscription | null = null
  readonly #stopping = new AbortController()
  #pruning: Pruning | null = null
  #subscribing: Loop | null = null
  inFlight = 0
  #downSince: number | null = null

  constructor(database: Database, settings: ReceiverSettings, failpoint: Failpoint) {
    this.#database = database
    this.#settings = settings
    this.#failpoint = failpoint
    this.#emit = emitter(settings, () => ({
      kind: 'receiver',
      consumer: settings.consumer,
      workerId: this.registration.id,
    }))
    this.#redact = redaction(settings.redactError, this.#emit)
    this.#intake = new Intake({
      database,
      reading: { ...settings, redact: this.#redact },
      batchSize: settings.batchSize,
      batchBytes: limits.batchBytes,
      emit: this.#emit,
      collisions: settings.collisions,
      stopping: this.#stopping.signal,
      store: (messages) => this.#store(messages),
    })
    const { heartbeatMs, deadAfterMs, leaseMs } = settings
    this.registration = new Registration(
      {
        ...{ database, kind: 'receiver', consumer: settings.consumer, topics: settings.from },
        ...{ heartbeatMs, deadAfterMs, leaseMs, coordination: settings.coordination, emit: this.#emit },
        // A receiver holds nothing that others could take: the broker decides who gets what.
        ...{ failover: readFailover(undefined), failoverGraceMs: 0 },
      },
      this,
    )
  }

  async start(): Promise<void> {
    const { broker, consumer, from: topics } = this.#settings
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
        onGap: (gap) => this.#emit({ type: 'retention_gap', ...gap }),
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
    const { broker, consumer } = this.#settings
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
    const { broker, telemetry } = this.#settings
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
