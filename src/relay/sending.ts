import type { Broker, SendOutcome } from '../brokers/broker.ts'
import { moverOf, type Move } from '../brokers/move.ts'
import type { Database } from '../database/database.ts'
import { isConnectionLost } from '../database/sqlstate.ts'
import type { Emit } from '../base/events.ts'
import type { Failpoint } from '../base/failpoint.ts'
import type { OutgoingMessage } from '../message/message.ts'
import { withFields } from '../message/row.ts'
import type { Redact } from '../base/redaction.ts'
import { begin, parseHeaders, type Telemetry, type TracedMessage } from '../base/telemetry.ts'
import type { HeadRow } from '../database/sql/reading.ts'

interface Handing {
  readonly broker: Broker
  readonly emit: Emit
  readonly telemetry: Telemetry | undefined
  readonly redact: Redact
  readonly lanesOf: { readonly membership: { readonly id: number | null } }
}

interface Parts extends Handing {
  readonly database: Database
  readonly failpoint: Failpoint
  readonly lanesOf: { readonly membership: { readonly id: number | null; readonly server: string } }
}

const sent: SendOutcome = { status: 'sent' }
/** So long it is believed that a broker is elsewhere: just after a failover it may have looked at the server of before. */
const elsewhereMs = 60_000
/** So often it is told that somebody is still away. */
const heldTellMs = 60_000

/**
 * Of a broker that has its messages in the tables of the outbox: a batch is moved there, and its contents do not come through this
 * process. What cannot go like this is sent in the next round, which tells what is wrong with it.
 */
export class Sending {
  readonly #parts: Parts
  #asked: { readonly server: string; readonly move: Move | null; readonly at: number } | null = null
  /** Whether the next batch is to be sent. */
  #refused = false
  #heldTold: { readonly text: string; readonly at: number } | null = null

  constructor(parts: Parts) {
    this.#parts = parts
  }

  /** How the next batch goes; null if it is to be sent. */
  async next(): Promise<Move | null> {
    const { broker, telemetry, database, lanesOf } = this.#parts
    const mover = moverOf(broker)
    // Tracers are told of each message, and what they add goes with it.
    if (mover === null || telemetry !== undefined) return null
    const { server } = lanesOf.membership
    const now = performance.now()
    const asked = this.#asked
    if (asked?.server !== server || (asked.move === null && now > asked.at + elsewhereMs)) {
      // If it is away, sending finds that out.
      const move = await mover({ database, server }).catch(() => undefined)
      if (move === undefined) return null
      this.#asked = { server, move, at: now }
    }
    const refused = this.#refused
    this.#refused = false
    return refused ? null : this.#asked!.move
  }

  /** Moves or sends a batch, and says what has become of it. Of those that could not be moved nothing is known yet. */
  async send(
    move: Move | null,
    batch: readonly HeadRow[],
    fences: ReadonlyMap<number, number>,
    signal: AbortSignal,
  ): Promise<readonly SendOutcome[]> {
    if (move === null) {
      const outcomes = await sendAll(this.#parts, batch, signal)
      this.#tellHeld(outcomes)
      return outcomes
    }
    const { failpoint } = this.#parts
    await failpoint('relay.before_delete')
    const leaving = batch.map(({ lane, seq, id, topic, size }) => {
      return { lane, seq, id, topic, size: size!, fence: fences.get(lane)! }
    })
    let moved = 0
    try {
      moved = await move(leaving)
    } catch (error) {
      // Whether it was done, the next read tells.
      if (isConnectionLost(error)) throw error
    }
    this.#refused = moved < batch.length
    await failpoint('relay.after_delete')
    return batch.slice(0, moved).map(() => sent)
  }

  /** Somebody is away, and others are not: told once in a while, since it may last. */
  #tellHeld(outcomes: readonly SendOutcome[]): void {
    const held = outcomes.find(({ status }) => status === 'held')
    if (held === undefined || !('error' in held)) return
    const told = this.#heldTold
    if (told?.text === held.error.message && performance.now() - told.at < heldTellMs) return
    this.#heldTold = { text: held.error.message, at: performance.now() }
    this.#parts.emit({ type: 'trouble', error: held.error, doing: 'sending' })
  }
}

/** What was sent or moved is told of; how long that took, from this moment on. */
export function tellSent(
  { emit, broker }: Pick<Handing, 'emit' | 'broker'>,
  rows: readonly HeadRow[],
  startedAt: number,
): void {
  if (rows.length === 0) return
  const topics: Record<string, number> = {}
  for (const { topic } of rows) topics[topic] = (topics[topic] ?? 0) + 1
  const durationMs = performance.now() - startedAt
  emit({ type: 'sent', ids: rows.map(({ id }) => id), topics, broker: broker.name, durationMs })
}

/** Hands a batch to the broker, as one operation of each message's trace if anybody wants one. */
async function sendAll(
  { broker, telemetry, redact, lanesOf }: Handing,
  batch: readonly HeadRow[],
  signal: AbortSignal,
): Promise<readonly SendOutcome[]> {
  const messages = batch.map(toOutgoing)
  const operation = { name: 'send', system: broker.name, workerId: lanesOf.membership.id } as const
  const trace = begin(telemetry, operation, () => messages.map(toTraced))
  if (trace === null) return broker.send(messages, { signal })
  const carrying = messages.map((message, index) => ({
    ...message,
    headers: { ...message.headers, ...trace.carried[index] },
  }))
  const toldOf = (error: unknown, index: number): unknown => {
    const { id, topic, key, attempt } = batch[index]!
    return redact(error, { consumer: null, id, topic, key, attempt: attempt + 1 })
  }
  try {
    const outcomes = await broker.send(carrying, { signal, telemetry })
    trace.end((index) => {
      const outcome = outcomes[index]
      return outcome !== undefined && 'error' in outcome ? toldOf(outcome.error, index) : undefined
    })
    return outcomes
  } catch (error) {
    trace.end((index) => toldOf(error, index))
    throw error
  }
}

export function toOutgoing(row: HeadRow): OutgoingMessage {
  return withFields(row, {
    headers: parseHeaders(row.headers),
    content: row.payload ?? row.body!,
    publishedAt: row.published_at,
    expiresAt: row.expires_at,
  })
}

const toTraced = ({ id, topic, headers, content }: OutgoingMessage): TracedMessage => ({
  id,
  topic,
  headers,
  bytes: content.length,
})
