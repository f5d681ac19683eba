import { begin, carryOn, parseHeaders, type Telemetry, type TracedMessage } from '../telemetry.ts'
import type { Database } from './database.ts'
import { inboxSql } from './sql/inbox.ts'
import { joined, plainArray, unlessEmpty } from './sql/statement.ts'

/** A message as it goes into the inbox of one consumer. */
export interface InboxMessage {
  readonly consumer: string
  readonly id: string
  readonly topic: string
  readonly key: string | null
  readonly headers: string | null
  readonly payload: string | null
  readonly body: Buffer | null
  readonly contentType: string | null
  readonly publishedAt: Date | null
  /** Null or left out if it never expires. */
  readonly expiresAt?: Date | null
}

/** What brings the messages, and who wants to trace it. */
export interface Receiving {
  readonly telemetry: Telemetry | undefined
  /** The broker's name. */
  readonly broker: string
  readonly workerId: number | null
}

const untraced: Receiving = { telemetry: undefined, broker: '', workerId: null }

/**
 * Writes messages to the inboxes of their consumers, in their order, except those that have been seen before. One
 * statement, and its commit waits for the disk: after it, the sender may forget them. Returns how many were new.
 */
export async function receive(
  database: Database,
  messages: readonly InboxMessage[],
  { telemetry, broker, workerId }: Receiving = untraced,
): Promise<number> {
  const trace = begin(telemetry, { name: 'receive', system: broker, workerId }, () => messages.map(toTraced))
  try {
    const fresh = await store(
      database,
      messages,
      messages.map(({ headers }, index) => carryOn(headers, trace?.carried[index])),
    )
    trace?.end()
    return fresh
  } catch (error) {
    trace?.end(() => error)
    throw error
  }
}

async function store(
  database: Database,
  messages: readonly InboxMessage[],
  headers: readonly (string | null)[],
): Promise<number> {
  const [result] = await database.query<{ fresh: number }>(inboxSql(database.schema).receive, [
    plainArray(messages.map(({ consumer }) => consumer)),
    plainArray(messages.map(({ id }) => id)),
    messages.map(({ topic }) => topic),
    unlessEmpty(messages.map(({ key }) => key)),
    joined(headers),
    joined(messages.map(({ payload }) => payload)),
    unlessEmpty(messages.map(({ body }) => body)),
    unlessEmpty(messages.map(({ contentType }) => contentType)),
    messages.map(({ publishedAt }) => publishedAt),
    Math.floor(Math.random() * 8),
    unlessEmpty(messages.map(({ expiresAt }) => expiresAt ?? null)),
  ])
  return result!.fresh
}

const toTraced = ({ consumer, id, topic, headers, payload, body }: InboxMessage): TracedMessage => ({
  consumer,
  id,
  topic,
  headers: parseHeaders(headers),
  bytes: (payload ?? body)!.length,
})
