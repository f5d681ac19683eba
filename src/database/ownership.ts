import { SchemaError } from '../base/errors.ts'
import type { Read } from './rowsecurity.ts'
import { ownershipSql, type ForeignObject } from './sql/ownership.ts'

/**
 * Whether the schema, or something in it, belongs to somebody whom this user has no reason to trust: to run what such an
 * owner has prepared is to lend out one's own rights. @throws SchemaError `FOREIGN_OWNER`
 */
export async function refuseForeignOwners(schema: string, read: Read): Promise<void> {
  const found = (await read(ownershipSql(schema).foreign)) as readonly ForeignObject[]
  if (found.length === 0) return
  throw new SchemaError(
    'FOREIGN_OWNER',
    `The schema "${schema}" is not yours alone: ${describeForeign(found)}. Nothing was changed. ${onForeign(schema, found)}`,
  )
}

const toldMax = 5

/** Who owns what, the first few by name. */
export function describeForeign(found: readonly ForeignObject[]): string {
  const told = found.slice(0, toldMax).map(({ kind, name, owner }) => `${kind} ${name} belongs to ${owner}`)
  const more = found.length - told.length
  return more > 0 ? `${told.join(', ')}, and so with ${more} more` : told.join(', ')
}

/** What to do about it. */
export function onForeign(schema: string, found: readonly ForeignObject[]): string {
  const { owner, kind, name } = found[0]!
  return (
    `If you do not know why, drop it or migrate into another schema (--schema NAME): its owner can make it do anything with the rights of whoever uses it. ` +
    `If you trust ${owner}, migrate as ${owner}, or make the migrating user a member: grant ${owner} to …; ` +
    `or take it over: alter ${kind} ${kind === 'schema' ? `"${schema}"` : name} owner to …`
  )
}
