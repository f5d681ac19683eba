import type pg from 'pg'
import type { Database } from '../database/database.ts'
import { inboxLanes } from '../database/layout.ts'
import { listingSql, type ListedRow } from '../database/sql/listing.ts'
import { messageStates, type MessageState } from '../database/sql/placed.ts'
import { statusSql } from '../database/sql/status.ts'
import { sqlstate } from '../database/sqlstate.ts'
import { oneOf, whole } from '../base/options.ts'
import type { FailedAttempt } from '../message/row.ts'
import { consumerColumn, textOrNull } from './filter.ts'

/** Which messages are meant: those for which all that is given holds. */
export interface MessageSearch {
  /** Those that are in one of these. @default all */
  readonly states?: readonly MessageState[] | undefined
  /** Those of this consumer; null for those of the outbox. @default all */
  readonly consumer?: string | null | undefined
  readonly topic?: string | undefined
  readonly key?: string | undefined
  /** Those whose last error, or the reason for which they wait, contains this text, whatever the case. @default all */
  readonly error?: string | undefined
}

/** A message where it is, without its content. */
export interface FoundMessage {
  readonly state: MessageState
  /** Null for the outbox. */
  readonly consumer: string | null
  readonly id: string
  readonly topic: string
  readonly key: string | null
  /** Its place in its lane; of a dead letter its number. */
  readonly place: number
  readonly since: Date | null
  /** When it goes on; null if it does not wait for a time. */
  readonly dueAt: Date | null
  readonly attempt: number
  /** The worker that has it in flight, or has handled it. */
  readonly worker: number | null
  readonly reason: string | null
  /** How its last attempt failed. */
  readonly error: FailedAttempt | null
}

/** What a search has found, and where it has not looked. */
export interface SearchResult {
  readonly messages: readonly FoundMessage[]
  /** Where there is more than was looked at: how many rows were, and null if that took too long and was ended. */
  readonly beyond: readonly { readonly state: MessageState; readonly lookedAt: number | null }[]
  /** Consumers whose messages were not looked at, since there are so many. */
  readonly consumersLeft: number
}

/** Of each table about so many rows are looked at, shared out over consumers and lanes. */
export const lookDefault = 20_000
const lookLimit = 1_000_000
/** Of so many consumers at most. */
const consumersMax = 50

/**
 * Searches messages wherever they are, by topic, key, consumer, and by what their errors say. Of each table a bounded number of rows is
 * looked at, from where its work goes on: of a key its own lane, and all that is parked or dead. No content is read, so the
 * role `twinbox_reader` is enough. A table that takes longer than 2 s is given up on.
 *
 * @throws OptionError, or the database's error
 */
export async function searchMessages(
  database: Database,
  search: MessageSearch,
  options: { readonly limit?: number; readonly look?: number } = {},
): Promise<SearchResult> {
  const { consumer, topic, key, error } = search
  const states = search.states?.map((state) => oneOf('state', state, messageStates)) ?? messageStates
  const of = consumerColumn(consumer)
  const given = {
    topic: textOrNull('topic', topic),
    key: textOrNull('key', key),
    error: textOrNull('error', error),
    limit: whole('limit', options.limit, 100, 1, 1000),
  }
  const look = whole('look', options.look, lookDefault, 1, lookLimit)
  const all = of === null ? await consumersOf(database) : [of]
  const consumers = all.slice(0, consumersMax)
  const messages: FoundMessage[] = []
  const beyond: { state: MessageState; lookedAt: number | null }[] = []
  for (const state of states) {
    // Of a key only one lane, and what is parked or dead is looked up.
    const share = (hasLanes(state) && given.key === null ? inboxLanes : 1) * consumers.length
    const values = { ...given, consumers, look: Math.max(20, Math.ceil(look / share)) }
    const rows = await within(database, (client) =>
      database.run(client, listingSql(database.schema).list[state], values),
    )
    if (rows === null) beyond.push({ state, lookedAt: null })
    else {
      messages.push(...rows.flatMap(toFound))
      if (rows[0]!.beyond) beyond.push({ state, lookedAt: rows[0]!.looked_at })
    }
  }
  return { messages, beyond, consumersLeft: all.length - consumers.length }
}

const hasLanes = (state: MessageState): boolean => !['deferred', 'dead', 'handled'].includes(state)

/** The outbox, and all that have an inbox or want one. */
async function consumersOf(database: Database): Promise<string[]> {
  const rows = await database.query(statusSql(database.schema).consumers)
  return ['', ...rows.map(({ consumer }) => consumer)]
}

const canceled = '57014'

/** What it gives, in one read-only transaction; null if it took too long. */
async function within<Result>(
  database: Database,
  work: (client: pg.PoolClient) => Promise<Result>,
): Promise<Result | null> {
  try {
    return await database.transaction(async (client) => {
      await client.query(statusSql(database.schema).begin)
      await client.query(listingSql(database.schema).limit)
      return work(client)
    })
  } catch (error) {
    if (sqlstate(error) === canceled) return null
    throw error
  }
}

function toFound(row: ListedRow): FoundMessage[] {
  if (row.state === null) return []
  const { state, consumer, id, topic, key, place, since, due_at: dueAt, attempt, holder, reason, error } = row
  return [
    {
      ...{ state, consumer: consumer === '' ? null : consumer, id, topic, key, place, since, dueAt },
      ...{ attempt, worker: holder, reason, error },
    },
  ]
}

/** A message that was published with a dedupe key. */
export interface Deduplicated {
  readonly id: string
  readonly topic: string
}

/** Of so many topics dedupe keys are looked for, if the topic is not said. */
const topicsMax = 20_000

/**
 * Finds messages by their dedupe key, while its window lasts. A reader may not.
 *
 * @throws OptionError, or the database's error
 */
export async function findDedupeKey(
  database: Database,
  { dedupeKey, topic }: { readonly dedupeKey: string; readonly topic?: string | undefined },
): Promise<{
  readonly messages: readonly Deduplicated[]
  /** Whether there are more topics. */ readonly more: boolean
}> {
  const values = {
    dedupeKey: textOrNull('dedupeKey', dedupeKey)!,
    topic: textOrNull('topic', topic),
    look: topicsMax,
  }
  const rows = await within(database, (client) =>
    database.run(client, listingSql(database.schema).dedupe, values),
  )
  return {
    messages: (rows ?? []).flatMap(({ id, topic: of }) => (id === null ? [] : [{ id, topic: of }])),
    more: rows?.[0]?.beyond ?? true,
  }
}
