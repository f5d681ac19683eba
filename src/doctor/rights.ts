import type { Database } from '../database/database.ts'
import { letThrough } from '../database/rowsecurity.ts'
import { rowSecuritySql } from '../database/sql/rowsecurity.ts'
import { functions, grants, roleNames, type RoleName } from '../database/sql/grants.ts'
import { markOf, roleOf, rolesSql, type MembersRow } from '../database/sql/roles.ts'
import { rightsSql, type MissingRow } from '../database/sql/rights.ts'
import { fine, identifier, note, wrong, type Finding } from './finding.ts'

const check = 'grants'
const rowSecurity = 'row security'

/** Whether this user, and the roles of least privilege as far as there are any, may do what they are there for. */
export async function examineRights(database: Database): Promise<readonly Finding[]> {
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
  const names = roleNames.map((role) => roleOf(database.schema, role))
  const known = await database.query(rolesSql(database.schema).members, {
    names,
    marks: roleNames.map((role) => markOf(database.schema, role)),
  })
  const findings: Finding[] = []
  for (const [index, role] of roleNames.entries()) {
    findings.push(...examineRole(names[index]!, known[index]!))
    if (!known[index]!.applied) continue
    const lacking = await missing(names[index]!, role)
    if (lacking.length === 0) continue
    findings.push(
      wrong(
        check,
        `The role ${names[index]} lacks ${told(lacking)}.`,
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
  const roles = names.filter((_, index) => known[index]!.applied)
  return [...findings, ...(await examineRowSecurity(database, roles, me))]
}

/** Whether a role of our name is one that we made, and nobody logs in as it. */
function examineRole(name: string, { found, ours, login, applied }: MembersRow): readonly Finding[] {
  if (!found) return []
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

/** Whether row-level security, which is never ours, hides rows from those who work here. */
async function examineRowSecurity(
  database: Database,
  roles: readonly string[],
  me: string,
): Promise<readonly Finding[]> {
  const sql = rowSecuritySql(database.schema)
  interface Named {
    readonly name: string
  }
  const secured = await database.query(sql.secured)
  if (secured.length === 0) return []
  const tables = (rows: readonly Named[]): string => rows.map(({ name }) => name).join(', ')
  const logins = await database.query(sql.logins, { roles })
  const findings: Finding[] = []
  for (const who of new Set([me, ...logins.map(({ name }) => name)])) {
    const hidden = await database.query(sql.hiddenFrom, { role: who })
    if (hidden.length === 0) continue
    findings.push(
      wrong(
        rowSecurity,
        `Row-level security hides rows of ${tables(hidden)} from ${who}, who would take them for not there.`,
        letThrough(`"${database.schema}".${hidden[0]!.name}`, who),
      ),
    )
  }
  if (findings.length > 0) return findings
  return [
    note(
      rowSecurity,
      `Row-level security is on for ${tables(secured)}. It hides nothing from ${[me, ...logins.map(({ name }) => name)].join(', ')}.`,
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
