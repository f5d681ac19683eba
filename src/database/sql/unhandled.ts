import { anyPartitionSql, layout } from '../layout.ts'
import { bigint, bigints, float8, int, smallint, smallints, text, texts, uuids } from './parameter.ts'
import {
  bounded,
  columns,
  fits,
  joinedBy,
  lanesHeld,
  messageColumns,
  perSchema,
  placed,
  prepared,
  readable,
  type Place,
} from './statement.ts'
import type { PartitionedRow } from './inbox.ts'

/** All messages without a key wait under this number. */
export const unkeyedLane = layout.lanes

/** How many topics are told of a lane at once. Whoever may publish may make up any number of them. */
export const topicsMax = 1000

export interface Returned {
  readonly first: number | null
  readonly count: number
  readonly lowered: number | null
  /** The place of the next one is taken. */
  readonly waits: boolean
}

/** Messages of topics for which a claimer has no handler: set aside, brought back, taken by one that has. */
export const unhandledSql = perSchema('unhandled', (s) => {
  const kept = (from: string): string =>
    `${from}.attempt, ${from}.errors, ${from}.received_at, ${columns(from)}`
  const keptColumns = `attempt, errors, received_at, ${messageColumns}`
  const topicsAfter = (after: string): string =>
    `(select u.topic from ${s}.unhandled as u where u.consumer = $consumer and u.lane = l.lane and u.topic > ${after}
        order by u.topic limit 1)`

  return {
    // A lane is locked until this is committed: whoever takes it next has
    // to see what waits of it. The claim of a row had counted an attempt, which is taken back.
    setAside: prepared(
      { consumer: text, lanes: smallints, seqs: bigints, fences: bigints, ids: uuids },
      `with held as materialized (${lanesHeld(s, 'select distinct a.lane, a.fence from unnest($lanes, $fences) as a(lane, fence)')}),
      gone as (
        delete from ${s}.inbox as i
        using unnest($lanes, $seqs, $fences, $ids) as a(lane, seq, fence, id)
        where i.consumer = ${joinedBy('a', '$consumer')} and i.lane = a.lane and i.seq = a.seq and i.id = a.id
          and case when a.lane < ${layout.lanes} then (a.lane, a.fence) in (select held.lane, held.fence from held)
            else i.fence = a.fence end
        returning i.lane, i.seq, ${kept('i')}
      ),
      moved as (
        insert into ${s}.unhandled (consumer, lane, seq, ${keptColumns})
        select $consumer, least(gone.lane, ${unkeyedLane}), gone.seq, ${kept('gone').replace(
          'gone.attempt',
          `case when gone.lane < ${layout.lanes} then gone.attempt else greatest(gone.attempt - 1, 0) end`,
        )}
        from gone
      )
      select lane, seq from gone`,
    ).gives<Place>(),

    // Which topics wait in lanes, each found by a step of its own in the index: a lane may hold 100,000 of one.
    topics: prepared(
      { consumer: text, lanes: smallints, after: texts },
      `select l.lane, found.topic
      from unnest($lanes, $after) as l(lane, after)
      cross join lateral (
        with recursive t as (
          select ${topicsAfter('l.after')} as topic
          union all
          select ${topicsAfter('t.topic')} from t where t.topic is not null
        )
        select t.topic from t where t.topic is not null limit ${topicsMax}
      ) as found`,
    ).gives<{ readonly lane: number; readonly topic: string }>(),

    // Brings the first messages of some topics back to where they stood. Only the holder of the lane does, before it reads
    // anything of the lane: nothing may go ahead of them.
    bringBack: prepared(
      { consumer: text, lane: smallint, fence: bigint, topics: texts, most: int },
      `with held as materialized (
        select from ${s}.lane as l where l.consumer = $consumer and l.lane = $lane and l.fence = $fence for no key update
      ),
      ${placed(
        // Each topic once: of a message that is there twice, either would wait for the other.
        `select c.topic, c.seq, c.id
        from (select distinct t.topic from unnest($topics) as t(topic)) as t
        cross join lateral (
          select u.topic, u.seq, u.id from ${s}.unhandled as u
          where u.consumer = $consumer and u.lane = $lane and u.topic = t.topic
          order by u.seq, u.id limit $most
        ) as c
        where exists (select from held)
        order by c.seq, c.id limit $most`,
        `${s}.inbox as i where i.consumer = $consumer and i.lane = $lane`,
      )},
      gone as (
        delete from ${s}.unhandled as u using placed as c
        where u.consumer = ${joinedBy('c', '$consumer')} and u.lane = ${joinedBy('c', '$lane')}
          and u.topic = c.topic and u.seq = c.seq and u.id = c.id and not c.waits
        returning u.lane, u.seq, ${kept('u')}
      ),
      back as (
        insert into ${s}.inbox (consumer, lane, seq, ${keptColumns}) overriding system value
        select $consumer, gone.lane, gone.seq, ${kept('gone')} from gone
      ),
      bound as (select min(seq) as first, count(*) as count from gone),
      lowered as (
        update ${s}.lane as l set watermark = least(l.watermark, bound.first - 1), lowered = l.lowered + 1 from bound
        where l.consumer = $consumer and l.lane = $lane and bound.count > 0
        returning l.lowered
      )
      select first, count, (select lowered from lowered) as lowered, exists (select from placed where placed.waits) as waits
      from bound`,
    ).gives<Returned>(),

    // Messages without a key, claimed as they come back: free in a partition, a claimer without their handler could
    // find them first, again and again.
    adopt: prepared(
      { consumer: text, topics: texts, most: int, worker: int, leaseMs: float8, bytes: bigint },
      `with locked as materialized (
        select c.*
        from unnest($topics) as t(topic)
        cross join lateral (
          select u.topic, u.lane, u.seq, u.id, u.size from ${s}.unhandled as u
          where u.consumer = $consumer and u.lane = ${unkeyedLane} and u.topic = t.topic
          order by u.seq limit $most
          for no key update skip locked
        ) as c
        limit $most
      ),
      ${bounded('locked', '$bytes', '$most')},
      chosen as materialized (select l.* from locked as l where ${fits('l')}),
      gone as (
        delete from ${s}.unhandled as u using chosen as c
        where u.consumer = ${joinedBy('c', '$consumer')} and u.lane = ${joinedBy('c', `${unkeyedLane}`)}
          and u.topic = c.topic and u.seq = c.seq and u.id = c.id
        returning u.seq, ${kept('u')}, pg_current_xact_id() as xid
      )
      insert into ${s}.inbox as i (consumer, lane, holder, lease_until, fence, ${keptColumns})
      select $consumer, ${anyPartitionSql}, $worker,
        clock_timestamp() + $leaseMs * interval '1 millisecond', (1::bigint << 31) | $worker,
        ${kept('gone').replace('gone.attempt', 'gone.attempt + 1')}
      from gone where gone.xid is not null
      order by gone.seq
      returning i.lane, i.seq, i.attempt, ${readable('i', `received_at, ${messageColumns}`)}, i.fence, null::int as previous, null::bigint as xid, null::text as snapshot,
        extract(epoch from i.expires_at - clock_timestamp())::float8 * 1000 as expires_in_ms,
        i.attempt - 1 - coalesce(jsonb_array_length(i.errors), 0) as crashes`,
    ).gives<PartitionedRow & { readonly previous: null }>(),
  }
})
