import { layout } from '../layout.ts'
import { serverIdentity } from './server.ts'
import { bigints, float8, int, ints, optional, smallints, text, texts } from './parameter.ts'
import { durably, perSchema, planned, prepared } from './statement.ts'

/** A lane as it is taken. */
export interface LaneRow {
  readonly lane: number
  readonly fence: number
  readonly watermark: number
  readonly lowered: number
  readonly abandoned: boolean
  readonly previous: number | null
  readonly server: string
}

/** Lanes: who holds them, under which fence, until when. The consumer '' is the outbox. */
export const laneSql = perSchema('lane', (s) => {
  // A watermark counts only on the server on which it was found: what a crash or a failover has taken back may stand
  // below.
  const watermark = `case when l.lowered = n.lowered and n.server = ${serverIdentity(s)} then greatest(l.watermark, n.watermark)
    else l.watermark end`
  // A worker writes its lanes from several connections: it renews them, gives them back and reads on in them. Locked one
  // after the other in different orders, they would wait for each other until Postgres ends one of them with an error.
  const inTurn = (given: string): string => `ours as materialized (
      select l.lane from ${s}.lane as l join ${given} as n(lane, fence) using (lane)
      where l.consumer = $consumer and l.holder = $worker and l.fence = n.fence
      order by l.lane
      for no key update of l
    )`
  const below = (table: string, where: string): string => `
    select l.lane from ${s}.lane as l
    where l.consumer = $consumer and l.lane = any ($lanes)
      and exists (select from ${s}.${table} as m where ${where} m.lane = l.lane and m.seq <= l.watermark)`
  return {
    // Made again after a truncation, with fences that nobody can still have in flight.
    create: prepared(
      { consumer: text, count: int },
      `insert into ${s}.lane (consumer, lane, fence)
    select $consumer, lane, extract(epoch from clock_timestamp())::bigint from generate_series(0, $count - 1) as lane
    on conflict do nothing`,
    ),

    // Takes lanes: those of dead workers that were dealt to this one (`$dealt`, holder and lane as one number), and up to its
    // fair share (`$limit`) those that are free, whose lease has lapsed or whose holder's death has left them to anybody (`$gone`),
    // the longest neglected first. `previous` is null if the lane was given back, so the new holder knows whether
    // somebody died over it. How far the dead one had reached stays written down until that has been charged: the new
    // holder may die before.
    take: prepared(
      { consumer: text, worker: int, leaseMs: float8, gone: ints, limit: int, dealt: bigints },
      `with c as materialized (
      select lane, holder, reach, past from ${s}.lane
      where consumer = $consumer and (
        holder::bigint * ${layout.perWorker} + lane = any ($dealt)
        or $limit > 0 and (lease_until <= clock_timestamp() or holder = any ($gone))
      )
      order by (holder::bigint * ${layout.perWorker} + lane = any ($dealt)) is true desc, lease_until, lane
      limit greatest($limit, cardinality($dealt))
      for no key update skip locked
    )
    update ${s}.lane as l set
      holder = $worker, since = clock_timestamp(), fence = l.fence + 1, lease_until = clock_timestamp() + $leaseMs * interval '1 millisecond',
      reach = case when c.holder is null then 0 else l.reach end,
      past = case when c.holder is null then null else l.past end
    from c cross join ${durably} as d
    where l.consumer = $consumer and l.lane = c.lane and d.durable is not null
    returning l.lane, l.fence, l.watermark, l.lowered, c.holder as previous, ${serverIdentity(s)} as server,
      c.holder is not null and (c.reach > 0 or c.past is not null) as abandoned`,
    ).gives<LaneRow>(),

    renew: prepared(
      {
        consumer: text,
        worker: optional(int),
        leaseMs: float8,
        lanes: smallints,
        fences: bigints,
        watermarks: bigints,
        lowered: ints,
        servers: texts,
      },
      `with ${inTurn('unnest($lanes, $fences)')}
    update ${s}.lane as l set
      lease_until = clock_timestamp() + $leaseMs * interval '1 millisecond',
      watermark = ${watermark}
    from ours join unnest($lanes, $watermarks, $lowered, $servers) as n(lane, watermark, lowered, server)
      using (lane)
    where l.consumer = $consumer and l.lane = ours.lane
    returning l.lane, l.watermark, l.lowered`,
    ).gives<Pick<LaneRow, 'lane' | 'watermark' | 'lowered'>>(),

    // Has lanes read from their beginning, also by who holds them next.
    lower: prepared(
      { consumer: text, worker: optional(int), lanes: smallints, fences: bigints },
      `with ${inTurn('unnest($lanes, $fences)')}
    update ${s}.lane as l set watermark = 0, lowered = l.lowered + 1 from ours
    where l.consumer = $consumer and l.lane = ours.lane
    returning l.lane, l.lowered`,
    ).gives<Pick<LaneRow, 'lane' | 'lowered'>>(),

    count: prepared(
      { consumer: text },
      `select count(*)::int as count from ${s}.lane where consumer = $consumer`,
    ).gives<{ readonly count: number }>(),

    // Which of these lanes have messages in them where there should be none. What comes back below a watermark lowers
    // it in the same statement. Planned each time, and given up after a second, for which nobody works on the lanes.
    briefly: "set local statement_timeout = '1s'; set local enable_seqscan = off",
    below: planned({ consumer: text, lanes: smallints }, below('inbox', 'm.consumer = $consumer and')).gives<{
      readonly lane: number
    }>(),
    belowOutbox: planned({ consumer: text, lanes: smallints }, below('outbox', '')).gives<{
      readonly lane: number
    }>(),

    // Takes the lanes that their holders have made over to this worker; `$held` are those that it works on.
    accept: prepared(
      { consumer: text, worker: int, leaseMs: float8, held: smallints },
      `with c as materialized (
      select lane from ${s}.lane where consumer = $consumer and holder = $worker and lane <> all ($held)
      for no key update skip locked
    )
    update ${s}.lane as l set
      since = clock_timestamp(), fence = l.fence + 1, lease_until = clock_timestamp() + $leaseMs * interval '1 millisecond'
    from c cross join ${durably} as d
    where l.consumer = $consumer and l.lane = c.lane and d.durable is not null
    returning l.lane, l.fence, l.watermark, l.lowered, $worker as previous, ${serverIdentity(s)} as server,
      l.reach > 0 or l.past is not null as abandoned`,
    ).gives<LaneRow>(),

    // Makes lanes over to others (`$assignees`), who have `$assigneeMs` to accept them before they are anybody's.
    handOver: prepared(
      {
        consumer: text,
        worker: int,
        lanes: smallints,
        fences: bigints,
        watermarks: bigints,
        lowered: ints,
        servers: texts,
        assignees: ints,
        assigneeMs: float8,
      },
      `with ${inTurn('unnest($lanes, $fences)')}
    update ${s}.lane as l set holder = n.assignee, since = clock_timestamp(), fence = l.fence + 1, reach = 0, past = null,
      lease_until = clock_timestamp() + $assigneeMs * interval '1 millisecond', watermark = ${watermark}
    from ours join unnest($lanes, $watermarks, $lowered, $servers, $assignees)
      as n(lane, watermark, lowered, server, assignee) using (lane)
    where l.consumer = $consumer and l.lane = ours.lane
    returning l.lane`,
    ).gives<{ readonly lane: number }>(),

    // Gives lanes back. The fence rises with the next holder; holder null says that nobody died.
    release: prepared(
      {
        consumer: text,
        worker: int,
        lanes: smallints,
        fences: bigints,
        watermarks: bigints,
        lowered: ints,
        servers: texts,
      },
      `with ${inTurn('unnest($lanes, $fences)')}
    update ${s}.lane as l set holder = null, since = null, lease_until = '-infinity',
      watermark = ${watermark}
    from ours join unnest($lanes, $watermarks, $lowered, $servers) as n(lane, watermark, lowered, server)
      using (lane)
    where l.consumer = $consumer and l.lane = ours.lane
    returning l.lane`,
    ).gives<{ readonly lane: number }>(),
  }
})
