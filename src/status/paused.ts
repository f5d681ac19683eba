import type { Asker } from '../database/limited.ts'
import { circuitSql } from '../database/sql/circuit.ts'
import { printableLine } from '../base/printable.ts'
import { clock } from '../base/times.ts'

/** A topic of a consumer that pauses: what its handlers need is away. */
export interface PausedTopic {
  readonly topic: string
  /** The code or the class of the errors. */
  readonly reason: string
  /** The error that it began with. */
  readonly error: string
  readonly since: Date
  /** How many messages have tried since. */
  readonly probes: number
  /** When the next one may. */
  readonly probeAt: Date
}

/** All topics that pause, or those of one consumer. */
export async function readPaused(
  database: Asker,
  of: string | null = null,
): Promise<(PausedTopic & { readonly consumer: string })[]> {
  const { all } = circuitSql(database.schema)
  const rows = await database.query(all, { consumer: of })
  return rows.map(({ opened_at: since, probe_at: probeAt, ...row }) => ({ ...row, since, probeAt }))
}

/** `pauses order.placed: ECONNREFUSED since 12:03`; with the day if that was not in the last twenty hours. */
export function tellPaused(
  { topic, reason, since }: Pick<PausedTopic, 'topic' | 'reason' | 'since'>,
  now = new Date(),
): string {
  return printableLine(`pauses ${topic}: ${reason} since ${clock(since, now)}`)
}
