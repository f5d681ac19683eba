import { ms } from '../../base/times.ts'
import { html, type Html } from '../html.ts'

/**
 * A time as people read it, `3 min ago`, and exactly. The server knows no time zone of a viewer's: it says UTC, and the script puts the
 * viewer's own into the title. `now` is that of the database.
 */
export function time(at: Date | null, now: Date, missing = 'never'): Html {
  if (at === null) return html`<span class="missing">${missing}</span>`
  const forMs = now.getTime() - at.getTime()
  const words = forMs >= 0 ? `${ms(forMs)} ago` : `in ${ms(-forMs)}`
  const exact = at.toISOString()
  return html`<time datetime="${exact}" title="${exact.slice(0, 19).replace('T', ' ')} UTC">${words}</time>`
}

/** How long something is or has lasted; a dash for nothing. */
export const duration = (forMs: number | null): Html =>
  forMs === null
    ? html`<span class="missing">–</span>`
    : html`<span title="${Math.round(forMs)} ms">${ms(forMs)}</span>`
