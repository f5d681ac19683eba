import { workerKinds, type WorkerStatus } from '../../operate/workers.ts'
import { fragment } from '../fragment.ts'
import { html, none, type Html } from '../html.ts'
import { Marks } from '../marks.ts'
import { badge } from '../parts/badge.ts'
import { consumerField } from '../parts/box.ts'
import { empty } from '../parts/empty.ts'
import { asking, choice } from '../parts/field.ts'
import { lanePicture, type LaneBox } from '../parts/lanes.ts'
import { table, type Column } from '../parts/table.ts'
import { duration, time } from '../parts/time.ts'
import { Successions } from '../successions.ts'
import { story } from '../parts/story.ts'
import type { Poll } from '../poll.ts'
import type { Context, Shared, View } from '../view.ts'

/** Pictures of more boxes than that would be all that a browser does. */
const boxesMax = 12
const listedMax = 200

/** Who works, what each one holds since when, and who has ended and who took over from them. */
export function workers({ poller }: Shared): View {
  const [marks, successions] = [new Marks(), new Successions()]
  poller.observe(() => {
    if (poller.latest === null) return
    marks.see(poller.latest.workers)
    successions.see(poller.latest.workers)
  })
  const live = (context: Context): Readonly<Record<string, Html>> => {
    const { poll } = context
    if (poll === null) {
      const nothing = empty(
        'Nothing could be read yet.',
        poller.outage?.why ?? 'The database has not answered.',
      )
      return { living: nothing, story: none, lanes: none }
    }
    const chosen = choose(poll.workers, context.query)
    const { now } = context
    return {
      living: living(chosen, context, now),
      lanes: pictures(boxesOf(poll, context.query), marks, now),
      story: story(chosen, successions, now),
    }
  }
  return {
    path: '/workers',
    title: 'Workers',
    nav: 'Workers',
    live,
    render: async (context) => {
      const drawn = live(context)
      const part = (name: string, heading: string): Html =>
        html`<section aria-labelledby="${name}">
          <h2 id="${name}">${heading}</h2>
          ${fragment(name, drawn[name]!)}
        </section>`
      return html`${filter(context)} ${part('living', 'Living')} ${part('story', 'Deaths and takeovers')}
      ${part('lanes', 'Lanes')}`
    },
  }
}

const chosenBy = (query: URLSearchParams): { readonly kind: string; readonly consumer: string } => ({
  kind: query.get('kind') ?? '',
  consumer: query.get('consumer') ?? '',
})

function choose(all: readonly WorkerStatus[], query: URLSearchParams): readonly WorkerStatus[] {
  const { kind, consumer } = chosenBy(query)
  return all.filter(
    (worker) => (kind === '' || worker.kind === kind) && (consumer === '' || worker.consumer === consumer),
  )
}

const filter = (context: Context): Html => {
  const kinds = workerKinds.map((kind) => [kind, kind] as const)
  return asking(
    context,
    '/workers',
    [choice('kind', 'Kind', chosenBy(context.query).kind, [['', 'all'], ...kinds]), consumerField(context)],
    'Show',
  )
}

function living(chosen: readonly WorkerStatus[], { link, mayOperate }: Context, now: Date): Html {
  const act: Column<WorkerStatus> = {
    head: 'Act',
    cell: ({ id }) =>
      html`<a href="${link('/workers/evict', { id })}" aria-label="Evict worker ${id}">Evict…</a>`,
  }
  const all = chosen.filter(({ endedAt }) => endedAt === null)
  const list = table<WorkerStatus>(
    'Workers that have not ended',
    [
      { head: 'Worker', cell: ({ id }) => id },
      { head: 'Kind', cell: ({ kind }) => kind },
      { head: 'Consumer', cell: ({ consumer }) => consumer ?? '–' },
      { head: 'State', cell: stateOf },
      { head: 'Heartbeat', number: true, cell: ({ lastBeatMs }) => html`${duration(lastBeatMs)} ago` },
      { head: 'Lanes', number: true, cell: ({ kind, lanes }) => (kind === 'receiver' ? '–' : lanes.length) },
      { head: 'Held since', cell: ({ lanesSince }) => time(lanesSince, now, '–') },
      { head: 'In flight', number: true, cell: ({ inFlight }) => inFlight },
      { head: 'Started', cell: ({ startedAt }) => time(startedAt, now) },
      { head: 'Host', cell: ({ host, pid }) => html`${host} <span class="fine">${pid}</span>` },
      ...(mayOperate ? [act] : []),
    ],
    all.slice(0, listedMax),
    empty(
      'No such worker lives.',
      'Messages wait until a relay sends them, a receiver writes them into an inbox, and a claimer handles them: twinbox work starts one of each.',
    ),
  )
  return all.length <= listedMax
    ? list
    : html`${list}
        <p class="fine">${all.length - listedMax} more are not listed: choose a kind or a consumer above.</p>`
}

/** Whether it lives, and what holds it up. */
export function stateOf(worker: WorkerStatus): Html {
  const { state, stuck, brokerDown, locked, session, endedBy } = worker
  const troubles = [
    stuck !== null && badge('warn', `handler of ${stuck.topic} does not end`),
    brokerDown !== null && badge('bad', `broker away: ${brokerDown.error}`),
    state === 'alive' && !locked && !session && badge('note', 'no lock: a pooler'),
  ]
  return html`${badge(tones[state], state === 'died' ? `died: ${endedBy}` : state)} ${troubles}`
}

const tones = {
  ...({ alive: 'good', silent: 'warn', gone: 'bad', died: 'bad', evicted: 'warn', stopped: 'note' } as const),
}

/** Of every box that has workers or messages, and is looked for: what no worker holds shows as such. */
function boxesOf({ workers: all, consumers }: Poll, query: URLSearchParams): readonly LaneBox[] {
  const { kind, consumer: wanted } = chosenBy(query)
  const names = new Set([
    ...consumers.map(({ consumer }) => consumer),
    ...all.flatMap((worker) => (worker.kind === 'claimer' ? [worker.consumer!] : [])),
  ])
  const relays = all.filter((worker) => worker.kind === 'relay')
  return [
    ...(['', 'relay'].includes(kind) && wanted === '' ? [{ consumer: null, workers: relays }] : []),
    ...(['', 'claimer'].includes(kind) ? [...names] : [])
      .filter((name) => wanted === '' || name === wanted)
      .map((consumer) => ({
        consumer,
        workers: all.filter((worker) => worker.kind === 'claimer' && worker.consumer === consumer),
      })),
  ]
}

const pictures = (boxes: readonly LaneBox[], marks: Marks, now: Date): Html =>
  html`<div class="boxes">${boxes.slice(0, boxesMax).map((box) => lanePicture(box, marks, now))}</div>
    ${
      boxes.length > boxesMax &&
      html`<p class="fine">${boxes.length - boxesMax} more consumers are not drawn: choose one above.</p>`
    }`
