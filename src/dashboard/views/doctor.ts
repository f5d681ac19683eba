import { examine, type Finding } from '../../doctor/doctor.ts'
import { lookMs } from '../findings.ts'
import { html } from '../html.ts'
import { findingList } from '../parts/findings.ts'
import { time } from '../parts/time.ts'
import type { Shared, View } from '../view.ts'

/** Who loads the page again and again does not have the doctor look again and again. */
const keptMs = 30_000

/** All that `twinbox doctor` says, but of the connections that a configuration would want. */
export const doctor = ({ database, poller }: Shared): View => {
  let latest: { readonly at: Date; readonly until: number; readonly findings: Promise<Finding[]> } | null =
    null
  return {
    path: '/doctor',
    title: 'Doctor',
    nav: 'Doctor',
    async render() {
      if (latest === null || performance.now() > latest.until) {
        latest = { at: poller.now(), until: performance.now() + keptMs, findings: examine(database, lookMs) }
        latest.findings.catch(() => void (latest = null))
      }
      const { at, findings } = latest
      const list = findingList(await findings)
      return html`<p>
          What makes the work fail, slow or unsafe, as <code>npx twinbox doctor</code> says it. Looked
          ${time(at, poller.now())}.
        </p>
        ${list}`
    },
  }
}
