import type { SendOutcome } from '../brokers/broker.ts'
import type { Database } from '../database/database.ts'
import { verdictOn } from '../base/backoff.ts'
import { describeError, type BrokerError } from '../base/errors.ts'
import type { Emit } from '../base/events.ts'
import { errorRecord } from '../base/record.ts'
import type { Redact } from '../base/redaction.ts'
import type { Lanes } from '../lanes/lanes.ts'
import type { HeldKey, Parking } from '../lanes/parking.ts'
import { Settler, type Held } from '../lanes/settler.ts'
import type { RelaySettings } from './options.ts'
import type { HeadRow } from '../database/sql/reading.ts'

export interface SettlementParts {
  readonly database: Database
  readonly settings: RelaySettings
  readonly onDead: 'park' | 'skip'
  readonly lanesOf: Lanes
  readonly parking: Parking
  readonly emit: Emit
  readonly redact: Redact
}

/** A message that the broker has refused by itself, or holds for somebody who is away, and what is to become of it. */
interface Refusal extends Held {
  readonly row: HeadRow
  /** What is told of why. */
  readonly error: unknown
  readonly attempt: number
  readonly reason: string
  /** What its history says; null if nothing is held against it. */
  readonly record: string | null
  /** In how long it is tried again; null if it is not. */
  readonly retryInMs: number | null
}

/**
 * What becomes of messages that the broker will not take: each is put off, held back with its key, or buried. What one
 * batch has brought goes in at most three statements. Each of them names the fence under which its lane was read, and
 * what it has not touched is in other hands: nothing is said of it.
 */
export class Settlement {
  readonly #parts: SettlementParts
  readonly #settler: Settler

  constructor(parts: SettlementParts) {
    this.#parts = parts
    this.#settler = new Settler(parts.database, '')
  }

  /**
   * Settles what was rejected or is held. Of a key, the first one counts: the others wait behind it, and no attempt of theirs is
   * counted, or a key would use up its attempts several at a time. Returns what is no longer where it was read.
   */
  async refuse(
    batch: readonly HeadRow[],
    outcomes: readonly SendOutcome[],
    fences: ReadonlyMap<number, number>,
  ): Promise<readonly HeadRow[]> {
    const alone: Refusal[] = []
    const held: Refusal[] = []
    /** What is left of each key that is held back. */
    const rest = new Map<string, HeadRow[]>()
    let last: Refusal | undefined
    for (const [index, row] of batch.entries()) {
      const outcome = outcomes[index]
      const behind = row.key === null ? undefined : rest.get(row.key)
      if (behind !== undefined) {
        if (outcome?.status !== 'sent') behind.push(row)
        continue
      }
      if (outcome?.status !== 'rejected' && outcome?.status !== 'held') continue
      const fence = fences.get(row.lane)!
      const refusal =
        outcome.status === 'held'
          ? this.#wait(row, outcome, fence)
          : (last = this.#judge(row, outcome.error, fence, last))
      if (row.key === null || (refusal.retryInMs === null && this.#parts.onDead === 'skip')) {
        alone.push(refusal)
      } else {
        held.push(refusal)
        rest.set(row.key, [])
      }
    }
    await this.#defer(alone.filter(({ retryInMs }) => retryInMs !== null))
    await this.#bury(alone.filter(({ retryInMs }) => retryInMs === null))
    await this.#hold(held, rest)
    return [...[...alone, ...held].map(({ row }) => row), ...[...rest.values()].flat()]
  }

  /** Nobody wants these any more; their keys go on. */
  async expire(rows: readonly HeadRow[], fences: ReadonlyMap<number, number>): Promise<void> {
    const expired = rows.map((row) => ({ ...row, fence: fences.get(row.lane)! }))
    const buried = await this.#settler.bury(
      expired.map((of) => ({ of, attempt: of.attempt, reason: 'expired', record: null })),
    )
    for (const { id, topic, attempt } of buried)
      this.#parts.emit({ type: 'dead_letter', id, topic, attempt, reason: 'expired' })
  }

  #judge(row: HeadRow, error: BrokerError, fence: number, last: Refusal | undefined): Refusal {
    const { settings, lanesOf, redact } = this.#parts
    const attempt = row.attempt + 1
    const { id, topic, key } = row
    const told = redact(error, { consumer: null, id, topic, key, attempt })
    // Mostly they all fail with one error, and what is kept of it is dear.
    const same = last !== undefined && last.error === told ? last : undefined
    return {
      ...{ row, fence, lane: row.lane, seq: row.seq, id: row.id },
      error: told,
      attempt,
      reason: same?.reason ?? describeError(told),
      record: same?.attempt === attempt ? same.record : errorRecord(told, attempt, lanesOf.membership.id),
      retryInMs: verdictOn(attempt, settings, error.kind === 'poison' ? 'dead' : null),
    }
  }

  /** No attempt is counted: it has not been made. */
  #wait(
    row: HeadRow,
    { error, retryInMs }: { error: BrokerError; retryInMs: number },
    fence: number,
  ): Refusal {
    const { lane, seq, id, topic, key, attempt } = row
    const told = this.#parts.redact(error, { consumer: null, id, topic, key, attempt })
    const reason = describeError(told)
    return { row, fence, lane, seq, id, error: told, attempt, reason, record: null, retryInMs }
  }

  async #defer(refusals: readonly Refusal[]): Promise<void> {
    const deferred = refusals.map((of) => ({ ...of, of, retryInMs: of.retryInMs! }))
    for (const refusal of await this.#settler.defer(deferred, null)) this.#tell(refusal)
  }

  async #bury(refusals: readonly Refusal[]): Promise<void> {
    for (const refusal of await this.#settler.bury(refusals.map((of) => ({ ...of, of })))) {
      this.#tell(refusal)
      this.#tellDead(refusal)
    }
  }

  /** Holds the key of each back behind it. */
  async #hold(refusals: readonly Refusal[], rest: ReadonlyMap<string, readonly HeadRow[]>): Promise<void> {
    const { lanesOf, parking } = this.#parts
    const keys = new Map<HeldKey, Refusal>()
    for (const refusal of refusals) {
      const { row, fence, reason, attempt, record, retryInMs } = refusal
      const lane = lanesOf.held.get(row.lane)
      // Its new holder sends it again, and is told the same.
      if (lane === undefined || lane.fence !== fence) continue
      const key: HeldKey = {
        lane,
        key: row.key!,
        seq: row.seq,
        id: row.id,
        reason,
        dead: retryInMs === null,
        failure: record === null ? null : { attempts: attempt, error: record },
        forMs: retryInMs,
        rest: rest.get(row.key!)!.map(({ seq }) => seq),
      }
      keys.set(key, refusal)
    }
    if (keys.size === 0) return
    for (const [key, buried] of await parking.park([...keys.keys()])) {
      const refusal = keys.get(key)!
      this.#tell(refusal)
      if (buried) this.#tellDead(refusal)
    }
  }

  #tell({ row: { id, topic, key }, attempt, error, record, retryInMs }: Refusal): void {
    if (record === null) return
    this.#parts.emit({
      type: 'message_failed',
      ...{ id, topic, key, attempt, error, retryInMs },
      foundBy: 'error',
    })
  }

  #tellDead({ row: { id, topic }, attempt, reason }: Refusal): void {
    this.#parts.emit({ type: 'dead_letter', id, topic, attempt, reason })
  }
}
