import type { ClaimerContext } from './context.ts'

type Parts = Pick<ClaimerContext, 'inFlight' | 'lanes' | 'lose' | 'reread'>

/** What became of claims is not known: with all that follows them in their keys, they are read anew from where they stand. */
export const rereader =
  ({ inFlight, lanes, lose }: Omit<Parts, 'reread'>): Parts['reread'] =>
  (claims) => {
    const given = new Set(claims)
    for (const claim of claims) {
      const dropped = inFlight.from(claim)
      // Begun since what is before them had been handled: that may be handled again now, and they after it.
      const begun = dropped.filter(({ state }) => state === 'handling' || state === 'handled')
      lose(
        begun.filter((each) => !given.has(each)),
        'What was handled before it in its key could not be completed.',
      )
      for (const each of dropped) {
        inFlight.remove(each)
        lanes.held.get(each.lane)?.watermark.lower(each.seq)
      }
    }
  }
