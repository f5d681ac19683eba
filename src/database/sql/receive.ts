import { layout } from '../layout.ts'
import { waking } from './sleep.ts'
import {
  bytea,
  int,
  ints,
  jsons,
  plainTexts,
  optional,
  sparse,
  text,
  texts,
  timestamptzs,
  uuids,
} from './parameter.ts'
import { parted } from './qualified.ts'
import { perSchema, piece, prepared } from './statement.ts'
import { subscribed } from './subscription.ts'

/** How messages come into the inbox. */
export const receiveSql = perSchema('receive', (s) => ({
  // Insert-first: whoever writes the id to seen owns the message. Sorted, or two batches that overlap could deadlock.
  // `$version`: what was subscribed to when the consumers were chosen: nothing is written if that has changed. Null if it does
  // not matter.
  receive: prepared(
    {
      consumers: plainTexts,
      ids: uuids,
      topics: texts,
      keys: sparse(texts),
      headers: jsons,
      payloads: jsons,
      bytes: optional(bytea),
      contentTypes: sparse(texts),
      publishedAt: sparse(timestamptzs),
      firstPartition: int,
      expiresAt: sparse(timestamptzs),
      version: optional(text),
      starts: sparse(ints),
      sizes: sparse(ints),
      digests: uuids,
    },
    `with m as materialized (
      select m.consumer, m.id, m.topic, m.key, nullif(m.headers, '')::json as headers,
        nullif(m.payload, '')::json as payload, ${piece('$bytes', 'm')} as body, m.content_type, m.published_at, m.expires_at, m.digest, m.nr
      from (
        select pg_current_xact_id() as xid, $version is null or $version = ${subscribed(s)} as routed offset 0
      ) as x
      cross join unnest(
        $consumers, $ids, $topics, $keys, ${parted('$headers')}, ${parted('$payloads')}, $starts, $sizes,
        $contentTypes, $publishedAt, $expiresAt, $digests
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
      select m.consumer, coalesce(${s}.lane_of(m.key), (${layout.lanes} + ($firstPartition + m.nr / ${layout.inARow}) % ${layout.partitions})::smallint),
        m.id, m.topic, m.key, m.headers, m.payload, m.body, m.content_type, m.published_at, m.expires_at
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
