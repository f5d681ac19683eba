import {
  bounded,
  columns,
  fencedClaim,
  fits,
  joinedBy,
  messageColumns,
  onlyIf,
  perSchema,
  readable,
} from './statement.ts'

/**
 * The inbox: claimed by lane (with a key) or by row (without), deleted when handled. How messages come in is in `receive.ts`.
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
  const times = `extract(epoch from i.expires_at - clock_timestamp())::float8 * 1000 as expires_in_ms`
  const claimed = `i.lane, i.seq, i.attempt, ${readable('i', `received_at, ${messageColumns}`)}, ${times}`
  // Of a stripe, from a bound on, or from its floor if that is higher: below it nothing lives.
  const inStripe = `i.consumer = $1 and i.lane = stripe.lane and i.seq > greatest(stripe.bound, (
              select l.floor from ${s}.lane as l where l.consumer = $1 and l.lane = stripe.lane))`

  return {
    // A claim of rows: the first that nobody holds, of the first stripe that has any. MATERIALIZED, since a nested
    // loop would otherwise evaluate the limited subquery again and claim more than its limit.
    // $1 consumer; $2, $3 stripes and their bounds; $4 limit; $5 worker; $6 lease; $7 workers known to be dead;
    // $8, $9 room for suspects, and whether none is in hand; $10 the parts of dead workers' rows that were dealt to this
    // one; $11, $12 who leaves what it failed with to somebody else, and for how long; $13 whether to take only what
    // others have held, which stands first in its stripe; $14 bytes.
    // A claim does not wait for the disk, so a crash of the server may take it back, and who claims next counts from the
    // same number. The fence therefore ends in the worker's id, which is never given out twice.
    claim: statement(
      'claim',
      `with locked as materialized (
        select i.*
        from unnest($2::smallint[], $3::bigint[]) as stripe(lane, bound)
        cross join lateral (
          select i.lane, i.seq, i.holder, i.size, ${crashes} as crashes
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
      ${bounded('locked', '$14::bigint', '$4')},
      c as materialized (
        select r.* from locked as r where ${allowed('r', '$9::boolean')} and ${fits('r')}
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
    // and whether none is in hand; $11, $12 bytes and rows, of which what is beyond comes without its content: it is there,
    // and read the next time.
    read: statement(
      'read_lanes',
      `with found as materialized (
        -- What is looked at more than once stands first, before what is wide.
        select l.fence, l.reach, head.*
        from (
          select l.lane, l.fence, l.bound, l.quota, l.reach, l.held::bigint[] as held
          from unnest($2::smallint[], $3::bigint[], $4::bigint[], $5::int[], $6::bigint[], $7::text[])
            as l(lane, fence, bound, quota, reach, held)
          offset 0
        ) as l
        cross join lateral (
          select i.lane, i.seq, i.size, ${crashes} as crashes, i.attempt, ${times},
            ${columns('i', `received_at, ${messageColumns}`)}
          from ${s}.inbox as i
          where i.consumer = $1 and i.lane = l.lane and i.seq > l.bound and i.seq <> all (l.held)
          order by i.seq
          limit l.quota
        ) as head
      ),
      ${over('found', '$9::int')},
      ${bounded('found', '$11::bigint', '$12::int')},
      held as materialized (
        select l.lane, greatest(h.reach, h.last) as reach
        from ${s}.lane as l join (
          -- Also lanes of which nothing fits: whoever is told of no row takes them for empty.
          select r.lane, r.fence, r.reach, max(r.seq) filter (where ${fits('r')}) as last from found as r
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
        select r.lane, r.seq, r.attempt, r.fence, r.crashes, r.id, r.topic, r.key, r.content_type, r.expires_in_ms,
          ${readable('r', 'received_at, published_at, expires_at')}, not ${fits('r')} as beyond,
          ${onlyIf(fits('r'), 'r', 'headers, payload, body')}
        -- As an array: joined, all that was found would be gone through once for each lane.
        from found as r where r.lane = any (array(select held.lane from held)) and ${allowed('r', '$10::boolean')}
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

    // The same for rows whose handler's transaction reads from one snapshot: in it, a row that has been changed since
    // cannot be deleted. As long as it has locked the row itself, nobody else takes it.
    hold: {
      text: `select i.lane, i.seq
      from ${s}.inbox as i join unnest($2::smallint[], $3::bigint[], $4::bigint[]) as a(lane, seq, fence)
        on i.lane = a.lane and i.seq = a.seq and i.fence = a.fence
      where i.consumer = $1 and current_setting('transaction_isolation') in ('repeatable read', 'serializable')
      for no key update of i skip locked`,
    },

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
