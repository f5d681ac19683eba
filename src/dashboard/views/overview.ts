import { tellPaused } from '../../status/paused.ts'
import type { BoxStatus, ConsumerStatus } from '../../status/status.ts'
import { boxOf } from '../../status/box.ts'
import { fragment } from '../fragment.ts'
import { html, type Html } from '../html.ts'
import { badge } from '../parts/badge.ts'
import { chart } from '../parts/chart.ts'
import { count, number, rate } from '../parts/count.ts'
import { empty } from '../parts/empty.ts'
import { findingList } from '../parts/findings.ts'
import { table, type Column } from '../parts/table.ts'
import { duration, time } from '../parts/time.ts'
import type { Poll, Sampled } from '../poll.ts'
import type { Context, Shared, View } from '../view.ts'

type Row = BoxStatus &
  Sampled &
  Partial<Pick<ConsumerStatus, 'paused' | 'unhandled'>> & { readonly consumer: string }

export const overview = (shared: Shared): View => {
  const live = (context: Context): Record<string, Html> => ({
    state: state(shared, context),
    boxes: boxes(context),
    topics: topics(context),
  })
  return {
    path: '/',
    title: 'Overview',
    nav: 'Overview',
    live,
    async render(context) {
      await shared.findings.refresh()
      const parts = live(context)
      const source = context.link('/chart')
      const box = context.query.get('box')
      const named = box === null ? 'outbox' : `inbox of ${box}`
      return html`${fragment('state', parts['state']!)}
        <section>
          <h2>Boxes</h2>
          ${fragment('boxes', parts['boxes']!)}
        </section>
        <section class="charts" aria-label="Charts">
          ${chart({ title: 'Depth of each box', lines: ['depth'], unit: 'messages' }, source)}
          ${chart({ title: 'Lag of each box', lines: ['lag'], unit: 's' }, source)}
          ${chart({ title: `In and out: ${named}`, lines: ['in', 'out'], box: named, unit: 'messages/s' }, source)}
        </section>
        <section>
          <h2>Topics of the ${named}</h2>
          ${fragment('topics', parts['topics']!)}
        </section>`
    },
  }
}

/** What is red, why, and what to do. */
function state(
  { poller: { outage, latest }, findings: { latest: diagnosis } }: Shared,
  { now }: Context,
): Html {
  const down =
    outage !== null &&
    html`<p class="flash bad" role="alert">
      ${badge('bad', 'no answer')} The database has not answered since ${time(outage.since, now)}:
      ${outage.why}. ${latest === null ? '' : html`What stands here is from ${time(latest.at, now)}.`} It is
      asked again by itself.
    </p>`
  if (diagnosis === null) return html`${down}`
  const wanting = diagnosis.findings.filter(({ level }) => level !== 'ok')
  return html`${down}
    <section>
      <h2>What needs somebody</h2>
      ${wanting.length > 0 && findingList(wanting)}
      ${wanting.length === 0 && diagnosis.failure === null && html`<p>${badge('good', 'fine')} Whatever waits has somebody to work on it.</p>`}
      ${diagnosis.failure !== null && html`<p>${badge('warn', 'old')} The doctor could not look: ${diagnosis.failure}</p>`}
      <p class="fine">Looked ${time(diagnosis.at, now)}.</p>
    </section>`
}

const rowsOf = ({ outbox, consumers }: Poll): Row[] => [{ ...outbox, consumer: '' }, ...consumers]

function boxes({ poll, link, now }: Context): Html {
  const columns: Column<Row>[] = [
    {
      head: 'Box',
      cell: ({ consumer }) =>
        html`<a href="${link('/', { box: consumer })}"
          >${consumer === '' ? 'outbox' : html`inbox of ${consumer}`}</a
        >`,
    },
    { head: 'State', cell: (row) => stateOf(row, poll!, now) },
    { head: 'Depth', number: true, cell: (row) => depth(row) },
    { head: 'Lag', number: true, cell: ({ lagMs }) => duration(lagMs) },
    { head: 'In', number: true, cell: ({ inRate }) => rate(inRate) },
    { head: 'Out', number: true, cell: ({ outRate }) => rate(outRate) },
    { head: 'Deferred', number: true, cell: ({ deferred }) => count(deferred) },
    { head: 'Parked keys', number: true, cell: ({ parkedKeys }) => count(parkedKeys) },
    { head: 'Dead letters', number: true, cell: ({ deadLetters }) => count(deadLetters) },
  ]
  return table(
    'The outbox, and the inbox of each consumer',
    columns,
    poll === null ? [] : rowsOf(poll),
    empty(
      'Nothing could be read yet.',
      'The database has not answered. It is asked again every few seconds.',
    ),
  )
}

const depth = (box: Pick<Row, 'depth' | 'more' | 'estimated'>): string =>
  `${box.estimated ? '≈ ' : ''}${count({ count: box.depth, more: box.more })}`

function stateOf(
  { consumer, depth: waits, paused = [], unhandled = [] }: Row,
  { workers }: Poll,
  now: Date,
): Html {
  const { worker, command } = boxOf(consumer)
  const living = workers.filter(
    ({ kind, alive, consumer: of }) => kind === worker && alive && (of ?? '') === consumer,
  )
  if (living.length === 0 && waits > 0)
    return html`${badge('bad', `no ${worker}`)}
      <span class="advice">start one: <code>${command}</code></span>`
  if (paused.length > 0)
    return html`${badge('bad', 'pauses')}
      <span class="advice">${paused.map((topic) => tellPaused(topic, now)).join('; ')} UTC</span>`
  const nobodys = unhandled.filter(({ hasHandler }) => !hasHandler)
  if (nobodys.length > 0)
    return html`${badge('bad', 'no handler')}
      <span class="advice"
        >${nobodys
          .map(({ topic }) => topic)
          .slice(0, 3)
          .join(', ')}</span
      >`
  if (living.length === 0) return badge('note', `no ${worker}`)
  return badge('good', `${living.length} ${worker}${living.length === 1 ? '' : 's'}`)
}

function topics({ poll, query }: Context): Html {
  const of = query.get('box') ?? ''
  const box = poll === null ? undefined : rowsOf(poll).find(({ consumer }) => consumer === of)
  const told = table(
    'The deepest topics, and those of which most goes and comes',
    [
      { head: 'Topic', cell: ({ topic }) => html`<code>${topic}</code>` },
      {
        head: 'Depth',
        number: true,
        cell: ({ depth: size }) =>
          size === null ? '–' : depth({ depth: size, more: false, estimated: box!.estimated && size > 0 }),
      },
      { head: 'Lag', number: true, cell: ({ lagMs }) => duration(lagMs) },
      {
        head: 'In',
        number: true,
        cell: ({ inRate }) => `${box!.estimated && inRate !== null ? '≈ ' : ''}${rate(inRate)}`,
      },
      { head: 'Out', number: true, cell: ({ outRate }) => rate(outRate) },
    ],
    box?.flows ?? [],
    empty(
      'Nothing waits here.',
      'What is published or received, and not yet sent or handled, is listed by its topic.',
    ),
  )
  if (box === undefined || box.flows.length === 0) return told
  const others = box.topicCount - box.flows.filter(({ depth: size }) => size !== null && size > 0).length
  return html`${told}
    ${others > 0 && html`<p class="fine">Of ${box.estimated ? 'at least ' : ''}${number(others)} other topics messages wait too.</p>`}
    <p class="fine">
      Out is what workers say to have ${of === '' ? 'sent' : 'handled'} in the last ten seconds, of their 20
      busiest topics each; in is that and what the depth has grown by, with ≈ an estimate by what came last. A
      dash is what cannot be told.
    </p>`
}
