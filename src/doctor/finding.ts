import { printableLine } from '../base/printable.ts'

/** One thing that was looked at, and what is to be said of it. */
export interface Finding {
  /** What was looked at: `schema`, `grants`, `vacuum`, … */
  readonly check: string
  /** `wrong` needs somebody; `note` is worth knowing; `ok` is as it should be. */
  readonly level: 'ok' | 'note' | 'wrong'
  /** What was found. */
  readonly found: string
  /** What to do about it; null if there is nothing to do. */
  readonly advice: string | null
}

const finding = (check: string, level: Finding['level'], found: string, advice: string | null): Finding => ({
  check,
  level,
  // Names of roles, sessions and transactions are what somebody has chosen.
  found: printableLine(found),
  advice: advice === null ? null : printableLine(advice),
})

export const fine = (check: string, found: string): Finding => finding(check, 'ok', found, null)
export const note = (check: string, found: string, advice: string): Finding =>
  finding(check, 'note', found, advice)
export const wrong = (check: string, found: string, advice: string): Finding =>
  finding(check, 'wrong', found, advice)

/** A name as SQL that is to be pasted has it: whoever may choose one must not choose what is pasted. */
export const literal = (text: string): string => `'${text.replaceAll("'", "''")}'`
export const identifier = (name: string): string =>
  /^[a-z_][a-z0-9_]*$/.test(name) ? name : `"${name.replaceAll('"', '""')}"`

/** What was found, or that all is well. */
export const orFine = (findings: readonly Finding[], check: string, found: string): readonly Finding[] =>
  findings.length > 0 ? findings : [fine(check, found)]
