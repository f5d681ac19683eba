import type { Broker, SendOutcome } from '../brokers/broker.ts'
import type { OutgoingMessage } from '../message/message.ts'
import { withFields } from '../message/row.ts'
import type { Redact } from '../base/redaction.ts'
import { begin, parseHeaders, type Telemetry, type TracedMessage } from '../base/telemetry.ts'
import type { HeadRow } from '../database/sql/reading.ts'

export interface SendingParts {
  readonly broker: Broker
  readonly telemetry: Telemetry | undefined
  readonly redact: Redact
  readonly lanesOf: { readonly membership: { readonly id: number | null } }
}

/** Hands a batch to the broker, as one operation of each message's trace if anybody wants one. */
export async function sendAll(
  { broker, telemetry, redact, lanesOf }: SendingParts,
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
