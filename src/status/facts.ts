import { auditSql } from '../database/sql/audit.ts'
import { explainSql, type AheadRow, type HeldKeyRow, type HeldLaneRow } from '../database/sql/explain.ts'
import { operateSql } from '../database/sql/operate.ts'
import type { FoundRow } from '../database/sql/search.ts'
import { statusSql } from '../database/sql/status.ts'
import { toHistory, type Intervention } from '../operate/letter.ts'
import { toWorker, workerLimit, type WorkerStatus } from '../operate/workers.ts'
import { boxOf } from './box.ts'
import { takes } from '../message/message.ts'
import { nothing, type Evidence, type ExplainedWorker } from './explanation.ts'
import { readPaused, type PausedTopic } from './paused.ts'
import type { Places } from './places.ts'
import type { Snapshot } from './snapshot.ts'

/** So many messages before this one are looked at from the beginning of the lane, and so many back from it. */
const aheadMax = 1000

/** What else is known that bears on one message. Nothing is judged here. */
export class Facts {
  readonly id: string
  readonly at: Date
  readonly #snapshot: Snapshot
  readonly #sql: ReturnType<typeof explainSql>
  readonly #workers = new Map<string, readonly WorkerStatus[]>()
  #audit: readonly (Intervention & { readonly consumer: string })[] | null = null
  #subscribed: readonly (readonly string[])[] | null = null

  constructor(snapshot: Snapshot, id: string, at: Date) {
    this.#snapshot = snapshot
    this.#sql = explainSql(snapshot.schema)
    this.id = id
    this.at = at
  }

  /** Who could do it: relays of the outbox, claimers of an inbox; the living and those that have lately ended. */
  async workersOf(consumer: string): Promise<readonly WorkerStatus[]> {
    let workers = this.#workers.get(consumer)
    if (workers === undefined) {
      const { workers: statement } = operateSql(this.#snapshot.schema)
      const kind = boxOf(consumer).worker
      const rows = await this.#snapshot.rows(statement, { limit: workerLimit, consumer, kind })
      this.#workers.set(consumer, (workers = rows.map(toWorker)))
    }
    return workers
  }

  async laneOf({ consumer, lane }: FoundRow): Promise<HeldLaneRow | null> {
    if (lane === null) return null
    const [row] = await this.#snapshot.rows(this.#sql.lane, { consumer, lane })
    return row ?? null
  }

  async aheadOf({
    consumer,
    lane,
    place: seq,
    key,
  }: FoundRow): Promise<AheadRow & { readonly more: boolean }> {
    const statement = this.#sql.ahead[consumer === '' ? 'outbox' : 'inbox']
    const [row] = await this.#snapshot.rows(statement, { consumer, lane: lane!, seq, key, look: aheadMax })
    return { ...row!, more: row!.ahead > aheadMax }
  }

  async keyOf({ consumer, key }: FoundRow): Promise<HeldKeyRow | null> {
    if (key === null) return null
    const [row] = await this.#snapshot.rows(this.#sql.key, { consumer, key })
    return row ?? null
  }

  async pausedOf({ consumer, topic }: FoundRow): Promise<PausedTopic | null> {
    if (consumer === '') return null
    const { schema, rows: query } = this.#snapshot
    const found = (await readPaused({ schema, query }, consumer)).find((row) => row.topic === topic)
    if (found === undefined) return null
    const { consumer: _, ...paused } = found
    return paused
  }

  /** A worker by its number, and what it holds: the lane, or the message itself. */
  async worker(
    id: number,
    { consumer, topic }: Pick<FoundRow, 'consumer' | 'topic'>,
    held: Partial<Pick<HeldLaneRow, 'since' | 'lease_until'>> | null = null,
  ): Promise<ExplainedWorker> {
    const status = (await this.workersOf(consumer)).find((worker) => worker.id === id)
    const [row] = await this.#snapshot.rows(this.#sql.workers, { id })
    return {
      id,
      kind: row?.kind ?? null,
      host: row?.host ?? null,
      pid: row?.pid ?? null,
      state: status?.state ?? 'forgotten',
      lastBeatMs: status === undefined ? null : Math.max(0, status.lastBeatMs),
      endedAt: status?.endedAt ?? null,
      endedBy: status?.endedBy ?? null,
      laneSince: held?.since ?? null,
      leaseUntil: held?.lease_until ?? null,
      stuckSince: row?.stuck_topic === topic ? row.stuck_since : null,
      brokerError: row?.broker_error ?? null,
      brokerDownSince: row?.broker_down_since ?? null,
    }
  }

  /** Whether no consumer here is subscribed to the topic, while there are some who are to others. */
  async isUnwanted({ consumer, topic }: FoundRow): Promise<boolean> {
    if (consumer !== '') return false
    this.#subscribed ??= (await this.#snapshot.rows(statusSql(this.#snapshot.schema).consumers)).flatMap(
      ({ patterns }) => (patterns === null ? [] : [patterns]),
    )
    return this.#subscribed.length > 0 && !this.#subscribed.some((patterns) => takes(patterns, topic))
  }

  /** What an operator did last with it at this consumer. */
  async intervention(consumer: string): Promise<Intervention | null> {
    return (await this.interventions()).findLast((row) => row.consumer === consumer) ?? null
  }

  /** All that operators did with it, the first first. */
  async interventions(): Promise<readonly (Intervention & { readonly consumer: string })[]> {
    const { ofMessage } = auditSql(this.#snapshot.schema)
    this.#audit ??= (await this.#snapshot.rows(ofMessage, { id: this.id, consumer: null })).map((row) => ({
      consumer: row.consumer,
      ...toHistory(row),
    }))
    return this.#audit
  }

  /** Of consumers that have it nowhere: what they, or an operator, have done with it. */
  async left({ rows, received }: Places, consumer: string | null): Promise<readonly Evidence[]> {
    const audited = (await this.interventions()).map((row) => row.consumer)
    const known = new Set([...received.map((row) => row.consumer), ...audited])
    const gone = [...known].filter(
      (of) => (consumer === null || of === consumer) && !rows.some((row) => row.consumer === of),
    )
    return Promise.all(
      gone.map(async (of): Promise<Evidence> => {
        const last = await this.intervention(of)
        const { consumer: _, ...intervention } = { consumer: of, ...last }
        const seenAt = received.find((row) => row.consumer === of)?.seen_at ?? null
        const since = { consumer: of === '' ? null : of, since: seenAt ?? last?.at ?? null }
        // What was redriven goes on, and is handled in the end.
        return last === null || (last.action === 'redrive' && seenAt !== null)
          ? { ...nothing, ...since, why: 'gone' }
          : {
              ...nothing,
              ...since,
              why: 'removed',
              since: last.at,
              intervention: intervention as Intervention,
            }
      }),
    )
  }
}
