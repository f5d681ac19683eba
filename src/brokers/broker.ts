import type { BrokerError } from '../base/errors.ts'
import type { OutgoingMessage } from '../message/message.ts'
import type { Telemetry } from '../base/telemetry.ts'

/**
 * What a broker has to promise. Every adapter passes the same suite, `test/brokers/contract.ts`.
 *
 * To write one: implement `send` and `subscribe`, let nothing but `BrokerError` out, and mind three rules.
 * 1. `sent` means that the broker has taken responsibility: it would survive the broker's crash, and somebody is
 *    there to receive it. A confirmation of a message that no queue took is not that.
 * 2. Messages with one key leave in the order of the batch, and one batch at a time is in flight for a key: the relay
 *    sees to the second.
 * 3. `onBatch` resolving is the only acknowledgement. Whatever it has not resolved for must come again.
 */
export interface Broker {
  /** The adapter's name for logs and status, such as `rabbitmq`. */
  readonly name: string

  /** What its messages name as their CloudEvents source; left out if they name none. */
  readonly source?: string | undefined

  /**
   * Hands a batch to the broker and waits for its confirmations. The outcomes are in the order of the batch.
   * Must settle within the adapter's own deadline, whatever the broker does, and must not throw for a message's sake.
   * May be called again before an earlier call has settled. After `signal` aborts it settles soon; what is not
   * confirmed by then is `unknown`.
   */
  send(batch: readonly OutgoingMessage[], context: SendContext): Promise<readonly SendOutcome[]>

  /**
   * Receives messages of the given topic patterns on behalf of a consumer, until stopped. Reconnects by itself, for
   * ever. `onBatch` is called with one batch at a time; when it rejects, the batch is delivered again after a pause.
   */
  subscribe(options: SubscribeOptions, onBatch: OnBatch): Promise<Subscription>

  /**
   * Ends what `subscribe` has left behind of these patterns for a consumer, if the broker keeps such a thing: a binding, a
   * row. What the consumer has received or has waiting stays. Idempotent. A broker that keeps nothing leaves it out.
   */
  unsubscribe?(options: Pick<SubscribeOptions, 'consumer' | 'topics'>): Promise<void>

  /**
   * Asked before a worker starts: whether there is something that no waiting would mend, such as a client library that is
   * not installed or a password that is refused. Rejects for that alone, with a `BrokerError` of the kind `config`. A broker
   * that is away, or is slow to answer, is no reason. `consumer` says whose messages are to be received; null, that messages
   * are to be sent.
   */
  probe?(consumer?: string | null): Promise<void>

  /** Closes every connection. Idempotent. What was not confirmed is `unknown` to its sender. */
  close(): Promise<void>
}

export interface SendContext {
  readonly signal: AbortSignal
  /** For an adapter that does the receiver's work as well; the others have nothing to trace. */
  readonly telemetry?: Telemetry | undefined
}

/**
 * What became of one message.
 *
 * `sent`: the broker is responsible now. `rejected`: this message is at fault and the others are not; it will be tried
 * again with backoff, or not at all if `error.kind` is `poison`. `failed`: the broker is at fault; nothing is held
 * against the message. `unknown`: it may or may not have arrived; it is sent again with the same id. `held`: what is to have
 * this message is away, and what is to have others is not. Nothing is held against it either; it is tried again after
 * `retryInMs`, and meanwhile everything goes on but what has its key.
 */
export type SendOutcome =
  | { readonly status: 'sent' }
  | { readonly status: 'rejected'; readonly error: BrokerError }
  | { readonly status: 'failed'; readonly error: BrokerError }
  | { readonly status: 'unknown'; readonly error: BrokerError }
  | { readonly status: 'held'; readonly error: BrokerError; readonly retryInMs: number }

export interface SubscribeOptions {
  readonly consumer: string
  /** Topic names or AMQP patterns: `*` is one word, `#` is any number of words, words are parted by dots. */
  readonly topics: readonly string[]
  /** Most messages in one batch. */
  readonly batchSize: number
  /**
   * Most bytes in one batch, bodies and headers together; a larger message comes alone. An adapter that reads ahead
   * holds no more than twice this per connection or partition. @default `limits.batchBytes`, 8 MiB
   */
  readonly batchBytes?: number | undefined
  /** Told about trouble that the adapter deals with itself: lost connections, retries. */
  readonly onTrouble?: ((error: BrokerError) => void) | undefined
  /** Told when messages have gone that this consumer had not received: the broker keeps them for some time only. */
  readonly onGap?: ((gap: Gap) => void) | undefined
  /** Told whenever it is receiving, at first and after trouble. */
  readonly onReceiving?: (() => void) | undefined
}

/** What is missing of a partition: the offsets from the one that was next to the one before `to`. */
export interface Gap {
  readonly topic: string
  readonly partition: number
  readonly from: number
  readonly to: number
}

export type OnBatch = (batch: readonly IncomingMessage[]) => Promise<void>

export interface Subscription {
  /** Stops receiving. Waits for the `onBatch` under way; what it did not resolve for will come again. */
  stop(): Promise<void>
}

/** A delivery as it came off the wire, before it is known whether it is a message of ours. */
export interface IncomingMessage {
  /** The broker's name for where it came from: the routing key, the Kafka topic. */
  readonly topic: string
  /** Ordering key as the broker carries it: the Kafka record's key, `partitionkey` of the CloudEvent. */
  readonly key: string | null
  /** All headers as text, those of CloudEvents included. */
  readonly headers: Readonly<Record<string, string>>
  /** What the broker's protocol says beside the headers, by the names in `message/attributes.ts`: `amqp-correlation-id`. */
  readonly properties?: Readonly<Record<string, string>> | undefined
  readonly contentType: string | null
  readonly body: Uint8Array
  /**
   * A place that is the same for every redelivery, where the broker has one: Kafka's topic, partition and offset, with the id of the
   * topic, which no topic of this or another cluster ever has again. Kafka before 2.8 has no ids.
   */
  readonly position: string | null
  /** When it was put there, as the broker tells each time: a topic that is made again has the same places. */
  readonly placedAt?: string | undefined
  /** True if the broker knows that it has delivered this before. */
  readonly redelivered: boolean
  /** Why the adapter could not read it, if it could not: what is left of it becomes a dead letter, and nothing else. */
  readonly refused?: string | undefined
}

/** What `identify` of a receiver goes by. */
export interface ForeignMessage extends IncomingMessage {
  /** Those of a CloudEvent that lacks an id or its version, and the properties of AMQP (`amqp-correlation-id`). */
  readonly attributes: Readonly<Record<string, string>>
}

/** What `topicOf` of a receiver goes by. Whoever may send to the topic under which it came says all the rest. */
export interface DeliveredEvent {
  /** Under which the broker has delivered it: the routing key, the Kafka topic. */
  readonly topic: string
  readonly key: string | null
  /** All attributes of a CloudEvent (`type`, `source`, `subject`, …), and the properties of AMQP (`amqp-type`, …). */
  readonly attributes: Readonly<Record<string, string>>
  /** What else came with it. */
  readonly headers: Readonly<Record<string, string>>
}
