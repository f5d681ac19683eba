import type { MessageState } from '../database/sql/placed.ts'
import { readMessages, showMessage, type MessageHistory, type PlacedMessage } from '../operate/messages.ts'
import type { CommonFlags } from '../terminal/flags.ts'
import { forJson } from '../operate/letter.ts'
import { consumerOf, doer, renderAttempt, renderPayload, type FilterFlags } from './letters.ts'
import { printableLine } from '../base/printable.ts'
import { ms } from './log.ts'
import { readSettings } from './settings.ts'
import { short } from '../terminal/table.ts'
import { folded, remark, say, sayTable } from '../terminal/output.ts'

export interface MessageFlags extends FilterFlags {
  readonly state?: readonly MessageState[]
  readonly payload?: boolean
}

export async function listMessages(flags: MessageFlags): Promise<void> {
  const { schema, database } = await readSettings(flags)
  const { topic, key, state: states, limit, payload } = flags
  const consumer = consumerOf(flags)
  const messages = await readMessages(
    database(),
    { states, consumer, topic, key },
    { schema, limit, payload },
  )
  if (flags.json === true) return void say(JSON.stringify({ schema, messages: messages.map(forJson) }))
  if (messages.length === 0) return void say('There are no such messages.')
  const now = Date.now()
  // The id is what "messages show" takes, and a payload that was asked for is to be seen.
  const drops = ['worker', 'attempts', 'age', ...(payload === true ? ['topic', 'key'] : ['waits for'])]
  sayTable(
    ['state', 'of', 'id', 'topic', 'key', 'age', 'attempts', 'worker', 'waits for'],
    messages.map((message) => [
      message.state,
      message.consumer ?? 'outbox',
      message.id,
      message.topic,
      message.key ?? '-',
      message.since === null ? '-' : ms(Math.max(0, now - message.since.getTime())),
      String(message.attempt),
      message.worker === null ? '-' : String(message.worker),
      waitsFor(message, now, message.payload),
    ]),
    { drops, cuts: { of: 'middle', topic: 'middle', key: 'middle', 'waits for': 'end' } },
  )
}

/** What it waits for, and what it holds. */
function waitsFor({ dueAt, reason }: PlacedMessage, now: number, payload?: string | Uint8Array): string {
  const due = dueAt === null ? '' : `in ${ms(Math.max(0, dueAt.getTime() - now))} `
  const content =
    payload === undefined ? '' : ` ${typeof payload === 'string' ? payload : `${payload.length} bytes`}`
  return short(`${due}${reason ?? ''}${content}`.trim())
}

/** Tells where a message is and what happened to it. 1 if nothing is known of it. */
export async function showOne(id: string, flags: CommonFlags & { payload?: boolean }): Promise<0 | 1> {
  const { schema, database } = await readSettings(flags)
  const history = await showMessage(database(), id, { schema, payload: flags.payload })
  const known = history.places.length + history.received.length + history.interventions.length > 0
  if (flags.json === true) say(JSON.stringify({ ...history, places: history.places.map(forJson) }))
  else if (known) say(renderHistory(history))
  if (!known) remark(`Nothing is known of a message ${id} in the schema "${schema}".`)
  return known ? 0 : 1
}

function renderHistory({ places, received, interventions }: MessageHistory): string {
  const time = (at: Date | null): string => at?.toISOString() ?? '-'
  const events: [string, string][] = [
    ...received.map(({ consumer, at }): [string, string] => [
      time(at),
      printableLine(`received for ${consumer}`),
    ]),
    ...interventions.flatMap(({ action, at, by, login, why, consumer, errors }) => [
      ...errors.map((error): [string, string] => [printableLine(error.at), renderAttempt(error)]),
      [
        time(at),
        printableLine(
          `${action} (${consumer ?? 'outbox'}) by ${doer({ by, login })}${why === null ? '' : `: ${why}`}`,
        ),
      ] as [string, string],
    ]),
    ...places.flatMap(({ errors }) =>
      errors.map((error): [string, string] => [printableLine(error.at), renderAttempt(error)]),
    ),
  ]
  const now = Date.now()
  const lines = places.flatMap((place) => [
    ...[
      `${place.state} of ${place.consumer ?? 'the outbox'} since ${time(place.since)}`,
      `  topic ${place.topic}, key ${place.key ?? '-'}, published ${time(place.publishedAt)}, attempts ${place.attempt}` +
        (place.worker === null ? '' : `, worker ${place.worker}`),
      ...(waitsFor(place, now) === '' ? [] : [`  ${waitsFor(place, now)}`]),
    ].map((line) => folded(printableLine(line))),
    ...(place.payload === undefined ? [] : [`  ${renderPayload(place.payload)}`]),
  ])
  const still = new Set(places.map(({ consumer }) => consumer))
  for (const { consumer } of received)
    if (!still.has(consumer))
      lines.push(printableLine(`handled by ${consumer}, or taken back by an operator`))
  const told = events
    .toSorted(([a], [b]) => (a < b ? -1 : 1))
    .map(([at, text]) => folded(text.startsWith(at) ? text : `${at}  ${text}`))
  return [...lines, ...(told.length > 0 ? ['', ...told] : [])].join('\n')
}
