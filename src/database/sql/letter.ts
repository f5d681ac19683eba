import type { ColumnOf, FailedAttempt, MessageRow } from '../../message/row.ts'

/** A row of `dead_letter`; what a statement does not read is left out. */
export interface DeadLetterRow
  extends
    Omit<MessageRow, ColumnOf<'json' | 'bytes'>>,
    Partial<Pick<MessageRow, ColumnOf<'json' | 'bytes'>>> {
  readonly number: number
  readonly died_at: Date
  readonly seq: number
  readonly attempt: number
  readonly consumer: string
  readonly reason: string
  readonly received_at: Date | null
  readonly bytes?: number
  readonly errors?: readonly FailedAttempt[] | null
  readonly holds_key?: boolean
}

/** A letter of a page, if there is one, beside how far the page has looked. */
export type DeadListRow = {
  readonly looked_at: number
  readonly last_seq: number | null
  readonly last_number: number | null
} & (DeadLetterRow | { readonly number: null })

/** What one step has looked at and done, and where the next one goes on. */
export interface DeadStepRow {
  readonly looked_at: number
  readonly chosen: number
  readonly numbers: readonly number[]
  readonly consumer: string
  readonly seq: number
  readonly number: number
}
