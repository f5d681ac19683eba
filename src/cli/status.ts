import { readStatus, type BoxStatus, type Count, type Status } from '../status.ts'
import type { Flags } from './flags.ts'
import { ms } from './log.ts'
import { renderWorkers } from './roster.ts'
import { show as draw } from './screen.ts'
import { readSettings } from './settings.ts'
import { short, table } from './table.ts'

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
  const topics = boxes.flatMap(([name, box]) =>
    box.topics.map(({ topic, depth, lagMs }) => [name, topic, number(depth, box.more), ms(lagMs)]),
  )
  if (topics.length > 0) sections.push(table(['', 'topic', 'depth', 'lag'], topics))
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

const show = ({ count, more }: Count): string => number(count, more)
const number = (count: number, more: boolean): string => `${count}${more ? '+' : ''}`
