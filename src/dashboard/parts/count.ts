import type { Count } from '../../status/status.ts'

const grouped = new Intl.NumberFormat('en')

/** `12,345`; `100,000+` where counting has ended before the end. */
export const count = ({ count: found, more }: Count): string => `${grouped.format(found)}${more ? '+' : ''}`

export const number = (value: number): string => grouped.format(value)

/** Messages a second; a dash where nobody knows. */
export const rate = (value: number | null): string =>
  value === null ? '–' : `${value >= 10 ? grouped.format(Math.round(value)) : value.toFixed(1)}/s`
