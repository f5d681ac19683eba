import { readStatus, type BoxStatus, type Count, type Status } from '../status/status.ts'
import { tellPaused } from '../status/paused.ts'
import { printableLine } from '../base/printable.ts'
import type { Flags } from '../terminal/flags.ts'
import { ms } from './log.ts'
import { renderWorkers } from './roster.ts'
import { show as draw } from './screen.ts'
import { fold } from '../terminal/prose.ts'
import { section, type Section } from '../terminal/section.ts'
import { table } from '../terminal/table.ts'
import { renderLetters } from './letters.ts'

/** Shows the status, once or until a signal. */
export async function showStatus(flags: Flags): Promise<void> {
  await draw(flags, async (from, schema) => {
    const status = await readStatus(from, { schema })
    return (width) => (flags.json === true ? JSON.stringify(status) : renderStatus(status, width))
  })
}

/** The status as tables for people. */
export function renderStatus(status: Status, width = Infinity): Section[] {
  const { schema, migration, at, outbox, consumers, workers, deadLetters } = status
  const sentences = (texts: readonly string[]): Section[] =>
    texts.length === 0 ? [] : [section(texts.map((text) => fold(printableLine(text), width)).join('\n'))]
  const boxes: [string, BoxStatus][] = [
    ['outbox', outbox],
    ...consumers.map((consumer): [string, BoxStatus] => [`inbox ${consumer.consumer}`, consumer]),
  ]
  return [
    ...sentences([`Schema "${schema}" at migration ${migration}, ${at.toISOString()}`]),
    section(
      table(
        ['box', 'depth', 'lag', 'deferred', 'parked keys', 'parked messages', 'dead'],
        boxes.map(([name, box]) => [
          name,
          number(box.depth, box.more),
          box.lagMs === null ? '-' : ms(box.lagMs),
          ...[box.deferred, box.parkedKeys, box.parkedMessages, box.deadLetters].map(show),
        ]),
        { width, cuts: { box: 'middle' }, drops: ['parked messages', 'deferred'] },
      ),
    ),
    ...topicsOf(boxes, width),
    ...sentences(
      consumers.flatMap(({ consumer, unhandled }) =>
        unhandled
          .filter(({ hasHandler }) => !hasHandler)
          .map(
            ({ topic, depth }) =>
              `${consumer} receives ${topic}, and no living claimer has a handler: ${depth} wait.`,
          ),
      ),
    ),
    ...sentences(
      consumers.flatMap(({ consumer, paused }) =>
        paused.map((topic) => `${consumer} ${tellPaused(topic)} (UTC), ${topic.probes} tries`),
      ),
    ),
    renderWorkers(workers, at, { width }),
    ...(deadLetters.length === 0
      ? []
      : [section(`Latest dead letters\n${renderLetters(deadLetters, at, width)}`, [], 2)]),
  ]
}

function topicsOf(boxes: readonly [string, BoxStatus][], width: number): Section[] {
  const topics = boxes
    .flatMap(([name, box]) => box.topics.map((topic) => ({ ...topic, name, more: box.more })))
    .toSorted((one, other) => other.depth - one.depth)
  if (topics.length === 0) return []
  const shown = topics.slice(0, topicsShown)
  const count = boxes.reduce((sum, [, { topicCount }]) => sum + topicCount, 0) - shown.length
  const uncounted = boxes.some(([, { more }]) => more)
  const others = `These are the largest; ${number(count, uncounted)} more have messages.`
  const rows = shown.map(({ name, topic, depth, lagMs, more }) => [
    name,
    topic,
    number(depth, more),
    ms(lagMs),
  ])
  const drawn = table(['box', 'topic', 'depth', 'lag'], rows, {
    width,
    cuts: { box: 'middle', topic: 'middle' },
  })
  return [section(drawn, count > 0 ? fold(others, width).split('\n') : [])]
}

/** Of all boxes together. */
const topicsShown = 20

const show = ({ count, more }: Count): string => number(count, more)
const number = (count: number, more: boolean): string => `${count}${more ? '+' : ''}`
