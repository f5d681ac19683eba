import { createHash } from 'node:crypto'
import { messageColumns } from '../../message/row.ts'
import { inboxLanes, layout } from '../layout.ts'
import type { Parameters, ValuesOf } from './parameter.ts'
import { castTo, parted } from './qualified.ts'

/**
 * A statement of `database/sql`, written with named parameters: `$worker`. No name can be taken for anything else of Postgres,
 * which has `::type`, `:=`, `[1:2]` and JSON with colons, and dollars only in numbers and around quotes. The text has numbers
 * in their place, each cast to its exact type.
 */
export class Statement<Takes extends Parameters = Parameters, Row = unknown> {
  readonly text: string
  readonly takes: Takes
  /** Whether it is prepared under its name, once per connection. Otherwise each run gets a plan of its own. */
  readonly isPrepared: boolean
  /** Its schema and its path: `twinbox.inbox.claim`. */
  readonly name: string = ''
  /** For the compiler alone. */
  declare readonly row: Row

  constructor(takes: Takes, source: string, isPrepared: boolean) {
    this.takes = takes
    this.text = compile(takes, source)
    this.isPrepared = isPrepared
  }

  /** Says what its rows are. */
  gives<Rows>(): Statement<Takes, Rows> {
    return this as unknown as Statement<Takes, Rows>
  }

  /** The values in the order of the parameters, as the driver takes them. */
  bind(values: ValuesOf<Takes>): unknown[] {
    return Object.entries(this.takes).map(([name, { encode }]) => encode(values[name] as never))
  }
}

/** Where a message stands. */
export interface Place {
  readonly lane: number
  readonly seq: number
}

/** The values of a statement as the last argument of whoever runs it; left out if it takes none. */
export type Given<Takes extends Parameters> = keyof Takes extends never ? [] : [values: ValuesOf<Takes>]

/** A statement whose plan is kept by the connection. */
export const prepared = <Takes extends Parameters>(takes: Takes, source: string): Statement<Takes> =>
  new Statement(takes, source, true)

/** A statement that is planned each time: for few runs, or where the values decide which plan is good. */
export const planned = <Takes extends Parameters>(takes: Takes, source: string): Statement<Takes> =>
  new Statement(takes, source, false)

function compile(takes: Parameters, source: string): string {
  const names = Object.keys(takes)
  const unused = new Set(names)
  const text = source.replaceAll(/(?<![\w$])\$([A-Za-z]\w*)/g, (_, name: string) => {
    const parameter = takes[name]
    if (parameter === undefined) throw new Error(`A statement does not take $${name}: ${source}`)
    unused.delete(name)
    return `$${names.indexOf(name) + 1}${castTo(parameter.type)}`
  })
  if (unused.size > 0) throw new Error(`A statement takes ${[...unused].join(', ')} for nothing: ${source}`)
  return text
}

/**
 * Statements are built once per schema, and get their names from the room and from where they stand in what `build` returns.
 * `build` gets the quoted schema.
 */
export function perSchema<Statements extends object>(
  room: string,
  build: (schema: string) => Statements,
): (schema: string) => Statements {
  const built = new Map<string, Statements>()
  return (schema) => {
    let statements = built.get(schema)
    if (statements === undefined) {
      // Names are per connection, and one connection may serve two schemas. Postgres looks at 63 characters of a name; cut
      // there, two statements of a long schema would be one.
      const label =
        schema.length <= 30 ? schema : createHash('sha256').update(schema).digest('hex').slice(0, 30)
      statements = build(`"${schema}"`)
      for (const [path, statement] of pathsOf(room, statements))
        Object.assign(statement, { name: `${label}.${path}` })
      built.set(schema, statements)
    }
    return statements
  }
}

/** One of each name. */
export const each = <Name extends string, Built>(
  names: readonly Name[],
  build: (name: Name) => Built,
): Readonly<Record<Name, Built>> =>
  Object.fromEntries(names.map((name) => [name, build(name)])) as Record<Name, Built>

/** All statements of a room with their paths: `inbox.claim`. */
export function pathsOf(room: string, statements: object): [path: string, statement: Statement][] {
  return Object.entries(statements).flatMap(([key, found]: [string, unknown]) => {
    if (found instanceof Statement) return [[`${room}.${key}`, found as Statement]]
    return typeof found === 'object' && found !== null ? pathsOf(`${room}.${key}`, found) : []
  })
}

/**
 * Joined into a statement of bookkeeping, it makes this one commit wait for the disk. For what must not be taken back:
 * a worker's id or a lane's fence that was given out twice, before a crash of the server and after, is no fence at all.
 */
export const durably = `(select set_config('synchronous_commit', 'on', true) as durable offset 0)`

export { messageColumns }

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

/** How long ago a time is, in whole milliseconds. */
export const msSince = (at: string) => `round(extract(epoch from clock_timestamp() - ${at}) * 1000)::float8`

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
 * The one fence check: whether a row `i` of the inbox is still held under the fence that `a` names, for `$consumer`,
 * where `$lanes` and `$fences` are those of all. In a lane the lane's fence counts, and is looked up once and not for
 * each row; in a partition the row's own. And it has to be the message that was claimed: after a failover that has lost
 * the latest transactions, seqs and fences of those are given out again, to others.
 */
export const fencedClaim = (
  schema: string,
): string => `i.consumer = ${joinedBy('a', '$consumer')} and i.lane = a.lane and i.seq = a.seq and i.id = a.id and case
    when a.lane < ${layout.lanes} then a.fence * ${layout.lanes} + a.lane = any (array(
      select l.fence * ${layout.lanes} + l.lane
      from ${schema}.lane as l
      join (select distinct n.lane, n.fence from unnest($lanes, $fences) as n(lane, fence)) as n
        using (lane, fence)
      where l.consumer = $consumer))
    else i.fence = a.fence end`

/**
 * Messages (with seq and id, in that order) that go back to where they stood among `others`, and which of them wait: something
 * else has the place of one, or of one before it. A sequence that had gone back has given the place out again. Put back
 * nevertheless, the whole statement would fail, again and again.
 */
export const placed = (messages: string, others: string): string => `
    placed as materialized (
      select t.*, bool_or(t.taken) over (order by t.seq, t.id) as waits
      from (
        select m.*, there.here is not null or coalesce(lag(m.seq) over (order by m.seq, m.id) = m.seq, false) as taken
        from (${messages}) as m
        left join lateral (select true as here from ${others} and i.seq = m.seq limit 1) as there on true
      ) as t
    )`

/**
 * Those lanes of `$consumer` that are still held under the fences named. They are locked, so that nobody takes one
 * before this has been committed; in the order in which they are renewed and given back, see lane.ts.
 */
export const lanesHeld = (schema: string, lanes: string): string => `
      select l.lane, l.fence from ${schema}.lane as l join (${lanes}) as n using (lane, fence)
      where l.consumer = $consumer order by l.lane for no key update of l`

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

/** A text as a literal, whatever `standard_conforming_strings` says. For a message of several statements, which has no parameters. */
export const quoted = (text: string): string => `E'${text.replaceAll('\\', '\\\\').replaceAll("'", "''")}'`

/** One of `pieces`, by the columns `start` and `size` of its row. */
export const piece = (parameter: string, row: string): string =>
  `substring(${parameter} from ${row}.start for ${row}.size)`
