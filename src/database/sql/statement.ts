import { createHash } from 'node:crypto'
import type { Statement } from '../database.ts'

/**
 * Statements are built once per schema. `build` gets the quoted schema, and a function that names a statement: names
 * are per connection, and one connection may serve two schemas.
 */
export function perSchema<Statements>(
  build: (schema: string, statement: (name: string, text: string) => Statement) => Statements,
): (schema: string) => Statements {
  const built = new Map<string, Statements>()
  return (schema) => {
    let statements = built.get(schema)
    if (statements === undefined) {
      // Postgres looks at 63 characters of a name; cut there, two statements of a long schema would be one.
      const label =
        schema.length <= 30 ? schema : createHash('sha256').update(schema).digest('hex').slice(0, 30)
      statements = build(`"${schema}"`, (name, text) => ({ name: `${label}.${name}`, text }))
      built.set(schema, statements)
    }
    return statements
  }
}

/**
 * Joined into a statement of bookkeeping, it makes this one commit wait for the disk. For what must not be taken back:
 * a worker's id or a lane's fence that was given out twice, before a crash of the server and after, is no fence at all.
 */
export const durably = `(select set_config('synchronous_commit', 'on', true) as durable offset 0)`

/** The columns of a message, alike in all tables that hold messages. */
export const messageColumns = 'id, topic, key, headers, payload, body, content_type, published_at, expires_at'

export const columns = (alias: string, names: string = messageColumns): string =>
  names
    .split(', ')
    .map((name) => `${alias}.${name}`)
    .join(', ')

/**
 * A parameter of the statement as a value of its row `from`, for a column of the row that is joined to it. A plan that is
 * made while a table is empty is kept when it has grown, and as a parameter alone it would do for a search in the index:
 * of all that has this consumer, for each row of `from` again. Like this, it can only be looked up together with the rest.
 */
export const joinedBy = (from: string, parameter: string): string =>
  `case when ${from}.seq is not null then ${parameter} end`

/**
 * The one fence check: whether a row `i` of the inbox is still held under the fence that `a` names, for the consumer $1.
 * In a lane the lane's fence counts, in a stripe the row's own. And it has to be the message that was claimed: after a
 * failover that has lost the latest transactions, seqs and fences of those are given out again, to others.
 */
export const fencedClaim = (
  schema: string,
): string => `i.consumer = ${joinedBy('a', '$1::text')} and i.lane = a.lane and i.seq = a.seq and i.id = a.id and case
    when a.lane < 64 then exists (
      select from ${schema}.lane as l where l.consumer = $1 and l.lane = a.lane and l.fence = a.fence)
    else i.fence = a.fence end`

/**
 * Numbers or ids as Postgres reads an array from text. The driver would look in each for what has to be escaped; and of
 * arrays in an array, it would want all to have one length.
 */
export const arrayText = (values: readonly (number | string)[]): string => `{${values.join(',')}}`

/**
 * JSON texts as one text, which costs a fraction of an array: in that, each quotation mark is escaped, and JSON has
 * many. No JSON contains the separator. Null if there is none at all.
 */
export function joined(texts: readonly (string | null)[]): string | null {
  return texts.every((text) => text === null) ? null : texts.join('\x1e')
}

/** What `joined` has made, as an array; what was null is the empty text. */
export const parted = (parameter: string): string => `string_to_array(${parameter}::text, E'\\x1e')`

/** The same of texts in which nothing has to be escaped but a comma or a brace. */
export const plainArray = (texts: readonly string[]): string => `{"${texts.join('","')}"}`

/** A text as a literal, whatever `standard_conforming_strings` says. For a message of several statements, which has no parameters. */
export const quoted = (text: string): string => `E'${text.replaceAll('\\', '\\\\').replaceAll("'", "''")}'`

/** Null for a column in which nothing is: `unnest` fills it up. */
export const unlessEmpty = <Value>(values: readonly (Value | null)[]): readonly (Value | null)[] | null =>
  values.every((value) => value === null) ? null : values
