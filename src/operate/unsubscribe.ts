import type { Broker } from '../brokers/broker.ts'
import { adapterOf } from '../brokers/registry.ts'
import type { DatabaseInput } from '../database/database.ts'
import { subscriptionSql } from '../database/sql/subscription.ts'
import { OptionError } from '../base/errors.ts'
import { checkTopicPattern } from '../message/message.ts'
import { checkConsumer, refuseUnknown } from '../base/options.ts'
import { sign, type Signature } from './filter.ts'
import { withTables } from './tables.ts'

export interface UnsubscribeOptions extends Signature {
  /** Who shall not receive them any more. */
  readonly consumer: string
  /** The patterns as receivers have named them: `invoice.#`. */
  readonly topics: readonly string[]
  /** Where it is subscribed. RabbitMQ has to be given, since it keeps the bindings. @default none */
  readonly broker?: Broker | undefined
  /** Where the tables are. @default 'twinbox' */
  readonly schema?: string | undefined
}

/** What became of the patterns. */
export interface Unsubscribed {
  readonly unsubscribed: readonly string[]
  /** The consumer was not subscribed to these, as far as is written down. */
  readonly unknown: readonly string[]
}

/**
 * Ends what a consumer is subscribed to, at once. What it has received of it stays. Each leaves a row in the audit.
 *
 * Postgres: nothing more is written to its inbox; a topic that nobody else takes is dropped from then on. RabbitMQ: its queue
 * is unbound; a topic that nobody else takes is unroutable from then on, see `unroutable`. Kafka: nothing has to be done
 * there, since a receiver reads what it names; the offsets of its group stay.
 *
 * @throws OptionError if a living receiver names one of them, which would subscribe to it again; SchemaError, BrokerError, or
 * the database's error. After a BrokerError it is still written down: call it again.
 */
export async function unsubscribe(input: DatabaseInput, options: UnsubscribeOptions): Promise<Unsubscribed> {
  refuseUnknown('unsubscribe', options, ['consumer', 'topics', 'broker', 'schema', 'by', 'reason'])
  const { topics, broker } = options
  const consumer = checkConsumer(options.consumer)
  if (!Array.isArray(topics) || topics.length === 0) {
    throw new OptionError(
      'topics',
      'topics is required: a list of topic names or patterns such as ["invoice.#"].',
    )
  }
  for (const topic of topics) checkTopicPattern(topic)
  const signed = sign(options)
  return withTables(input, options.schema, async (database) => {
    const sql = subscriptionSql(database.schema)
    const [naming] = await database.query(sql.naming, { consumer, patterns: topics })
    if (naming !== undefined) {
      throw new OptionError(
        'topics',
        `Receiver ${naming.id} of "${consumer}" on ${naming.host} lives and names "${naming.pattern}": it would subscribe again. Stop it, or start it without that topic, first.`,
      )
    }
    const known = await database.query(sql.known, { consumer, patterns: topics })
    const bound = known.find(
      // One of the user's own may keep them.
      (row) => row.broker !== broker?.name && (adapterOf(row.broker)?.keepsSubscriptions ?? true),
    )
    if (bound !== undefined) {
      throw new OptionError(
        'broker',
        `"${consumer}" is subscribed to "${bound.pattern}" over ${bound.broker}, which keeps the binding: give that broker.`,
      )
    }
    // Postgres would end its rows without a word of who did it: they come first. What a broker keeps stays written down until it
    // has ended it.
    const isKept = broker !== undefined && (adapterOf(broker.name)?.keepsSubscriptions ?? true)
    if (isKept) await broker.unsubscribe?.({ consumer, topics })
    await database.query(sql.endNoted, {
      consumer,
      patterns: topics,
      brokers: [...new Set(known.map((row) => row.broker))],
      ...signed,
    })
    if (!isKept) await broker?.unsubscribe?.({ consumer, topics })
    const ended = new Set(known.map(({ pattern }) => pattern))
    return {
      unsubscribed: topics.filter((topic) => ended.has(topic)),
      unknown: topics.filter((topic) => !ended.has(topic)),
    }
  })
}
