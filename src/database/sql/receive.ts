import { columnNames, type ColumnType } from '../../message/row.ts'
import { layout } from '../layout.ts'
import { arrayOf, listed, receivedColumns, receivedSeveral } from './columns.ts'
import { waking } from './sleep.ts'
import { bytea, int, ints, plainTexts, optional, sparse, text, uuids } from './parameter.ts'
import { columns, messageColumns, perSchema, piece, prepared } from './statement.ts'
import { subscribed } from './subscription.ts'

/** A column of what was given as lists, as it is stored. */
const taken = (name: string, type: ColumnType): string => {
  if (type === 'json') return `nullif(m.${name}, '')::json as ${name}`
  return type === 'bytes' ? `${piece('$bytes', 'm')} as ${name}` : `m.${name}`
}

/** How messages come into the inbox. */
export const receiveSql = perSchema('receive', (s) => ({
  // Insert-first: whoever writes the id to seen owns the message. Sorted, or two batches that overlap could deadlock.
  // `$version`: what was subscribed to when the consumers were chosen: nothing is written if that has changed. Null if it does
  // not matter.
  receive: prepared(
    {
      consumers: plainTexts,
      ...receivedSeveral,
      bytes: optional(bytea),
      firstPartition: int,
      version: optional(text),
      starts: sparse(ints),
      sizes: sparse(ints),
      digests: uuids,
    },
    `with m as materialized (
      select m.consumer, ${listed(columnNames, taken)}, m.digest, m.nr
      from (
        select pg_current_xact_id() as xid, $version is null or $version = ${subscribed(s)} as routed offset 0
      ) as x
      cross join unnest(
        $consumers, ${listed(receivedColumns, arrayOf)}, $starts, $sizes, $digests
      ) with ordinality
        as m(consumer, ${receivedColumns.join(', ')}, start, size, digest, nr)
      where x.xid is not null and x.routed
    ),
    fresh as (
      insert into ${s}.seen (consumer, id, digest)
      select m.consumer, m.id, m.digest from m order by m.consumer, m.id
      on conflict do nothing
      returning consumer, id
    ),
    inserted as (
      insert into ${s}.inbox (
        consumer, lane, ${messageColumns})
      select m.consumer, coalesce(${s}.lane_of(m.key), (${layout.lanes} + ($firstPartition + m.nr / ${layout.inARow}) % ${layout.partitions})::smallint),
        ${columns('m')}
      from m join fresh using (consumer, id)
      order by m.nr
    )
    select count(*) as fresh, exists (select from m) as routed, (
      select count(${waking(s, 'c.consumer')}) from (select distinct m.consumer from m) as c
    ) as woken
    from fresh`,
  ).gives<{ readonly fresh: number; readonly routed: boolean }>(),

  // Which of these ids were not seen with the content of the digest. A statement of its own, after the other has been
  // committed: what another session has written meanwhile, the other does not see. Reads the primary key of seen.
  collisions: prepared(
    { consumers: plainTexts, ids: uuids, digests: uuids },
    `select m.nr::int
    from unnest($consumers, $ids, $digests) with ordinality as m(consumer, id, digest, nr)
    left join ${s}.seen as k on k.consumer = m.consumer and k.id = m.id
    where k.digest is distinct from m.digest`,
  ).gives<{ readonly nr: number }>(),
}))
