import { OptionError } from '../../base/errors.ts'
import { fragment } from '../fragment.ts'
import { html, none, type Html } from '../html.ts'
import type { Job, Jobs } from '../jobs.ts'
import { badge, type Tone } from '../parts/badge.ts'
import { number } from '../parts/count.ts'
import { empty } from '../parts/empty.ts'
import { table } from '../parts/table.ts'
import { duration, time } from '../parts/time.ts'
import type { Action, Context, View } from '../view.ts'

const tones: Readonly<Record<Job['state'], Tone>> = {
  ...{ running: 'note', stopping: 'warn', done: 'good', stopped: 'warn', failed: 'bad' },
}
const stateOf = ({ state }: Job): Html => badge(tones[state], state)

/** All jobs of this process, and each by itself. */
export const jobViews = (jobs: Jobs): readonly View[] => [
  {
    path: '/jobs',
    title: 'Jobs',
    nav: 'Jobs',
    live: (context) => ({ jobs: list(jobs, context) }),
    render: (context) => Promise.resolve(fragment('jobs', list(jobs, context))),
  },
  {
    path: '/job',
    title: 'Job',
    live: (context) => ({ job: one(jobs, context) }),
    render: (context) => Promise.resolve(fragment('job', one(jobs, context))),
  },
]

const list = (jobs: Jobs, context: Context): Html =>
  table(
    'Jobs of this process, the latest first',
    [
      {
        head: 'What',
        cell: (job) => html`<a href="${context.link('/job', { id: job.id })}">${job.title}</a>`,
      },
      { head: 'State', cell: stateOf },
      { head: 'Done', number: true, cell: doneOf },
      { head: 'By', cell: ({ by }) => by },
      { head: 'Why', cell: ({ reason }) => reason ?? '' },
      { head: 'Started', cell: ({ startedAt }) => time(startedAt, context.now) },
    ],
    jobs.all,
    empty(
      'No job has been started in this process.',
      'Redrives, skips and erasures become jobs: they go on when the page is closed, and end with this process.',
    ),
  )

const doneOf = ({ done, expected }: Job): string =>
  expected === null ? number(done) : `${number(done)} of ${number(expected)}`

function one(jobs: Jobs, context: Context): Html {
  const job = jobs.find(context.query.get('id'))
  if (job === null)
    return empty(
      'There is no such job in this process.',
      html`It may have run in another process, or before a restart: what it did stands in the
        <a href="${context.link('/audit')}">audit</a>.`,
    )
  const { id, title, by, reason, startedAt, endedAt, done, expected, said } = job
  const forMs = (endedAt ?? context.now).getTime() - startedAt.getTime()
  const perSecond = forMs < 1000 ? null : done / (forMs / 1000)
  const leftMs =
    endedAt === null && expected !== null && perSecond !== null && perSecond > 0
      ? (Math.max(0, expected - done) / perSecond) * 1000
      : null
  return html`<section class="job">
    <h2>${title}</h2>
    <p>${stateOf(job)} ${said !== null && said !== '' ? said : none}</p>
    ${
      endedAt === null && expected !== null && expected > 0
        ? html`<progress max="${expected}" value="${Math.min(done, expected)}" aria-label="${title}">
            ${doneOf(job)}
          </progress>`
        : none
    }
    <dl>
      <dt>Done</dt>
      <dd>${doneOf(job)}${perSecond === null ? none : html`, ${number(Math.round(perSecond))} a second`}</dd>
      ${
        leftMs === null
          ? none
          : html`<dt>Left</dt>
              <dd>about ${duration(leftMs)}</dd>`
      }
      <dt>Started</dt>
      <dd>${time(startedAt, context.now)} by ${by}${reason === null ? none : html`: ${reason}`}</dd>
      ${
        endedAt === null
          ? none
          : html`<dt>Ended</dt>
              <dd>${time(endedAt, context.now)}, after ${duration(forMs)}</dd>`
      }
    </dl>
    ${
      job.state === 'running'
        ? context.form('/job/stop', { id }, html`<button class="danger">Stop after this batch</button>`)
        : none
    }
    ${
      endedAt === null
        ? html`<p>
            It goes on when this page is closed. <a href="${context.link('/job', { id })}">Look again</a>.
          </p>`
        : none
    }
  </section>`
}

export const jobActions = (jobs: Jobs): readonly Action[] => [
  {
    path: '/job/stop',
    run(form) {
      const id = form.get('id') ?? ''
      if (!jobs.stop(id)) throw new OptionError('id', 'This job does not run any more.')
      return Promise.resolve({
        to: '/job',
        query: { id },
        said: { tone: 'note', text: 'The job ends after the batch that it is at; what is done stays done.' },
      })
    },
  },
]
