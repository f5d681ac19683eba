import { readParkedKeys, redriveParkedKeys, skipParkedKeys, type ParkedKey } from '../../operate/parked.ts'
import { html } from '../html.ts'
import type { Jobs } from '../jobs.ts'
import { keyFields, keyWords, readDoes, readKeyFilter } from '../letters.ts'
import { boxChoice, boxFields, boxName, keyLink } from '../parts/box.ts'
import { number } from '../parts/count.ts'
import { changeForm, counted, countWords, readChange } from '../parts/change.ts'
import { empty } from '../parts/empty.ts'
import { asking, field } from '../parts/field.ts'
import { table } from '../parts/table.ts'
import { time } from '../parts/time.ts'
import type { Action, Context, Shared, View } from '../view.ts'

const runs = { redrive: redriveParkedKeys, skip: skipParkedKeys }
const words = {
  redrive: ['Redrive', 'Let go on'],
  skip: ['Skip', 'Let go on without their message'],
} as const

/** Keys that are held back behind a message that failed; and how many a change is about, before it is made. */
export const parkedViews = ({ database }: Shared): readonly View[] => [
  {
    path: '/parked',
    title: 'Parked keys',
    nav: 'Parked keys',
    async render(context) {
      const { query, link, mayOperate } = context
      const filter = readKeyFilter(query)
      const after = query.get('after') ?? undefined
      const { keys, next } = await readParkedKeys(database, filter, { after })
      const fields = keyFields(filter)
      return html`${asking(
        context,
        '/parked',
        [
          boxChoice(context),
          field({ name: 'key', label: 'Key', value: filter.key }),
          field({ name: 'error', label: 'Reason contains', value: filter.error }),
        ],
        'Show',
      )}
      ${
        mayOperate &&
        keys.length > 0 &&
        html`<p class="actions">
          <a class="button" href="${link('/parked/change', { does: 'redrive', ...fields })}"
            >Redrive all that match</a
          >
          <a class="button" href="${link('/parked/change', { does: 'skip', ...fields })}"
            >Skip all that match</a
          >
        </p>`
      }
      ${table(
        'Keys that are held back, by box and lane',
        columns(context),
        keys,
        empty(
          'No key is parked.',
          'When a message with a key fails, later ones of its key wait behind it, in order, and other keys go on.',
        ),
      )}
      ${next !== null && html`<p class="pages"><a rel="next" href="${link('/parked', { ...fields, after: next })}">Further ones</a></p>`}`
    },
  },
  {
    path: '/parked/change',
    title: 'Redrive or skip parked keys',
    async render(context) {
      const does = readDoes(context.query)
      const filter = readKeyFilter(context.query)
      const found = await counted((signal) => runs[does](database, filter, { dryRun: true, signal }))
      if (found.count === 0 && !found.more)
        return empty(
          'No such key waits for an operator.',
          'It may have gone on meanwhile, or goes on by itself at its time.',
        )
      const told = countWords(found, 'key', 'keys')
      return html`<p><strong>${told}</strong>: ${keyWords(filter)}.</p>
        <p>
          ${
            does === 'redrive'
              ? 'Each goes on with the message that it is held back behind, as one that has not been attempted yet, and all of the key follows in order.'
              : 'Each goes on without the message that it is held back behind: that one is or becomes a dead letter, and can still be redriven.'
          }
          ${filter.key === undefined && 'Keys that go on by themselves are left alone.'}
        </p>
        ${changeForm(context, {
          ...{ action: '/parked/change', fields: { does, ...keyFields(filter) }, found, hasRate: true },
          button: `${words[does][0]} ${told}`,
        })}`
    },
  },
]

const columns = (context: Context) => [
  { head: 'Key', cell: ({ consumer, key }: ParkedKey) => keyLink(context, consumer, key) },
  { head: 'Box', cell: ({ consumer }: ParkedKey) => boxName(consumer) },
  { head: 'Since', cell: ({ since }: ParkedKey) => time(since, context.now) },
  { head: 'Goes on', cell: ({ until }: ParkedKey) => time(until, context.now, 'when an operator says so') },
  {
    head: 'Waiting',
    number: true,
    cell: ({ waiting }: ParkedKey) => (waiting > 1000 ? '1,000+' : number(waiting)),
  },
  {
    head: 'Reason',
    cell: ({ reason }: ParkedKey) => html`<span class="error">${reason.slice(0, 300)}</span>`,
  },
  {
    head: 'Act',
    cell: ({ consumer, key }: ParkedKey) => {
      const fields = { ...boxFields(consumer), key }
      return html`<span class="actions">
        <a href="${context.link('/key', fields)}">Queue</a>
        ${
          context.mayOperate &&
          html`<a href="${context.link('/parked/change', { does: 'redrive', ...fields })}">Redrive</a>
            <a href="${context.link('/parked/change', { does: 'skip', ...fields })}">Skip</a>`
        }
      </span>`
    },
  },
]

export const parkedActions = ({ database }: Shared, jobs: Jobs): readonly Action[] => [
  {
    path: '/parked/change',
    run(form, context) {
      const does = readDoes(form)
      const filter = readKeyFilter(form)
      const { by, reason, perSecond, expected } = readChange(form, context, false)
      const [verb, done] = words[does]
      const job = jobs.start(
        { title: `${verb} parked keys: ${keyWords(filter)}`, by, reason, expected },
        async (watch) =>
          `${done}: ${number(await runs[does](database, filter, { by, reason, perSecond, ...watch }))}.`,
      )
      return Promise.resolve({ to: '/job', query: { id: job.id } })
    },
  },
]
