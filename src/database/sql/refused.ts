import { booleans, bytea, ints, jsons, optional, sparse, text, texts, uuids } from './parameter.ts'
import { parted } from './qualified.ts'
import { perSchema, piece, prepared } from './statement.ts'

/** Deliveries that are no messages: written among the dead letters by whoever has received them. */
export const refusedSql = perSchema('refused', (s) => ({
  // Deliveries that are no messages we could handle: kept for an operator. Of those that may have been delivered before
  // (`$again`), one whose mark is known is kept already; all others are different ones, though they may look alike.
  refuse: prepared(
    {
      consumer: text,
      ids: uuids,
      marks: uuids,
      again: booleans,
      topics: texts,
      keys: sparse(texts),
      headers: jsons,
      bytes: optional(bytea),
      starts: sparse(ints),
      sizes: sparse(ints),
      contentTypes: sparse(texts),
      reasons: texts,
    },
    `with m as materialized (
        select m.id, m.mark, m.again, m.topic, m.key, nullif(m.headers, '')::json as headers, ${piece('$bytes', 'm')} as body,
          m.content_type, m.reason, m.nr
        from unnest($ids, $marks, $again, $topics, $keys, ${parted('$headers')}, $starts, $sizes,
          $contentTypes, $reasons) with ordinality
          as m(id, mark, again, topic, key, headers, start, size, content_type, reason, nr)
      ),
      unmarked as (
        insert into ${s}.seen (consumer, id) select distinct $consumer, m.mark from m order by m.mark
        on conflict do nothing returning id
      ),
      fresh as (
        insert into ${s}.seen (consumer, id)
        select $consumer, m.id from m where not m.again or exists (select from unmarked where unmarked.id = m.mark) order by m.id
        on conflict do nothing returning id
      )
      insert into ${s}.dead_letter (consumer, id, topic, key, headers, body, content_type, attempt, reason, received_at)
      select $consumer, m.id, m.topic, m.key, m.headers, m.body, m.content_type, 0, m.reason, clock_timestamp()
      from m join fresh using (id) order by m.nr`,
  ),
}))
