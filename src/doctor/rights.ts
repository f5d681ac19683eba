import type { Asker } from '../database/limited.ts'
import { findRoles, type FoundRole } from '../database/roles.ts'
import { letThrough } from '../database/rowsecurity.ts'
import { rowSecuritySql } from '../database/sql/rowsecurity.ts'
import { functions, grants, roleNames, roleOf, type RoleName } from '../database/sql/grants.ts'
import { rolesSql } from '../database/sql/roles.ts'
import { rightsSql, type MissingRow } from '../database/sql/rights.ts'
import { fine, identifier, note, wrong, type Finding } from './finding.ts'

const check = 'grants'
const rowSecurity = 'row security'

/** Whether this user, and the roles of least privilege as far as there are any, may do what they are there for. */
export async function examineRights(database: Asker): Promise<readonly Finding[]> {
  const sql = rightsSql(database.schema)
  const missing = (who: string, role: RoleName): Promise<MissingRow[]> => {
    const asked = [
      ...grants[role].flatMap(({ table, privileges, columns = [''] }) =>
        privileges.flatMap((privilege) => columns.map((column) => ({ table, privilege, column }))),
      ),
      ...(functions[role] ?? []).map((table) => ({ table, privilege: 'execute', column: '' })),
    ]
    return database.query(sql.missing, {
      role: who,
      tables: asked.map(({ table }) => table),
      privileges: asked.map(({ privilege }) => privilege),
      columns: asked.map(({ column }) => column),
    })
  }
  const known = await findRoles(database)
  const findings: Finding[] = []
  for (const each of known) {
    findings.push(...examineRole(each))
    if (!each.applied) continue
    const lacking = await missing(each.name, each.role)
    if (lacking.length === 0) continue
    findings.push(
      wrong(
        check,
        `The role ${each.name} lacks ${told(lacking)}.`,
        'A migration has come since: run "twinbox roles --apply" as the owner.',
      ),
    )
  }
  const [{ me }] = (await database.query(sql.me)) as [{ me: string }]
  const able: RoleName[] = []
  const unable = new Map<RoleName, MissingRow[]>()
  for (const role of roleNames) {
    const lacking = await missing(me, role)
    if (lacking.length === 0) able.push(role)
    else unable.set(role, lacking)
  }
  if (able.length === 0) {
    const [nearest] = [...unable].toSorted(([, one], [, other]) => one.length - other.length)
    findings.push(
      wrong(
        check,
        `The user ${me} may be none of ${roleNames.join(', ')}: as ${nearest![0]} it lacks ${told(nearest![1])}.`,
        `Run "twinbox roles --apply" as the owner, then for example: grant ${roleOf(database.schema, nearest![0])} to ${identifier(me)}`,
      ),
    )
  } else findings.push(fine(check, `The user ${me} may be ${able.join(', ')}.`))
  const everybody = await database.query(sql.public)
  if (everybody.length > 0) {
    findings.push(
      note(
        check,
        `Everybody who may use the schema has rights on: ${everybody.map(({ name }) => name).join(', ')}.`,
        'Run "twinbox roles --apply" as the owner, which takes them back.',
      ),
    )
  }
  for (const { name, consumer, tables } of await database.query(rolesSql(database.schema).unnarrowed)) {
    findings.push(
      wrong(
        rowSecurity,
        `The role ${name} is for the consumer ${consumer} alone, and sees the rows of all in ${tables.join(', ')}.`,
        `Run "twinbox roles --apply --consumers ${consumer}" as the owner, or drop the role.`,
      ),
    )
  }
  const roles = known.flatMap(({ name, applied }) => (applied ? [name] : []))
  return [...findings, ...(await examineRowSecurity(database, roles, me))]
}

/** Whether a role of our name is one that we made, and nobody logs in as it. */
function examineRole({ name, exists, ours, login, applied }: FoundRole): readonly Finding[] {
  if (!exists) return []
  if (!ours) {
    const says = `The role ${name} was not made by Twinbox: it has no comment that says so`
    const advice = `Rename or drop it, then run "twinbox roles --apply" as the owner.`
    return [
      applied
        ? wrong(check, `${says}, and it has rights here, as its members have.`, advice)
        : note(check, `${says}. "twinbox roles --apply" refuses it.`, advice),
    ]
  }
  if (!login) return []
  return [
    note(
      check,
      `Somebody can log in as the role ${name}, which is for others to be granted.`,
      `Take LOGIN from ${name}, and make a user a member of it.`,
    ),
  ]
}

/** Whether row-level security hides rows from those who work here, other than a consumer's from the workers of others. */
async function examineRowSecurity(
  database: Asker,
  roles: readonly string[],
  me: string,
): Promise<readonly Finding[]> {
  const sql = rowSecuritySql(database.schema)
  const secured = await database.query(sql.secured)
  if (secured.length === 0) return []
  const tables = (rows: readonly { readonly name: string }[]): string =>
    rows.map(({ name }) => name).join(', ')
  const logins = await database.query(sql.logins, { roles })
  const findings: Finding[] = []
  for (const who of new Set([me, ...logins.map(({ name }) => name)])) {
    const hidden = await database.query(sql.hiddenFrom, { role: who })
    const foreign = hidden.filter((row) => row.foreign)
    if (foreign.length > 0) {
      findings.push(
        wrong(
          rowSecurity,
          `Row-level security hides rows of ${tables(foreign)} from ${who}, who would take them for not there.`,
          letThrough(`"${database.schema}".${foreign[0]!.name}`, who),
        ),
      )
    }
    const consumers = [...new Set(hidden.flatMap((row) => row.consumers))]
    if (consumers.length > 1) {
      findings.push(
        wrong(
          rowSecurity,
          `The user ${who} has roles of the consumers ${consumers.join(', ')}, and sees the rows of none of them.`,
          'Let the workers of each consumer log in as a user of their own.',
        ),
      )
    }
  }
  const others = secured.filter(({ ours }) => !ours)
  if (findings.length > 0 || others.length === 0) return findings
  return [
    note(
      rowSecurity,
      `Row-level security is on for ${tables(others)}. It hides nothing from ${[me, ...logins.map(({ name }) => name)].join(', ')}.`,
      'Whoever else works here has to be let through by a policy, or by BYPASSRLS.',
    ),
  ]
}

function told(missing: readonly MissingRow[]): string {
  const words = missing.map(({ table, privilege, column }) =>
    column === '' ? `${privilege} on ${table}` : `${privilege} of ${column} on ${table}`,
  )
  return words.length <= 3 ? words.join(', ') : `${words.slice(0, 3).join(', ')} and ${words.length - 3} more`
}
