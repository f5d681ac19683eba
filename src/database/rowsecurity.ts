import { SchemaError } from '../base/errors.ts'
import { rowSecuritySql, type HiddenRow } from './sql/rowsecurity.ts'

/** Runs a statement, and gives its rows. */
export type Read = (text: string) => Promise<readonly unknown[]>

/**
 * Tables of which row-level security hides rows from this user. That a role is one consumer's hides nothing from this consumer's work.
 * @throws SchemaError `ROW_SECURITY` if there are any
 */
export async function refuseHiddenRows(schema: string, read: Read, consumer: string | null): Promise<void> {
  const rows = (await read(rowSecuritySql(schema).hidden)) as readonly HiddenRow[]
  const names = rows.flatMap(({ name, foreign }) => (foreign ? [`"${schema}".${name}`] : []))
  if (names.length > 0) {
    throw new SchemaError(
      'ROW_SECURITY',
      `Row-level security hides rows of ${names.join(', ')} from this user, who would take them for not there. ${letThrough(names[0]!)}`,
    )
  }
  const consumers = [...new Set(rows.flatMap((row) => row.consumers))]
  if (consumers.every((each) => each === consumer)) return
  throw new SchemaError(
    'ROW_SECURITY',
    `This user has roles of Twinbox for ${consumers.map((each) => `the consumer "${each}"`).join(' and for ')}, and would take the rows of others for not there. ` +
      (consumer === null
        ? 'This wants a user who has none of them.'
        : `Work for "${consumer}" as a user who has no role of another consumer.`),
  )
}

/** What to do about it. */
export const letThrough = (table: string, role = 'the role'): string =>
  `Either switch it off (alter table ${table} disable row level security), or let ${role} through: with a policy for all, "using (true) with check (true)", or with BYPASSRLS.`
