import { expect, test } from 'vitest'
import { killInRun, killInWindow } from './ahead.ts'

/** A few of what `test/long/kills.test.ts` kills at each point. */

test('a crash repeats what was handled and not completed of a key, in order, and nothing else', async () => {
  expect(await killInWindow({ at: 'before completion.complete', hit: 3 })).toBeGreaterThan(0)
})

test('a crash in the middle of a run leaves nothing of it behind, and repeats all of it', async () => {
  expect(await killInRun({ at: 'claimer.before_handle', hit: 21 })).toEqual([])
})
