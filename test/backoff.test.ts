import fc from 'fast-check'
import { expect, test } from 'vitest'
import { backoffMs, verdictOn } from '../src/base/backoff.ts'
import { reconnectMs } from '../src/base/loop.ts'
import { numberOptions } from '../src/base/options.ts'

const rules = { backoffMs, reconnectMs }
const draws = (draw: () => number): number[] => Array.from({ length: 1000 }, draw)
const distinct = (values: readonly number[]): number => new Set(values).size

test.each(Object.entries(rules))('%s spreads a crowd from the first failure on', (_, rule) => {
  for (const failures of [1, 2, 5, 10, 1000]) {
    const waits = draws(() => rule(failures, 500, 300_000))
    expect([failures, distinct(waits) > 900]).toEqual([failures, true])
    // Not all in a corner of what is allowed.
    expect([failures, Math.max(...waits) / Math.min(...waits) > 1.5]).toEqual([failures, true])
  }
})

test.each(Object.entries(rules))('%s never leaves its bounds, whatever they are', (_, rule) => {
  const { backoffMsMin: least, backoffMsMax: most } = numberOptions
  fc.assert(
    fc.property(
      fc.integer({ min: 1, max: 10_000 }),
      fc.integer({ min: least.min, max: least.max }),
      fc.integer({ min: 0, max: most.max - least.max }),
      fc.double({ min: 0, max: 1, noNaN: true }),
      (failures, min, more, chance) => {
        const wait = rule(failures, min, min + more, chance)
        expect(wait).toBeGreaterThanOrEqual(min)
        expect(wait).toBeLessThanOrEqual(min + more)
      },
    ),
  )
})

test('a message waits about twice as long after each attempt, and at most backoffMsMax', () => {
  const means = Array.from({ length: 12 }, (_, n) => {
    const waits = draws(() => backoffMs(n + 1, 500, 300_000))
    return waits.reduce((sum, wait) => sum + wait) / waits.length
  })
  for (let n = 1; n < 9; n++) expect(means[n]! / means[n - 1]!).toBeCloseTo(2, 0)
  // No attempt comes before its time: ten quick ones would make a dead letter of what an hour would have mended.
  expect(Math.min(...draws(() => backoffMs(10, 500, 300_000)))).toBeGreaterThanOrEqual(150_000)
})

test('a failed message waits by that rule, unless its error asks for another pause', () => {
  const policy = { maxAttempts: 10, backoffMsMin: 500, backoffMsMax: 300_000 }
  for (const attempt of [1, 2, 3, 8, 9]) {
    const waits = draws(() => verdictOn(attempt, policy, null)!)
    const [least, most] = [0, 1].map((chance) => backoffMs(attempt, 500, 300_000, chance))
    expect([attempt, Math.min(...waits) >= least!, Math.max(...waits) <= most!]).toEqual([
      attempt,
      true,
      true,
    ])
    expect([attempt, Math.max(...waits) > 0.9 * most!]).toEqual([attempt, true])
  }
  expect(verdictOn(1, policy, 7)).toBe(7)
  expect([verdictOn(10, policy, 7), verdictOn(10, policy, null), verdictOn(1, policy, 'dead')]).toEqual([
    null,
    null,
    null,
  ])
})

test('a reconnect may come early whatever has failed before, so that somebody finds out', () => {
  expect(reconnectMs(30, 50, 2000, 0)).toBe(50)
  expect(reconnectMs(30, 50, 2000, 1)).toBe(2000)
  expect(reconnectMs(1, 50, 2000, 1)).toBe(100)
})
