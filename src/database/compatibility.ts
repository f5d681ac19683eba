import { SchemaError } from '../base/errors.ts'

/** One file of `migrations/`. */
export interface MigrationFile {
  readonly version: number
  /** As in the file's name: `0001_outbox`. */
  readonly name: string
  readonly sql: string
}

/** A migration that the database says was applied. */
export interface AppliedMigration {
  readonly version: number
  readonly name: string
  /** Null: the row is of a time when this was not written down. */
  readonly oldestWorker: number | null
}

/** The tables that a version of Twinbox knows, by their last migration. */
export interface SchemaRange {
  /** The statements of this version need nothing that a later migration has made. */
  readonly oldest: number
  /** The last of its own migrations. Whether it may work on newer tables, the tables say. */
  readonly newest: number
}

/**
 * Raise `oldest` with the first statement that needs a later migration. As long as it is left, workers of this version start
 * before the migration has been applied; and with `oldest_worker`, which each migration states, the workers before it after.
 */
export const rangeOf = (files: readonly MigrationFile[]): SchemaRange => ({
  oldest: 5,
  newest: files.at(-1)!.version,
})

export const lastOf = (applied: readonly AppliedMigration[]): number => applied.at(-1)?.version ?? 0

/** @throws SchemaError if the database is newer, and says that workers of this version may not work on it */
export function refuseNewer(
  schema: string,
  applied: readonly AppliedMigration[],
  { newest }: SchemaRange,
): void {
  // Not the last row's alone: what one migration has broken, the next one does not mend.
  const needed = Math.max(...applied.map(({ oldestWorker }) => oldestWorker ?? Infinity))
  if (applied.length === 0 || needed <= newest) return
  throw new SchemaError(
    'SCHEMA_AHEAD',
    `The schema "${schema}" is at migration ${lastOf(applied)}, newer than the ${newest} that this version of Twinbox knows, and only workers that know migration ${needed} may work on it. Upgrade the package; nothing was changed.`,
  )
}

/** @throws SchemaError if the database lacks migrations that workers of this version need */
export function refuseOlder(
  schema: string,
  applied: readonly AppliedMigration[],
  { oldest }: SchemaRange,
): void {
  if (lastOf(applied) >= oldest) return
  throw new SchemaError(
    'SCHEMA_BEHIND',
    `The schema "${schema}" is at migration ${lastOf(applied)} and this version of Twinbox needs ${oldest}. Run "npx twinbox migrate" before starting workers.`,
  )
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
