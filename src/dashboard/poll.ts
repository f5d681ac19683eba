import type { Database } from '../database/database.ts'
import { readStatus, type Status } from '../status/status.ts'

/** What one look at the database has found. */
export interface Poll extends Pick<Status, 'outbox' | 'consumers' | 'workers'> {
  readonly at: Date
  /** How long the statements took. */
  readonly tookMs: number
}

export async function readPoll(database: Database): Promise<Poll> {
  const startedAt = performance.now()
  const { outbox, consumers, workers, at } = await readStatus(database)
  return { at, tookMs: performance.now() - startedAt, outbox, consumers, workers }
}
