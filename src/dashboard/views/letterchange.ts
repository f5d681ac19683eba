import { redriveDeadLetters, skipDeadLetters } from '../../operate/dead.ts'
import { exportDeadLetters } from '../../operate/export.ts'
import { exportOf } from '../content.ts'
import { html } from '../html.ts'
import type { Jobs } from '../jobs.ts'
import { letterFields, letterWords, readDoes, readLetterFilter } from '../letters.ts'
import { number } from '../parts/count.ts'
import { changeForm, counted, countWords, readChange } from '../parts/change.ts'
import { empty } from '../parts/empty.ts'
import type { Action, Shared, View } from '../view.ts'

const runs = { redrive: redriveDeadLetters, skip: skipDeadLetters }
const words = { redrive: ['Redrive', 'Redriven'], skip: ['Skip', 'Skipped'] } as const

/** How many a change is about, before it is made. */
export const letterChangeView = ({ database }: Shared): View => ({
  path: '/dead/change',
  title: 'Redrive or skip dead letters',
  async render(context) {
    const does = readDoes(context.query)
    const filter = readLetterFilter(context.query)
    const found = await counted(
      async (signal) => (await runs[does](database, filter, { dryRun: true, signal })).count,
    )
    if (found.count === 0 && !found.more)
      return empty(
        'No dead letter matches.',
        'They may have been redriven or skipped meanwhile: see the audit.',
      )
    const told = countWords(found, 'dead letter', 'dead letters')
    const fields = letterFields(filter)
    return html`<p><strong>${told}</strong>: ${letterWords(filter)}.</p>
      <p>
        ${
          does === 'redrive'
            ? 'They are put back in the order in which they arrived, as messages that have not been attempted yet. Of a key, they go before all that waits.'
            : 'They are deleted, and keys that are held back behind them go on. The audit keeps who, why and their errors, and no payload: export them first.'
        }
        Those that die meanwhile are left alone.
      </p>
      ${changeForm(context, {
        ...{ action: '/dead/change', fields: { does, ...fields }, found, hasRate: true },
        button: `${words[does][0]} ${told}`,
        loses: does === 'skip' ? `This deletes ${told}.` : undefined,
      })}
      ${context.form('/dead/export', fields, html`<button>Export ${told}</button>`)}`
  },
})

export const letterActions = ({ database }: Shared, jobs: Jobs): readonly Action[] => [
  {
    path: '/dead/change',
    run(form, context) {
      const does = readDoes(form)
      const filter = readLetterFilter(form)
      const { by, reason, perSecond, expected } = readChange(form, context, does === 'skip')
      const [verb, done] = words[does]
      const job = jobs.start(
        { title: `${verb} dead letters: ${letterWords(filter)}`, by, reason, expected },
        async (watch) => {
          const { count, unknown } = await runs[does](database, filter, { by, reason, perSecond, ...watch })
          return `${done}: ${number(count)}.${unknown.length > 0 ? ` Not there any more: ${unknown.length}.` : ''}`
        },
      )
      return Promise.resolve({ to: '/job', query: { id: job.id } })
    },
  },
  {
    path: '/dead/export',
    run: (form, context) =>
      Promise.resolve(exportOf(context, 'dead-letters', exportDeadLetters(database, readLetterFilter(form)))),
  },
]
