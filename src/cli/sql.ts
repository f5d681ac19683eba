import { catalogue, printed } from '../database/sql/catalogue.ts'
import { UsageError } from '../terminal/failure.ts'
import type { Flags } from '../terminal/flags.ts'
import { say } from '../terminal/output.ts'
import { readSettings } from './settings.ts'

export interface SqlFlags extends Flags {
  readonly print?: string
}

/** Prints the statement of a path, of a room of them, or of a last word; or lists all. */
export async function showSql(flags: SqlFlags): Promise<void> {
  const { schema } = await readSettings(flags)
  const statements = [...catalogue(schema)]
  const { print: wanted } = flags
  const found =
    wanted === undefined
      ? statements
      : statements.filter(
          ([path]) => path === wanted || path.startsWith(`${wanted}.`) || path.endsWith(`.${wanted}`),
        )
  if (found.length === 0) throw new UsageError(`There is no statement "${wanted}". See twinbox sql --list.`)
  const texts = found.map(([path, statement]) => ({
    name: path,
    parameters: Object.keys(statement.takes),
    sql: printed(path, statement),
  }))
  if (flags.json === true) say(JSON.stringify({ schema, statements: texts }))
  else if (wanted === undefined) {
    say(texts.map(({ name, parameters }) => `${name}(${parameters.join(', ')})`).join('\n'))
  } else say(texts.map(({ sql }) => sql).join('\n'))
}
