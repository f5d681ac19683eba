import { anyPartitionSql, layout } from '../layout.ts'
import {
  bounded,
  columns,
  fits,
  joinedBy,
  lanesHeld,
  messageColumns,
  perSchema,
  readable,
} from './statement.ts'

/** All messages without a key wait under this number. */
export const unkeyedLane = layout.lanes

/** How many topics are told of a lane at once. Whoever may publish may make up any number of them. */
export const topicsMax = 1000

/** Messages of topics for which a claimer has no handler: set aside, brought back, taken by one that has. */
export const unhandledSql = perSchema((s, statement) => {
  const kept = (from: string): string =>
    `${from}.attempt, ${from}.errors, ${from}.received_at, ${columns(from)}`
  const keptColumns = `attempt, errors, received_at, ${messageColumns}`
  const topicsAfter = (after: string): string =>
    `(select u.topic from ${s}.unhandled as u where u.consumer = $1 and u.lane = l.lane and u.topic > ${after}
        order by u.topic limit 1)`

  return {
    // $1 consumer; $2 to $5 lanes, seqs, fences, ids. A lane is locked until this is committed: whoever takes it next has
    // to see what waits of it. The claim of a row had counted an attempt, which is taken back.
    setAside: statement(
      'set_aside',
      `with held as materialized (${lanesHeld(s, 'select distinct a.lane, a.fence from unnest($2::smallint[], $4::bigint[]) as a(lane, fence)')}),
      gone as (
        delete from ${s}.inbox as i
        using unnest($2::smallint[], $3::bigint[], $4::bigint[], $5::uuid[]) as a(lane, seq, fence, id)
        where i.consumer = ${joinedBy('a', '$1::text')} and i.lane = a.lane and i.seq = a.seq and i.id = a.id
          and case when a.lane < ${layout.lanes} then (a.lane, a.fence) in (select held.lane, held.fence from held)
            else i.fence = a.fence end
        returning i.lane, i.seq, ${kept('i')}
      ),
      moved as (
        insert into ${s}.unhandled (consumer, lane, seq, ${keptColumns})
        select $1, least(gone.lane, ${unkeyedLane}), gone.seq, ${kept('gone').replace(
          'gone.attempt',
          `case when gone.lane < ${layout.lanes} then gone.attempt else greatest(gone.attempt - 1, 0) end`,
        )}
        from gone
      )
      select lane, seq from gone`,
    ),

    // Which topics wait in lanes, each found by a step of its own in the index: a lane may hold 100,000 of one.
    // $1 consumer; $2, $3 lanes, and behind which topic of each.
    topics: statement(
      'unhandled_topics',
      `select l.lane, found.topic
      from unnest($2::smallint[], $3::text[]) as l(lane, after)
      cross join lateral (
        with recursive t as (
          select ${topicsAfter('l.after')} as topic
          union all
          select ${topicsAfter('t.topic')} from t where t.topic is not null
        )
        select t.topic from t where t.topic is not null limit ${topicsMax}
      ) as found`,
    ),

    // Brings the first messages of some topics back to where they stood. Only the holder of the lane does, before it reads
    // anything of the lane: nothing may go ahead of them. $1 consumer, $2 lane, $3 fence, $4 topics, $5 how many.
    bringBack: statement(
      'bring_back',
      `with held as materialized (
        select from ${s}.lane as l where l.consumer = $1 and l.lane = $2 and l.fence = $3 for no key update
      ),
      chosen as materialized (
        select c.topic, c.seq, c.id
        from unnest($4::text[]) as t(topic)
        cross join lateral (
          select u.topic, u.seq, u.id from ${s}.unhandled as u
          where u.consumer = $1 and u.lane = $2 and u.topic = t.topic
          order by u.seq limit $5
        ) as c
        where exists (select from held)
        order by c.seq limit $5
      ),
      gone as (
        delete from ${s}.unhandled as u using chosen as c
        where u.consumer = ${joinedBy('c', '$1::text')} and u.lane = ${joinedBy('c', '$2::smallint')}
          and u.topic = c.topic and u.seq = c.seq and u.id = c.id
        returning u.lane, u.seq, ${kept('u')}
      ),
      back as (
        insert into ${s}.inbox (consumer, lane, seq, ${keptColumns}) overriding system value
        select $1, gone.lane, gone.seq, ${kept('gone')} from gone
      ),
      bound as (select min(seq) as first, count(*) as count from gone),
      lowered as (
        update ${s}.lane as l set watermark = least(l.watermark, bound.first - 1), lowered = l.lowered + 1 from bound
        where l.consumer = $1 and l.lane = $2 and bound.count > 0
        returning l.lowered
      )
      select first, count, (select lowered from lowered) as lowered from bound`,
    ),

    // Messages without a key, claimed as they come back: free in a partition, a claimer without their handler could
    // find them first, again and again. $1 consumer, $2 topics, $3 how many, $4 worker, $5 lease, $6 bytes.
    adopt: statement(
      'adopt',
      `with locked as materialized (
        select c.*
        from unnest($2::text[]) as t(topic)
        cross join lateral (
          select u.topic, u.lane, u.seq, u.id, u.size from ${s}.unhandled as u
          where u.consumer = $1 and u.lane = ${unkeyedLane} and u.topic = t.topic
          order by u.seq limit $3
          for no key update skip locked
        ) as c
        limit $3
      ),
      ${bounded('locked', '$6::bigint', '$3')},
      chosen as materialized (select l.* from locked as l where ${fits('l')}),
      gone as (
        delete from ${s}.unhandled as u using chosen as c
        where u.consumer = ${joinedBy('c', '$1::text')} and u.lane = ${joinedBy('c', `${unkeyedLane}`)}
          and u.topic = c.topic and u.seq = c.seq and u.id = c.id
        returning u.seq, ${kept('u')}, pg_current_xact_id() as xid
      )
      insert into ${s}.inbox as i (consumer, lane, holder, lease_until, fence, ${keptColumns})
      select $1, ${anyPartitionSql}, $4::int,
        clock_timestamp() + $5::float8 * interval '1 millisecond', (1::bigint << 31) | $4::int,
        ${kept('gone').replace('gone.attempt', 'gone.attempt + 1')}
      from gone where gone.xid is not null
      order by gone.seq
      returning i.lane, i.seq, i.attempt, ${readable('i', `received_at, ${messageColumns}`)}, i.fence, null::int as previous, null::bigint as xid, null::text as snapshot,
        extract(epoch from i.expires_at - clock_timestamp())::float8 * 1000 as expires_in_ms,
        i.attempt - 1 - coalesce(jsonb_array_length(i.errors), 0) as crashes`,
    ),
  }
})
