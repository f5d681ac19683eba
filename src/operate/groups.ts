import type { Database } from '../database/database.ts'
import { listingSql } from '../database/sql/listing.ts'
import { whole } from '../base/options.ts'
import { consumerColumn } from './filter.ts'

/** Dead letters of one consumer and topic whose errors are of one class: those that a filter with these three names. */
export interface DeadLetterGroup {
  /** Null for the outbox. */
  readonly consumer: string | null
  readonly topic: string
  /** What stands before the first colon of their reasons, which mostly is the class of an error. */
  readonly errorClass: string
  readonly count: number
  readonly oldest: Date
  readonly latest: Date
  /** The number and the reason of the latest. */
  readonly number: number
  readonly reason: string
}

/** Groups, the largest first, and of how many dead letters. */
export interface DeadLetterGroups {
  readonly groups: readonly DeadLetterGroup[]
  /** Groups that are not told. */
  readonly others: number
  readonly lookedAt: number
  /** Whether there are older ones, which were not looked at. */
  readonly more: boolean
}

/** So many dead letters are looked at, the latest. */
const lookMax = 100_000

/**
 * Groups the latest 100,000 dead letters by consumer, topic and class of the error.
 *
 * @throws OptionError, or the database's error
 */
export async function groupDeadLetters(
  database: Database,
  options: { readonly consumer?: string | null | undefined; readonly limit?: number } = {},
): Promise<DeadLetterGroups> {
  const limit = whole('limit', options.limit, 100, 1, 1000)
  const consumer = consumerColumn(options.consumer)
  const { groups } = listingSql(database.schema)
  const rows = await database.query(groups, { consumer, look: lookMax, limit })
  const [first] = rows
  const lookedAt = first?.looked_at ?? 0
  return {
    groups: rows.map((row) => ({
      consumer: row.consumer === '' ? null : row.consumer,
      topic: row.topic,
      errorClass: row.class,
      ...{ count: row.count, oldest: row.oldest, latest: row.latest, number: row.number, reason: row.reason },
    })),
    others: (first?.groups ?? 0) - rows.length,
    lookedAt,
    more: lookedAt === lookMax,
  }
}
