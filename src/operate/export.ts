import { openDatabase, type DatabaseInput } from '../database/database.ts'
import { checkSchemaVersion } from '../database/migrate.ts'
import { deadSql } from '../database/sql/dead.ts'
import { refuseUnknown } from '../base/options.ts'
import { stepping } from './dead.ts'
import { readFilter, type DeadLetterFilter } from './filter.ts'
import { contentOf, toDeadLetter, type DeadLetter, type DeadLetterContent } from './letter.ts'
import { steps } from './steps.ts'

/** Of 1 MiB each, they have to fit into memory. */
const batch = 50

/**
 * Reads dead letters whole, payloads included, in the order in which they arrived: to be kept elsewhere before they are
 * skipped. Nothing is changed.
 *
 * @throws OptionError, SchemaError, or the database's error
 */
export function exportDeadLetters(
  input: DatabaseInput,
  filter: DeadLetterFilter = {},
  options: { readonly schema?: string | undefined } = {},
): AsyncGenerator<DeadLetter & DeadLetterContent> {
  refuseUnknown('exportDeadLetters', options, ['schema'])
  readFilter(filter)
  return read(input, filter, options.schema)
}

async function* read(
  input: DatabaseInput,
  filter: DeadLetterFilter,
  schema: string | undefined,
): AsyncGenerator<DeadLetter & DeadLetterContent> {
  const { database, owned } = openDatabase(input, { schema, poolSize: 1 })
  try {
    await checkSchemaVersion(database)
    const { letters } = deadSql(database.schema)
    for await (const numbers of steps(await stepping(database, filter), () => batch)) {
      for (const row of await database.query(letters, { numbers }))
        yield { ...toDeadLetter(row), ...contentOf(row) }
    }
  } finally {
    if (owned) await database.close()
  }
}
