import { readStatus, type BoxStatus, type Count, type Status } from '../status/status.ts'
import { tellPaused } from '../status/paused.ts'
import { printableLine } from '../base/printable.ts'
import type { Flags } from '../terminal/flags.ts'
import { ms } from './log.ts'
import { renderWorkers } from './roster.ts'
import { show as draw } from './screen.ts'
import { readSettings } from './settings.ts'
import { short, table } from '../terminal/table.ts'

/** Shows the status, once or until a signal. */
export async function showStatus(flags: Flags): Promise<void> {
  const { schema } = await readSettings(flags)
  await draw(flags, async (from) => {
    const status = await readStatus(from, { schema })
    return flags.json === true ? JSON.stringify(status) : renderStatus(status).trimEnd()
  })
}

/** The status as tables for people. */
export function renderStatus(status: Status): string {
  const boxes: [string, BoxStatus][] = [
    ['outbox', status.outbox],
    ...status.consumers.map((consumer): [string, BoxStatus] => [`inbox ${consumer.consumer}`, consumer]),
  ]
  const sections = [
    `Schema "${status.schema}" at migration ${status.migration}, ${status.at.toISOString()}`,
    table(
      ['', 'depth', 'lag', 'deferred', 'parked keys', 'parked messages', 'dead letters'],
      boxes.map(([name, box]) => [
        name,
        number(box.depth, box.more),
        box.lagMs === null ? '-' : ms(box.lagMs),
        ...[box.deferred, box.parkedKeys, box.parkedMessages, box.deadLetters].map(show),
      ]),
    ),
  ]
  const topics = boxes
    .flatMap(([name, box]) => box.topics.map((topic) => ({ ...topic, name, more: box.more })))
    .toSorted((one, other) => other.depth - one.depth)
  if (topics.length > 0) {
    const shown = topics.slice(0, topicsShown)
    const rows = shown.map(({ name, topic, depth, lagMs, more }) => [
      name,
      topic,
      number(depth, more),
      ms(lagMs),
    ])
    const count = boxes.reduce((sum, [, { topicCount }]) => sum + topicCount, 0) - shown.length
    const uncounted = boxes.some(([, { more }]) => more)
    const others = count > 0 ? `\nThese are the largest; ${number(count, uncounted)} more have messages.` : ''
    sections.push(table(['', 'topic', 'depth', 'lag'], rows) + others)
  }
  const waiting = status.consumers.flatMap(({ consumer, unhandled }) =>
    unhandled
      .filter(({ hasHandler }) => !hasHandler)
      .map(({ topic, depth }) =>
        printableLine(`${consumer} receives ${topic}, and no living claimer has a handler: ${depth} wait.`),
      ),
  )
  if (waiting.length > 0) sections.push(waiting.join('\n'))
  const paused = status.consumers.flatMap(({ consumer, paused: found }) =>
    found.map((topic) => printableLine(`${consumer} ${tellPaused(topic)} (UTC), ${topic.probes} tries`)),
  )
  if (paused.length > 0) sections.push(paused.join('\n'))
  sections.push(renderWorkers(status.workers, status.at))
  if (status.deadLetters.length > 0) {
    sections.push(
      'Latest dead letters',
      table(
        ['number', 'age', 'of', 'topic', 'key', 'attempts', 'reason'],
        status.deadLetters.map((letter) => [
          String(letter.number),
          ms(Math.max(0, status.at.getTime() - letter.diedAt.getTime())),
          letter.consumer ?? 'outbox',
          letter.topic,
          letter.key ?? '-',
          String(letter.attempt),
          short(letter.reason),
        ]),
      ),
    )
  }
  return `${sections.join('\n\n')}\n`
}

/** Of all boxes together. */
const topicsShown = 20

const show = ({ count, more }: Count): string => number(count, more)
const number = (count: number, more: boolean): string => `${count}${more ? '+' : ''}`
