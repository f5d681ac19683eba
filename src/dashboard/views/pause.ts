import { OptionError } from '../../base/errors.ts'
import { createSchedules } from '../../operate/schedules.ts'
import { html } from '../html.ts'
import { changeOne, readReason } from '../parts/change.ts'
import { empty } from '../parts/empty.ts'
import type { Action, Shared, View } from '../view.ts'

const words = {
  pause: [
    'Pause',
    'Nothing of it is published until it is resumed, and what it was paused for is not caught up.',
  ],
  resume: ['Resume', 'It goes on with the first tick from now on.'],
} as const
const said = {
  pause: 'publishes no more, until it is resumed.',
  resume: 'goes on with the first tick from now on.',
} as const

/** Asks why, before a schedule is paused or resumed. */
export const pausePage = ({ database }: Shared): View => ({
  path: '/schedules/change',
  title: 'Pause or resume a schedule',
  async render(context) {
    const { query, link } = context
    const does = readDoes(query)
    const name = query.get('name') ?? ''
    const back = html`<a href="${link('/schedules')}">See the schedules</a>`
    const found = (await createSchedules({ database }).list()).find((each) => each.name === name)
    if (found === undefined || (found.pausedAt === null) === (does === 'resume'))
      return empty(`There is no schedule ${name} to ${does}.`, html`${back}.`)
    const { cron, timeZone, topic } = found
    const [verb, follows] = words[does]
    return html`<dl>
        <dt>Schedule</dt>
        <dd>${name}</dd>
        <dt>When</dt>
        <dd><code>${cron}</code> ${timeZone}</dd>
        <dt>Topic</dt>
        <dd>${topic}</dd>
      </dl>
      <p>${follows}</p>
      ${changeOne(context, {
        ...{ action: `/schedules/${does}`, fields: { name }, button: `${verb} ${name}` },
        ...{ does: 'go', back },
      })}`
  },
})

export const pauseActions = ({ database }: Shared): readonly Action[] => {
  const all = createSchedules({ database })
  return (['pause', 'resume'] as const).map((does) => ({
    path: `/schedules/${does}`,
    async run(form, { viewer }) {
      const name = form.get('name') ?? ''
      const done = await all[does](name, { by: viewer.name, reason: readReason(form) })
      const text = done ? `${name} ${said[does]}` : `There is no schedule ${name} to ${does}.`
      return { to: '/schedules', said: { tone: done ? 'good' : 'bad', text } }
    },
  }))
}

/** @throws OptionError */
function readDoes(query: URLSearchParams): 'pause' | 'resume' {
  const does = query.get('does')
  if (does === 'pause' || does === 'resume') return does
  throw new OptionError('does', 'It can be paused or resumed.')
}
