import { openDatabase, type Database, type DatabaseInput } from '../database/database.ts'
import { limited, type Asker } from '../database/limited.ts'
import { checkSchemaVersion } from '../database/migrate.ts'
import { examineLocks } from './locks.ts'
import { examineOwnership } from './ownership.ts'
import { examineRights } from './rights.ts'
import { examineSession } from './session.ts'
import { examineServer, type Demand } from './server.ts'
import { examineStorage, examineWork } from './work.ts'
import { findDrift } from './drift.ts'
import { note, wrong, type Finding } from './finding.ts'
import { SchemaError } from '../base/errors.ts'
import { sentence } from '../observe/logging.ts'
import { refuseUnknown } from '../base/options.ts'

export type { Demand } from './server.ts'
export type { Finding } from './finding.ts'

export interface DiagnoseOptions {
  /** @default 'twinbox' */
  readonly schema?: string | undefined
  /** What the workers of one process want of connections. @default nothing */
  readonly demand?: readonly Demand[] | undefined
}

/**
 * Looks for what makes the work fail, slow or unsafe before it does: tables that are not as the migrations make them,
 * missing grants, settings that void a guarantee, who keeps dead rows from being removed, work that nobody does. Changes
 * nothing: the schema that it makes to compare with is rolled back.
 *
 * @throws OptionError, or the database's error if it cannot be reached
 */
export async function diagnose(input: DatabaseInput, options: DiagnoseOptions = {}): Promise<Finding[]> {
  refuseUnknown('diagnose', options, ['schema', 'demand'])
  const { database, owned } = openDatabase(input, { schema: options.schema, poolSize: 1 })
  try {
    return await examine(database, null, options.demand)
  } finally {
    if (owned) await database.close()
  }
}

/** The same, of a database that stays open; `limitMs` is after how long the server ends a statement of it. */
export async function examine(
  database: Database,
  limitMs: number | null,
  demand: readonly Demand[] = [],
): Promise<Finding[]> {
  const asker = limitMs === null ? database : limited(database, limitMs)
  const server = [
    ...(await examineServer(asker, demand)),
    ...(await guarded('session', () => examineSession(database, demand))),
  ]
  const version = await examineVersion(asker)
  if (version?.level === 'wrong') return [version, ...server]
  return [
    ...(version === null ? await guarded('schema', () => findDrift(database, limitMs)) : [version]),
    ...(await guarded('owners', () => examineOwnership(asker))),
    ...(await guarded('grants', () => examineRights(asker))),
    ...server,
    ...(await guarded('locks', () => examineLocks(asker))),
    ...(await guarded('work', () => examineWork(asker))),
    ...(await guarded('storage', () => examineStorage(asker))),
  ]
}

/** Null if the tables are those of this version, a note if it works on others. */
async function examineVersion(database: Asker): Promise<Finding | null> {
  try {
    const { version, newest } = await checkSchemaVersion(database)
    if (version === newest) return null
    return note(
      'schema',
      version > newest
        ? `The schema "${database.schema}" is at migration ${version}, newer than the ${newest} of this version, and lets its workers work.`
        : `The schema "${database.schema}" is at migration ${version}, older than the ${newest} of this version, whose workers work on it.`,
      version > newest
        ? 'Tables were not compared: ask the doctor of the newer version, and upgrade this one.'
        : 'Tables were not compared: run "npx twinbox migrate" first.',
    )
  } catch (error) {
    if (error instanceof SchemaError) return wrong('schema', error.message, 'Then run doctor again.')
    return wrong('schema', sentence(error), 'See grants, or the database itself.')
  }
}

/** What this user may not look at is a finding; the rest can be looked at all the same. */
async function guarded(check: string, look: () => Promise<readonly Finding[]>): Promise<readonly Finding[]> {
  try {
    return await look()
  } catch (error) {
    return [
      wrong(check, `It could not be looked at: ${sentence(error)}`, 'Run doctor as the owner of the tables.'),
    ]
  }
}
