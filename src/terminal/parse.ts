import { InvalidArgumentError } from 'commander'

/** Arguments as people write them. Commander says which one was wrong. */

export function whole(text: string, min: number, max: number): number {
  const value = Number(text)
  if (/^\d+$/.test(text) && value >= min && value <= max) return value
  throw new InvalidArgumentError(`It must be a whole number from ${min} to ${max}.`)
}

const units: Readonly<Record<string, number>> = { ms: 1, s: 1000, m: 60_000, h: 3_600_000, d: 86_400_000 }

/** Milliseconds of `90s`, `15m`, `2h`, `7d`. */
export function duration(text: string): number {
  const [, amount, unit] = /^(\d{1,7})(ms|s|m|h|d)$/.exec(text) ?? []
  if (amount !== undefined) return Number(amount) * units[unit!]!
  throw new InvalidArgumentError('It must be a whole number with its unit: 90s, 15m, 2h or 7d.')
}
