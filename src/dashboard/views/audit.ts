import { readAudit, type AuditEntry } from '../../operate/audit.ts'
import { html } from '../html.ts'
import { badge } from '../parts/badge.ts'
import { boxChoice, boxName, keyLink, messageLink, readBox } from '../parts/box.ts'
import { empty } from '../parts/empty.ts'
import { asking, field, given } from '../parts/field.ts'
import { table } from '../parts/table.ts'
import { time } from '../parts/time.ts'
import type { Context, Shared, View } from '../view.ts'

const limit = 200
const tones = {
  redrive: 'good',
  skip: 'warn',
  prune: 'note',
  erase: 'bad',
  evict: 'warn',
  unsubscribe: 'warn',
  set: 'note',
  remove: 'bad',
  pause: 'warn',
  resume: 'good',
} as const

/** What operators did, here and on the command line. */
export const auditView = ({ database }: Shared): View => ({
  path: '/audit',
  title: 'Audit',
  nav: 'Audit',
  async render(context) {
    const key = given(context.query, 'key')
    const entries = await readAudit(database, { consumer: readBox(context.query), key, limit })
    return html`${asking(context, '/audit', [boxChoice(context), field({ name: 'key', label: 'Key', value: key })], 'Show')}
    ${table(
      'What operators did, the latest first',
      columns(context),
      entries,
      empty(
        'Nothing is written down.',
        'Redrives, skips, prunes and erasures stand here, and what was done to workers, schedules and subscriptions: who they said they were, who was logged in, and why.',
      ),
    )}
    ${entries.length === limit && html`<p class="fine">These are the latest ${limit}; <code>twinbox audit</code> reads up to 1,000.</p>`}`
  },
})

const columns = (context: Context) => [
  { head: 'When', cell: ({ at }: AuditEntry) => time(at, context.now) },
  { head: 'Did', cell: ({ action }: AuditEntry) => badge(tones[action], action) },
  { head: 'By', cell: ({ by }: AuditEntry) => by },
  { head: 'Logged in as', cell: ({ login }: AuditEntry) => login },
  { head: 'Why', cell: ({ why }: AuditEntry) => why ?? '' },
  { head: 'Box', cell: ({ consumer }: AuditEntry) => boxName(consumer) },
  { head: 'Topic', cell: ({ topic }: AuditEntry) => topic ?? '' },
  { head: 'Key', cell: ({ consumer, key }: AuditEntry) => keyLink(context, consumer, key) },
  { head: 'Message', cell: ({ id }: AuditEntry) => (id === null ? '' : messageLink(context, id)) },
  {
    head: 'What it was',
    // What a letter had died of is an error; how many were pruned, or which worker it was, is none.
    cell: ({ diedAt, reason }: AuditEntry) =>
      html`<span class="${diedAt !== null && 'error'}">${(reason ?? '').slice(0, 200)}</span>`,
  },
]
