import { inboxLanes, layout } from '../../database/layout.ts'
import { clock } from '../../base/times.ts'
import type { WorkerStatus } from '../../operate/workers.ts'
import { html, type Html } from '../html.ts'
import type { Mark, Marks } from '../marks.ts'
import { time } from './time.ts'

/** One box, and who holds its lanes. */
export interface LaneBox {
  /** Null for the outbox. */
  readonly consumer: string | null
  readonly workers: readonly WorkerStatus[]
}

/**
 * The lanes of a box as cells with the letter, the colour and the pattern of who holds them; below, who the letters are. Read
 * aloud, the picture is its one sentence.
 */
export function lanePicture({ consumer, workers }: LaneBox, marks: Marks, now: Date): Html {
  const holders = workers.filter(({ lanes }) => lanes.length > 0)
  const cells = Array.from({ length: consumer === null ? layout.lanes : inboxLanes }, (_, lane) =>
    cellOf(lane, holders, marks, now),
  )
  const free = cells.length - holders.reduce((sum, { lanes }) => sum + lanes.length, 0)
  const told = holders.map(
    (worker) => `${marks.of(worker)?.letter ?? '?'}, worker ${worker.id}, holds ${worker.lanes.length}`,
  )
  const sentence = [...told, ...(free > 0 ? [`nobody holds ${free}`] : [])].join('; ')
  return html`<section class="box">
    <h3>${consumer === null ? 'Outbox' : consumer}</h3>
    <div class="lanes" role="img" aria-label="${cells.length} lanes: ${sentence}.">${cells}</div>
    ${consumer !== null && html`<p class="fine">The last row: partitions, for messages without a key.</p>`}
    <ul class="holders">
      ${holders.map((worker) => holderOf(worker, marks.of(worker), now))}
      ${free > 0 && html`<li><span class="lane free" aria-hidden="true">·</span> nobody: ${free}</li>`}
    </ul>
  </section>`
}

function cellOf(lane: number, holders: readonly WorkerStatus[], marks: Marks, now: Date): Html {
  const name = lane < layout.lanes ? `lane ${lane}` : `partition ${lane - layout.lanes}, without a key`
  const apart = lane === layout.lanes && ' first'
  const holder = holders.find(({ lanes }) => lanes.includes(lane))
  if (holder === undefined) return html`<span class="lane free${apart}" title="${name}: nobody">·</span>`
  const since = clock(holder.lanesTaken[holder.lanes.indexOf(lane)]!, now)
  const { letter, shade } = marks.of(holder) ?? unmarked
  return html`<span
    class="lane h${shade}${!holder.alive && ' ended'}${apart}"
    title="${name}: worker ${holder.id} since ${since} UTC"
    >${letter}</span
  >`
}

/** A poll may be drawn before its marks are made. */
const unmarked: Mark = { letter: '?', shade: 0 }

const holderOf = (worker: WorkerStatus, mark: Mark | null, now: Date): Html => {
  const { letter, shade } = mark ?? unmarked
  return html`<li>
    <span class="lane h${shade}${!worker.alive && ' ended'}" aria-hidden="true">${letter}</span>
    worker ${worker.id}${!worker.alive && html` (${worker.state})`}: ${worker.lanes.length}, the first
    ${time(worker.lanesSince, now)}
  </li>`
}
