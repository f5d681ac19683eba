import { describeBlocker, type LockWait } from '../database/lockwait.ts'
import { migrate, printedFiles } from '../database/migrate.ts'
import type { CommonFlags } from '../terminal/flags.ts'
import { readSettings } from './settings.ts'
import { unlessStopped } from './until.ts'
import { remark, say } from '../terminal/output.ts'

export interface MigrateFlags extends CommonFlags {
  readonly print?: boolean
  /** In milliseconds. */
  readonly wait?: number
}

/** Creates the tables, or brings them up to date. Returns the exit code. */
export async function runMigrate(flags: MigrateFlags): Promise<0 | 1> {
  const { schema, database } = await readSettings(flags)
  if (flags.print === true) {
    const files = printedFiles(schema)
    const texts = files.map(({ sql }) => sql)
    say(flags.json === true ? JSON.stringify(files) : texts.join('\n').trimEnd())
    return 0
  }
  const onWait = tellWait(schema, flags)
  const applied = await unlessStopped((signal) =>
    migrate(database(), { schema, waitMs: flags.wait, onWait, signal }),
  )
  if (applied === null) return 1
  if (flags.json === true) say(JSON.stringify({ schema, applied }))
  else if (applied.length === 0) say(`The schema "${schema}" is up to date.`)
  else for (const name of applied) say(`Applied ${name}`)
  return 0
}

/** On standard error, also in a log: whoever waits for a deployment has to know what for. */
export const tellWait =
  (schema: string, { json }: CommonFlags) =>
  (wait: LockWait): void => {
    remark(json === true ? JSON.stringify({ schema, waiting: wait }) : waitingFor(wait))
  }

function waitingFor({ waitedMs, retryInMs, blockers }: LockWait): string {
  const who = blockers.length === 0 ? 'somebody who has gone since' : blockers.map(describeBlocker).join('; ')
  const [waited, next] = [waitedMs, retryInMs].map((ms) => (ms / 1000).toFixed(1))
  return `Waiting for locks since ${waited} s, in the way: ${who}. Others go ahead; the next try is in ${next} s.`
}
