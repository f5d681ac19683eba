/** Milliseconds as people read them: `85 ms`, `1.2 s`, `3 min`. */
export function ms(value: number): string {
  if (value < 1000) return `${Math.round(value)} ms`
  if (value < 60_000) return `${(value / 1000).toFixed(1)} s`
  if (value < 5_400_000) return `${Math.round(value / 60_000)} min`
  return value < 172_800_000 ? `${Math.round(value / 3_600_000)} h` : `${Math.round(value / 86_400_000)} d`
}

const nearMs = 20 * 3_600_000

/** The time of day in UTC, `12:03`; with the day if it is more than twenty hours from `now`. */
export function clock(at: Date, now: Date): string {
  const text = at.toISOString()
  const isNear = Math.abs(now.getTime() - at.getTime()) < nearMs
  // A year of more than four digits has a sign before it.
  const minute = text.indexOf('T') + 6
  return isNear ? text.slice(minute - 5, minute) : text.slice(0, minute).replace('T', ' ')
}
