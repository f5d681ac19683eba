import { afterEach, expect } from 'vitest'
import type { TwinboxError } from '../../src/base/errors.ts'
import { layTripwire } from '../../src/base/state.ts'

/**
 * In every test an impossible move throws. Loops and runs of handlers survive what they meet, so the test file fails by
 * itself as well.
 */
const tripped: TwinboxError[] = []
const trip = (defect: TwinboxError): never => {
  tripped.push(defect)
  throw defect
}

layTripwire(trip)

afterEach(() => {
  const [defect] = tripped.splice(0)
  if (defect !== undefined) throw defect
})

/** The impossible move that the test has asked for, and no defect. */
export function tripping(work: () => unknown): TwinboxError {
  expect(work).toThrow(expect.objectContaining({ code: 'IMPOSSIBLE_MOVE' }))
  return tripped.pop()!
}

/** The same for a move that was asked for elsewhere, and whose error has been met there. */
export const takeTripped = (): TwinboxError | undefined => tripped.pop()

/** Lifts the tripwire: an impossible move does what it does in production. Call what this returns in the end. */
export function asInProduction(): () => void {
  layTripwire(null)
  return () => layTripwire(trip)
}
