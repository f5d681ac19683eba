/** A message as the tables store it: the columns that outbox, inbox and all that holds messages have alike. */
export interface MessageRow {
  readonly id: string
  readonly topic: string
  readonly key: string | null
  /** JSON text. */
  readonly headers: string | null
  /** JSON text as it was published; null if there is a body. */
  readonly payload: string | null
  readonly body: Buffer | null
  readonly content_type: string | null
  readonly published_at: Date | null
  readonly expires_at: Date | null
}

const every: Readonly<Record<keyof MessageRow, true>> = {
  ...{ id: true, topic: true, key: true, headers: true, payload: true, body: true, content_type: true },
  ...{ published_at: true, expires_at: true },
}

/** The same columns for SQL: the compiler refuses a row type with a column that is not among them. */
export const messageColumns = Object.keys(every).join(', ')

/** A failed attempt, as it was written down. */
export interface FailedAttempt {
  readonly attempt: number
  readonly at: string
  readonly worker: number | null
  readonly error: string
  readonly class: string | null
  /** Where it happened: the first frames. */
  readonly stack: string | null
}

/** What an operator did with a message: a row of `audit`. */
export interface AuditRow {
  readonly action: 'redrive' | 'skip' | 'prune' | 'erase'
  readonly at: Date
  /** What they call themselves. */
  readonly who: string
  /** The database's user whose session it was. */
  readonly login: string
  readonly why: string | null
  readonly died_at: Date | null
  readonly attempt: number | null
  readonly reason: string | null
  readonly errors: readonly FailedAttempt[] | null
}
