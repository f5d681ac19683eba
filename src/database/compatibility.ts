import { SchemaError } from '../errors.ts'
import type { MigrationFile } from './migrate.ts'

/** A migration that the database says was applied. */
export interface AppliedMigration {
  readonly version: number
  readonly name: string
  /** Null: the row is of a time when this was not written down. */
  readonly oldestWorker: number | null
}

/**
 * Version numbers alone would lie: tables of other migrations with the same numbers would pass for ours, and half of a
 * migration would run on them.
 *
 * @throws SchemaError if the database has tables that the files do not lead to
 */
export function refuseUnknown(
  schema: string,
  applied: readonly AppliedMigration[],
  files: readonly MigrationFile[],
): void {
  const ours = new Map(files.map(({ version, name }) => [version, name]))
  const isOther = ({ version, name }: AppliedMigration): boolean =>
    ours.has(version) && ours.get(version) !== `${String(version).padStart(4, '0')}_${name}`
  const undated = applied.some(({ oldestWorker }) => oldestWorker === null)
  if (!undated && !applied.some(isOther)) return
  const named = applied.filter((row) => !ours.has(row.version) || isOther(row))
  const unknown = (named.length > 0 ? named : applied).map(({ version, name }) => `${version} "${name}"`)
  throw new SchemaError(
    'SCHEMA_UNKNOWN',
    `The schema "${schema}" was made by migrations that this version of Twinbox does not have: ${unknown.join(', ')}. ` +
      'They are of another line of versions, such as those before the first release, and nothing leads from their tables to those of this one. ' +
      'Let the version that made them work off what waits; then drop the schema and run "npx twinbox migrate". ' +
      'Or leave the schema as it is and give this version another one (--schema NAME). Nothing was changed.',
  )
}
