import type { ValuesOf } from '../database/sql/parameter.ts'
import type { Database, DatabaseInput } from '../database/database.ts'
import { auditSql } from '../database/sql/audit.ts'
import { messageSql } from '../database/sql/message.ts'
import { messageStates, type MessageState, type PlacedRow } from '../database/sql/placed.ts'
import { OptionError } from '../base/errors.ts'
import type { MessageFields } from '../message/message.ts'
import { readBoolean, refuseUnknown, whole } from '../base/options.ts'
import { consumerColumn, isMessageId, textOrNull } from './filter.ts'
import { toHistory, type Intervention } from './letter.ts'
import { withTables } from './tables.ts'
import { toFields, type FailedAttempt } from '../message/row.ts'

/** Which messages are meant: those for which all that is given holds. */
export interface MessageFilter {
  /**
   * Those that are in one of these: `outbox`, `inbox`, `deferred`, `parked`, `unhandled` (for want of a handler for their
   * topic), `dead`, `handled`. @default all
   */
  readonly states?: readonly MessageState[] | undefined
  /** Those of this consumer; null for those of the outbox. @default all */
  readonly consumer?: string | null | undefined
  /** Those of this topic. @default all */
  readonly topic?: string | undefined
  /** Those of this key. @default all */
  readonly key?: string | undefined
}

export interface ReadMessagesOptions {
  /** Where the tables are. @default 'twinbox' */
  readonly schema?: string | undefined
  /** Most that are read of each state, up to 1000. @default 100 */
  readonly limit?: number | undefined
  /** Whether payloads are read. @default false */
  readonly payload?: boolean | undefined
}

/** A message where it is. In several inboxes, it is there once for each. */
export interface PlacedMessage extends MessageFields {
  readonly state: MessageState
  /** Null for the outbox. */
  readonly consumer: string | null
  /** When it came there; of what is parked or deferred, when it was received or published. */
  readonly since: Date | null
  /** When it goes on; null if it does not wait for a time. */
  readonly dueAt: Date | null
  readonly attempt: number
  /** The worker that has it in flight, or has handled it. */
  readonly worker: number | null
  readonly reason: string | null
  readonly publishedAt: Date | null
  readonly receivedAt: Date | null
  readonly expiresAt: Date | null
  readonly headers: Readonly<Record<string, string>>
  readonly errors: readonly FailedAttempt[]
  /** JSON text or bytes; only if asked for, and not of what was handled. */
  readonly payload?: string | Uint8Array
}

/** All that is known of a message. */
export interface MessageHistory {
  readonly id: string
  readonly places: readonly PlacedMessage[]
  /** Which consumers have received it inside the dedupe window. One that has it nowhere else has handled it. */
  readonly received: readonly { readonly consumer: string; readonly at: Date }[]
  /** What operators did with it. */
  readonly interventions: readonly (Intervention & { readonly consumer: string | null })[]
}

/** Of each table so many rows are looked at for a list; for one message, all. */
const lookMax = 100_000
const lookAll = 1_000_000_000

/**
 * Reads where messages are. Of each table the first 100,000 are looked at, so a filter that few match may not find them
 * behind so many others; with a key it does, since each key has its lane.
 *
 * @throws OptionError, SchemaError, or the database's error
 */
export async function readMessages(
  input: DatabaseInput,
  filter: MessageFilter = {},
  options: ReadMessagesOptions = {},
): Promise<PlacedMessage[]> {
  refuseUnknown('a filter of messages', filter, ['states', 'consumer', 'topic', 'key'])
  refuseUnknown('readMessages', options, ['schema', 'limit', 'payload'])
  const states = filter.states ?? messageStates
  if (
    !Array.isArray(states) ||
    states.length === 0 ||
    !states.every((state) => messageStates.includes(state))
  )
    throw new OptionError('states', `states must be an array of some of: ${messageStates.join(', ')}.`)
  const values = {
    states,
    consumer: consumerColumn(filter.consumer),
    topic: textOrNull('topic', filter.topic),
    key: textOrNull('key', filter.key),
    id: null,
    look: lookMax,
    limit: whole('limit', options.limit, 100, 1, 1000),
    payload: readBoolean('payload', options.payload, false),
  }
  return withTables(input, options.schema, (database) => find(database, values))
}

/**
 * Reads where a message is, in whose inbox, what failed, and what operators did. Looks through all tables: with millions
 * of messages waiting that takes seconds.
 *
 * @throws OptionError, SchemaError, or the database's error
 */
export async function showMessage(
  input: DatabaseInput,
  id: string,
  options: Pick<ReadMessagesOptions, 'schema' | 'payload'> = {},
): Promise<MessageHistory> {
  refuseUnknown('showMessage', options, ['schema', 'payload'])
  if (!isMessageId(id)) throw new OptionError('id', 'id must be the id of a message, a UUID.')
  const payload = readBoolean('payload', options.payload, false)
  return withTables(input, options.schema, async (database) => {
    const sql = messageSql(database.schema)
    const places = await find(database, {
      ...{ states: messageStates, consumer: null, topic: null, key: null },
      ...{ id, look: lookAll, limit: 1000, payload },
    })
    const received = await database.query(sql.seen, { id })
    const audit = await database.query(auditSql(database.schema).ofMessage, { id, consumer: null })
    return {
      id,
      places,
      received: received.map(({ consumer, seen_at: at }) => ({ consumer, at })),
      interventions: audit.map((row) => ({ consumer: row.consumer || null, ...toHistory(row) })),
    }
  })
}

async function find(
  database: Database,
  values: ValuesOf<ReturnType<typeof messageSql>['find']['takes']>,
): Promise<PlacedMessage[]> {
  const rows = await database.query(messageSql(database.schema).find, values)
  return rows.map(toPlaced)
}

/** A row, as a caller has it. */
export function toPlaced(row: PlacedRow): PlacedMessage {
  const payload = row.payload ?? row.body
  return {
    state: row.state,
    consumer: row.consumer === '' ? null : row.consumer,
    ...toFields(row),
    since: row.since,
    dueAt: row.due_at,
    attempt: row.attempt,
    worker: row.holder,
    reason: row.reason,
    publishedAt: row.published_at,
    receivedAt: row.received_at,
    expiresAt: row.expires_at,
    headers: row.headers === null ? {} : (JSON.parse(row.headers) as Record<string, string>),
    errors: row.errors ?? [],
    ...(payload === null ? {} : { payload }),
  }
}
