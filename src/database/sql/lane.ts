import { layout } from '../layout.ts'
import { serverIdentity } from './server.ts'
import { durably, perSchema } from './statement.ts'

/** Lanes: who holds them, under which fence, until when. The consumer '' is the outbox. */
export const laneSql = perSchema((s, statement) => {
  // A watermark counts only on the server on which it was found: what a crash or a failover has taken back may stand
  // below.
  const watermark = `case when l.lowered = n.lowered and n.server = ${serverIdentity(s)} then greatest(l.watermark, n.watermark)
    else l.watermark end`
  // A worker writes its lanes from several connections: it renews them, gives them back and reads on in them. Locked one
  // after the other in different orders, they would wait for each other until Postgres ends one of them with an error.
  const inTurn = (given: string): string => `ours as materialized (
      select l.lane from ${s}.lane as l join ${given} as n(lane, fence) using (lane)
      where l.consumer = $1 and l.holder = $2 and l.fence = n.fence
      order by l.lane
      for no key update of l
    )`
  const below = (table: string, where: string): string => `
    select l.lane from ${s}.lane as l
    where l.consumer = $1 and l.lane = any ($2::smallint[])
      and exists (select from ${s}.${table} as m where ${where} m.lane = l.lane and m.seq <= l.watermark)`
  return {
    // Made again after a truncation, with fences that nobody can still have in flight.
    create: statement(
      'create_lanes',
      `insert into ${s}.lane (consumer, lane, fence)
    select $1, lane, extract(epoch from clock_timestamp())::bigint from generate_series(0, $2::int - 1) as lane
    on conflict do nothing`,
    ),

    // Takes lanes: those of dead workers that were dealt to this one ($6, holder and lane as one number), and up to its
    // fair share ($5) those that are free, whose lease has lapsed or whose holder's death has left them to anybody ($4),
    // the longest neglected first. `previous` is null if the lane was given back, so the new holder knows whether
    // somebody died over it. How far the dead one had reached stays written down until that has been charged: the new
    // holder may die before.
    take: statement(
      'take_lanes',
      `with c as materialized (
      select lane, holder, reach, past from ${s}.lane
      where consumer = $1 and (
        holder::bigint * ${layout.perWorker} + lane = any ($6::bigint[])
        or $5::int > 0 and (lease_until <= clock_timestamp() or holder = any ($4::int[]))
      )
      order by (holder::bigint * ${layout.perWorker} + lane = any ($6::bigint[])) is true desc, lease_until, lane
      limit greatest($5::int, cardinality($6::bigint[]))
      for no key update skip locked
    )
    update ${s}.lane as l set
      holder = $2, since = clock_timestamp(), fence = l.fence + 1, lease_until = clock_timestamp() + $3::float8 * interval '1 millisecond',
      reach = case when c.holder is null then 0 else l.reach end,
      past = case when c.holder is null then null else l.past end
    from c cross join ${durably} as d
    where l.consumer = $1 and l.lane = c.lane and d.durable is not null
    returning l.lane, l.fence, l.watermark, l.lowered, c.holder as previous, ${serverIdentity(s)} as server,
      c.holder is not null and (c.reach > 0 or c.past is not null) as abandoned`,
    ),

    renew: statement(
      'renew_lanes',
      `with ${inTurn('unnest($4::smallint[], $5::bigint[])')}
    update ${s}.lane as l set
      lease_until = clock_timestamp() + $3::float8 * interval '1 millisecond',
      watermark = ${watermark}
    from ours join unnest($4::smallint[], $6::bigint[], $7::int[], $8::text[]) as n(lane, watermark, lowered, server)
      using (lane)
    where l.consumer = $1 and l.lane = ours.lane
    returning l.lane, l.watermark, l.lowered`,
    ),

    // Has lanes read from their beginning, also by who holds them next. $1 consumer, $2 worker, $3, $4 lanes and fences.
    lower: statement(
      'lower_lanes',
      `with ${inTurn('unnest($3::smallint[], $4::bigint[])')}
    update ${s}.lane as l set watermark = 0, lowered = l.lowered + 1 from ours
    where l.consumer = $1 and l.lane = ours.lane
    returning l.lane, l.lowered`,
    ),

    count: statement('count_lanes', `select count(*)::int as count from ${s}.lane where consumer = $1`),

    // Which of these lanes ($2) have messages in them where there should be none. What comes back below a watermark
    // lowers it in the same statement. Planned each time, and given up after a second, for which nobody works on the
    // lanes.
    briefly: "set local statement_timeout = '1s'; set local enable_seqscan = off",
    below: { text: below('inbox', 'm.consumer = $1 and') },
    belowOutbox: { text: below('outbox', '') },

    // Takes the lanes that their holders have made over to this worker; $4 are those that it works on.
    accept: statement(
      'accept_lanes',
      `with c as materialized (
      select lane from ${s}.lane where consumer = $1 and holder = $2 and lane <> all ($4::smallint[])
      for no key update skip locked
    )
    update ${s}.lane as l set
      since = clock_timestamp(), fence = l.fence + 1, lease_until = clock_timestamp() + $3::float8 * interval '1 millisecond'
    from c cross join ${durably} as d
    where l.consumer = $1 and l.lane = c.lane and d.durable is not null
    returning l.lane, l.fence, l.watermark, l.lowered, $2::int as previous, ${serverIdentity(s)} as server,
      l.reach > 0 or l.past is not null as abandoned`,
    ),

    // Makes lanes over to others ($8), who have so long ($9) to accept them before they are anybody's.
    handOver: statement(
      'hand_over_lanes',
      `with ${inTurn('unnest($3::smallint[], $4::bigint[])')}
    update ${s}.lane as l set holder = n.assignee, since = clock_timestamp(), fence = l.fence + 1, reach = 0, past = null,
      lease_until = clock_timestamp() + $9::float8 * interval '1 millisecond', watermark = ${watermark}
    from ours join unnest($3::smallint[], $5::bigint[], $6::int[], $7::text[], $8::int[])
      as n(lane, watermark, lowered, server, assignee) using (lane)
    where l.consumer = $1 and l.lane = ours.lane
    returning l.lane`,
    ),

    // Gives lanes back. The fence rises with the next holder; holder null says that nobody died.
    release: statement(
      'release_lanes',
      `with ${inTurn('unnest($3::smallint[], $4::bigint[])')}
    update ${s}.lane as l set holder = null, since = null, lease_until = '-infinity',
      watermark = ${watermark}
    from ours join unnest($3::smallint[], $5::bigint[], $6::int[], $7::text[]) as n(lane, watermark, lowered, server)
      using (lane)
    where l.consumer = $1 and l.lane = ours.lane
    returning l.lane`,
    ),
  }
})
