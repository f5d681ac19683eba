import { applyRoles, readRoles, rolesScript } from '../database/roles.ts'
import { UsageError } from '../terminal/failure.ts'
import type { Flags } from '../terminal/flags.ts'
import { readSettings } from './settings.ts'
import { table } from '../terminal/table.ts'
import { say } from '../terminal/output.ts'

export interface RolesFlags extends Flags {
  readonly print?: boolean
  readonly apply?: boolean
}

/** Prints the script, runs it, or tells which roles there are and who has them. */
export async function showRoles(flags: RolesFlags): Promise<void> {
  if (flags.print === true && flags.apply === true) throw new UsageError('Give --print or --apply, not both.')
  const { schema, database } = await readSettings(flags)
  if (flags.print === true) {
    const script = rolesScript(schema)
    say(flags.json === true ? JSON.stringify({ schema, script }) : script.trimEnd())
    return
  }
  if (flags.apply === true) await applyRoles(database(), { schema })
  const roles = await readRoles(database(), { schema })
  if (flags.json === true) {
    say(JSON.stringify({ schema, applied: flags.apply === true, roles }))
    return
  }
  const rows = roles.map(({ name, exists, ours, members }) => [
    name,
    exists ? (ours ? 'yes' : 'not ours') : 'no',
    members.join(', ') || '-',
  ])
  say(table(['role', 'exists', 'members'], rows))
  if (flags.apply === true) {
    say('\nGrant them to the users that your processes log in as: grant … to …')
  } else if (roles.some(({ exists }) => !exists)) {
    say('\nMake those that are missing with --apply, or see what it would run with --print.')
  }
}
