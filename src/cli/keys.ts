import { readParkedKeys, redriveParkedKeys, skipParkedKeys, type ParkedKeyFilter } from '../operate/parked.ts'
import { UsageError } from '../terminal/failure.ts'
import { consumerOf, type ChangeFlags, type FilterFlags } from './letters.ts'
import { ms } from './log.ts'
import { readSettings } from './settings.ts'
import { short } from '../terminal/table.ts'
import { untilStopped } from './until.ts'
import { quoted, remark, say, sayTable } from '../terminal/output.ts'

const filterOf = (flags: FilterFlags, key = flags.key): ParkedKeyFilter => ({
  consumer: consumerOf(flags),
  key,
  error: flags.error,
  olderThanMs: flags.olderThan,
  youngerThanMs: flags.newerThan,
})

export async function listKeys(flags: FilterFlags): Promise<void> {
  const { schema, database } = await readSettings(flags)
  const { limit, after } = flags
  const page = await readParkedKeys(database(), filterOf(flags), { schema, limit, after })
  if (flags.json === true) return void say(JSON.stringify({ schema, ...page }))
  if (page.keys.length === 0) return void say('No such key is held back.')
  const now = Date.now()
  sayTable(
    ['of', 'key', 'since', 'goes on', 'waiting', 'letter', 'reason'],
    page.keys.map((parked) => [
      parked.consumer ?? 'outbox',
      parked.key,
      ms(Math.max(0, now - parked.since.getTime())),
      parked.until === null ? 'if told to' : `in ${ms(Math.max(0, parked.until.getTime() - now))}`,
      parked.waiting > 1000 ? '1000+' : String(parked.waiting),
      parked.letter === null ? '-' : String(parked.letter),
      short(parked.reason),
    ]),
    { drops: ['letter', 'since'], cuts: { of: 'middle', key: 'middle', reason: 'end' } },
  )
  if (page.next !== null) say(`\nThere are more: --after ${quoted(page.next)}`)
}

/** Lets keys go on, with the message that they are held back behind or without it. 1 if a key that was named is not held. */
export async function changeKeys(
  action: 'redrive' | 'skip',
  key: string | undefined,
  flags: ChangeFlags,
): Promise<0 | 1> {
  const { schema, database } = await readSettings(flags)
  const filter = filterOf(flags, key ?? flags.key)
  if (flags.all !== true && Object.values(filter).every((value) => value === undefined)) {
    throw new UsageError('Say which: a key, a filter such as --consumer, or --all.')
  }
  const run = action === 'redrive' ? redriveParkedKeys : skipParkedKeys
  const dryRun = flags.dryRun === true
  const { result: count, stopped } = await untilStopped('keys', (watch) =>
    run(database(), filter, {
      ...watch,
      schema,
      dryRun,
      limit: flags.limit,
      perSecond: flags.rate,
      by: flags.by,
      reason: flags.reason,
    }),
  )
  if (flags.json === true) say(JSON.stringify({ count, dryRun, stopped }))
  else say(`${dryRun ? 'Keys that would go on' : 'Keys that go on'}: ${count}.`)
  if (count === 0 && filter.key !== undefined) {
    remark(`The key "${filter.key}" is not held back in the schema "${schema}".`)
    return 1
  }
  return stopped ? 1 : 0
}
