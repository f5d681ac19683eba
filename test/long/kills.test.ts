import { describe, expect, test } from 'vitest'
import { keyWindow, killInRun, killInWindow, points } from '../crash/ahead.ts'

/** A claimer is killed at each point of a key's backlog at which it can be, with a window of 100 and with runs of 16. */

const hits = [1, 2, 3, 5, 8, 12]

describe.each(hits)('killed at time %s', (hit) => {
  test.each(points.window)('with a window, %s', async (at) => {
    expect(await killInWindow({ at, hit })).toBeLessThanOrEqual(keyWindow + 20)
  })

  test.each(points.run)('with runs, %s', async (at) => {
    expect(await killInRun({ at, hit })).toEqual([])
  })
})
