import type { Kysely, Migration, MigrationProvider } from 'kysely'
import { SchemaError } from '../base/errors.ts'
import { checkSchema, readNumbers } from '../base/options.ts'
import { migrations } from '../base/package.ts'
import {
  lastOf,
  rangeOf,
  refuseNewer,
  refuseOlder,
  refuseUnknown,
  type AppliedMigration,
  type SchemaRange,
  type MigrationFile,
} from './compatibility.ts'
import { openDatabase, type Database, type DatabaseInput, type DatabaseOptions } from './database.ts'
import type { Asker } from './limited.ts'
import { busy, insistOnLocks, isInTheWay, runWithinTry, takeTurn, type LockWait } from './lockwait.ts'
import { refuseForeignOwners } from './ownership.ts'
import { refuseHiddenRows, type Read } from './rowsecurity.ts'
import { migrationSql } from './sql/migration.ts'
import { planned } from './sql/statement.ts'

/**
 * The migrations as plain SQL for the given schema, in order. Run them with `search_path` set to `pg_catalog, pg_temp`, as
 * `migrate` does: names in them are not to be found in somebody else's schema.
 */
export function migrationFiles(schema = 'twinbox'): MigrationFile[] {
  const quoted = `"${checkSchema(schema)}"`
  return migrations.map(({ name, sql }) => ({
    version: Number(name.slice(0, 4)),
    name,
    // In the files the word stands only for the schema; a comment that quotes the command line may change too.
    sql: sql.replaceAll(/\btwinbox(?=[.\s;,'])/g, (word) => (schema === 'twinbox' ? word : quoted)),
  }))
}

/** What `twinbox migrate --print` prints: the same for any other tool, with a `search_path` around each. */
export function printedFiles(schema = 'twinbox'): MigrationFile[] {
  const { printed } = migrationSql(checkSchema(schema))
  return migrationFiles(schema).map((file) => ({ ...file, sql: printed(file.sql) }))
}

export interface MigrateOptions extends DatabaseOptions {
  /**
   * How long to go on trying while others hold locks on the tables. In milliseconds. @default 60_000
   */
  readonly waitMs?: number | undefined
  /** Told after each try in vain who was in the way. */
  readonly onWait?: ((wait: LockWait) => void) | undefined
  /** Ends it: what was begun is rolled back. */
  readonly signal?: AbortSignal | undefined
}

/**
 * Brings the tables up to date, in one transaction. Idempotent; two processes that start it together take turns.
 * Returns the names of what it applied.
 *
 * It needs locks on tables for a moment, for which it waits less than a second at a time: meanwhile, publishers and
 * workers wait behind it. If it does not get them, it lets the others go ahead and tries again.
 *
 * @throws SchemaError `SCHEMA_AHEAD` if the database is newer and this version may not work on it; `SCHEMA_UNKNOWN` if its tables
 *   were made by other migrations; `SCHEMA_BUSY` if others hold on to the tables for longer than `waitMs`; `ROW_SECURITY` if the user
 *   may not see what has been applied; `FOREIGN_OWNER` if the schema or something in it belongs to neither the user, nor a role of
 *   which the user is a member, nor a superuser, nor the database's owner. The signal's reason if it aborts. Nothing was changed.
 */
export function migrate(input: DatabaseInput, options: MigrateOptions = {}): Promise<string[]> {
  return applyFiles(migrationFiles, input, options)
}

/** The same with given files: how a later migration meets tables in use can be tested before there is a later migration. */
export async function applyFiles(
  filesOf: (schema: string) => readonly MigrationFile[],
  input: DatabaseInput,
  options: MigrateOptions = {},
): Promise<string[]> {
  const { waitMs: given, onWait = () => {}, signal = new AbortController().signal, ...opening } = options
  const { waitMs } = readNumbers({ waitMs: given }, ['waitMs'])
  const { database, owned } = openDatabase(input, opening)
  const { schema } = database
  const sql = migrationSql(schema)
  try {
    return await insistOnLocks(
      database,
      async (client) => {
        const read: Read = async (text) => (await client.query(text)).rows
        await read(sql.lock)
        // Before anything is read: a view of somebody else's runs with the rights of whoever reads it.
        await refuseForeignOwners(schema, read)
        const files = filesOf(schema)
        const applied = await readApplied(schema, files, read)
        refuseNewer(schema, applied, rangeOf(files))
        const missing = files.filter((file) => file.version > lastOf(applied))
        const texts = missing.map((file) => file.sql)
        await runWithinTry(schema, texts, (text) => {
          signal.throwIfAborted()
          return client.query(text)
        })
        // Somebody may have made the schema since; what stands in it now, stands there until this is committed or rolled back.
        if (missing.length > 0) await refuseForeignOwners(schema, read)
        return missing.map((file) => file.name)
      },
      { waitMs, onWait, signal },
    )
  } finally {
    if (owned) await database.close()
  }
}

/** What was applied, in order. @throws SchemaError if this user may not see it, or it is of another line. */
async function readApplied(
  schema: string,
  files: readonly MigrationFile[],
  read: Read,
  consumer: string | null = null,
): Promise<readonly AppliedMigration[]> {
  const sql = migrationSql(schema)
  const [{ found }] = (await read(sql.exists)) as [{ found: boolean }]
  if (!found) return []
  // Otherwise it would look as if nothing had been applied.
  await refuseHiddenRows(schema, read, consumer)
  const rows = (await read(sql.applied)) as { [name in keyof AppliedMigration]: unknown }[]
  // In the user's own Migrator, their parsers have read it.
  const applied = rows.map(({ version, name, oldestWorker }) => ({
    version: Number(version),
    name: String(name),
    oldestWorker: oldestWorker === null ? null : Number(oldestWorker),
  }))
  refuseUnknown(schema, applied, files)
  return applied
}

/**
 * The same migrations for your own Kysely `Migrator`: spread `await twinboxMigrations().getMigrations()` into what
 * your provider returns. Applied ones are known by Twinbox's own table, so either way of migrating may follow the other.
 */
export function twinboxMigrations(schema = 'twinbox'): MigrationProvider {
  return providerOf(migrationFiles, schema)
}

/** The same with given files, as in `applyFiles`. */
export function providerOf(
  filesOf: (schema: string) => readonly MigrationFile[],
  schema: string,
): MigrationProvider {
  const sql = migrationSql(checkSchema(schema))
  const applyFile = async (read: Read, file: MigrationFile): Promise<void> => {
    // The Migrator takes turns with its like, but not with migrate().
    await takeTurn(schema, read)
    await refuseForeignOwners(schema, read)
    if (lastOf(await readApplied(schema, filesOf(schema), read)) >= file.version) return
    const [before] = (await read(sql.lockTimeoutNow)) as [{ lockTimeout: string }]
    await runWithinTry(schema, [file.sql], read).catch((error: unknown) => {
      // Nobody may be kept waiting until it is tried again here: the transaction is yours, and holds locks.
      throw isInTheWay(error) ? busy(schema, [], error) : error
    })
    await read(sql.lockTimeout(before.lockTimeout))
    await refuseForeignOwners(schema, read)
  }
  return {
    getMigrations: async () => {
      const { CompiledQuery } = await import('kysely')
      const files = filesOf(schema)
      return Object.fromEntries(
        files.map((file): [string, Migration] => [
          `twinbox_${file.name}`,
          {
            up: async (db: Kysely<unknown>) => {
              const read = async (text: string): Promise<unknown[]> =>
                (await db.executeQuery(CompiledQuery.raw(text))).rows
              const [where] = (await read(sql.searchPathNow)) as [{ searchPath: string }]
              await read(sql.searchPath)
              await applyFile(read, file)
              await read(sql.searchPathBack(where.searchPath))
            },
          },
        ]),
      )
    },
  }
}

/** Where the tables stand, in the range of this version. */
export interface SchemaState extends SchemaRange {
  readonly version: number
}

/** For the work of one consumer, or of all. @throws SchemaError unless workers of this version may work on the tables */
export async function checkSchemaVersion(
  database: Asker,
  consumer: string | null = null,
  range: SchemaRange = rangeOf(migrationFiles(database.schema)),
): Promise<SchemaState> {
  const { schema } = database
  const read: Read = (text) => database.query(planned({}, text))
  const [{ found }] = (await read(migrationSql(schema).exists)) as [{ found: boolean }]
  if (!found) {
    throw new SchemaError(
      'SCHEMA_MISSING',
      `There are no Twinbox tables in the schema "${schema}" of this database. Run "npx twinbox migrate" first.`,
    )
  }
  const applied = await readApplied(schema, migrationFiles(schema), read, consumer)
  refuseNewer(schema, applied, range)
  refuseOlder(schema, applied, range)
  return { ...range, version: lastOf(applied) }
}

/** For what has to know the tables as they are. @throws SchemaError unless they are those of this version's last migration */
export async function checkSchemaIsNewest(database: Database): Promise<void> {
  const { version, newest } = await checkSchemaVersion(database)
  if (version === newest) return
  throw new SchemaError(
    version > newest ? 'SCHEMA_AHEAD' : 'SCHEMA_BEHIND',
    `The schema "${database.schema}" is at migration ${version} and this version of Twinbox knows ${newest}. Workers may go on, but this has to be done by the version that the tables are of. Nothing was changed.`,
  )
}
