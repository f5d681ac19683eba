import { openDatabase, type Database, type DatabaseInput } from '../database/database.ts'
import { deliver, type InboxMessage } from '../database/inbox.ts'
import { subscriptionSql } from '../database/sql/subscription.ts'
import { isConnectionLost, sqlstate } from '../database/sqlstate.ts'
import { BrokerError, OptionError, type BrokerErrorKind } from '../errors.ts'
import { hintReceived } from '../hints.ts'
import { checkConsumer, refuseUnknown } from '../options.ts'
import { checkTopicPattern, topicMatches, type OutgoingMessage } from '../message.ts'
import type { Telemetry } from '../telemetry.ts'
import type { Broker, SendOutcome } from './broker.ts'

export interface PostgresOptions {
  /** The database whose inboxes get the messages: the one of the outbox, or another one. */
  readonly database: DatabaseInput
  /** @default 'twinbox' */
  readonly schema?: string | undefined
  readonly preparedStatements?: boolean | undefined
  /** What becomes of a message that no subscription takes: tried again until one does, or dropped. @default 'fail' */
  readonly unroutable?: 'fail' | 'drop' | undefined
}

/**
 * No broker at all: the relay writes each message into the inbox of every consumer that has subscribed to its topic, in
 * one transaction per batch. `sent` means that this transaction has been committed to disk.
 *
 * A consumer subscribes by starting a receiver, and gets what is sent from then on.
 *
 * @throws OptionError
 */
export function postgres(options: PostgresOptions): Broker {
  refuseUnknown('postgres', options, ['database', 'schema', 'preparedStatements', 'unroutable'])
  if (options.database === undefined)
    throw new OptionError('database', 'postgres needs the database of the inboxes.')
  const { database, owned } = openDatabase(options.database, { ...options, poolSize: 4 })
  const sql = subscriptionSql(database.schema)
  let closed = false

  /** As it was when it was last looked up. */
  let known: Routing | null = null

  /** Writes them to whoever has subscribed to them by now: whoever has before a message was published must get it. */
  const route = async (batch: readonly OutgoingMessage[], telemetry: Telemetry | undefined) => {
    for (;;) {
      // Only of those who are known to take something it is told below whether they are all.
      if (known === null || batch.some(({ topic }) => known!.consumersOf(topic).length === 0))
        known = toRouting(await database.query<Subscription>(sql.all))
      const { version, consumersOf } = known
      const deliveries = batch.flatMap((message) =>
        consumersOf(message.topic).map((consumer) => toInbox(message, consumer)),
      )
      const receiving = { telemetry, broker: 'postgres', workerId: null }
      if (deliveries.length > 0 && (await deliver(database, deliveries, version, receiving)) === null) {
        known = null
        continue
      }
      for (const consumer of new Set(deliveries.map((delivery) => delivery.consumer)))
        hintReceived(database.schema, consumer)
      return consumersOf
    }
  }

  return {
    name: 'postgres',

    async send(batch, { signal, telemetry }): Promise<readonly SendOutcome[]> {
      if (closed || signal.aborted) {
        const error = new BrokerError('retry', closed ? 'The broker was closed.' : 'Sending was called off.')
        return batch.map(() => ({ status: 'failed', error }))
      }
      try {
        const consumersOf = await route(batch, telemetry)
        return batch.map(({ topic }): SendOutcome => {
          if (consumersOf(topic).length > 0 || options.unroutable === 'drop') return { status: 'sent' }
          return {
            status: 'rejected',
            error: new BrokerError(
              'config',
              `No consumer has subscribed to the topic "${topic}". Start a receiver for it, or set unroutable: 'drop'.`,
            ),
          }
        })
      } catch (cause) {
        const error = new BrokerError(classify(cause), 'The inbox could not be written.', { cause })
        // A commit whose answer was lost may have taken place; the inbox will tell.
        return batch.map(() => ({ status: error.kind === 'reconnect' ? 'unknown' : 'failed', error }))
      }
    },

    async subscribe({ consumer, topics, onReceiving }) {
      checkConsumer(consumer)
      for (const topic of topics) checkTopicPattern(topic)
      await database.query(sql.subscribe, [consumer, topics]).catch((cause: unknown) => {
        throw new BrokerError(classify(cause), 'The subscription could not be written.', { cause })
      })
      onReceiving?.()
      return { stop: async () => {} }
    },

    async close() {
      if (closed) return
      closed = true
      if (owned) await (database satisfies Database).close()
    },
  }
}

interface Subscription {
  readonly consumer: string
  readonly pattern: string
  /** Of all subscriptions. */
  readonly version: string
}

/** Who takes which topic, by all that is subscribed to. */
interface Routing {
  readonly version: string
  consumersOf(this: void, topic: string): readonly string[]
}

/** A topic for each customer, say, must not fill the memory. */
const topicsKnownMax = 10_000

function toRouting(subscriptions: readonly Subscription[]): Routing {
  const known = new Map<string, readonly string[]>()
  return {
    version: subscriptions[0]?.version ?? '0',
    consumersOf(topic) {
      let consumers = known.get(topic)
      if (consumers === undefined) {
        if (known.size >= topicsKnownMax) known.clear()
        const taking = subscriptions.filter(({ pattern }) => topicMatches(pattern, topic))
        known.set(topic, (consumers = [...new Set(taking.map(({ consumer }) => consumer))]))
      }
      return consumers
    },
  }
}

function classify(error: unknown): BrokerErrorKind {
  if (isConnectionLost(error)) return 'reconnect'
  return /^(42|3F|28)/.test(sqlstate(error) ?? '') ? 'config' : 'retry'
}

function toInbox(message: OutgoingMessage, consumer: string): InboxMessage {
  const { content } = message
  return {
    consumer,
    id: message.id,
    topic: message.topic,
    key: message.key,
    headers: message.headers === null ? null : JSON.stringify(message.headers),
    payload: typeof content === 'string' ? content : null,
    body:
      typeof content === 'string'
        ? null
        : Buffer.from(content.buffer, content.byteOffset, content.byteLength),
    contentType: typeof content === 'string' ? null : message.contentType,
    publishedAt: message.publishedAt,
    expiresAt: message.expiresAt ?? null,
  }
}
