import { eraseMessages, summary } from '../operate/erase.ts'
import { exportMessages } from '../operate/export-messages.ts'
import type { Target } from '../operate/target.ts'
import { UsageError } from '../terminal/failure.ts'
import { remark, say } from '../terminal/output.ts'
import { confirmed } from './confirm.ts'
import { consumerOf, writeLines, type ChangeFlags } from './letters.ts'
import { readSettings } from './settings.ts'
import { unlessStopped } from './until.ts'

/** Whose data is meant. */
export interface TargetFlags extends ChangeFlags {
  readonly id?: string
  readonly dedupeKey?: string
  readonly out?: string
}

/** @throws UsageError */
function targetOf(flags: TargetFlags): Target {
  const { key, id, dedupeKey, topic } = flags
  if ([key, id, dedupeKey].filter((each) => each !== undefined).length !== 1)
    throw new UsageError('Say which: one of --key, --id and --dedupe-key.')
  return { key, id, dedupeKey, topic, consumer: consumerOf(flags) }
}

/** Erases, having asked. 1 if the answer was no. */
export async function erase(flags: TargetFlags): Promise<0 | 1> {
  const { schema, database } = await readSettings(flags)
  const target = targetOf(flags)
  const options = { schema, by: flags.by, reason: flags.reason }
  const dryRun = flags.dryRun === true
  if (!dryRun && flags.yes !== true) {
    const { rows } = await eraseMessages(database(), target, { ...options, dryRun: true })
    if (!(await confirmed(`This erases: ${summary(rows)}.`, flags.yes))) return 1
  }
  const erased = await unlessStopped((signal) =>
    eraseMessages(database(), target, { ...options, dryRun, signal }),
  )
  if (erased === null) return 1
  if (flags.json === true) say(JSON.stringify({ ...erased, dryRun }))
  else {
    say(`${dryRun ? 'Would be erased' : 'Erased'}: ${summary(erased.rows)}.`)
    for (const name of erased.schedules) remark(`Not erased: the schedule "${name}", which has this key.`)
    if (erased.remembered > 0)
      remark(`Not erased: ${erased.remembered} remembered ids, so that a redelivery is not handled.`)
    if (erased.sending > 0)
      remark(
        `A relay has held ${erased.sending} of them, and may have been sending them: they may arrive. Erase again when nothing is on its way.`,
      )
    remark('Not erased either: copies at the broker, in backups and in the WAL.')
  }
  return 0
}

/** Writes messages, one JSON object a line. */
export async function exportAll(flags: TargetFlags): Promise<void> {
  const { schema, database } = await readSettings(flags)
  await writeLines(exportMessages(database(), targetOf(flags), { schema }), 'messages', flags)
}
