import { openDatabase, type Database, type DatabaseInput } from '../database/database.ts'
import { checkSchemaVersion } from '../database/migrate.ts'

/** Runs `work` on tables that are as this version knows them, on a connection of its own if it is given none. */
export async function withTables<Result>(
  input: DatabaseInput,
  schema: string | undefined,
  work: (database: Database) => Promise<Result>,
): Promise<Result> {
  const { database, owned } = openDatabase(input, { schema, poolSize: 1 })
  try {
    await checkSchemaVersion(database)
    return await work(database)
  } finally {
    if (owned) await database.close()
  }
}
