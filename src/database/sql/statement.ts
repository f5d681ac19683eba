import { createHash } from 'node:crypto'
import { inboxLanes, layout } from '../layout.ts'

/** A statement of `database/sql`, prepared once per connection under its name. */
export interface Statement {
  /** Left out where each run needs a plan of its own. */
  readonly name?: string
  readonly text: string
}

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
 * A time to be read, as seconds since 1970. As a `timestamptz` it would come as the session's DateStyle and TimeZone write
 * it, and those are anybody's behind a pooler: `25/11/2026 07:35:47 IST` is a different time to each who reads it.
 */
export const instant = (time: string): string => `extract(epoch from ${time})`

/** Columns of `alias` to be read, those that are times as `instant`. */
export const readable = (alias: string, names: string = messageColumns): string =>
  names
    .split(/,\s+/)
    .map((name) => {
      const isTime = /_at$|^(at|since|until)$/.test(name)
      return isTime ? `${instant(`${alias}.${name}`)} as ${name}` : `${alias}.${name}`
    })
    .join(', ')

/**
 * How much of the rows of a CTE, each with `lane`, `seq` and `size`, is read at once: those up to so many bytes and rows,
 * in the order in which they come, which costs no sorting. The first always is, or nobody would ever read it. Mostly all
 * of them are, and then nothing is counted row by row.
 */
export const bounded = (rows: string, bytes: string, count: string): string => `
      whole as materialized (
        select coalesce(sum(r.size), 0) <= ${bytes} and count(*) <= ${count} as fits from ${rows} as r
      ),
      part as (
        select r.lane, r.seq
        from (
          select r.lane, r.seq, sum(r.size) over up as bytes, count(*) over up as nr
          from ${rows} as r window up as (rows unbounded preceding)
        ) as r
        where r.nr = 1 or r.bytes <= ${bytes} and r.nr <= ${count}
      )`

/** Whether a row is among those. */
export const fits = (row: string): string =>
  `((select whole.fits from whole) or (${row}.lane, ${row}.seq) in (select part.lane, part.seq from part))`

/** Columns of a row that are read only if `condition` holds: what is not is not unpacked. */
export const onlyIf = (condition: string, alias: string, names: string): string =>
  names
    .split(/,\s+/)
    .map((name) => `case when ${condition} then ${alias}.${name} end as ${name}`)
    .join(', ')

/**
 * A parameter of the statement as a value of its row `from`, for a column of the row that is joined to it. A plan that is
 * made while a table is empty is kept when it has grown, and as a parameter alone it would do for a search in the index:
 * of all that has this consumer, for each row of `from` again. Like this, it can only be looked up together with the rest.
 */
export const joinedBy = (from: string, parameter: string): string =>
  `case when ${from}.seq is not null then ${parameter} end`

/**
 * The one fence check: whether a row `i` of the inbox is still held under the fence that `a` names, for the consumer $1,
 * where $2 are the lanes and $4 the fences of all. In a lane the lane's fence counts, and is looked up once and not for
 * each row; in a partition the row's own. And it has to be the message that was claimed: after a failover that has lost
 * the latest transactions, seqs and fences of those are given out again, to others.
 */
export const fencedClaim = (
  schema: string,
): string => `i.consumer = ${joinedBy('a', '$1::text')} and i.lane = a.lane and i.seq = a.seq and i.id = a.id and case
    when a.lane < ${layout.lanes} then a.fence * ${layout.lanes} + a.lane = any (array(
      select l.fence * ${layout.lanes} + l.lane
      from ${schema}.lane as l
      join (select distinct n.lane, n.fence from unnest($2::smallint[], $4::bigint[]) as n(lane, fence)) as n
        using (lane, fence)
      where l.consumer = $1))
    else i.fence = a.fence end`

/**
 * Those lanes of the consumer $1 that are still held under the fences named. They are locked, so that nobody takes one
 * before this has been committed; in the order in which they are renewed and given back, see lane.ts.
 */
export const lanesHeld = (schema: string, lanes: string): string => `
      select l.lane, l.fence from ${schema}.lane as l join (${lanes}) as n using (lane, fence)
      where l.consumer = $1 order by l.lane for no key update of l`

/**
 * Every lane of a box, and every consumer that has an inbox, for whoever counts: by the rows themselves. The table of lanes
 * says what workers believe, and an instrument that believes the same shows nothing where they are wrong.
 */
export const everyLane = `generate_series(0, ${inboxLanes - 1}) as l(lane)`
export const everyConsumer = (s: string): string => `(
      select consumer from ${s}.lane where consumer <> ''
      union
      select consumer from (
        with recursive c as (
          select min(i.consumer) as consumer from ${s}.inbox as i
          union all
          select (select min(i.consumer) from ${s}.inbox as i where i.consumer > c.consumer) from c where c.consumer is not null
        )
        select c.consumer from c where c.consumer is not null
      ) as c
    )`

/** What `distinct` has made of errors; `withError` finds them there. */
export const errors = (texts: string): string =>
  `errors as materialized (select array(select e::jsonb from unnest(${parted(texts)}) as e) as texts)`

/** The errors of a row and, if `a` has the number of one, that one. */
export const withError = (row: string, a: string): string => `case when ${a}.error is null then ${row}.errors
          else coalesce(${row}.errors, '[]') || (select errors.texts[${a}.error] from errors) end`

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

/** JSON texts, of which many may be alike: each once, as `joined` makes them, and for each text its number, from 1 on. */
export function distinct(
  texts: readonly (string | null)[],
): [numbers: readonly (number | null)[], once: string | null] {
  const numbers = new Map<string, number>()
  const given = texts.map((text) => {
    if (text === null) return null
    const number = numbers.get(text) ?? numbers.size + 1
    numbers.set(text, number)
    return number
  })
  return [given, joined(numbers.size === 0 ? [null] : [...numbers.keys()])]
}

/** The same of texts in which nothing has to be escaped but a comma or a brace. */
export const plainArray = (texts: readonly string[]): string => `{"${texts.join('","')}"}`

/**
 * Texts as an array in text, null as the empty one, which none of them may be: what a driver makes of an array, and whether
 * `array_nulls` is on, decides nothing then. Null if there is none at all; `unnest` fills the column up.
 */
export function textArray(texts: readonly (string | null)[]): string | null {
  if (texts.every((text) => text === null)) return null
  return `{${texts.map((text) => (text === null ? '""' : `"${escaped(text)}"`)).join(',')}}`
}

const escaped = (text: string): string =>
  /["\\]/.test(text) ? text.replaceAll(/["\\]/g, String.raw`\$&`) : text

/** The same of bytes, in hex. Null is the empty bytes: whether there are any, another column has to tell. */
export const bytesArray = (values: readonly (Buffer | null)[]): string | null =>
  textArray(values.map((bytes) => bytes && String.raw`\x${bytes.toString('hex')}`))

/** A text as a literal, whatever `standard_conforming_strings` says. For a message of several statements, which has no parameters. */
export const quoted = (text: string): string => `E'${text.replaceAll('\\', '\\\\').replaceAll("'", "''")}'`

/** Null for a column in which nothing is: `unnest` fills it up. */
export const unlessEmpty = <Value>(values: readonly (Value | null)[]): readonly (Value | null)[] | null =>
  values.every((value) => value === null) ? null : values

/**
 * Bytes of several rows as one parameter, and of each row the place and the length in it, null if it has none. The driver
 * would write an array of bytes as text, in hexadecimals: twice as long, and at 256 MB longer than a text may be.
 */
export function pieces(
  rows: readonly (Uint8Array | null)[],
): [bytes: Buffer | null, starts: readonly number[] | null, sizes: readonly (number | null)[] | null] {
  if (rows.every((row) => row === null)) return [null, null, null]
  let end = 1
  const starts = rows.map((row) => (end += row?.byteLength ?? 0) - (row?.byteLength ?? 0))
  return [
    Buffer.concat(rows.filter((row) => row !== null)),
    starts,
    rows.map((row) => row?.byteLength ?? null),
  ]
}

/** One of them, by the columns `start` and `size` of its row. */
export const piece = (parameter: string, row: string): string =>
  `substring(${parameter}::bytea from ${row}.start for ${row}.size)`
