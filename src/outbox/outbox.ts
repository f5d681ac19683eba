import { outboxSql } from '../database/sql/outbox.ts'
import { MessageError } from '../base/errors.ts'
import { withCarried } from '../message/carried.ts'
import { checkCancellable, checkMessage } from '../message/check.ts'
import type { CheckedMessage, NewMessage } from '../message/message.ts'
import { readTopics, type Topics } from '../topics/topics.ts'
import type { PublishedMessage, RegisteredTopics } from '../topics/types.ts'
import { checkSchema, readBoolean, readNumbers, refuseUnknown } from '../base/options.ts'
import { hintPublished } from '../base/hints.ts'
import { columnsOf, fieldsOf, refuseTooMuch, timedColumnsOf, timedFieldsOf } from './columns.ts'
import { executor, type TransactionInput } from '../database/executor.ts'
import { DepthLimit } from './depth.ts'
import { asDefined } from './defined.ts'
import { begin, parseHeaders, type Telemetry, type TracedMessage } from '../base/telemetry.ts'

export interface OutboxOptions<Defined extends Topics = Topics> {
  /** What `defineTopics` gives: no other topic is published, and no payload that does not fit. @default any topic, any payload */
  readonly topics?: Defined | undefined
  /** @default 'twinbox' */
  readonly schema?: string | undefined
  /** In bytes. @default 1_048_576 */
  readonly maxPayloadBytes?: number | undefined
  /** How long a dedupe key is known. In milliseconds. @default 604_800_000 (7 days) */
  readonly dedupeWindowMs?: number | undefined
  /** Refuse (`OUTBOX_FULL`) while so many wait, delayed and parked ones included. Counted once a second. @default 0 (no limit) */
  readonly maxPending?: number | undefined
  /**
   * Whether `publish` is a named prepared statement on `pg` clients, which saves the server its parsing. A pooler in
   * transaction mode keeps no statements before PgBouncer 1.21.
   * @default true from the second statement on a connection on which no pooler is found in between
   */
  readonly preparedStatements?: boolean | undefined
  /**
   * Traces, as `twinbox/opentelemetry` makes them: each message then carries the trace of what publishes it in its
   * headers. @default none
   */
  readonly telemetry?: Telemetry | undefined
}

export interface PublishOptions {
  /**
   * Allow a client that is not in a transaction: the message is then a transaction of its own, and no longer tied to
   * your data. @default false
   */
  readonly autocommit?: boolean | undefined
  /**
   * Take a lock per key until the end of the transaction, so that concurrent publishers of one key are put in the order
   * of their commits. Without it, order is promised to publishers that follow one another.
   *
   * With more than 500 keys in one call, or 2,000 in one transaction, it takes up to 64 locks instead, one for each lane of its keys: then
   * it also waits for publishers of other keys that take the lock, and they for it. Best publish many in one call: two
   * transactions that take locks in several calls may end in a deadlock, of which the server ends one.
   * @default false
   */
  readonly orderingLock?: boolean | undefined
}

export interface Published {
  /** The message's id; if it was a duplicate, the id of the first. */
  readonly id: string
  /** True if a message with this topic and dedupe key was published inside the window. Then nothing was written. */
  readonly duplicate: boolean
}

export interface Outbox<Defined extends Topics = RegisteredTopics> {
  /**
   * Writes a message to the outbox, in the transaction that it is given. It will be sent if and only if that
   * transaction commits. One statement; no broker is involved.
   *
   * Publish after you have locked or written the row that the key stands for: then messages of one key are sent in the
   * order of the commits.
   *
   * @throws MessageError if the message cannot travel, or is none of its topic. Thrown before any SQL: the transaction is as it was.
   * @throws TransactionError `NO_TRANSACTION` for a pool or a client that is not in a transaction; nothing was written.
   *   What does not tell by itself whether it is in a transaction is asked for a savepoint before, in two round trips;
   *   `UNKNOWN_RESULT` if it does not answer with rows.
   */
  publish(
    transaction: TransactionInput,
    message: PublishedMessage<Defined>,
    options?: PublishOptions,
  ): Promise<Published>
  /**
   * The same for many messages, in one statement, and in their order. If one of them is refused, none is written, and
   * the error's path starts with its index.
   */
  publishMany(
    transaction: TransactionInput,
    messages: readonly PublishedMessage<Defined>[],
    options?: PublishOptions,
  ): Promise<Published[]>
  /**
   * Takes back a delayed message that is not due yet, by its id or by its topic and dedupe key: if the transaction
   * commits, it is never sent, and the dedupe key is free again. `cancelled` is false if there is no such message that
   * still waits; then it was sent, is about to be, or never existed. One statement, which waits for a relay that is just
   * about to send it.
   *
   * @throws MessageError for what cannot be an id or a dedupe key, before any SQL
   * @throws TransactionError `NO_TRANSACTION` for a pool or a client that is not in a transaction
   */
  cancel(
    transaction: TransactionInput,
    which: Cancellable,
    options?: Pick<PublishOptions, 'autocommit'>,
  ): Promise<{ readonly cancelled: boolean }>
}

/** A delayed message by its id, or by its topic and dedupe key. */
export type Cancellable =
  | { readonly id: string; readonly topic?: never; readonly dedupeKey?: never }
  | { readonly topic: string; readonly dedupeKey: string; readonly id?: never }

/**
 * Creates an outbox: the publishing side. It holds no connection and needs no closing.
 * @throws OptionError
 */
export function createOutbox<Defined extends Topics = RegisteredTopics>(
  options: OutboxOptions<Defined> = {},
): Outbox<Defined> {
  refuseUnknown('createOutbox', options, [
    'topics',
    'schema',
    'maxPayloadBytes',
    'dedupeWindowMs',
    'maxPending',
    'preparedStatements',
    'telemetry',
  ])
  const { maxPayloadBytes, dedupeWindowMs, maxPending } = readNumbers(options, [
    'maxPayloadBytes',
    'dedupeWindowMs',
    'maxPending',
  ])
  const room = maxPending === 0 ? null : new DepthLimit(maxPending)
  const topics = readTopics('createOutbox', options.topics)
  const schema = checkSchema(options.schema ?? 'twinbox')
  const sql = outboxSql(schema)
  const { preparedStatements } = options
  const prepared =
    preparedStatements === undefined ? null : readBoolean('preparedStatements', preparedStatements, true)

  /** Writes them as one operation of a trace, if anybody wants one. */
  const publish = async (
    transaction: TransactionInput,
    messages: readonly CheckedMessage[],
    how: PublishOptions,
  ): Promise<Published[]> => {
    const trace = begin(options.telemetry, publishing, () => messages.map(toTraced))
    if (trace === null) return write(transaction, messages, how)
    const carrying = messages.map((message, index) => ({
      ...message,
      headers: withCarried(message.headers, trace.carried[index]),
    }))
    try {
      const published = await trace.run(() => write(transaction, carrying, how))
      trace.end()
      return published
    } catch (error) {
      trace.end(() => error)
      throw error
    }
  }

  const write = async (
    transaction: TransactionInput,
    messages: readonly CheckedMessage[],
    how: PublishOptions,
  ): Promise<Published[]> => {
    refuseUnknown('publish', how, ['autocommit', 'orderingLock'])
    const orderingLock = readBoolean('orderingLock', how.orderingLock, false)
    const run = executor('publish', transaction, readBoolean('autocommit', how.autocommit, false), prepared)
    refuseTooMuch(messages)
    // Of two messages with one dedupe key in one call, the first counts.
    const first = new Map<string, CheckedMessage>()
    const fresh: CheckedMessage[] = []
    for (const message of messages) {
      const identity = message.dedupeKey === null ? null : `${message.topic} ${message.dedupeKey}`
      if (identity !== null && first.has(identity)) continue
      if (identity !== null) first.set(identity, message)
      fresh.push(message)
    }
    if (fresh.length === 0) return []
    await room?.take(fresh.length, async (most) => Number((await run(sql.pending, { most }))[0]?.count))
    const known = new Map<string, string>()
    const timed = fresh.some(
      (message) => (message.deliverAt ?? message.delayMs ?? message.expiresAt) !== null,
    )
    if (timed || first.size > 0) {
      const rows =
        fresh.length === 1
          ? await run(sql.publishOneTimed, timedFieldsOf(fresh[0]!, orderingLock, dedupeWindowMs))
          : await run(sql.publishTimed, timedColumnsOf(fresh, orderingLock, dedupeWindowMs))
      // As whatever the driver in between makes of a number.
      for (const { index, id } of rows) known.set(fresh[Number(index)]!.id, String(id))
    } else if (fresh.length === 1) {
      await run(orderingLock ? sql.publishOneOrdered : sql.publishOne, fieldsOf(fresh[0]!, orderingLock))
    } else await run(orderingLock ? sql.publishOrdered : sql.publish, columnsOf(fresh, orderingLock))
    hintPublished(schema)
    return messages.map((message) => {
      const counted =
        message.dedupeKey === null ? message : first.get(`${message.topic} ${message.dedupeKey}`)!
      const earlier = known.get(counted.id)
      return { id: earlier ?? counted.id, duplicate: earlier !== undefined || counted !== message }
    })
  }

  return {
    async publish(transaction, message, how = {}) {
      let checked = checkMessage(message, maxPayloadBytes)
      if (topics !== null) checked = await asDefined(topics, checked, message)
      const [published] = await publish(transaction, [checked], how)
      return published!
    },
    async publishMany(transaction, messages, how = {}) {
      if (!Array.isArray(messages)) {
        throw new MessageError('INVALID_MESSAGE', 'messages', 'publishMany takes an array of messages.')
      }
      // Not by a method of theirs: a hole would be passed over, and a list of another class may have a `map` of its own.
      const checked = Array.from(messages, (message: NewMessage, index) =>
        checkMessage(message, maxPayloadBytes, `messages[${index}].`),
      )
      if (topics !== null) {
        for (const [index, message] of checked.entries())
          checked[index] = await asDefined(topics, message, messages[index], `messages[${index}].`)
      }
      return publish(transaction, checked, how)
    },
    async cancel(transaction, which, how = {}) {
      refuseUnknown('cancel', how, ['autocommit'])
      const { id, topic, dedupeKey } = checkCancellable(which)
      const autocommit = readBoolean('autocommit', how.autocommit, false)
      const [gone] = await executor(
        'cancel',
        transaction,
        autocommit,
        prepared,
      )(sql.cancel, { id, topic, dedupeKey })
      return { cancelled: Number(gone?.count) > 0 }
    },
  }
}

const publishing = { name: 'publish', system: 'twinbox', workerId: null } as const

const toTraced = ({ id, topic, headers, content }: CheckedMessage): TracedMessage => ({
  id,
  topic,
  headers: parseHeaders(headers),
  bytes: content.length,
})
