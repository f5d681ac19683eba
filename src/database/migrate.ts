import { readdirSync, readFileSync } from 'node:fs'
import type { Kysely, Migration, MigrationProvider } from 'kysely'
import { SchemaError } from '../errors.ts'
import { checkSchema } from '../options.ts'
import { openDatabase, type DatabaseInput, type DatabaseOptions } from './database.ts'
import { migrationSql } from './sql/migration.ts'

/** One file of `migrations/`. */
export interface MigrationFile {
  readonly version: number
  /** As in the file's name: `0001_outbox`. */
  readonly name: string
  readonly sql: string
}

const folder = new URL(
  import.meta.url.includes('/.build/') ? '../../../migrations/' : '../../migrations/',
  import.meta.url,
)

/** The migrations as plain SQL for the given schema, in order. What `twinbox migrate --print` prints. */
export function migrationFiles(schema = 'twinbox'): MigrationFile[] {
  const quoted = `"${checkSchema(schema)}"`
  return readdirSync(folder)
    .filter((file) => /^\d{4}_\w+\.sql$/.test(file))
    .toSorted()
    .map((file) => ({
      version: Number(file.slice(0, 4)),
      name: file.slice(0, -'.sql'.length),
      // In the files the word stands only for the schema; a comment that quotes the command line may change too.
      sql: readFileSync(new URL(file, folder), 'utf8').replaceAll(/\btwinbox(?=[.\s;,'])/g, (word) =>
        schema === 'twinbox' ? word : quoted,
      ),
    }))
}

/**
 * Brings the tables up to date, in one transaction. Idempotent; two processes that start it together take turns.
 * Returns the names of what it applied.
 *
 * @throws SchemaError `SCHEMA_AHEAD` if the database is newer than this version of Twinbox. Nothing was changed.
 */
export async function migrate(input: DatabaseInput, options: DatabaseOptions = {}): Promise<string[]> {
  const { database, owned } = openDatabase(input, options)
  const sql = migrationSql(database.schema)
  try {
    return await database.transaction(async (client) => {
      await client.query(sql.lock)
      const files = migrationFiles(database.schema)
      const { rows } = await client.query<{ found: boolean }>(sql.exists)
      const applied = rows[0]!.found ? (await client.query<{ version: number }>(sql.applied)).rows : []
      const version = applied.at(-1)?.version ?? 0
      refuseNewer(version, files, database.schema)
      const missing = files.filter((file) => file.version > version)
      for (const file of missing) await client.query(file.sql)
      return missing.map((file) => file.name)
    })
  } finally {
    if (owned) await database.close()
  }
}

/**
 * The same migrations for your own Kysely `Migrator`: spread `await twinboxMigrations().getMigrations()` into what
 * your provider returns. Applied ones are known by Twinbox's own table, so either way of migrating may follow the other.
 */
export function twinboxMigrations(schema = 'twinbox'): MigrationProvider {
  const sql = migrationSql(checkSchema(schema))
  return {
    getMigrations: async () => {
      const { CompiledQuery } = await import('kysely')
      return Object.fromEntries(
        migrationFiles(schema).map((file): [string, Migration] => [
          `twinbox_${file.name}`,
          {
            up: async (db: Kysely<unknown>) => {
              // The Migrator takes turns with its like, but not with migrate().
              await db.executeQuery(CompiledQuery.raw(sql.lock))
              const { rows } = await db.executeQuery<{ found: boolean }>(CompiledQuery.raw(sql.exists))
              const applied = rows[0]?.found
                ? (await db.executeQuery<{ version: number }>(CompiledQuery.raw(sql.applied))).rows
                : []
              if (applied.some(({ version }) => version === file.version)) return
              await db.executeQuery(CompiledQuery.raw(file.sql))
            },
          },
        ]),
      )
    },
  }
}

/** @throws SchemaError unless the tables are exactly those that this version works with. */
export async function checkSchemaVersion(database: {
  readonly schema: string
  readonly pool: { query<Row>(text: string): Promise<{ rows: Row[] }> }
}): Promise<void> {
  const { schema, pool } = database
  const sql = migrationSql(schema)
  const files = migrationFiles(schema)
  const newest = files.at(-1)!.version
  const found = (await pool.query<{ found: boolean }>(sql.exists)).rows[0]?.found
  if (!found) {
    throw new SchemaError(
      'SCHEMA_MISSING',
      `There are no Twinbox tables in the schema "${schema}" of this database. Run "npx twinbox migrate" first.`,
    )
  }
  const version = (await pool.query<{ version: number }>(sql.applied)).rows.at(-1)?.version ?? 0
  refuseNewer(version, files, schema)
  if (version < newest) {
    throw new SchemaError(
      'SCHEMA_BEHIND',
      `The schema "${schema}" is at migration ${version} and this version of Twinbox needs ${newest}. Run "npx twinbox migrate" before starting workers.`,
    )
  }
}

function refuseNewer(version: number, files: readonly MigrationFile[], schema: string): void {
  const newest = files.at(-1)!.version
  if (version > newest) {
    throw new SchemaError(
      'SCHEMA_AHEAD',
      `The schema "${schema}" is at migration ${version}, newer than the ${newest} that this version of Twinbox knows. Upgrade the package; nothing was changed.`,
    )
  }
}
