import { columnNames } from '../../message/row.ts'
import { jsonContentType } from '../../message/message.ts'
import { layout } from '../layout.ts'
import { bigints, int, like, smallints, text, textLists, uuids, type Parameter } from './parameter.ts'
import { isHere, serverIdentity } from './server.ts'
import { waking } from './sleep.ts'
import { columns, messageColumns, perSchema, planned, prepared } from './statement.ts'
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

/** From the outbox into inboxes of the same tables. */
export const movingSql = perSchema('moving', (s) => ({
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
      select ${isHere(s)} and $version = ${subscribed(s)} and not exists (
        select from unnest($heldLanes, $heldFences) as n(lane, fence)
        where not exists (select from ${s}.lane as l where l.consumer = '' and l.lane = n.lane and l.fence = n.fence)
      ) as ours
    ),
    gone as (
      delete from ${s}.outbox as o
      using unnest($lanes, $seqs, $ids, $takers) with ordinality as a(lane, seq, id, takers, nr)
      where o.lane = a.lane and o.seq = a.seq and o.id = a.id and (select at.ours from at)
      returning a.nr, a.takers, ${columnNames.map(left).join(', ')},
        encode(substring(sha256(coalesce(convert_to(o.payload::text, 'UTF8'), o.body)) for 16), 'hex')::uuid as digest
    ),
    m as materialized (
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
    )
    select 1 / ((select count(*) from gone) = cardinality($seqs) and (select count(*) from fresh) = (select count(*) from m))::int as moved, (
      select count(${waking(s, 'c.consumer')}) from (select distinct m.consumer from m) as c
    ) as woken`,
  ),
}))
