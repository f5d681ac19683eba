import type { Broker, DeliveredEvent } from '../brokers/broker.ts'
import { OptionError } from '../base/errors.ts'
import {
  callable,
  checkConsumer,
  checkHeartbeat,
  limits,
  numberOptions,
  oneOf,
  readNumbers,
  refuseUnknown,
  whole,
} from '../base/options.ts'
import { checkTopicPattern } from '../message/message.ts'
import { workerNumbers, workerOptionNames, type WorkerOptions } from '../membership/worker.ts'
import type { Identify } from './identity.ts'
import { collisionPolicies, type Collisions } from './intake.ts'

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
   * since without an identity a redelivery could not be told from a new message. It sees the properties of AMQP in `attributes`.
   */
  readonly identify?: Identify | undefined
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

const receiverNumbers = [...workerNumbers, 'batchSize', 'dedupeWindowMs', 'unsubscribeAfterMs'] as const

/** What a receiver is told, with defaults in the place of what is not said. */
export type ReceiverSettings = ReceiverOptions &
  Readonly<Record<(typeof receiverNumbers)[number] | 'maxPayloadBytes', number>> & {
    readonly from: readonly string[]
    readonly sources: readonly string[]
    readonly collisions: Collisions
  }

/** @throws OptionError, MessageError for a topic that is none */
export function readSettings(options: ReceiverOptions): ReceiverSettings {
  refuseUnknown('createReceiver', options, [
    ...workerOptionNames,
    ...receiverNumbers,
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
  const settings = readNumbers(options, receiverNumbers)
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
  return { ...options, ...settings, maxPayloadBytes, from, sources, collisions }
}
