import { createWriteStream } from 'node:fs'
import { once } from 'node:events'
import { readDeadLetters, redriveDeadLetters, showDeadLetter, skipDeadLetters } from '../operate/dead.ts'
import { exportDeadLetters } from '../operate/export.ts'
import type { DeadLetterFilter } from '../operate/filter.ts'
import { forJson, type DeadLetterDetails, type Intervention } from '../operate/letter.ts'
import { confirmed } from './confirm.ts'
import { UsageError } from '../terminal/failure.ts'
import type { CommonFlags } from '../terminal/flags.ts'
import { ms } from './log.ts'
import type { SignatureFlags } from './signature.ts'
import { readSettings } from './settings.ts'
import { short, table } from '../terminal/table.ts'
import { untilStopped } from './until.ts'
import { folded, outColumns, remark, say } from '../terminal/output.ts'
import { printable, printableLine } from '../base/printable.ts'
import type { FailedAttempt } from '../message/row.ts'
import type { DeadLetterStatus } from '../status/status.ts'

/** What narrows down which messages are meant. */
export interface FilterFlags extends CommonFlags {
  readonly topic?: string
  readonly outbox?: boolean
  readonly key?: string
  readonly error?: string
  readonly class?: string
  readonly olderThan?: number
  readonly newerThan?: number
  readonly limit?: number
  readonly after?: string
}

/** What is changed, how, and by whom. */
export interface ChangeFlags extends FilterFlags, SignatureFlags {
  readonly all?: boolean
  readonly rate?: number
  readonly dryRun?: boolean
  readonly yes?: boolean
}

/** Null for the outbox, undefined for all. @throws UsageError */
export function consumerOf(flags: FilterFlags): string | null | undefined {
  if (flags.outbox !== true) return flags.consumer
  if (flags.consumer !== undefined) throw new UsageError('--outbox and --consumer exclude each other.')
  return null
}

/** Numbers and ids of dead letters, told apart. @throws UsageError */
function letterNames(names: readonly string[]): { numbers: number[]; ids: string[] } {
  const ids = names.filter((name) => name.includes('-'))
  const numbers = names.filter((name) => !name.includes('-'))
  for (const name of numbers) {
    if (/^[1-9]\d{0,14}$/.test(name)) continue
    throw new UsageError(
      `"${name}" is neither the number of a dead letter, a whole number from 1 on, nor an id.`,
    )
  }
  return { numbers: numbers.map(Number), ids }
}

export function filterOf(flags: FilterFlags, names: readonly string[] = []): DeadLetterFilter {
  const { numbers, ids } = letterNames(names)
  return {
    consumer: consumerOf(flags),
    topic: flags.topic,
    key: flags.key,
    error: flags.error,
    errorClass: flags.class,
    olderThanMs: flags.olderThan,
    youngerThanMs: flags.newerThan,
    numbers: numbers.length > 0 ? numbers : undefined,
    ids: ids.length > 0 ? ids : undefined,
  }
}

export async function listLetters(flags: FilterFlags): Promise<void> {
  const { schema, database } = await readSettings(flags)
  const { limit, after } = flags
  const page = await readDeadLetters(database(), filterOf(flags), { schema, limit, after })
  if (flags.json === true) return void say(JSON.stringify({ schema, ...page }))
  if (page.letters.length === 0) return void say('There are no such dead letters.')
  say(renderLetters(page.letters, new Date(), outColumns()))
  if (page.next !== null) say(`\nThere are more: --after ${page.next}`)
}

/** Dead letters as a table: a line each, which may cut the reason. */
export const renderLetters = (letters: readonly DeadLetterStatus[], at: Date, width: number): string =>
  table(
    ['number', 'age', 'of', 'topic', 'key', 'attempts', 'reason'],
    letters.map((letter) => [
      String(letter.number),
      ms(Math.max(0, at.getTime() - letter.diedAt.getTime())),
      letter.consumer ?? 'outbox',
      letter.topic,
      letter.key ?? '-',
      String(letter.attempt),
      short(letter.reason),
    ]),
    {
      width,
      drops: ['attempts', 'age'],
      cuts: { of: 'middle', topic: 'middle', key: 'middle', reason: 'end' },
    },
  )

/** Shows all that is known of it. 1 if there is none. */
export async function showLetter(name: string, flags: CommonFlags & { payload?: boolean }): Promise<0 | 1> {
  const { schema, database } = await readSettings(flags)
  const { numbers, ids } = letterNames([name])
  const letters = await showDeadLetter(database(), numbers[0] ?? ids[0]!, { schema, payload: flags.payload })
  if (flags.json === true) say(JSON.stringify(letters.map(forJson)))
  else if (letters.length > 0) say(letters.map(renderLetter).join('\n\n'))
  if (letters.length === 0) remark(`There is no dead letter ${name} in the schema "${schema}".`)
  return letters.length === 0 ? 1 : 0
}

function renderLetter(letter: DeadLetterDetails): string {
  const time = (at: Date | null): string => at?.toISOString() ?? '-'
  const rows: [string, string][] = [
    ['number', String(letter.number)],
    ['id', letter.id],
    ['of', letter.consumer ?? 'outbox'],
    ['topic', letter.topic],
    ['key', `${letter.key ?? '-'}${letter.holdsKey ? ' (held back behind it)' : ''}`],
    ['published', time(letter.publishedAt)],
    ['received', time(letter.receivedAt)],
    ['died', time(letter.diedAt)],
    ...(letter.expiresAt === null ? [] : [['expires', time(letter.expiresAt)] as [string, string]]),
    ['attempts', String(letter.attempt)],
    ['reason', letter.reason],
    ['content', `${letter.contentType}, ${letter.bytes} bytes`],
    ...Object.entries(letter.headers).map(([name, value]): [string, string] => [`header ${name}`, value]),
  ]
  const width = Math.max(...rows.map(([name]) => name.length))
  const lines = rows.map(([name, value]) => printableLine(`${name.padEnd(width)}  ${value}`))
  const history = letter.interventions.flatMap(({ action, at, by, login, why, errors }) => [
    ...errors.map(renderAttempt),
    printableLine(
      `${at.toISOString()}  ${action} by ${doer({ by, login })}${why === null ? '' : `: ${why}`}`,
    ),
  ])
  const attempts = [...history, ...(letter.errors ?? []).map(renderAttempt)]
  if (attempts.length > 0) lines.push('', ...attempts)
  const told = folded(lines.join('\n'))
  return letter.payload === undefined ? told : `${told}\n\n${renderPayload(letter.payload)}`
}

/** Who did it, as they said; and who was logged in. */
export const doer = ({ by, login }: Pick<Intervention, 'by' | 'login'>): string =>
  `${by}, logged in as ${login}`

/** JSON may have line breaks of its own: what begins behind one must not look like what is told of the message. */
export const renderPayload = (payload: string | Uint8Array): string =>
  typeof payload === 'string' ? payload.replaceAll('\n', '\n  ') : Buffer.from(payload).toString('base64')

export function renderAttempt({ attempt, at, worker, error, stack }: FailedAttempt): string {
  const who = worker === null ? '' : ` on worker ${worker}`
  const frames = (stack ?? '').split('\n').filter((line) => /^\s*at /.test(line))
  return [`${at}  attempt ${attempt}${who}: ${error}`, ...frames.map((line) => `    ${line.trim()}`)]
    .map(printableLine)
    .join('\n')
}

/** Redrives or skips those that are named or match. 1 if one that was named is not there. */
export async function changeLetters(
  action: 'redrive' | 'skip',
  names: readonly string[],
  flags: ChangeFlags,
): Promise<0 | 1> {
  const { schema, database } = await readSettings(flags)
  const filter = filterOf(flags, names)
  if (flags.all !== true && Object.values(filter).every((value) => value === undefined)) {
    throw new UsageError(`Say which: their numbers or ids, a filter such as --consumer, or --all.`)
  }
  const options = { schema, limit: flags.limit, by: flags.by, reason: flags.reason }
  const run = action === 'redrive' ? redriveDeadLetters : skipDeadLetters
  const dryRun = flags.dryRun === true
  if (action === 'skip' && !dryRun) {
    const { count } =
      flags.yes === true ? { count: 0 } : await run(database(), filter, { ...options, dryRun: true })
    if (!(await confirmed(`This deletes ${count} dead letter${count === 1 ? '' : 's'}.`, flags.yes))) return 1
  }
  const { result, stopped } = await untilStopped(action === 'redrive' ? 'redriven' : 'skipped', (watch) =>
    run(database(), filter, { ...options, ...watch, perSecond: flags.rate, dryRun }),
  )
  if (flags.json === true) say(JSON.stringify({ ...result, dryRun, stopped }))
  else {
    const done = action === 'redrive' ? 'Redriven' : 'Skipped'
    say(dryRun ? `Would be ${done.toLowerCase()}: ${result.count}.` : `${done}: ${result.count}.`)
    for (const name of result.unknown) remark(`There is no dead letter ${name} in the schema "${schema}".`)
  }
  return result.unknown.length > 0 || stopped ? 1 : 0
}

/** Writes letters, one JSON object a line. */
export async function exportLetters(flags: FilterFlags & { out?: string }): Promise<void> {
  const { schema, database } = await readSettings(flags)
  await writeLines(exportDeadLetters(database(), filterOf(flags), { schema }), 'dead letters', flags)
}

/** One JSON object a line, to a new file or to standard output. Payloads are nobody's but the owner's of the file. */
export async function writeLines(
  items: AsyncIterable<{ readonly payload?: string | Uint8Array }>,
  what: string,
  flags: CommonFlags & { out?: string },
): Promise<void> {
  const file =
    flags.out === undefined ? process.stdout : createWriteStream(flags.out, { flags: 'wx', mode: 0o600 })
  if (file !== process.stdout) await once(file, 'open')
  let count = 0
  for await (const item of items) {
    count++
    if (!file.write(`${printable(JSON.stringify(forJson(item)))}\n`)) await once(file, 'drain')
  }
  if (file === process.stdout) return
  file.end()
  await once(file, 'finish')
  if (flags.json === true) say(JSON.stringify({ count, file: flags.out }))
  else say(`Wrote ${count} ${what} to ${flags.out}.`)
}
