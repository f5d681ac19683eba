import { OptionError } from '../../base/errors.ts'
import { afterEviction, evictWorkers, readWorkers, tellEviction } from '../../operate/workers.ts'
import { html } from '../html.ts'
import { changeOne, readReason } from '../parts/change.ts'
import { empty } from '../parts/empty.ts'
import { time } from '../parts/time.ts'
import type { Action, Context, Shared, View } from '../view.ts'
import { stateOf } from './workers.ts'

/** Asks before a worker is evicted, and says what that does. */
export const evictPage = ({ database }: Shared): View => ({
  path: '/workers/evict',
  title: 'Evict a worker',
  async render(context) {
    const { link, now } = context
    const id = idOf(context.query)
    const back = html`<a href="${link('/workers')}">See the workers</a>`
    const worker = (await readWorkers(database)).find((each) => each.id === id)
    if (worker === undefined || worker.endedAt !== null)
      return empty(`There is no living worker ${id}.`, html`It has ended, or never was. ${back}.`)
    const { kind, consumer, host, pid, lanes, lanesSince, inFlight } = worker
    return html`<dl>
        <dt>Worker</dt>
        <dd>${id}, ${kind}${consumer !== null && ` of ${consumer}`}</dd>
        <dt>State</dt>
        <dd>${stateOf(worker)}</dd>
        <dt>Runs on</dt>
        <dd>${host}, process ${pid}</dd>
        <dt>Holds</dt>
        <dd>
          ${lanes.length} lanes, the first of them since ${time(lanesSince, now, '–')}; ${inFlight} in flight
        </dd>
      </dl>
      <p>
        Its work is taken away from it, whether it lives or not. ${afterEviction} Handlers’ effects outside of
        their transactions may be repeated. To end a worker for good, stop its process.
      </p>
      ${changeOne(context, {
        ...{ action: '/workers/evict', fields: { id }, button: `Evict worker ${id}` },
        ...{ does: 'danger', back },
      })}`
  },
})

export const evict = ({ database, schema }: Shared): Action => ({
  path: '/workers/evict',
  async run(form, { viewer }) {
    const by = { by: viewer.name, reason: readReason(form) }
    const { done, follows, not } = tellEviction(await evictWorkers(database, [idOf(form)], by), schema)
    const text = [...done, ...(follows === null ? [] : [follows]), ...not].join(' ')
    return { to: '/workers', said: { tone: done.length > 0 ? 'good' : 'bad', text } }
  },
})

function idOf(fields: Context['query']): number {
  const given = fields.get('id') ?? ''
  if (!/^[1-9]\d{0,9}$/.test(given)) throw new OptionError('id', 'id must be the number of a worker.')
  return Number(given)
}
