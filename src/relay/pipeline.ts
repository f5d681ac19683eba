import type { Broker, SendOutcome } from '../brokers/broker.ts'
import type { Move } from '../brokers/move.ts'
import type { Database } from '../database/database.ts'
import type { BrokerError, TwinboxError } from '../base/errors.ts'
import type { Emit } from '../base/events.ts'
import type { Failpoint } from '../base/failpoint.ts'
import type { Lane } from '../lanes/lane.ts'
import type { Lanes } from '../lanes/lanes.ts'
import { Polling } from '../membership/polling.ts'
import type { Sleep } from '../membership/sleep.ts'
import type { Parking } from '../lanes/parking.ts'
import { reconnectMs } from '../base/loop.ts'
import type { Redact } from '../base/redaction.ts'
import { StateMachine, type Moves } from '../base/state.ts'
import type { Telemetry } from '../base/telemetry.ts'
import type { RelaySettings } from './options.ts'
import { OutboxReader, type Confirmed, type OutboxBatch } from './outbox-reader.ts'
import { Sending, tellSent } from './sending.ts'
import { Settlement } from './settlement.ts'
import type { HeadRow } from '../database/sql/reading.ts'

export interface PipelineParts {
  readonly database: Database
  readonly broker: Broker
  readonly onDead: 'park' | 'skip'
  readonly strictSend: boolean | readonly string[]
  readonly settings: RelaySettings
  readonly lanes: () => readonly Lane[]
  readonly lanesOf: Lanes
  readonly parking: Parking
  readonly sleep: Sleep
  readonly emit: Emit
  readonly telemetry: Telemetry | undefined
  readonly redact: Redact
  readonly failpoint: Failpoint
  readonly wakeLanes: () => void
  readonly onBroker: (error: BrokerError | null, retryInMs: number) => void
}

/**
 * - `idle`: between two rounds.
 * - `reading`: it deletes what was confirmed, and reads a batch of its lanes.
 * - `sending`: the batch is at the broker. If one of its lanes is lost now, the sending is aborted.
 * - `settling`: it writes down what the broker has refused, and moves on what it has taken.
 *
 * A round may end early, without anything to send or by an error; the next one begins with reading.
 */
export type PipelineState = 'idle' | 'reading' | 'sending' | 'settling'

export const pipelineMoves: Moves<PipelineState> = {
  idle: ['reading'],
  reading: ['sending', 'idle'],
  sending: ['settling', 'idle'],
  settling: ['idle'],
}

/**
 * One batch at a time over one half of the relay's lanes: read, send, delete what was confirmed with the next read.
 * That no lane is in two batches is what keeps the order of a key, whatever becomes of a batch.
 */
export class Pipeline {
  readonly #parts: PipelineParts
  readonly #reader: OutboxReader
  readonly #sending: Sending
  readonly #settlement: Settlement
  #confirmed: Confirmed[] = []
  #batch: readonly HeadRow[] = []
  #abort = new AbortController()
  readonly #polling: Polling
  readonly #state = new StateMachine<PipelineState>('A pipeline', pipelineMoves, 'idle', (defect) =>
    this.#giveUp(defect),
  )
  #failures = 0

  constructor(parts: PipelineParts) {
    this.#parts = parts
    this.#reader = new OutboxReader({ ...parts, batchSize: parts.settings.batchSize, lanes: parts.lanesOf })
    this.#sending = new Sending(parts)
    this.#settlement = new Settlement(parts)
    this.#polling = new Polling(parts.settings, parts.sleep)
  }

  get inFlight(): number {
    return this.#batch.length + this.#confirmed.length
  }

  lowestInFlight(lane: number): number | null {
    let lowest: number | null = null
    for (const row of this.#batch)
      if (row.lane === lane && (lowest === null || row.seq < lowest)) lowest = row.seq
    for (const row of this.#confirmed)
      if (row.lane === lane && (lowest === null || row.seq < lowest)) lowest = row.seq
    return lowest
  }

  hasKey(lane: number, key: string): boolean {
    return this.#batch.some((row) => row.lane === lane && row.key === key)
  }

  abort(reason: string): void {
    this.#abort.abort(new Error(reason))
  }

  /** Nothing that was known of the lanes counts any more. */
  forget(): void {
    this.#reader.forget()
  }

  /** Lanes are gone: what is being sent of them must stop, or it could come after what their new holder sends. */
  drop(lanes: readonly Lane[]): void {
    if (this.#batch.some((row) => lanes.some(({ lane }) => lane === row.lane)))
      this.abort('The lane was lost.')
  }

  /** Something is about to be committed: look often again. */
  hurry(): void {
    this.#polling.hurry()
  }

  /** Deletes what was confirmed, and reads nothing. */
  async settle(): Promise<void> {
    if (this.#confirmed.length > 0) await this.#read([], null)
  }

  async run(): Promise<number> {
    if (!this.#state.go('reading')) return this.#parts.settings.pollMs
    try {
      return await this.#relay()
    } finally {
      this.#batch = []
      this.#state.go('idle')
    }
  }

  /** Nobody can say any more what it has sent: its lanes are given back, and what is under way is aborted with them. */
  #giveUp(defect: TwinboxError): void {
    const { emit, lanes, lanesOf } = this.#parts
    const report = (doing: string) => (error: unknown) => emit({ type: 'trouble', error, doing })
    report('relaying')(defect)
    this.abort(defect.message)
    for (const lane of lanes()) lanesOf.giveUp(lane, defect.message).catch(report('giving lanes back'))
  }

  async #relay(): Promise<number> {
    const { failpoint, lanesOf, settings } = this.#parts
    const lanes = this.#parts.lanes()
    if (lanes.length === 0) {
      await this.settle()
      return settings.pollMsMax
    }
    const way = await this.#sending.next()
    const readAt = performance.now()
    const heads = await this.#read(lanes, way)
    if (heads.moved.length > 0) {
      await failpoint('relay.after_delete')
      tellSent(this.#parts, heads.moved, readAt)
      way!.told(heads.moved.map(({ topic }) => topic))
      heads.advance(new Set())
      this.#polling.next(true)
      return this.#outage([]) || this.#rest(heads)
    }
    const move = heads.content ? null : way
    await this.#settlement.expire(
      heads.batch.filter(({ expired }) => expired === true),
      heads.fences,
    )
    // Of a lane that was lost meanwhile nothing is sent: its new holder may be sending what comes later.
    const batch = heads.batch.filter(
      ({ expired, lane }) => expired !== true && lanesOf.holds(lane, heads.fences.get(lane)!),
    )
    this.#batch = batch
    if (heads.batch.length === 0) {
      heads.advance(new Set())
      return heads.outdated ? 0 : this.#polling.next(false)
    }
    this.#polling.next(true)
    if (batch.length === 0) return 0
    if (!lanesOf.trusted) {
      // Frozen or cut off for most of a lease: others may believe us dead by now, and may be sending already.
      lanesOf.wake()
      return settings.pollMs
    }
    this.#abort = new AbortController()
    this.#state.go('sending')
    const startedAt = performance.now()
    await failpoint('relay.before_send')
    const outcomes = await this.#sending.send(move, batch, heads.fences, this.#abort.signal)
    await failpoint('relay.after_send')
    this.#state.go('settling')
    const unsettled = new Set(batch.map(({ seq }) => seq))
    for (const [index, row] of batch.entries()) {
      if (outcomes[index]?.status !== 'sent') continue
      const { lane, seq, id } = row
      // Field by field: spread into a literal, they cost more than all the rest of this loop.
      const { server } = heads
      if (move === null) this.#confirmed.push({ lane, seq, id, fence: heads.fences.get(lane)!, server })
      unsettled.delete(row.seq)
    }
    this.#batch = batch.filter(({ seq }) => unsettled.has(seq))
    const sent = batch.filter(({ seq }) => !unsettled.has(seq))
    tellSent(this.#parts, sent, startedAt)
    for (const { seq } of await this.#settlement.refuse(batch, outcomes, heads.fences)) unsettled.delete(seq)
    heads.advance(unsettled)
    const pauseMs = this.#outage(outcomes)
    return pauseMs === 0 && move !== null && unsettled.size === 0 ? this.#rest(heads) : pauseMs
  }

  /** Asleep, it is told of what comes. Not looking right away leaves the server to those who have been told of what was moved. */
  #rest({ more }: OutboxBatch): number {
    const { sleep, settings } = this.#parts
    return more || !sleep.isAsleep ? 0 : settings.pollMs
  }

  /** Nothing is held against a message when the broker is at fault; everything waits a little. */
  #outage(outcomes: readonly SendOutcome[]): number {
    const fault = outcomes.find(
      (outcome) =>
        outcome.status === 'failed' || (outcome.status === 'unknown' && !this.#abort.signal.aborted),
    )
    if (fault === undefined || !('error' in fault)) {
      this.#failures = 0
      this.#parts.onBroker(null, 0)
      return 0
    }
    this.#failures++
    const pauseMs = reconnectMs(this.#failures, 100, 5000)
    this.#parts.onBroker(fault.error, pauseMs)
    return pauseMs
  }

  /** Reads heads of lanes, and with it deletes what was confirmed. */
  async #read(lanes: readonly Lane[], move: Move | null): Promise<OutboxBatch> {
    const { failpoint } = this.#parts
    const confirmed = this.#confirmed
    if (confirmed.length > 0) await failpoint('relay.before_delete')
    const heads = await this.#reader.read(lanes, confirmed, move)
    this.#batch = heads.batch
    await heads.follow()
    if (confirmed.length > 0) {
      await failpoint('relay.after_delete')
      this.#confirmed = []
      if (confirmed.some(({ lane }) => !lanes.some((held) => held.lane === lane))) this.#parts.wakeLanes()
    }
    return heads
  }
}
