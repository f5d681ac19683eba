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

export const fine = (check: string, found: string): Finding => ({ check, level: 'ok', found, advice: null })
export const note = (check: string, found: string, advice: string): Finding => ({
  check,
  level: 'note',
  found,
  advice,
})
export const wrong = (check: string, found: string, advice: string): Finding => ({
  check,
  level: 'wrong',
  found,
  advice,
})

/** What was found, or that all is well. */
export const orFine = (findings: readonly Finding[], check: string, found: string): readonly Finding[] =>
  findings.length > 0 ? findings : [fine(check, found)]
