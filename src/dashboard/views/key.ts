import { readKeyQueue, type KeyQueue } from '../../operate/queue.ts'
import { searchMessages } from '../../operate/search.ts'
import { html, type Html } from '../html.ts'
import { badge } from '../parts/badge.ts'
import { boxChoice, boxFields, boxName, readBox } from '../parts/box.ts'
import { countWords } from '../parts/change.ts'
import { empty } from '../parts/empty.ts'
import { asking, field, given } from '../parts/field.ts'
import { time } from '../parts/time.ts'
import type { Context, Shared, View } from '../view.ts'
import { messageTable } from './messages.ts'

/** What waits of one key in one box, in the order in which it is handled. */
export const keyView = ({ database }: Shared): View => ({
  path: '/key',
  title: 'Key',
  async render(context) {
    const key = given(context.query, 'key')
    const box = readBox(context.query)
    const ask = asking(
      context,
      '/key',
      [field({ name: 'key', label: 'Key', value: key, required: true }), boxChoice(context)],
      'Show its queue',
    )
    if (key === undefined)
      return html`${ask}
      ${empty('No key was asked for.', 'Messages of one key are handled one at a time, in order.')}`
    if (box !== undefined)
      return html`${ask} ${queue(context, key, box, await readKeyQueue(database, { consumer: box, key }))}`
    const { messages } = await searchMessages(database, { key })
    return html`${ask} ${messageTable(context, 'Messages of this key, in all boxes', messages)}`
  },
})

function queue(
  context: Context,
  key: string,
  consumer: string | null,
  { parked, messages, more }: KeyQueue,
): Html {
  const { link, mayOperate, now } = context
  const fields = { ...boxFields(consumer), key }
  const held =
    parked === null
      ? html`<p>${badge('good', 'goes on')} Nothing holds this key back in ${boxName(consumer)}.</p>`
      : html`<section class="held">
          <p>
            ${badge('warn', 'parked')} since ${time(parked.since, now)},
            ${parked.until === null ? 'until an operator redrives or skips it' : html`goes on ${time(parked.until, now)}`}:
            <span class="error">${parked.reason}</span>
          </p>
          <p>
            ${parked.letter !== null && html`It is held back behind <a href="${link('/dead/list', { numbers: parked.letter })}">dead letter ${parked.letter}</a>. `}
            Behind it ${parked.waiting === 1 ? 'waits' : 'wait'}
            ${countWords({ count: Math.min(parked.waiting, 1000), more: parked.waiting > 1000 }, 'message', 'messages')}.
          </p>
          ${
            mayOperate &&
            html`<p class="actions">
              <a class="button" href="${link('/parked/change', { does: 'redrive', ...fields })}"
                >Redrive this key</a
              >
              <a class="button" href="${link('/parked/change', { does: 'skip', ...fields })}"
                >Skip the message</a
              >
            </p>`
          }
        </section>`
  return html`${held}
  ${messageTable(context, 'What waits of this key, in the order in which it is handled', messages, { ofKey: true })}
  ${more && html`<p class="fine">More wait, or may: these are the first.</p>`}
  ${mayOperate && html`<p class="actions"><a class="button" href="${link('/erase', { key })}">Erase or export this key</a></p>`}`
}
