import type { ConnectionOptions } from 'node:tls'
import { OptionError } from '../../base/errors.ts'
import type { OutgoingMessage } from '../../message/message.ts'
import { callable, oneOf, readBoolean, refuseUnknown, text, whole } from '../../base/options.ts'
import { checkSasl, type Sasl, type Way } from './sasl.ts'

/** The client libraries, the default first. */
export const clientNames = ['kafkajs', 'platformatic'] as const
export type ClientName = (typeof clientNames)[number]

export interface KafkaOptions {
  /** Where to connect first, as `host:port`. One that answers is enough, but it must be up: name several. */
  readonly brokers: readonly string[]
  /**
   * The library that speaks to Kafka. `kafkajs`: the package of that name, on every Node, and what Twinbox has been used with for longest.
   * `platformatic`: the package `@platformatic/kafka`, which has maintainers, and needs Node 22.22 or later and Kafka 3.1 or later. What is promised is the same. Receivers of one consumer may
   * differ in it, and so may relays. `start()` of a worker rejects where the library cannot be used. @default 'kafkajs'
   */
  readonly client?: ClientName | undefined
  /** What broker logs and quotas know us by. @default 'twinbox' */
  readonly clientId?: string | undefined
  /** TLS: `true`, or what `tls.connect` takes, such as `ca`. @default no TLS */
  readonly ssl?: boolean | ConnectionOptions | undefined
  /**
   * As in kafkajs. Anything but SCRAM needs `ssl`, since it shows the secret to whoever listens.
   *
   * Or a function that gives it, asked at each sign-in: a password or a token that has changed needs no restart. What it throws
   * is an outage: the worker waits and asks again.
   */
  readonly sasl?: Sasl | (() => Sasl | Promise<Sasl>) | undefined
  /** Allows `sasl` to send a secret without TLS, or without verifying the server, to another machine. @default false */
  readonly insecure?: boolean | undefined
  /** `source` of the CloudEvents sent: who says this, as a URI reference. @default 'twinbox' */
  readonly source?: string | undefined
  /**
   * The Kafka topic of a message. A receiver reads Kafka's topics: tell it what this returns as `from`, and by `topicOf` how to
   * find the topic again.
   * @default its topic
   */
  readonly topic?: ((message: OutgoingMessage) => string) | undefined
  /** The consumer group of a consumer. @default `twinbox.<consumer>` */
  readonly groupId?: ((consumer: string) => string) | undefined
  /**
   * `check`: topics must exist, and an operator keeps their settings right. `declare`: those that are sent to or subscribed to
   * by name are created when missing. Then whoever may publish makes topics, up to `maxNewTopics`; and the user needs the right to.
   * Twinbox never has the broker create a topic on its own.
   * @default 'check'
   */
  readonly topology?: 'check' | 'declare' | undefined
  /**
   * How many topics are created in an hour for what is sent; a message for one more is tried again with backoff. Topics that
   * receivers name do not count. From 1 to 10,000. @default 100
   */
  readonly maxNewTopics?: number | undefined
  /**
   * Of a topic that we create. It bounds how many receivers of a consumer share the work, and it is for good:
   * adding partitions later moves keys, and their order is lost over the move. 1 to 10,000. @default 6
   */
  readonly partitions?: number | undefined
  /** Of a topic that we create; -1 is the broker's `default.replication.factor`. 1 to 100. @default -1 */
  readonly replicationFactor?: number | undefined
  /**
   * What to do with a message whose topic does not exist, with `topology: 'check'`. `fail`: it is tried again with
   * backoff. `drop`: it counts as sent, and nobody will ever see it. @default 'fail'
   */
  readonly unroutable?: 'fail' | 'drop' | undefined
  /** The longest that a `send` may take, waiting for earlier ones included. From 100 to 600,000. @default 10000 */
  readonly sendTimeoutMs?: number | undefined
  /**
   * How many bytes go in one request; a larger message goes alone. More than the topic's `max.message.bytes` (about
   * 1 MB unless changed) makes Kafka refuse full requests. From 1,000 to 100,000,000. @default 900000
   */
  readonly maxRequestBytes?: number | undefined
  /**
   * After so long without a sign of life, a receiver's partitions go to the others. Brokers allow 6,000 to 1,800,000
   * by default. From 500. @default 10000
   */
  readonly sessionTimeoutMs?: number | undefined
  /**
   * How often patterns are matched against the topics that exist by then; partitions that were added are looked for as
   * often, but at least every 5 s. From 50 to an hour. @default 30000
   */
  readonly topicRefreshMs?: number | undefined
}

/** Checked options with every default filled in. */
export interface Settings {
  readonly client: ClientName
  readonly brokers: readonly string[]
  readonly clientId: string
  readonly ssl: boolean | ConnectionOptions
  readonly sasl: Sasl | (() => Sasl | Promise<Sasl>) | null
  readonly insecure: boolean
  readonly source: string
  readonly topic: (message: OutgoingMessage) => string
  readonly groupId: (consumer: string) => string
  readonly topology: 'check' | 'declare'
  readonly maxNewTopics: number
  readonly partitions: number
  readonly replicationFactor: number
  readonly unroutable: 'fail' | 'drop'
  readonly sendTimeoutMs: number
  readonly maxRequestBytes: number
  readonly sessionTimeoutMs: number
  readonly topicRefreshMs: number
}

/** @throws OptionError naming the option and what it must be. No secret is ever part of the text. */
export function checkOptions(options: KafkaOptions): Settings {
  if (typeof options !== 'object' || options === null) {
    throw new OptionError('options', 'kafka() needs an object with at least brokers.')
  }
  refuseUnknown('kafka', options, [
    'brokers',
    'client',
    'clientId',
    'ssl',
    'sasl',
    'insecure',
    'source',
    'topic',
    'groupId',
    'topology',
    'maxNewTopics',
    'partitions',
    'replicationFactor',
    'unroutable',
    'sendTimeoutMs',
    'maxRequestBytes',
    'sessionTimeoutMs',
    'topicRefreshMs',
  ])
  const brokers = checkBrokers(options.brokers)
  const client = oneOf('client', options.client, clientNames)
  const way = checkWay(options, client)
  const { sasl = null } = options
  return {
    ...{ brokers, client },
    clientId: text('clientId', options.clientId, 'twinbox', /^[A-Za-z0-9._-]{1,249}$/),
    ...way,
    sasl: sasl === null || typeof sasl === 'function' ? sasl : checkSasl(sasl, hostsOf(brokers), way),
    source: text('source', options.source, 'twinbox', /^[!-~]{1,255}$/),
    topic: callable('topic', options.topic) ?? ((message) => message.topic),
    groupId: callable('groupId', options.groupId) ?? ((consumer) => `twinbox.${consumer}`),
    topology: oneOf('topology', options.topology, ['check', 'declare']),
    maxNewTopics: whole('maxNewTopics', options.maxNewTopics, 100, 1, 10_000),
    partitions: whole('partitions', options.partitions, 6, 1, 10_000),
    replicationFactor:
      options.replicationFactor === -1
        ? -1
        : whole('replicationFactor', options.replicationFactor, -1, 1, 100),
    unroutable: oneOf('unroutable', options.unroutable, ['fail', 'drop']),
    sendTimeoutMs: whole('sendTimeoutMs', options.sendTimeoutMs, 10_000, 100, 600_000),
    maxRequestBytes: whole('maxRequestBytes', options.maxRequestBytes, 900_000, 1000, 100_000_000),
    sessionTimeoutMs: whole('sessionTimeoutMs', options.sessionTimeoutMs, 10_000, 500, 1_800_000),
    topicRefreshMs: whole('topicRefreshMs', options.topicRefreshMs, 30_000, 50, 3_600_000),
  }
}

function checkBrokers(brokers: unknown): readonly string[] {
  const sound = (broker: unknown): broker is string =>
    typeof broker === 'string' && /^[^\s:/@]+:\d{1,5}$/.test(broker)
  if (Array.isArray(brokers) && brokers.length > 0 && brokers.every(sound)) return [...brokers]
  throw new OptionError('brokers', 'brokers must be a list of at least one "host:port".')
}

/** Of `host:port`. */
export const hostsOf = (brokers: readonly string[]): string[] =>
  brokers.map((broker) => broker.split(':')[0]!)

/** A fresh client tries the first one first; were that dead, each of them would begin with a failure. */
export function shuffled(brokers: readonly string[]): string[] {
  return brokers
    .map((broker) => ({ broker, place: Math.random() }))
    .toSorted((one, other) => one.place - other.place)
    .map(({ broker }) => broker)
}

function checkWay({ ssl = false, insecure }: KafkaOptions, client: ClientName): Way {
  if (typeof ssl !== 'boolean' && (typeof ssl !== 'object' || ssl === null)) {
    throw new OptionError('ssl', 'ssl must be true, false, or an object that tls.connect takes.')
  }
  return { client, ssl, insecure: readBoolean('insecure', insecure, false) }
}
