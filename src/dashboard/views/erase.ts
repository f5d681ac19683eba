import { eraseMessages, summary } from '../../operate/erase.ts'
import { exportMessages } from '../../operate/export-messages.ts'
import type { Target } from '../../operate/target.ts'
import { exportOf } from '../content.ts'
import { html } from '../html.ts'
import type { Jobs } from '../jobs.ts'
import { boxChoice, boxFields, boxName, readBox } from '../parts/box.ts'
import { changeForm, readChange } from '../parts/change.ts'
import { empty } from '../parts/empty.ts'
import { asking, field, given } from '../parts/field.ts'
import type { Action, Shared, View } from '../view.ts'

const readTarget = (query: URLSearchParams): Target => ({
  ...{ key: given(query, 'key'), id: given(query, 'id'), dedupeKey: given(query, 'dedupe') },
  ...{ topic: given(query, 'topic'), consumer: readBox(query) },
})

const targetFields = ({ key, id, dedupeKey, topic, consumer }: Target) => ({
  ...{ key, id, dedupe: dedupeKey, topic },
  ...boxFields(consumer),
})

const targetWords = ({ key, id, dedupeKey, topic, consumer }: Target): string =>
  [
    key !== undefined
      ? `the key "${key}"`
      : id !== undefined
        ? `the message ${id}`
        : `the dedupe key "${dedupeKey}"`,
    ...(topic === undefined ? [] : [`of the topic ${topic}`]),
    ...(consumer === undefined ? [] : [`in ${boxName(consumer)}`]),
  ].join(', ')

/** What is stored of a key or of a message: how many rows, before they are erased or exported. */
export const eraseView = ({ database }: Shared): View => ({
  path: '/erase',
  title: 'Erase or export',
  async render(context) {
    const target = readTarget(context.query)
    const ask = asking(
      context,
      '/erase',
      [
        field({ name: 'key', label: 'Key', value: target.key }),
        field({ name: 'id', label: 'or id', value: target.id }),
        field({ name: 'dedupe', label: 'or dedupe key', value: target.dedupeKey }),
        field({ name: 'topic', label: 'Only of the topic', value: target.topic }),
        boxChoice(context),
      ],
      'Count what is stored',
    )
    if (target.key === undefined && target.id === undefined && target.dedupeKey === undefined)
      return html`${ask}
      ${empty('Nothing was asked for.', 'All that the tables hold of a key or of a message can be erased, and who did it and why is kept.')}`
    const { rows, schedules, remembered } = await eraseMessages(database, target, { dryRun: true })
    const told = summary(rows)
    const isNothing = Object.values(rows).every((count) => count === 0)
    const fields = targetFields(target)
    return html`${ask}
      <p><strong>Stored of ${targetWords(target)}</strong>: ${told}.</p>
      <p>
        Not erased: copies at the broker, in backups and in the WAL;
        ${schedules.length > 0 && `the schedules ${schedules.map((name) => `"${name}"`).join(', ')}, which have this key; `}
        ${remembered} remembered ids, so that a redelivery is not handled.
      </p>
      ${
        !isNothing &&
        html`${context.form('/export', fields, html`<button>Export them</button>`)}
        ${changeForm(context, {
          ...{
            action: '/erase',
            fields,
            found: { count: Object.values(rows).reduce((sum, count) => sum + count, 0), more: false },
          },
          ...{ button: 'Erase', loses: `This erases: ${told}.`, hasRate: false },
        })}`
      }`
  },
})

export const eraseActions = ({ database }: Shared, jobs: Jobs): readonly Action[] => [
  {
    path: '/erase',
    run(form, context) {
      const target = readTarget(form)
      const { by, reason, expected } = readChange(form, context, true)
      const job = jobs.start(
        { title: `Erase ${targetWords(target)}`, by, reason, expected },
        async ({ signal, onProgress }) => {
          const { rows, sending } = await eraseMessages(database, target, { by, reason, signal })
          onProgress(Object.values(rows).reduce((sum, count) => sum + count, 0))
          return `Erased: ${summary(rows)}.${
            sending > 0
              ? ` A relay has held ${sending} of them, and may have been sending them: erase again when nothing is on its way.`
              : ''
          }`
        },
      )
      return Promise.resolve({ to: '/job', query: { id: job.id } })
    },
  },
  {
    path: '/export',
    run: (form, context) =>
      Promise.resolve(exportOf(context, 'messages', exportMessages(database, readTarget(form)))),
  },
]
