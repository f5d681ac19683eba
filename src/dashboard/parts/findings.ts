import type { Finding } from '../../doctor/finding.ts'
import { badge, type Tone } from './badge.ts'
import { html, type Html } from '../html.ts'

const badges: Readonly<Record<Finding['level'], readonly [Tone, string]>> = {
  wrong: ['bad', 'wrong'],
  note: ['warn', 'note'],
  ok: ['good', 'fine'],
}

/** What the doctor has found, the worst first, each with what to do. */
export const findingList = (findings: readonly Finding[]): Html =>
  html`<ul class="findings">
    ${(['wrong', 'note', 'ok'] as const).flatMap((level) =>
      findings
        .filter((finding) => finding.level === level)
        .map(
          ({ check, found, advice }) =>
            html`<li class="${badges[level][0]}">
              ${badge(...badges[level])} <strong>${check}</strong> ${found}
              ${advice !== null && html`<span class="advice">What to do: ${advice}</span>`}
            </li>`,
        ),
    )}
  </ul>`
