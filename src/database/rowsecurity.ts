import { SchemaError } from '../base/errors.ts'
import { rowSecuritySql } from './sql/rowsecurity.ts'

/** Runs a statement, and gives its rows. */
export type Read = (text: string) => Promise<readonly unknown[]>

/** Tables of which row-level security hides rows from this user. @throws SchemaError `ROW_SECURITY` if there are any. */
export async function refuseHiddenRows(schema: string, read: Read): Promise<void> {
  const rows = await read(rowSecuritySql(schema).hidden)
  const names = (rows as readonly { name: string }[]).map(({ name }) => `"${schema}".${name}`)
  if (names.length === 0) return
  throw new SchemaError(
    'ROW_SECURITY',
    `Row-level security hides rows of ${names.join(', ')} from this user, who would take them for not there. ${letThrough(names[0]!)}`,
  )
}

/** What to do about it. */
export const letThrough = (table: string, role = 'the role'): string =>
  `Either switch it off (alter table ${table} disable row level security), or let ${role} through: with a policy for all, "using (true) with check (true)", or with BYPASSRLS.`
