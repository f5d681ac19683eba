import { parted, perSchema, piece } from './statement.ts'

/** Deliveries that are no messages: written among the dead letters by whoever has received them. */
export const refusedSql = perSchema((s, statement) => ({
  // Deliveries that are no messages we could handle: kept for an operator. Of those that may have been delivered before
  // ($4), one whose mark is known is kept already; all others are different ones, though they may look alike.
  // $1 consumer; $2, $3 ids of the letters, and the marks of what was delivered.
  refuse: statement(
    'refuse',
    `with m as materialized (
        select m.id, m.mark, m.again, m.topic, m.key, nullif(m.headers, '')::json as headers, ${piece('$8', 'm')} as body,
          m.content_type, m.reason, m.nr
        from unnest($2::uuid[], $3::uuid[], $4::boolean[], $5::text[], $6::text[], ${parted('$7')}, $9::int[], $10::int[],
          $11::text[], $12::text[]) with ordinality
          as m(id, mark, again, topic, key, headers, start, size, content_type, reason, nr)
      ),
      unmarked as (
        insert into ${s}.seen (consumer, id) select distinct $1, m.mark from m order by m.mark
        on conflict do nothing returning id
      ),
      fresh as (
        insert into ${s}.seen (consumer, id)
        select $1, m.id from m where not m.again or exists (select from unmarked where unmarked.id = m.mark) order by m.id
        on conflict do nothing returning id
      )
      insert into ${s}.dead_letter (consumer, id, topic, key, headers, body, content_type, attempt, reason, received_at)
      select $1, m.id, m.topic, m.key, m.headers, m.body, m.content_type, 0, m.reason, clock_timestamp()
      from m join fresh using (id) order by m.nr`,
  ),
}))
