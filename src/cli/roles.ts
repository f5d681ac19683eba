import { applyRoles, readRoles, rolesScript } from '../database/roles.ts'
import { UsageError } from '../terminal/failure.ts'
import type { Flags } from '../terminal/flags.ts'
import { tellWait } from './migration.ts'
import { readSettings } from './settings.ts'
import { unlessStopped } from './until.ts'
import { explain, say, sayTable } from '../terminal/output.ts'

export interface RolesFlags extends Flags {
  readonly print?: boolean
  readonly apply?: boolean
  readonly consumers?: readonly string[]
}

/** Prints the script, runs it, or tells which roles there are and who has them. Returns the exit code. */
export async function showRoles(flags: RolesFlags): Promise<0 | 1> {
  if (flags.print === true && flags.apply === true) throw new UsageError('Give --print or --apply, not both.')
  const { consumers = [] } = flags
  if (consumers.length > 0 && flags.print !== true && flags.apply !== true)
    throw new UsageError(
      '--consumers says of which consumers to make roles: give --apply or --print as well.',
    )
  const { schema, database } = await readSettings(flags)
  if (flags.print === true) {
    const script = rolesScript(schema, consumers)
    say(flags.json === true ? JSON.stringify({ schema, script }) : script.trimEnd())
    return 0
  }
  if (flags.apply === true) {
    const onWait = tellWait(schema, flags)
    const done = await unlessStopped((signal) =>
      applyRoles(database(), { schema, consumers, onWait, signal }).then(() => true),
    )
    if (done === null) return 1
  }
  const roles = await readRoles(database(), { schema })
  if (flags.json === true) {
    say(JSON.stringify({ schema, applied: flags.apply === true, roles }))
    return 0
  }
  const rows = roles.map(({ name, exists, ours, members }) => [
    name,
    exists ? (ours ? 'yes' : 'not ours') : 'no',
    members.join(', ') || '-',
  ])
  sayTable(['role', 'exists', 'members'], rows, { cuts: { role: 'middle', members: 'end' } })
  if (flags.apply === true) {
    explain('\nGrant them to the users that your processes log in as: grant … to …')
  } else if (roles.some(({ exists }) => !exists)) {
    explain('\nMake those that are missing with --apply, or see what it would run with --print.')
  }
  return 0
}
