import { bigint, float8, int } from './parameter.ts'
import { everyConsumer, everyLane, instant, msSince, perSchema, planned } from './statement.ts'

/** What waits, as the statement `boxes` tells it in JSON. `consumer` is '' for the outbox, times are seconds since 1970. */
export interface Waiting {
  readonly boxes: readonly { readonly consumer: string; readonly patterns: readonly string[] | null }[]
  readonly depths: readonly {
    readonly consumer: string
    readonly depth: number
    readonly estimated: boolean
    readonly lag_ms: number
  }[]
  /** The largest of each box; `topics` is how many there are among the messages that were looked at. */
  readonly topics: readonly {
    readonly consumer: string
    readonly topic: string
    readonly depth: number
    readonly lag_ms: number
    readonly topics: number
  }[]
  /** What has come since the look before behind all that was looked at, by the newest of each lane: of boxes whose depth is estimated. */
  readonly came: readonly { readonly consumer: string; readonly topic: string; readonly count: number }[]
  /** The last seq of the outbox and of the inbox. */
  readonly newest: { readonly outbox: number; readonly inbox: number }
  /** What workers say that they send or handle, a second; `complete` unless some say so of their busiest topics alone. */
  readonly flows: readonly {
    readonly consumer: string
    readonly topic: string
    readonly rate: number
  }[]
  /** Boxes that have workers, with what these say of all topics together. */
  readonly told: readonly {
    readonly consumer: string
    readonly complete: boolean
    readonly rate: number
  }[]
  readonly unhandled: readonly {
    readonly consumer: string
    readonly topic: string
    readonly count: number
    readonly lag_ms: number
  }[]
  /** Tables of what waits for something, by their name. */
  readonly counts: readonly { readonly consumer: string; readonly what: string; readonly count: number }[]
  readonly paused: readonly {
    readonly consumer: string
    readonly topic: string
    readonly reason: string
    readonly error: string
    readonly opened_at: number
    readonly probes: number
    readonly probe_at: number
  }[]
  readonly received: readonly { readonly consumer: string; readonly count: number }[]
  /** Rows ever written to the outbox and removed from it, as the server's statistics have it. */
  readonly outbox: { readonly added: number; readonly removed: number }
  readonly now: number
}

/** What the dashboard asks beside what other rooms do. None is prepared by name, see operate.ts. */
export const dashboardSql = perSchema('dashboard', (s) => {
  const list = (rows: string): string => `coalesce((select json_agg(r) from (${rows}) as r), '[]')`
  const countOf = (table: string): string => `
    select b.consumer, '${table}' as what, count(*) as count
    from boxes as b
    cross join lateral (select from ${s}.${table} as m where m.consumer = b.consumer limit $most) as m
    group by b.consumer`

  // Whose figures are those of now: what says its heartbeat of a minute ago is gone.
  const active = `(select * from ${s}.worker where kind in ('relay', 'claimer') and ended_at is null
    and beat_at > clock_timestamp() - interval '10 seconds') as w`

  return {
    // A plan that reads a whole table would do so every few seconds, since a table has not been analyzed yet. And to compile
    // one takes longer than to run it.
    limitPoll: { statement_timeout: '2000', enable_seqscan: 'off', jit: 'off' },
    // Of each lane the first `$sample` messages. Where there are more, their number follows from the last seq and from how densely
    // the first ones fill theirs: a lane is appended to at one end and emptied at the other, and all lanes share one sequence.
    boxes: planned(
      {
        ...{ sample: int, recent: int, most: int, topics: int, busy: int },
        ...{ sinceMs: float8, outboxSeq: bigint, inboxSeq: bigint },
      },
      `with boxes as materialized (
        select '' as consumer union all select c.consumer from ${everyConsumer(s)} as c
      ),
      sample as materialized (
        select b.consumer, l.lane, m.topic, m.seq, m.since
        from boxes as b cross join ${everyLane}
        cross join lateral (
          (select m.topic, m.seq, m.published_at as since from ${s}.outbox as m
            where b.consumer = '' and m.lane = l.lane order by m.seq limit $sample)
          union all
          (select m.topic, m.seq, m.received_at from ${s}.inbox as m
            where b.consumer <> '' and m.consumer = b.consumer and m.lane = l.lane order by m.seq limit $sample)
        ) as m
      ),
      weighed as materialized (
        select n.consumer, n.lane, n.count, n.since, coalesce(last.seq > n.nth, false) as estimated,
          coalesce(bool_or(last.seq > n.nth) over (partition by n.consumer), false) as crowded, coalesce(last.seq, n.nth) as newest,
          case when n.count < $sample then 1 else greatest(1, (last.seq - n.first + 1)::float8 / (n.nth - n.first + 1)) end as weight
        from (
          select consumer, lane, count(*) as count, min(seq) as first, max(seq) as nth, min(since) as since
          from sample group by consumer, lane
        ) as n
        left join lateral (
          (select m.seq from ${s}.outbox as m
            where n.consumer = '' and n.count >= $sample and m.lane = n.lane order by m.seq desc limit 1)
          union all
          (select m.seq from ${s}.inbox as m
            where n.consumer <> '' and n.count >= $sample and m.consumer = n.consumer and m.lane = n.lane order by m.seq desc limit 1)
        ) as last on true
      ),
      newest as materialized (
        select coalesce(max(newest) filter (where consumer = ''), 0) as outbox,
          coalesce(max(newest) filter (where consumer <> ''), 0) as inbox
        from weighed
      ),
      -- As many as have come, or so many of them; then how many there are follows from how densely these fill their seqs.
      came as materialized (
        select m.consumer, m.topic, sum(m.weight) as count
        from (
          select w.consumer, m.topic, case when count(*) over lane < $recent then 1 else
            greatest(1, (max(m.seq) over lane - m.since)::float8 * ($recent - 1) / $recent / (max(m.seq) over lane - min(m.seq) over lane)) end as weight
          from weighed as w
          cross join lateral (
            (select m.topic, m.seq, $outboxSeq as since from ${s}.outbox as m
              where w.consumer = '' and w.crowded and m.lane = w.lane and m.seq > $outboxSeq order by m.seq desc limit $recent)
            union all
            (select m.topic, m.seq, $inboxSeq from ${s}.inbox as m
              where w.consumer <> '' and w.crowded and m.consumer = w.consumer and m.lane = w.lane and m.seq > $inboxSeq
              order by m.seq desc limit $recent)
          ) as m
          window lane as (partition by w.consumer, w.lane)
        ) as m
        group by m.consumer, m.topic
      )
      select json_build_object(
        'boxes', ${list(`select b.consumer, (select array_agg(distinct p.pattern) from ${s}.subscription as p
            where p.consumer = b.consumer and p.ended_at is null) as patterns
          from (select consumer from boxes union select consumer from ${s}.subscription where ended_at is null) as b
          order by b.consumer`)},
        'depths', ${list(`select w.consumer, round(sum(w.count * w.weight)) as depth, bool_or(w.estimated) as estimated,
            ${msSince('min(w.since)')} as lag_ms
          from weighed as w group by w.consumer`)},
        'topics', ${list(`select t.consumer, t.topic, round(t.depth) as depth, ${msSince('t.since')} as lag_ms, t.topics from (
            select t.*, row_number() over (partition by t.consumer order by t.depth desc, t.topic) as place,
              count(*) over (partition by t.consumer) as topics
            from (
              select s.consumer, s.topic, sum(w.weight) as depth, min(s.since) as since
              from sample as s join weighed as w using (consumer, lane)
              group by s.consumer, s.topic
            ) as t
          ) as t where t.place <= $topics order by t.consumer, t.place`)},
        'came', ${list(`select c.consumer, c.topic, c.count from (
            select c.*, row_number() over (partition by c.consumer order by c.count desc, c.topic) as place from came as c
          ) as c where c.place <= $topics order by c.consumer, c.place`)},
        'newest', (select row_to_json(n) from newest as n),
        'flows', ${list(`select f.consumer, f.topic, f.rate from (
            select w.consumer, b.topic, sum(b.rate) as rate,
              row_number() over (partition by w.consumer order by sum(b.rate) desc, b.topic) as place
            from ${active} cross join unnest(w.busy_topics[1:$busy], w.busy_rates[1:$busy]) as b(topic, rate)
            where b.topic <> '' and b.rate > 0 and b.rate < 1e9
            group by w.consumer, b.topic
          ) as f where f.place <= $topics order by f.consumer, f.place`)},
        'told', ${list(`select w.consumer, bool_and('' <> all (w.busy_topics)) as complete,
            coalesce(sum((select sum(r) from unnest(w.busy_rates[1:$busy]) as r where r > 0 and r < 1e9)), 0) as rate
          from ${active} group by w.consumer`)},
        'unhandled', ${list(`select b.consumer, m.topic, count(*) as count, ${msSince('min(m.received_at)')} as lag_ms
          from boxes as b cross join lateral (
            select u.topic, u.received_at from ${s}.unhandled as u where u.consumer = b.consumer limit $most) as m
          group by b.consumer, m.topic order by count(*) desc limit 200`)},
        'counts', ${list(['deferred', 'parked', 'parked_message', 'dead_letter'].map(countOf).join(' union all '))},
        'paused', ${list(`select c.consumer, c.topic, c.reason, c.error, ${instant('c.opened_at')} as opened_at, c.probes,
          ${instant('c.probe_at')} as probe_at from ${s}.circuit as c limit 200`)},
        'received', ${list(`select r.consumer, count(*) as count
          from (select n.consumer from ${s}.seen as n
            where n.seen_at > now() - $sinceMs * interval '1 millisecond' limit $most) as r
          group by r.consumer`)},
        'outbox', json_build_object(
          'added', pg_stat_get_tuples_inserted('${s}.outbox'::regclass),
          'removed', pg_stat_get_tuples_deleted('${s}.outbox'::regclass)),
        'now', ${instant('clock_timestamp()')})::text as waiting`,
    ).gives<{ readonly waiting: string }>(),
  }
})
