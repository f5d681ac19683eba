import { fieldOf, narrowColumns, wideColumns, type ColumnName, type ColumnType } from '../../message/row.ts'
import { layout } from '../layout.ts'
import { arrayOf, listed, publishedColumns, publishedOne, publishedSeveral } from './columns.ts'
import { orderingLock, orderingLocks } from './ordering.ts'
import { isHere } from './server.ts'
import { waking } from './sleep.ts'
import type { HeadRow, LaneRead, OrNot } from './reading.ts'
import {
  asText,
  bigint,
  bigints,
  boolean,
  float8,
  int,
  ints,
  jsons,
  like,
  numberLists,
  optional,
  smallint,
  smallints,
  text,
  textsOrEmpty,
  uuid,
  uuids,
  type Parameter,
} from './parameter.ts'
import { op, parted } from './qualified.ts'
import { bounded, columns, fits, onlyIf, perSchema, prepared, readable } from './statement.ts'

const one = { ...publishedOne, lane: asText(smallint), locks: asText(boolean) }
const several = {
  ...publishedSeveral,
  /** Where those without a key begin. */
  firstLane: asText(int),
  locks: asText(boolean),
}
const oneTime: Parameter<string | null> = {
  type: 'text::timestamptz',
  encode: (time) => time,
  example: "'2036-01-01Z'",
}
/** With a dedupe key, a time at which to send it or to give it up, or any of these. */
const oneTimed = {
  ...one,
  dedupeKey: optional(text),
  windowMs: asText(float8),
  deliverAt: oneTime,
  delayMs: asText(optional(float8)),
  expiresAt: oneTime,
}
/** Times and numbers, in one text as JSON texts are. */
const times = like(jsons, "'2036-01-01Z'")
const severalTimed = {
  ...several,
  dedupeKey: asText(textsOrEmpty),
  windowMs: asText(float8),
  deliverAt: times,
  delayMs: like(times, "'1000'"),
  expiresAt: times,
}

/** A message that is not published, since another one of its dedupe key was: as whatever driver is in between makes of it. */
export interface Known {
  readonly index: unknown
  readonly id: unknown
}

const published = publishedColumns.join(', ')
const fields = listed(publishedColumns, (name) => `$${fieldOf(name)}`)
/** A text that has been given: the empty one stands for null. */
const given = (column: string, type?: 'json'): string =>
  `case when ${column} ${op('<>')} '' then ${column}${type === undefined ? '' : `::pg_catalog.${type}`} end`

/** A column of what was given as lists, as it is stored. */
const taken = (name: string, type: ColumnType): string => {
  if (type === 'text') return `${given(`m.${name}`)} as ${name}`
  if (type === 'json') return `${given(`m.${name}`, 'json')} as ${name}`
  // Empty bytes are given for none as well.
  if (type === 'bytes') return `case when coalesce(m.payload, '') ${op('=')} '' then m.${name} end as ${name}`
  return `m.${name}`
}
/** A list of JSON texts, times or numbers, as a function takes it. */
const listOf = (parameter: string, type: 'json' | 'timestamptz' | 'float8'): string =>
  `${parted(parameter, 'null')}::pg_catalog.${type}[]`
/** A column of what was given as lists, as a function takes it. */
const handed = (name: ColumnName, type: ColumnType): string =>
  type === 'json' ? listOf(`$${fieldOf(name)}`, 'json') : `$${fieldOf(name)}`

/**
 * The outbox: published by the caller's transaction, read by the holder of the lane, deleted once the broker has
 * confirmed. Deferred and parked messages of the outbox stand in `waiting.ts`.
 */
export const outboxSql = perSchema('outbox', (s) => {
  // The transaction's xid is assigned before any row draws its seq: no row comes out of this join before `x` was
  // evaluated. The watermark of a lane depends on it, see lanes/watermark.ts. The ordering locks are taken here for the
  // same reason: a seq drawn before the lock was granted would be out of order.
  //
  // Of these statements each name is one of pg_catalog or of ours on any search_path, see qualified.ts: the caller's counts here.
  const locks = `case when $locks then ${orderingLocks(s, 'pg_catalog.unnest($key)')} end`
  const newMessages = (locking = locks): string => `
    select ${listed(publishedColumns, taken)}, m.nr
    from ${begun(locking)}
    cross join unnest(${listed(publishedColumns, arrayOf)}) with ordinality as m(${published}, nr)
    where x.xid is not null`

  // Messages without a key fill one lane after the other, see `layout.inARow`.
  const insert = (messages: string): string => `
    insert into ${s}.outbox (lane, ${published})
    select coalesce(${s}.lane_of(m.key), (($firstLane ${op('+')} (m.nr ${op('/')} ${layout.inARow})) ${op('%')} ${layout.lanes}::bigint)::smallint),
      ${columns('m', published)}
    from (${messages}) as m order by m.nr`

  /** Of the caller's transaction: its id, locks, and relays that are woken. */
  const begun = (locking: string): string => `(
      select pg_catalog.pg_current_xact_id() as xid, ${locking} as locks, ${waking(s, "''")} as woken
      offset 0
    ) as x`
  const window = `case when x.xid is not null then $windowMs ${op('*')} interval '1 millisecond' end`

  const inserting = (locking: string): string => `
    insert into ${s}.outbox (lane, ${published})
    select coalesce(${s}.lane_of($key), $lane), ${fields}
    from ${begun(locking)}
    where x.xid is not null`

  // Locks that nobody asked for would still be part of the plan: they are of statements of their own where it counts.
  return {
    publish: prepared(several, insert(newMessages('$locks'))),
    publishOrdered: prepared(several, insert(newMessages())),

    // One message alone, which most calls are: the same without arrays, for two thirds of the server's time.
    publishOne: prepared(one, inserting('$locks')),
    publishOneOrdered: prepared(one, inserting(`case when $locks then ${orderingLock(s, '$key')} end`)),

    // With a dedupe key, a time at which to send it or one at which to give it up. By functions, since a publisher may neither read
    // or change the keys of others, nor take one without publishing under it.
    publishOneTimed: prepared(
      oneTimed,
      `select 0 as index, p.id::pg_catalog.text as id
      from ${begun(`case when $locks then ${orderingLock(s, '$key')} end`)}
      cross join lateral ${s}.publish_one(
        ${fields}, $lane, $dedupeKey, ${window},
        coalesce($deliverAt, pg_catalog.clock_timestamp() ${op('+')} ($delayMs ${op('*')} interval '1 millisecond')), $expiresAt
      ) as p(id)
      where p.id ${op('<>')} $id`,
    ).gives<Known>(),
    publishTimed: prepared(
      severalTimed,
      `select p.nr ${op('-')} 1 as index, p.id::pg_catalog.text as id
      from ${begun(locks)}
      cross join lateral ${s}.publish_many(
        ${listed(publishedColumns, handed)}, $firstLane, $dedupeKey, ${window}, ${listOf('$deliverAt', 'timestamptz')},
        ${listOf('$delayMs', 'float8')}, ${listOf('$expiresAt', 'timestamptz')}
      ) as p`,
    ).gives<Known>(),

    // By a function, since a publisher may not read what waits.
    pending: prepared({ most: asText(int) }, `select ${s}.pending($most) as count`).gives<{
      readonly count: unknown
    }>(),

    // By a function, since whoever cancels may read neither dedupe keys nor what others have deferred.
    cancel: prepared(
      {
        id: asText(optional(uuid)),
        topic: like(asText(optional(text)), 'null'),
        dedupeKey: like(asText(optional(text)), 'null'),
      },
      `select ${s}.cancel($id, $topic, $dedupeKey)::int as count`,
    ).gives<{ readonly count: unknown }>(),

    // A message is named by its place and its id: after a failover, its place may be another message's.

    // One round trip between two batches: deletes what was confirmed, reads the heads of the lanes. `$mark`: whether to
    // assign an xid. `$confirmed` is what was confirmed of each of these lanes: only constants are looked up in a hash
    // table, so each row is compared with those of its lane and not with all. `$heldLanes` and `$heldFences` are the lanes
    // of what was confirmed, and the fences under which it was read: of a lane that somebody else has by now, nothing is
    // deleted. On another server than that on which the relay is registered (`$server`) nothing is deleted, nor read: one that was
    // restored from a dump has the message as well, and what the broker has taken may have gone with the one before. What is beyond `$bytes` comes without its content: it is there, and read the next time.
    // Without `$content` all do, each with its size: they are to be moved where they are, see moving.ts.
    step: prepared(
      {
        goneLanes: smallints,
        goneSeqs: bigints,
        goneIds: uuids,
        lanes: smallints,
        bounds: bigints,
        budgets: ints,
        mark: boolean,
        confirmed: numberLists,
        heldLanes: smallints,
        heldFences: bigints,
        server: text,
        bytes: bigint,
        content: boolean,
      },
      `with there as materialized (select ${isHere(s)} as here),
      gone as (
        delete from ${s}.outbox as o using unnest($goneLanes, $goneSeqs, $goneIds) as a(lane, seq, id)
        where o.lane = a.lane and o.seq = a.seq and o.id = a.id and a.lane = any (array(
          select l.lane from ${s}.lane as l join unnest($heldLanes, $heldFences) as n(lane, fence) using (lane, fence)
          where l.consumer = '' and (select here from there)))
      ),
      found as materialized (
        select head.*
        from (
          select l.lane, l.bound, l.budget, l.confirmed::bigint[] as confirmed
          from unnest($lanes, $bounds, $budgets, $confirmed) as l(lane, bound, budget, confirmed)
          where (select here from there)
          offset 0
        ) as l
        cross join lateral (
          select o.lane, o.seq, o.size, o.attempt, o.expires_at <= clock_timestamp() as expired, ${columns('o')}
          from ${s}.outbox as o
          where o.lane = l.lane and o.seq > l.bound and o.seq <> all (l.confirmed)
          order by o.seq
          limit l.budget
        ) as head
      ),
      ${bounded('found', '$bytes', '2147483647')}
      select at.*, m.*
      from (
        select (select here from there) as here, pg_current_snapshot()::text as snapshot,
          case when $mark then pg_current_xact_id() end as xid
        offset 0
      ) as at
      left join (
        select f.lane, f.seq, f.attempt, f.expired, ${readable('f', narrowColumns)}, not ${fits('f')} as beyond,
          case when not $content then f.size end as size, ${onlyIf(`$content and ${fits('f')}`, 'f', wideColumns)}
        from found as f
      ) as m on true`,
    ).gives<OrNot<HeadRow, LaneRead>>(),
  }
})
