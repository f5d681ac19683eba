/**
 * How long a failed message waits for its next attempt, in milliseconds: from `min` on it doubles with each attempt, up
 * to `max`.
 *
 * Nobody knows how many have failed for the same reason. If they all came back at one moment, whatever they need would
 * go down again: so each waits for the time of its attempt, and up to as long again by chance. Near `max` the chance
 * takes from the time instead. `attempt` counts from 1; `chance` is from 0 to 1.
 */
export function backoffMs(attempt: number, min: number, max: number, chance = Math.random()): number {
  const longest = Math.min(max, min * 2 ** Math.min(attempt, 52))
  const shortest = Math.max(min, longest / 2)
  return shortest + chance * (longest - shortest)
}

/** When a failed message is tried again. */
export interface RetryPolicy {
  readonly maxAttempts: number
  readonly backoffMsMin: number
  readonly backoffMsMax: number
}

/**
 * What becomes of a message whose attempt of this number, from 1 on, has failed: in how many milliseconds it is tried again,
 * or null if it is dead. `asked` is what its error asks for: `dead`, or a pause in milliseconds, which the last attempt does
 * not get.
 */
export function verdictOn(
  attempt: number,
  policy: RetryPolicy,
  asked: 'dead' | number | null,
): number | null {
  if (asked === 'dead' || attempt >= policy.maxAttempts) return null
  return asked ?? backoffMs(attempt, policy.backoffMsMin, policy.backoffMsMax)
}
