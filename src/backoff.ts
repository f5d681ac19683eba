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
