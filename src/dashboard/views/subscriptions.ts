import {
  readSubscriptions,
  serviceOf,
  subscriptionLimit,
  type Service,
  type SubscriptionStatus,
} from '../../operate/subscriptions.ts'
import { takes } from '../../message/message.ts'
import { html, type Html } from '../html.ts'
import { badge } from '../parts/badge.ts'
import { consumerField } from '../parts/box.ts'
import { number } from '../parts/count.ts'
import { empty } from '../parts/empty.ts'
import { asking } from '../parts/field.ts'
import { table } from '../parts/table.ts'
import { time } from '../parts/time.ts'
import type { Poll } from '../poll.ts'
import type { Context, Shared, View } from '../view.ts'

interface Row extends SubscriptionStatus {
  readonly service: Service
  /** Received, and waiting for a claimer with a handler. */
  readonly waiting: number
}

/** Who wants which topics, whether somebody receives them, and whether somebody handles them. */
export const subscriptions = ({ database }: Shared): View => ({
  path: '/subscriptions',
  title: 'Subscriptions',
  nav: 'Subscriptions',
  async render(context) {
    const { poll, query, now } = context
    const consumer = query.get('consumer') ?? ''
    const found = await readSubscriptions(database, consumer === '' ? {} : { consumer })
    const rows = found.map((each) => ({
      ...each,
      service: serviceOf(each, poll?.workers ?? []),
      waiting: waitingOf(each, poll),
    }))
    return html`${asking(context, '/subscriptions', [consumerField(context)], 'Show')}
    ${list(rows, context, now)}
    ${
      found.length === subscriptionLimit &&
      html`<p class="fine">These are the first ${subscriptionLimit}: choose a consumer to see the others.</p>`
    }`
  },
})

const list = (rows: readonly Row[], { link }: Context, now: Date): Html =>
  table<Row>(
    'What consumers are subscribed to',
    [
      {
        head: 'Consumer',
        cell: ({ consumer }) => html`<a href="${link('/workers', { consumer })}">${consumer}</a>`,
      },
      { head: 'Topics', cell: ({ pattern }) => html`<code>${pattern}</code>` },
      { head: 'Over', cell: ({ broker }) => broker },
      { head: 'Since', cell: ({ since }) => time(since, now) },
      { head: 'Received', cell: ({ service }) => receivedBy(service) },
      { head: 'Handled', cell: ({ service }) => handledBy(service) },
      {
        head: 'Waiting unhandled',
        number: true,
        cell: ({ waiting }) => (waiting === 0 ? '0' : badge('bad', number(waiting))),
      },
    ],
    rows,
    empty(
      'Nobody is subscribed to anything.',
      'A receiver subscribes its consumer when it starts: createReceiver({ consumer, topics }).',
    ),
  )

function receivedBy({ receives, receivers }: Service): Html {
  if (receives === 'no') return badge('bad', 'no receiver lives')
  const ids = receivers.map(({ id }) => id).join(', ')
  return receives === 'unsaid' ? badge('note', `worker ${ids} does not say`) : badge('good', `by ${ids}`)
}

function handledBy({ handles, handlers, claimers }: Service): Html {
  if (claimers.length === 0) return badge('bad', 'no claimer lives')
  switch (handles) {
    case 'none':
      return badge('bad', 'no handler')
    case 'unsaid':
      return badge('note', 'a claimer does not say')
    case 'some':
      return html`${badge('warn', 'in part')} ${handlers.join(', ')}`
    case 'all':
      return html`${badge('good', 'yes')} ${handlers.join(', ')}`
    default:
      return handles satisfies never
  }
}

/** Of the consumer's topics without a handler, those that this pattern takes. */
const waitingOf = ({ consumer, pattern }: SubscriptionStatus, poll: Poll | null): number =>
  (poll?.consumers.find((each) => each.consumer === consumer)?.unhandled ?? [])
    .filter(({ topic, hasHandler }) => !hasHandler && takes([pattern], topic))
    .reduce((sum, { depth }) => sum + depth, 0)
