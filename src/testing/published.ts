import { executor, type Run, type TransactionInput } from '../database/executor.ts'
import { testingSql, type PublishedRow } from '../database/sql/testing.ts'
import { checkSchema, refuseUnknown } from '../base/options.ts'
import { parseHeaders } from '../base/telemetry.ts'
import { checkTopicPattern, topicMatches, type MessageFields } from '../message/message.ts'
import { toFields } from '../message/row.ts'
import type { Topics } from '../topics/topics.ts'
import type { PatternsOf, PublishedMessage, RegisteredTopics, TopicOf } from '../topics/types.ts'

/** A message in the outbox, as it was published. */
export interface OutboxMessage<Payload = unknown, Topic extends string = string> extends MessageFields {
  readonly topic: Topic
  /** The parsed JSON, or the bytes of everything else. What the schema of its topic would make of it, `handle` tells. */
  readonly payload: Payload
  readonly headers: Readonly<Record<string, string>>
  /** When it is to be sent; null if at once. */
  readonly deliverAt: Date | null
  /** Null if it never expires. */
  readonly expiresAt: Date | null
}

/** Messages of the outbox, with the payloads that defined topics say. */
export type OutboxMessageOf<
  Defined extends Topics,
  Pattern extends string = '#',
> = string extends PublishedMessage<Defined>['topic']
  ? OutboxMessage
  : {
      [Topic in TopicOf<Defined, Pattern>]: OutboxMessage<
        Extract<PublishedMessage<Defined>, { readonly topic: Topic }>['payload'],
        Topic
      >
    }[TopicOf<Defined, Pattern>]

export interface PublishedOptions<Defined extends Topics = Topics> {
  /** Where the tables are. @default 'twinbox' */
  readonly schema?: string | undefined
  /** What `defineTopics` gives, for the compiler. @default any topic, any payload */
  readonly topics?: Defined | undefined
}

/**
 * The messages that this transaction has published so far, of all topics or of one name or pattern, in the order of their calls: those
 * in the outbox, and those that are delayed. Of other transactions it sees nothing, and what was taken back (`cancel`, a savepoint
 * that was rolled back) is gone. So a test may look at what was published, and then roll it all back.
 *
 * One statement, which reads the whole outbox. The transaction may be that of any data library that `publish` takes, of a user who
 * may read the outbox: `twinbox_publisher` may not.
 *
 * @throws TransactionError for what is in no transaction, MessageError for what is no topic
 */
export async function published<
  Defined extends Topics = RegisteredTopics,
  const Pattern extends PatternsOf<Defined> = PatternsOf<Defined>,
>(
  transaction: TransactionInput,
  topic?: Pattern,
  options: PublishedOptions<Defined> = {},
): Promise<OutboxMessageOf<Defined, string extends Pattern ? '#' : Pattern>[]> {
  refuseUnknown('published', options, ['schema', 'topics'])
  if (topic !== undefined) checkTopicPattern(topic)
  const schema = checkSchema(options.schema ?? 'twinbox')
  const found = await publishedBy(executor('published', transaction, false, false), schema)
  return found.filter((message) => topic === undefined || topicMatches(topic, message.topic))
}

/** The same by whoever runs statements in it. */
export async function publishedBy(run: Run, schema: string): Promise<OutboxMessage[]> {
  return (await run(testingSql(schema).published, {})).map(toMessage)
}

function toMessage(row: PublishedRow): OutboxMessage {
  const { payload, body, headers, deliver_at: deliverAt, expires_at: expiresAt } = row
  return {
    ...toFields(row),
    payload: payload === null ? Buffer.from(body ?? '', 'hex') : (JSON.parse(payload) as unknown),
    headers: parseHeaders(headers) ?? {},
    deliverAt: dateOf(deliverAt),
    expiresAt: dateOf(expiresAt),
  }
}

const dateOf = (ms: string | null): Date | null => (ms === null ? null : new Date(Number(ms)))
