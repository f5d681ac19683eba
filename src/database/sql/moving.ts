import { columnNames, narrowColumns } from '../../message/row.ts'
import { jsonContentType } from '../../message/message.ts'
import { layout } from '../layout.ts'
import {
  bigint,
  bigints,
  boolean,
  int,
  ints,
  like,
  smallints,
  text,
  textLists,
  texts,
  uuids,
  type Parameter,
} from './parameter.ts'
import type { HeadRow, LaneRead, OrNot } from './reading.ts'
import { isHere, serverIdentity } from './server.ts'
import { waking } from './sleep.ts'
import {
  bounded,
  columns,
  fits,
  messageColumns,
  perSchema,
  planned,
  prepared,
  readable,
} from './statement.ts'
import { subscribed } from './subscription.ts'

/** A column of the outbox as the inbox has it: what the gate makes of a message that Node has read, see gate.ts. */
const left = (name: string): string =>
  name === 'content_type'
    ? `case when o.payload is null then coalesce(o.content_type, '${jsonContentType}') end as content_type`
    : `o.${name}`

/** In psql nothing is moved, and a move of nothing does not raise. */
const none = <Value>(parameter: Parameter<Value>): Parameter<Value> => like(parameter, "'{}'")

/** The SQLSTATE with which `move` refuses: it divides by zero. */
export const moveRefused = '22012'

/** So many at most are moved by the statement that has found them. */
export const movedAtOnce = 100

/** What a read says that may have moved what it has found. */
export interface MovingRead extends LaneRead {
  readonly moved: boolean
}

/** From the outbox into inboxes of the same tables. */
export const movingSql = perSchema('moving', (s) => {
  /** What a deletion `gone` gives of the outbox `o` and of `a`, which says who takes a message, and its number in the batch. */
  const gone = `a.nr, a.takers, ${columnNames.map(left).join(', ')},
        encode(substring(sha256(coalesce(convert_to(o.payload::text, 'UTF8'), o.body)) for 16), 'hex')::uuid as digest`
  /** Brings that into the inboxes. */
  const arriving = `m as materialized (
      select c.consumer, g.nr, g.digest, ${columns('g')}
      from gone as g cross join lateral unnest(g.takers::text[]) as c(consumer)
    ),
    fresh as (
      insert into ${s}.seen (consumer, id, digest)
      select m.consumer, m.id, m.digest from m order by m.consumer, m.id
      on conflict do nothing
      returning 1
    ),
    inserted as (
      insert into ${s}.inbox (consumer, lane, ${messageColumns})
      select m.consumer, coalesce(${s}.lane_of(m.key), (${layout.lanes} + ($firstPartition + m.nr / ${layout.inARow}) % ${layout.partitions})::smallint),
        ${columns('m')}
      from m
      where (select count(*) from fresh) = (select count(*) from m)
      order by m.nr
    )`
  /** Lanes that are no longer as the relay knows them. */
  const lost = (lists: string, names: string, also = ''): string => `
        select from unnest(${lists}) as n(${names})
        where not exists (select from ${s}.lane as l where l.consumer = '' and l.lane = n.lane and l.fence = n.fence ${also})`
  const woken = `(
      select count(${waking(s, 'c.consumer')}) from (select distinct m.consumer from m) as c
    ) as woken`
  /** All or nothing: one, or an error. */
  const all = (count: string): string =>
    `1 / ((select count(*) from gone) = ${count} and (select count(*) from fresh) = (select count(*) from m))::int`
  return {
    // Which tables these are, and whether the session may move messages. A database that was made from another one as its template has
    // the same numbers of tables. Where a policy says which rows may be written, the broker asks row by row.
    tables: planned(
      {},
      `select ${serverIdentity(s)} || ' ' || (select oid from pg_database where datname = current_database())::text as tables,
      has_table_privilege('${s}.inbox', 'insert') and has_table_privilege('${s}.seen', 'insert')
        and has_table_privilege('${s}.subscription', 'select')
        and not row_security_active('${s}.inbox') and not row_security_active('${s}.seen') as allowed`,
    ).gives<{ readonly tables: string; readonly allowed: boolean }>(),

    // All of these or none. It raises, and so does nothing, if one is not there, if a lane has another holder by now, if the server is
    // another one, if what is subscribed to has changed since the consumers were chosen, and if a consumer has seen one before: whether
    // that is a duplicate or a collision, the broker finds out when they are sent. Were one left out, those behind it in its key would
    // go before it.
    // Its commit does not wait for the disk. A crash that loses it puts the messages back into the outbox, and loses with it all that
    // was committed later: a message is never in neither, and what a handler has committed durably has its move before it.
    // The rows of the inbox draw their seq after the deletion, which assigns the xid, see lanes/watermark.ts.
    // Sorted, or two batches that overlap could deadlock.
    move: prepared(
      {
        lanes: none(smallints),
        seqs: none(bigints),
        ids: none(uuids),
        takers: none(textLists),
        heldLanes: smallints,
        heldFences: bigints,
        server: text,
        version: text,
        firstPartition: int,
      },
      `with at as materialized (
      select ${isHere(s)} and $version = ${subscribed(s)} and not exists (${lost('$heldLanes, $heldFences', 'lane, fence')}) as ours
    ),
    gone as (
      delete from ${s}.outbox as o
      using unnest($lanes, $seqs, $ids, $takers) with ordinality as a(lane, seq, id, takers, nr)
      where o.lane = a.lane and o.seq = a.seq and o.id = a.id and (select at.ours from at)
      returning ${gone}
    ),
    ${arriving}
    select ${all('cardinality($seqs)')} as moved, ${woken}`,
    ),

    // A read of lanes, as that of outbox.ts that brings no contents, which moves what it has found: all of it, if nothing is to be
    // asked of any; else it is a read. `$topics` and `$takers`: who takes what, as of `$version`. `$lowered` is how often rows have
    // come back below what was read of each lane. If that is so again, some may stand there that go before those which this has
    // found; and a key that is parked by now may have others before it. `$rows`: how many rows of inboxes it may write.
    readAndMove: prepared(
      {
        lanes: smallints,
        bounds: bigints,
        budgets: ints,
        fences: bigints,
        lowered: ints,
        mark: boolean,
        server: text,
        bytes: bigint,
        rows: bigint,
        topics: texts,
        takers: textLists,
        version: text,
        firstPartition: int,
      },
      `with there as materialized (select ${isHere(s)} as here),
    found as materialized (
      select head.*, (select k.takers from unnest($topics, $takers) as k(topic, takers) where k.topic = head.topic) as takers
      from (
        select l.lane, l.bound, l.budget from unnest($lanes, $bounds, $budgets) as l(lane, bound, budget)
        where (select here from there)
        offset 0
      ) as l
      cross join lateral (
        select o.lane, o.seq, o.size, o.attempt, o.expires_at <= clock_timestamp() as expired, ${columns('o', narrowColumns)}
        from ${s}.outbox as o
        where o.lane = l.lane and o.seq > l.bound
        order by o.seq
        limit l.budget
      ) as head
    ),
    ${bounded('found', '$bytes', '2147483647')},
    at as materialized (
      select case when (
        select count(*) between 1 and ${movedAtOnce} and bool_and(f.takers is not null and f.expired is not true)
          and sum(cardinality(f.takers::text[])) <= $rows and sum(f.size * cardinality(f.takers::text[])) <= $bytes
        from found as f
      ) then $version = ${subscribed(s)} and not exists (
        ${lost('$lanes, $fences, $lowered', 'lane, fence, lowered', 'and l.lowered = n.lowered')}
          and n.lane = any (array(select f.lane from found as f))
      ) and not exists (select from ${s}.parked as p where p.consumer = '' and p.lane = any (array(select f.lane from found as f)))
      else false end as ours
    ),
    gone as (
      delete from ${s}.outbox as o
      using (
        select f.lane, f.seq, f.id, f.takers, row_number() over (order by f.seq) as nr from found as f limit ${movedAtOnce}
      ) as a
      where o.lane = a.lane and o.seq = a.seq and o.id = a.id and (select at.ours from at)
      returning ${gone}
    ),
    ${arriving}
    select at.*, m.*
    from (
      select (select here from there) as here, pg_current_snapshot()::text as snapshot,
        case when $mark then pg_current_xact_id() end as xid,
        case when (select at.ours from at) then ${all('(select count(*) from found)')} = 1 else false end as moved, ${woken}
      offset 0
    ) as at
    left join (
      select f.lane, f.seq, f.attempt, f.expired, ${readable('f', narrowColumns)}, not ${fits('f')} as beyond, f.size
      from found as f
    ) as m on true`,
    ).gives<OrNot<HeadRow, MovingRead>>(),
  }
})
