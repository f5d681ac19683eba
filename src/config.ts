import { inspect } from 'node:util'
import { redact } from './base/printable.ts'
import type { Broker } from './brokers/broker.ts'
import type { ClaimerOptions } from './claimer/options.ts'
import type { Handlers, LibraryContext } from './claimer/handlers.ts'
import type { Opener } from './claimer/opener.ts'
import type { Coordination } from './membership/coordination.ts'
import type { DatabaseInput } from './database/database.ts'
import type { RelayOptions } from './relay/options.ts'
import type { ReceiverOptions } from './receiver/options.ts'
import type { RedactError } from './base/redaction.ts'
import type { Telemetry } from './base/telemetry.ts'
import type { Topics } from './topics/topics.ts'
import type { RegisteredTopics } from './topics/types.ts'

/** What every worker gets from the configuration as a whole. */
type Given =
  'database' | 'schema' | 'preparedStatements' | 'coordination' | 'onEvent' | 'telemetry' | 'redactError'

/** What a consumer is told beside its handlers. What `createReceiver` has too goes to its receivers, the rest to its claimers. */
interface ConsumerOptions
  extends
    Omit<ClaimerOptions, Given | 'consumer' | 'topics'>,
    Pick<ReceiverOptions, 'identify' | 'topicOf' | 'from' | 'sources' | 'collisions'> {
  /** Topic names or AMQP patterns: `order.*`, `order.#`. */
  readonly topics: readonly string[]
}

/** What is received for one consumer, and what handles it. */
export interface ConsumerConfig<
  Tables = unknown,
  Defined extends Topics = RegisteredTopics,
> extends ConsumerOptions {
  readonly transaction?: undefined
  readonly handlers: Handlers<Tables, Defined>
}

/** The same with handlers in the transactions of a data library. */
export interface LibraryConsumerConfig<
  Tx = unknown,
  Defined extends Topics = RegisteredTopics,
> extends ConsumerOptions {
  /** Who opens the transactions of handlers, as in `createClaimer`: `inTransaction((run) => prisma.$transaction(run))`. */
  readonly transaction: Opener<Tx>
  readonly handlers: Handlers<never, Defined, LibraryContext<Tx>>
}

/** Either of them. */
export type AnyConsumerConfig<Tables = unknown, Defined extends Topics = RegisteredTopics, Tx = unknown> =
  ConsumerConfig<Tables, Defined> | LibraryConsumerConfig<Tx, Defined>

/** The default export of `twinbox.config.{js,mjs,ts}`, from which the command line starts workers. */
export interface Config<Tables = unknown, Defined extends Topics = RegisteredTopics, Tx = unknown> {
  readonly database?: DatabaseInput | undefined
  /** @default 'twinbox' */
  readonly schema?: string | undefined
  /** Switch it off behind PgBouncer in transaction mode before version 1.21. @default true */
  readonly preparedStatements?: boolean | undefined
  /** `zookeeper(…)` of `twinbox/zookeeper`, for all workers. @default none */
  readonly coordination?: Coordination | undefined
  /** Traces and metrics, as `twinbox/opentelemetry` makes them. @default none */
  readonly telemetry?: Telemetry | undefined
  /** What is told of errors instead of what they say, by all workers. @default what they say */
  readonly redactError?: RedactError | undefined
  /** A broker, or a function that opens one: commands that need none do not call it. */
  readonly broker?: Broker | (() => Broker | Promise<Broker>) | undefined
  /** What `defineTopics` gives, for all claimers and for `twinbox topics`. @default any topic, any payload */
  readonly topics?: Defined | undefined
  /** By name. */
  readonly consumers?: Readonly<Record<string, AnyConsumerConfig<Tables, Defined, Tx>>> | undefined
  readonly relay?: Omit<RelayOptions, Given | 'broker'> | undefined
}

/**
 * Returns a copy of what it is given: it is there for the types, and so that a configuration that is logged, printed or
 * turned into JSON shows no password of its database. Brokers hide theirs by themselves.
 */
export function defineConfig<Tables = unknown, Defined extends Topics = RegisteredTopics, Tx = unknown>(
  config: Config<Tables, Defined, Tx>,
): Config<Tables, Defined, Tx> {
  const shown = (): object => ({
    ...config,
    ...('database' in config && { database: withoutSecrets(config.database) }),
  })
  const hidden = { value: shown, enumerable: false }
  return Object.defineProperties({ ...config }, { toJSON: hidden, [inspect.custom]: hidden })
}

/** A pool shows nothing but that it is one: its options hold the password. */
function withoutSecrets(database: DatabaseInput | undefined): unknown {
  if (typeof database === 'string') return redact(database)
  if (typeof database !== 'object' || database === null) return database
  if (!isLiteral(database)) return `[${database.constructor.name}]`
  const secret = ['password', 'connectionString', 'ssl']
  return Object.fromEntries(
    Object.entries(database).map(([name, value]) => [name, secret.includes(name) ? '***' : value]),
  )
}

const isLiteral = (value: object): boolean =>
  [Object.prototype, null].includes(Object.getPrototypeOf(value) as object)
