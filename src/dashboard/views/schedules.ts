import { ms } from '../../base/times.ts'
import { createSchedules, type Schedule } from '../../operate/schedules.ts'
import { html, none, type Html } from '../html.ts'
import { badge } from '../parts/badge.ts'
import { empty } from '../parts/empty.ts'
import { asking, field } from '../parts/field.ts'
import { table } from '../parts/table.ts'
import { time } from '../parts/time.ts'
import type { Context, Shared, View } from '../view.ts'

/** More are found by their names. */
const shownMax = 200
/** Relays look every second or so. */
const lateMs = 60_000

/** Recurring messages: when each comes next, and whether anybody publishes it. */
export const schedules = ({ database }: Shared): View => ({
  path: '/schedules',
  title: 'Schedules',
  nav: 'Schedules',
  async render(context) {
    const { query, poll, now } = context
    const wanted = query.get('name') ?? ''
    const found = (await createSchedules({ database }).list()).filter(({ name }) => name.includes(wanted))
    const relays = poll?.workers.filter(({ kind, alive }) => kind === 'relay' && alive).length ?? 0
    return html`${asking(context, '/schedules', [field({ name: 'name', label: 'Name contains', value: wanted })], 'Show')}
    ${
      found.length > 0 &&
      poll !== null &&
      relays === 0 &&
      html`<p>
        ${badge('bad', 'No relay lives')} Relays publish schedules: nothing comes until one is started.
      </p>`
    }
    ${list(found.slice(0, shownMax), context, now)}
    ${
      found.length > shownMax &&
      html`<p class="fine">${found.length - shownMax} more are not shown: give a part of their names.</p>`
    }`
  },
})

const list = (found: readonly Schedule[], context: Context, now: Date): Html =>
  table<Schedule>(
    'Recurring messages',
    [
      { head: 'Name', cell: ({ name }) => name },
      { head: 'State', cell: (schedule) => stateOf(schedule, now) },
      { head: 'When', cell: ({ cron, timeZone }) => html`<code>${cron}</code> ${timeZone}` },
      { head: 'Next', cell: ({ nextAt, pausedAt }) => time(pausedAt === null ? nextAt : null, now, '–') },
      { head: 'Last', cell: ({ lastAt }) => time(lastAt, now) },
      { head: 'Topic', cell: ({ topic }) => topic },
      { head: 'Key', cell: ({ key }) => key ?? '–' },
      { head: 'Missed', cell: ({ catchUp }) => catchUps[catchUp] },
      ...(context.mayOperate ? [{ head: 'Act', cell: (schedule: Schedule) => act(schedule, context) }] : []),
    ],
    found,
    empty(
      'There is no such schedule.',
      html`A schedule publishes a message again and again:
        <code>twinbox schedules add daily-report '0 6 * * 1-5' --topic report.due</code>`,
    ),
  )

const catchUps = { one: 'one for all', skip: 'skipped', all: 'one each' } as const

function stateOf({ pausedAt, nextAt }: Schedule, now: Date): Html {
  if (pausedAt !== null) return html`${badge('warn', 'paused')} ${time(pausedAt, now)}`
  if (nextAt === null) return badge('note', 'over')
  const forMs = now.getTime() - nextAt.getTime()
  return forMs > lateMs ? badge('bad', `late by ${ms(forMs)}`) : badge('good', 'runs')
}

function act({ name, pausedAt, nextAt }: Schedule, { link }: Context): Html {
  if (pausedAt === null && nextAt === null) return none
  const [does, verb] = pausedAt === null ? (['pause', 'Pause'] as const) : (['resume', 'Resume'] as const)
  return html`<a href="${link('/schedules/change', { name, does })}" aria-label="${verb} ${name}"
    >${verb}…</a
  >`
}
