import type { DeadLetterRow } from '../database/sql/letter.ts'
import { toFields, type AuditAction, type AuditRow, type FailedAttempt } from '../message/row.ts'
import type { MessageFields } from '../message/message.ts'

/** A message that is not tried again until it is redriven. */
export interface DeadLetter extends MessageFields {
  readonly number: number
  /** Null for the outbox. */
  readonly consumer: string | null
  readonly diedAt: Date
  readonly receivedAt: Date | null
  readonly publishedAt: Date | null
  readonly expiresAt: Date | null
  readonly attempt: number
  readonly reason: string
  /** Its failed attempts since it was last redriven; left out in lists. */
  readonly errors?: readonly FailedAttempt[]
}

/** What an operator did, and what it had been until then. */
export interface Intervention<Action extends AuditAction = AuditRow['action']> {
  readonly action: Action
  readonly at: Date
  /** Who they said they were. */
  readonly by: string
  /** The database's user who was logged in. Nobody can say another one. */
  readonly login: string
  readonly why: string | null
  readonly diedAt: Date | null
  readonly attempt: number | null
  /** Why a dead letter had died. Else what was changed: `worker 42, claimer on shop-1, process 7`, `schedule daily`, `seen 17`. */
  readonly reason: string | null
  readonly errors: readonly FailedAttempt[]
}

/** A dead letter as it is: with its headers, and if asked for its payload. */
export interface DeadLetterContent {
  readonly headers: Readonly<Record<string, string>>
  readonly bytes: number
  /** JSON text or bytes; only if asked for. */
  readonly payload?: string | Uint8Array
}

/** A dead letter and all that is known of it. */
export interface DeadLetterDetails extends DeadLetter, DeadLetterContent {
  /** Whether its key is held back behind it. */
  readonly holdsKey: boolean
  /** Its earlier lives: what operators did with it. */
  readonly interventions: readonly Intervention[]
}

export function toDeadLetter(row: DeadLetterRow): DeadLetter {
  return {
    number: row.number,
    ...toFields(row),
    consumer: row.consumer === '' ? null : row.consumer,
    diedAt: row.died_at,
    receivedAt: row.received_at,
    publishedAt: row.published_at,
    expiresAt: row.expires_at,
    attempt: row.attempt,
    reason: row.reason,
    ...(row.errors === undefined ? {} : { errors: row.errors ?? [] }),
  }
}

/** A row of `audit`. */
export function toHistory<Action extends AuditAction>(row: AuditRow<Action>): Intervention<Action> {
  const { action, at, who: by, login, why, died_at: diedAt, attempt, reason, errors } = row
  return { action, at, by, login, why, diedAt, attempt, reason, errors: errors ?? [] }
}

export function contentOf(row: DeadLetterRow): DeadLetterContent {
  const payload = row.payload ?? row.body ?? undefined
  return {
    headers: row.headers == null ? {} : (JSON.parse(row.headers) as Record<string, string>),
    bytes: row.bytes ?? (payload === undefined ? 0 : Buffer.byteLength(payload)),
    ...(payload === undefined ? {} : { payload }),
  }
}

/** Bytes as text that JSON can hold. */
export const forJson = <Letter extends { readonly payload?: string | Uint8Array }>(letter: Letter): object =>
  letter.payload === undefined || typeof letter.payload === 'string'
    ? letter
    : { ...letter, payload: Buffer.from(letter.payload).toString('base64'), payloadEncoding: 'base64' }
