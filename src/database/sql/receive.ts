import { layout } from '../layout.ts'
import { waking } from './sleep.ts'
import { parted, perSchema, piece } from './statement.ts'
import { subscribed } from './subscription.ts'

/** How messages come into the inbox. */
export const receiveSql = perSchema((s, statement) => ({
  // Insert-first: whoever writes the id to seen owns the message. Sorted, or two batches that overlap could deadlock.
  // $12 what was subscribed to when the consumers were chosen: nothing is written if that has changed. Null if it does
  // not matter.
  receive: statement(
    'receive',
    `with m as materialized (
      select m.consumer, m.id, m.topic, m.key, nullif(m.headers, '')::json as headers,
        nullif(m.payload, '')::json as payload, ${piece('$7', 'm')} as body, m.content_type, m.published_at, m.expires_at, m.digest, m.nr
      from (
        select pg_current_xact_id() as xid, $12::text is null or $12 = ${subscribed(s)} as routed offset 0
      ) as x
      cross join unnest(
        $1::text[], $2::uuid[], $3::text[], $4::text[], ${parted('$5')}, ${parted('$6')}, $13::int[], $14::int[],
        $8::text[], $9::timestamptz[], $11::timestamptz[], $15::uuid[]
      ) with ordinality
        as m(consumer, id, topic, key, headers, payload, start, size, content_type, published_at, expires_at, digest, nr)
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
        consumer, lane, id, topic, key, headers, payload, body, content_type, published_at, expires_at)
      select m.consumer, coalesce(${s}.lane_of(m.key), (${layout.lanes} + ($10::int + m.nr / ${layout.inARow}) % ${layout.partitions})::smallint),
        m.id, m.topic, m.key, m.headers, m.payload, m.body, m.content_type, m.published_at, m.expires_at
      from m join fresh using (consumer, id)
      order by m.nr
    )
    select count(*) as fresh, exists (select from m) as routed, (
      select count(${waking(s, 'c.consumer')}) from (select distinct m.consumer from m) as c
    ) as woken
    from fresh`,
  ),

  // Which of $2, the ids of the consumers $1, were not seen with the content of the digests $3. A statement of its own, after the
  // other has been committed: what another session has written meanwhile, the other does not see. Reads the primary key of seen.
  collisions: statement(
    'collisions',
    `select m.nr
    from unnest($1::text[], $2::uuid[], $3::uuid[]) with ordinality as m(consumer, id, digest, nr)
    left join ${s}.seen as k on k.consumer = m.consumer and k.id = m.id
    where k.digest is distinct from m.digest`,
  ),
}))
