import type { Asker } from '../database/limited.ts'
import { describeForeign, onForeign } from '../database/ownership.ts'
import { ownershipSql } from '../database/sql/ownership.ts'
import { orFine, wrong, type Finding } from './finding.ts'

const check = 'owners'

/** Whether all of the schema has one owner, and nobody else may put something into it. */
export async function examineOwnership(database: Asker): Promise<readonly Finding[]> {
  const { schema } = database
  const sql = ownershipSql(schema)
  const [{ owner }] = (await database.query(sql.owner)) as [{ owner: string }]
  const foreign = await database.query(sql.foreignTo, { role: owner })
  const creators = await database.query(sql.creators, { role: owner })
  const findings: Finding[] = []
  if (foreign.length > 0) {
    findings.push(
      wrong(
        check,
        `The tables belong to ${owner}, but ${describeForeign(foreign)}.`,
        onForeign(schema, foreign),
      ),
    )
  }
  for (const { name } of creators) {
    const [who, role] = name === '' ? ['Everybody', 'public'] : [name, `"${name}"`]
    findings.push(
      wrong(
        check,
        `${who} may create in the schema "${schema}": a function or an operator there can be run with the rights of whoever publishes by SQL.`,
        `Run: revoke create on schema "${schema}" from ${role}`,
      ),
    )
  }
  return orFine(
    findings,
    check,
    `All of the schema belongs to ${owner} or to whom ${owner} has to trust, and nobody else may create in it.`,
  )
}
