import { isPool } from '../../database/client.ts'
import { Database, openDatabase, type DatabaseInput } from '../../database/database.ts'
import { admit } from '../../database/gate.ts'
import { halving } from '../../database/halving.ts'
import { collision, deliver, findCollisions, type InboxMessage } from '../../database/inbox.ts'
import { readHosts } from '../../database/hosts.ts'
import { checkSchemaVersion } from '../../database/migrate.ts'
import { subscriptionSql } from '../../database/sql/subscription.ts'
import { isConnectionLost, sqlstate } from '../../database/sqlstate.ts'
import {
  BrokerError,
  OptionError,
  SchemaError,
  describeError,
  type BrokerErrorKind,
} from '../../base/errors.ts'
import { hintReceived } from '../../base/hints.ts'
import { checkConsumer, limits, readBoolean, refuseUnknown } from '../../base/options.ts'
import { checkTopicPattern, type OutgoingMessage } from '../../message/message.ts'
import type { Telemetry } from '../../base/telemetry.ts'
import type { Broker, SendOutcome } from '../broker.ts'
import { batchLength } from '../consuming.ts'
import { refusePlaintext } from '../credentials.ts'
import { probing } from '../probe.ts'
import { withMover } from '../move.ts'
import { movingTo } from './moving.ts'
import { toRouting, type Routing } from './routing.ts'

export interface PostgresOptions {
  /** The database whose inboxes get the messages: the one of the outbox, or another one. */
  readonly database: DatabaseInput
  /**
   * Allows to send a password without TLS, or without verifying the server, to another machine. A pool of yours is not
   * asked how it connects. @default false
   */
  readonly insecure?: boolean | undefined
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
 * Where the inboxes stand beside the outbox, the message leaves the outbox in that very transaction, and `sent` means that it is in the
 * inboxes. That is not waited for to be on the disk: a crash of the server may put the message back into the outbox, from where it is
 * sent again. It is never in neither.
 *
 * A consumer subscribes by starting a receiver, and gets what is sent from then on. What only those take who have unsubscribed
 * since is dropped.
 *
 * @throws OptionError
 */
export function postgres(options: PostgresOptions): Broker {
  refuseUnknown('postgres', options, ['database', 'insecure', 'schema', 'preparedStatements', 'unroutable'])
  if (options.database === undefined)
    throw new OptionError('database', 'postgres needs the database of the inboxes.')
  if (!readBoolean('insecure', options.insecure, false)) checkWay(options.database)
  const { database, owned } = openDatabase(options.database, { ...options, poolSize: 4 })
  const sql = subscriptionSql(database.schema)
  let closed = false

  /** As it was when it was last looked up. */
  let known: Routing | null = null
  const routing = async (again: boolean): Promise<Routing> =>
    known === null || again ? (known = toRouting(await database.query(sql.all))) : known

  /** Writes them to whoever has subscribed to them by now: whoever has before a message was published must get it. */
  const route = async (batch: readonly OutgoingMessage[], telemetry: Telemetry | undefined) => {
    for (;;) {
      // Only of those who are known to take something it is told below whether they are all.
      const isUnknown = batch.some(({ topic }) => known?.consumersOf(topic).length === 0)
      const { version, consumersOf, isUnwanted } = await routing(isUnknown)
      const outcomes = batch.map(({ topic }): SendOutcome =>
        consumersOf(topic).length > 0 || options.unroutable === 'drop' || isUnwanted(topic)
          ? { status: 'sent' }
          : noTaker(topic),
      )
      const deliveries = batch.flatMap((message, index) =>
        consumersOf(message.topic).flatMap((consumer): Delivery[] => {
          const admitted = toInbox(message, consumer)
          if (typeof admitted !== 'string') return [{ index, message: admitted }]
          outcomes[index] = poisonous(admitted)
          return []
        }),
      )
      const write = async (some: readonly Delivery[]): Promise<void> => {
        const messages = some.map(({ message }) => message)
        const receiving = { telemetry, broker: 'postgres', workerId: null }
        const fresh = await deliver(database, messages, version, receiving)
        if (fresh === null) known = null
        else {
          for (const consumer of new Set(messages.map((message) => message.consumer)))
            hintReceived(database.schema, consumer)
          const others = fresh < messages.length ? await findCollisions(database, messages) : []
          for (const { index } of some.filter(({ message }) => others.includes(message)))
            outcomes[index] = poisonous(collision)
        }
      }
      // For a hundred consumers, a batch of the relay has a hundred times its bytes.
      for (let start = 0, length = 0; start < deliveries.length && known !== null; start += length) {
        length = batchLength(deliveries, bytesOfDelivery, { batchSize: limits.fanOutRows }, start)
        try {
          await halving(deliveries.slice(start, start + length), write, ({ index }, error) => {
            outcomes[index] = poisonous(`The database refuses it: ${describeError(error)}`)
          })
        } catch (cause) {
          for (let index = deliveries[start]!.index; index < batch.length; index++)
            if (outcomes[index]!.status === 'sent') outcomes[index] = unwritten(cause)
          return outcomes
        }
      }
      if (known !== null) return outcomes
    }
  }

  const broker: Broker = {
    name: 'postgres',

    async send(batch, { signal, telemetry }): Promise<readonly SendOutcome[]> {
      if (closed || signal.aborted) {
        const error = new BrokerError('retry', closed ? 'The broker was closed.' : 'Sending was called off.')
        return batch.map(() => ({ status: 'failed', error }))
      }
      try {
        return await route(batch, telemetry)
      } catch (cause) {
        return batch.map(() => unwritten(cause))
      }
    },

    async subscribe({ consumer, topics, onReceiving }) {
      checkConsumer(consumer)
      for (const topic of topics) checkTopicPattern(topic)
      await database
        .query(sql.subscribe, { consumer, patterns: topics, broker: 'postgres' })
        .catch((cause: unknown) => {
          throw new BrokerError(classify(cause), 'The subscription could not be written.', { cause })
        })
      onReceiving?.()
      return { stop: async () => {} }
    },

    async unsubscribe({ consumer, topics }) {
      await database
        .query(sql.end, { consumer: checkConsumer(consumer), patterns: topics, brokers: ['postgres'] })
        .catch((cause: unknown) => {
          throw new BrokerError(classify(cause), 'The subscription could not be ended.', { cause })
        })
    },

    // Who is to send has to see the subscriptions of all consumers, or their messages would be for nobody.
    probe: (consumer = null) =>
      probing(async () => {
        try {
          await database.probe()
          await checkSchemaVersion(database, consumer)
        } catch (cause) {
          const kind = cause instanceof SchemaError ? 'config' : classify(cause)
          throw new BrokerError(kind, 'The database of the inboxes cannot be used.', { cause })
        }
      })(),

    async close() {
      if (closed) return
      closed = true
      if (owned) await (database satisfies Database).close()
    },
  }
  const moving = { database, routing, unroutable: options.unroutable ?? 'fail' }
  return withMover(broker, (outbox) => movingTo(moving, outbox))
}

/** Of what is not connected yet: a pool, or a database that is open, is somebody else's affair. @throws OptionError */
function checkWay(input: DatabaseInput): void {
  if (input instanceof Database || isPool(input)) return
  const { config, addresses } = readHosts(input, 1)
  if (config.password == null || config.password === '') return
  const hosts = addresses.length > 0 ? addresses.map(({ host }) => host) : [config.host ?? '']
  refusePlaintext(
    'database',
    hosts,
    config.ssl,
    'add sslmode=verify-full to its URL, or hand over a pool of yours',
  )
}

function classify(error: unknown): BrokerErrorKind {
  if (isConnectionLost(error)) return 'reconnect'
  return /^(42|3F|3D|28)/.test(sqlstate(error) ?? '') ? 'config' : 'retry'
}

/** A commit whose answer was lost may have taken place; the inbox will tell. */
function unwritten(cause: unknown): SendOutcome {
  const error = new BrokerError(classify(cause), 'The inbox could not be written.', { cause })
  return { status: error.kind === 'reconnect' ? 'unknown' : 'failed', error }
}

const poisonous = (reason: string): SendOutcome => ({
  status: 'rejected',
  error: new BrokerError('poison', reason),
})

const noTaker = (topic: string): SendOutcome => ({
  status: 'rejected',
  error: new BrokerError(
    'config',
    `No consumer has subscribed to the topic "${topic}". Start a receiver for it, or set unroutable: 'drop'.`,
  ),
})

/** A message for one consumer, and its place in the batch. */
interface Delivery {
  readonly index: number
  readonly message: InboxMessage
}

const bytesOfDelivery = ({ message: { payload, body, headers } }: Delivery): number =>
  200 + (payload ?? body)!.length + (headers?.length ?? 0)

const toInbox = (message: OutgoingMessage, consumer: string): InboxMessage | string =>
  admit({
    ...message,
    consumer,
    contentType: typeof message.content === 'string' ? null : message.contentType,
    expiresAt: message.expiresAt ?? null,
  })
