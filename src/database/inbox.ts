import { hash } from 'node:crypto'
import { plain, type Redact } from '../base/redaction.ts'
import { begin, carryOn, parseHeaders, type Telemetry, type TracedMessage } from '../base/telemetry.ts'
import type { ColumnName, FieldsOf } from '../message/row.ts'
import type { Database } from './database.ts'
import { anyPartition } from './layout.ts'
import { receivedColumns, valuesOf } from './sql/columns.ts'
import { receiveSql } from './sql/receive.ts'
import { pieces } from './sql/parameter.ts'

/** A message as it goes into the inbox of one consumer. */
export interface InboxMessage extends FieldsOf<ColumnName> {
  readonly consumer: string
}

/** Why such a message is not taken. */
export const collision =
  'collision: A message with another content has its identity, and was received before.'

/**
 * By which a message is told from another one with its identity, as 32 hexadecimal digits. Of the content alone: headers and
 * times change from one delivery to the next.
 */
export const digestOf = ({ payload, body }: Pick<InboxMessage, 'payload' | 'body'>): string =>
  hash('sha256', (payload ?? body)!).slice(0, 32)

/** What brings the messages, and who wants to trace it. */
export interface Receiving {
  readonly telemetry: Telemetry | undefined
  /** The broker's name. */
  readonly broker: string
  readonly workerId: number | null
  /** What may be told to tracers of an error. @default all */
  readonly redact?: Redact
}

const untraced: Receiving = { telemetry: undefined, broker: '', workerId: null }

/**
 * Writes messages to the inboxes of their consumers, in their order, except those that have been seen before. One
 * statement, and its commit waits for the disk: after it, the sender may forget them. Returns how many were new.
 */
export async function receive(
  database: Database,
  messages: readonly InboxMessage[],
  receiving: Receiving = untraced,
): Promise<number> {
  return (await deliver(database, messages, null, receiving))!
}

/**
 * The same, if all that is subscribed to is still what the consumers were chosen by (`version`, see
 * `sql/subscription.ts`); null if not, and then nothing was written.
 */
export async function deliver(
  database: Database,
  messages: readonly InboxMessage[],
  version: string | null,
  { telemetry, broker, workerId, redact = plain }: Receiving,
): Promise<number | null> {
  const trace = begin(telemetry, { name: 'receive', system: broker, workerId }, () => messages.map(toTraced))
  try {
    const carried = messages.map(({ headers }, index) => carryOn(headers, trace?.carried[index]))
    const [result] = await database.query(receiveSql(database.schema).receive, {
      consumers: messages.map(({ consumer }) => consumer),
      ...valuesOf(receivedColumns, messages, (message, field) => message[field]),
      headers: carried,
      ...pieces(messages.map(({ body }) => body)),
      firstPartition: anyPartition(),
      version,
      digests: messages.map(digestOf),
    })
    trace?.end()
    return result!.routed ? result!.fresh : null
  } catch (error) {
    trace?.end((index) => {
      const { consumer, id, topic, key } = messages[index]!
      return redact(error, { consumer, id, topic, key, attempt: 0 })
    })
    throw error
  }
}

/**
 * Those that are no duplicates, though their identity was seen before: they have another content. To be asked after
 * `receive` or `deliver` has dropped some.
 */
export async function findCollisions(
  database: Database,
  messages: readonly InboxMessage[],
): Promise<readonly InboxMessage[]> {
  const found = await database.query(receiveSql(database.schema).collisions, {
    consumers: messages.map(({ consumer }) => consumer),
    ids: messages.map(({ id }) => id),
    digests: messages.map(digestOf),
  })
  return found.map(({ nr }) => messages[nr - 1]!)
}

const toTraced = ({ consumer, id, topic, headers, payload, body }: InboxMessage): TracedMessage => ({
  consumer,
  id,
  topic,
  headers: parseHeaders(headers),
  bytes: (payload ?? body)!.length,
})
