import type { Claim } from './claim.ts'
import type { ResolvedHandler } from './handlers.ts'
import type { InFlight } from './in-flight.ts'

/**
 * A message that `next` gave, and what is handled with it in one call or one transaction. A batch takes all that it can get. The
 * messages of a run wait for each other, so it leaves each of the places that are free its part.
 */
export function together(
  inFlight: InFlight,
  claim: Claim,
  handler: ResolvedHandler | undefined,
  places: number,
  isAlone: (claim: Claim) => boolean,
): readonly Claim[] {
  if (handler === undefined || handler.together === 1 || isAlone(claim)) return [claim]
  const part = handler.batch ? Infinity : Math.ceil((inFlight.ready + 1) / places)
  return [claim, ...inFlight.more(claim, handler.together - 1, (other) => !isAlone(other), part - 1)]
}
