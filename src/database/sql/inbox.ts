import { waking } from './sleep.ts'
import { columns, fencedClaim, joinedBy, parted, perSchema } from './statement.ts'
import { subscribed } from './subscription.ts'

/**
 * The inbox: received once per consumer, claimed by lane (with a key) or by row (without), deleted when handled.
 */
export const inboxSql = perSchema((s, statement) => {
  const fenced = fencedClaim(s)
  // Each failure leaves an error behind; an attempt without one ended with the death of its claimer.
  const crashes = `i.attempt - coalesce(jsonb_array_length(i.errors), 0)`
  // Of suspects, as many as there is room for; of those with two deaths behind them, one without any other. `over` is the
  // first that is too many: by order of seq, what stands behind it is left as well, since it may be of the same key.
  // Only suspects are counted, of which there are mostly none.
  const over = (rows: string, room: string): string => `over as materialized (
        select r.seq, r.load = r.weight as first
        from (
          select r.seq, r.weight, sum(r.weight) over (order by r.seq) as load
          from (
            select r.seq, case when r.crashes > 1 then 1000000 else 1 end as weight from ${rows} as r where r.crashes > 0
          ) as r
        ) as r
        where r.load > ${room} order by r.seq limit 1
      )`
  const allowed = (row: string, noneInHand: string): string => `coalesce(
      ${row}.seq < (select seq from over)
        or (${row}.seq = (select seq from over) and (select first from over) and ${noneInHand}), true)`
  // How long it may still be handled, by the clock of the database.
  const claimed = `i.lane, i.seq, i.attempt, i.received_at, ${columns('i')},
    extract(epoch from i.expires_at - clock_timestamp())::float8 * 1000 as expires_in_ms`
  // Of a stripe, from a bound on, or from its floor if that is higher: below it nothing lives.
  const inStripe = `i.consumer = $1 and i.lane = stripe.lane and i.seq > greatest(stripe.bound, (
              select l.floor from ${s}.lane as l where l.consumer = $1 and l.lane = stripe.lane))`

  return {
    // Insert-first: whoever writes the id to seen owns the message. Sorted, or two batches that overlap could deadlock.
    // $12 what was subscribed to when the consumers were chosen: nothing is written if that has changed. Null if it does
    // not matter.
    receive: statement(
      'receive',
      `with m as materialized (
        select m.consumer, m.id, m.topic, m.key, nullif(m.headers, '')::json as headers,
          nullif(m.payload, '')::json as payload, m.body, m.content_type, m.published_at, m.expires_at, m.nr
        from (
          select pg_current_xact_id() as xid, $12::text is null or $12 = ${subscribed(s)} as routed offset 0
        ) as x
        cross join unnest(
          $1::text[], $2::uuid[], $3::text[], $4::text[], ${parted('$5')}, ${parted('$6')}, $7::bytea[], $8::text[],
          $9::timestamptz[], $11::timestamptz[]
        ) with ordinality
          as m(consumer, id, topic, key, headers, payload, body, content_type, published_at, expires_at, nr)
        where x.xid is not null and x.routed
      ),
      fresh as (
        insert into ${s}.seen (consumer, id)
        select m.consumer, m.id from m order by m.consumer, m.id
        on conflict do nothing
        returning consumer, id
      ),
      inserted as (
        insert into ${s}.inbox (
          consumer, lane, id, topic, key, headers, payload, body, content_type, published_at, expires_at)
        select m.consumer, coalesce(${s}.lane_of(m.key), (64 + ($10::int + m.nr / 64) % 8)::smallint),
          m.id, m.topic, m.key, m.headers, m.payload, m.body, m.content_type, m.published_at, m.expires_at
        from m join fresh using (consumer, id)
        order by m.nr
      )
      select count(*) as fresh, exists (select from m) as routed, (
        select count(${waking(s, 'c.consumer')}) from (select distinct m.consumer from m) as c
      ) as woken
      from fresh`,
    ),

    // A claim of rows: the first that nobody holds, of the first stripe that has any. MATERIALIZED, since a nested
    // loop would otherwise evaluate the limited subquery again and claim more than its limit.
    // $1 consumer; $2, $3 stripes and their bounds; $4 limit; $5 worker; $6 lease; $7 workers known to be dead;
    // $8, $9 room for suspects, and whether none is in hand; $10 the parts of dead workers' rows that were dealt to this
    // one; $11, $12 who leaves what it failed with to somebody else, and for how long; $13 whether to take only what
    // others have held, which stands first in its stripe.
    // A claim does not wait for the disk, so a crash of the server may take it back, and who claims next counts from the
    // same number. The fence therefore ends in the worker's id, which is never given out twice.
    claim: statement(
      'claim',
      `with locked as materialized (
        select i.*
        from unnest($2::smallint[], $3::bigint[]) as stripe(lane, bound)
        cross join lateral (
          select i.lane, i.seq, i.holder, ${crashes} as crashes
          from ${s}.inbox as i
          where ${inStripe}
            and (i.lease_until <= clock_timestamp() or i.holder = any ($7::int[])
              or i.holder::bigint * 256 + i.seq % 64 = any ($10::bigint[]))
            and (coalesce(i.avoid, 0) <> $11
              or i.lease_until <= clock_timestamp() - $12::float8 * interval '1 millisecond')
          order by i.seq
          limit $4
          for no key update skip locked
        ) as i
        where i.holder is not null or not $13::boolean
        limit $4
      ),
      ${over('locked', '$8::int')},
      c as materialized (
        select r.* from locked as r where ${allowed('r', '$9::boolean')}
      )
      update ${s}.inbox as i set
        holder = $5, lease_until = clock_timestamp() + $6::float8 * interval '1 millisecond',
        fence = (((i.fence >> 31) + 1) << 31) | $5::int, attempt = i.attempt + 1
      from c
      where i.consumer = ${joinedBy('c', '$1::text')} and i.lane = c.lane and i.seq = c.seq
      returning ${claimed}, i.fence, c.crashes, c.holder as previous,
        case when i.seq = (select min(seq) from c) then pg_current_xact_id() end as xid,
        case when i.seq = (select min(seq) from c) then pg_current_snapshot()::text end as snapshot`,
    ),

    // A read of lanes: what their holder does not have in hand yet. Writes down how far it reaches into the lane before
    // anything of it is handled, so that a successor knows what has been attempted; a holder that has lost a lane
    // reads nothing from it.
    // $1 consumer; $2 to $6 lanes, fences, bounds, quotas, reaches; $7 what is in hand of each lane, as an array in text; $8 whether to assign an xid; $9, $10 room for suspects,
    // and whether none is in hand.
    read: statement(
      'read_lanes',
      `with found as materialized (
        select head.*, l.fence, l.reach
        from (
          select l.lane, l.fence, l.bound, l.quota, l.reach, l.held::bigint[] as held
          from unnest($2::smallint[], $3::bigint[], $4::bigint[], $5::int[], $6::bigint[], $7::text[])
            as l(lane, fence, bound, quota, reach, held)
          offset 0
        ) as l
        cross join lateral (
          select ${claimed}, ${crashes} as crashes
          from ${s}.inbox as i
          where i.consumer = $1 and i.lane = l.lane and i.seq > l.bound and i.seq <> all (l.held)
          order by i.seq
          limit l.quota
        ) as head
      ),
      ${over('found', '$9::int')},
      held as materialized (
        select l.lane, greatest(h.reach, h.last) as reach
        from ${s}.lane as l join (
          select r.lane, r.fence, r.reach, max(r.seq) as last from found as r
          where ${allowed('r', '$10::boolean')}
          group by r.lane, r.fence, r.reach
        ) as h using (lane, fence)
        where l.consumer = $1
        -- In the order in which they are renewed and given back, see lane.ts.
        order by l.lane
        for no key update of l
      ),
      moved as (
        update ${s}.lane as l set reach = held.reach from held where l.consumer = $1 and l.lane = held.lane
      )
      select at.*, m.*
      from (
        select pg_current_snapshot()::text as snapshot,
          case when $8::boolean then pg_current_xact_id() end as xid,
          exists (select from found as r where not ${allowed('r', '$10::boolean')}) as left_out
        offset 0
      ) as at
      left join (
        select r.* from found as r join held using (lane) where ${allowed('r', '$10::boolean')}
      ) as m on true`,
    ),

    // Extends the leases of the rows that are still in hand.
    renew: statement(
      'renew_rows',
      `update ${s}.inbox as i set lease_until = clock_timestamp() + $5::float8 * interval '1 millisecond'
      from unnest($2::smallint[], $3::bigint[], $4::bigint[]) as a(lane, seq, fence)
      where i.consumer = ${joinedBy('a', '$1::text')} and i.lane = a.lane and i.seq = a.seq and i.fence = a.fence
      returning i.lane, i.seq`,
    ),

    // Gives rows back untouched: the interruption is ours, so the attempt is not held against the message.
    release: statement(
      'release_rows',
      `update ${s}.inbox as i
      set lease_until = '-infinity', holder = null, attempt = greatest(i.attempt - 1, 0)
      from unnest($2::smallint[], $3::bigint[], $4::bigint[]) as a(lane, seq, fence)
      where i.consumer = ${joinedBy('a', '$1::text')} and i.lane = a.lane and i.seq = a.seq and i.fence = a.fence
      returning i.lane, i.seq`,
    ),

    // A failed message with a key that stays in hand for a short backoff.
    fail: statement(
      'inbox_fail',
      `update ${s}.inbox as i set attempt = a.attempt, errors = coalesce(i.errors, '[]') || a.error
      from unnest($2::smallint[], $3::bigint[], $4::bigint[], $5::uuid[], $6::int[], $7::jsonb[])
        as a(lane, seq, fence, id, attempt, error)
      where ${fenced}
      returning i.lane, i.seq`,
    ),

    // The messages that a dead holder had in hand have been attempted once more. That is said once, whoever dies next.
    // One that is locked is not waited for: a frozen process may have completed it, and not said COMMIT; all the others of
    // the lane would wait as well.
    charge: statement(
      'charge',
      `with l as (
          update ${s}.lane as l set reach = 0
          from unnest($2::smallint[], $3::bigint[], $4::bigint[], $5::bigint[]) as n(lane, fence, floor, reach)
          where l.consumer = $1 and l.lane = n.lane and l.fence = n.fence and l.reach = n.reach
          returning n.lane, n.floor, n.reach
        )
        update ${s}.inbox as i set attempt = i.attempt + 1
        from l cross join lateral (
          select h.seq from ${s}.inbox as h
          where h.consumer = $1 and h.lane = l.lane and h.seq > l.floor and h.seq <= l.reach
          for no key update skip locked
        ) as h
        where i.consumer = ${joinedBy('h', '$1::text')} and i.lane = l.lane and i.seq = h.seq`,
    ),

    // The first row of each stripe, from a bound on.
    heads: statement(
      'stripe_heads',
      `select stripe.lane, pg_current_snapshot()::text as snapshot, (
        select i.seq from ${s}.inbox as i
        where ${inStripe}
        order by i.seq limit 1
      ) as head
      from unnest($2::smallint[], $3::bigint[]) as stripe(lane, bound)`,
    ),
  }
})
