import { ms } from '../../base/times.ts'
import { signs } from '../../status/words.ts'
import type { WorkerStatus } from '../../operate/workers.ts'
import { html, type Html } from '../html.ts'
import type { Succession, Successions } from '../successions.ts'
import { badge, type Tone } from './badge.ts'
import { empty } from './empty.ts'
import { time } from './time.ts'

const toldMax = 40

interface Chapter {
  readonly at: Date
  readonly tone: Tone
  readonly word: string
  readonly says: string
}

/** Who began and who ended in the last ten minutes, the latest first; how a death was found, and who took over how soon. */
export function story(workers: readonly WorkerStatus[], successions: Successions, now: Date): Html {
  const chapters = workers
    .flatMap((worker) => [...begun(worker, now), ...ended(worker, successions)])
    .toSorted((a, b) => b.at.getTime() - a.at.getTime())
  if (chapters.length === 0)
    return empty(
      'Nobody has begun or ended in the last ten minutes.',
      'When a worker dies, this says how that was found, who took its lanes, and how long both took.',
    )
  return html`<ol class="story">
      ${chapters
        .slice(0, toldMax)
        .map(
          ({ at, tone, word, says }) =>
            html`<li>${badge(tone, word)} ${time(at, now)} <span>${says}</span></li>`,
        )}
    </ol>
    <p class="fine">Who took over is told of those that ended while a page was open.</p>
    ${chapters.length > toldMax && html`<p class="fine">${chapters.length - toldMax} older ones are not told.</p>`}`
}

const rememberedMs = 10 * 60_000

const begun = (worker: WorkerStatus, now: Date): readonly Chapter[] =>
  now.getTime() - worker.startedAt.getTime() > rememberedMs
    ? []
    : [{ at: worker.startedAt, tone: 'note', word: 'began', says: `${named(worker)} began.` }]

function ended(worker: WorkerStatus, successions: Successions): readonly Chapter[] {
  const { endedAt: at, endedBy } = worker
  if (at === null || endedBy === null) return []
  if (endedBy === 'stop') return [{ at, tone: 'note', word: 'stopped', says: `${named(worker)} stopped.` }]
  const after = `${ms(at.getTime() - worker.beatAt.getTime())} after its last heartbeat`
  const lanes = worker.kind === 'receiver' ? '' : ` ${succeeded(successions.of(worker))}`
  return endedBy === 'evict'
    ? [{ at, tone: 'warn', word: 'evicted', says: `${named(worker)} was evicted, ${after}.${lanes}` }]
    : [
        {
          ...({ at, tone: 'bad', word: 'died' } as const),
          says: `${named(worker)} was found dead ${after}, since ${signs[endedBy]}.${lanes}`,
        },
      ]
}

function succeeded({ seen, successors, left }: Succession): string {
  const taken = successors.map(
    ({ id, lanes, firstMs, lastMs }) =>
      `worker ${id} took ${lanes} of its lanes after ${firstMs === lastMs ? ms(firstMs) : `${ms(firstMs)} to ${ms(lastMs)}`}`,
  )
  const waiting = left === 0 ? [] : [`${left} of its lanes wait for a successor`]
  const told = [...taken, ...waiting].join('; ')
  if (told !== '') return `${told[0]!.toUpperCase()}${told.slice(1)}.`
  // Nobody can say it of one that ended before a page was open.
  return seen ? 'It held no lane.' : ''
}

const named = ({ id, kind, consumer, host, pid }: WorkerStatus): string =>
  `Worker ${id} (${kind}${consumer === null ? '' : ` of ${consumer}`} on ${host}, process ${pid})`
