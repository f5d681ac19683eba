import { bounded, columns, fits, joinedBy, messageColumns, onlyIf, perSchema, readable } from './statement.ts'
import { allowed, crashes, over, times } from './quarantine.ts'

/** Lanes of the inbox, read by their holder. */
export const readingSql = perSchema((s, statement) => {
  const head = `i.lane, i.seq, i.size, ${crashes} as crashes, i.attempt, ${times},
            ${columns('i', `received_at, ${messageColumns}`)}`
  // Writes down what is in flight of a lane before anything of it is handled, so that a successor knows what has been
  // attempted: all up to `reach`, and beyond it what was read past a hot key. A holder that has lost a lane reads nothing
  // from it.
  // $1 consumer; $2 to $6 lanes, fences, bounds, budgets, reaches; $7 what is in flight of each lane, as an array in
  // text; $8 whether to assign an xid; $9, $10 room for quarantined messages, and whether none is in flight; $11, $12
  // bytes and rows, of which what is beyond comes without its content: it is there, and read the next time; $13 what is
  // in flight beyond the reach, like $7.
  const read = (
    heads: string,
    reach: string,
    past: string,
    more = { column: '', parameter: '', name: '', told: '' },
  ): string => `with found as materialized (
        -- What is looked at more than once stands first, before what is wide.
        select l.fence, l.reach, l.past, head.*
        from (
          select l.lane, l.fence, l.bound, l.budget, l.reach, l.held::bigint[] as held, l.past::bigint[] as past${more.column}
          from unnest($2::smallint[], $3::bigint[], $4::bigint[], $5::int[], $6::bigint[], $7::text[], $13::text[]${more.parameter})
            as l(lane, fence, bound, budget, reach, held, past${more.name})
          offset 0
        ) as l
        cross join lateral (
          ${heads}
        ) as head
      ),
      ${over('found', '$9::int')},
      ${bounded('found', '$11::bigint', '$12::int')},
      held as materialized (
        select l.lane, ${reach} as reach, ${past} as past
        from ${s}.lane as l join (
          -- Also lanes of which nothing fits: whoever is told of no row takes them for empty.
          select r.lane, r.fence, r.reach, r.past, max(r.seq) filter (where ${fits('r')}) as last,
            array_agg(r.seq) filter (where ${fits('r')}) as seqs
          from found as r
          where ${allowed('r', '$10::boolean')}
          group by r.lane, r.fence, r.reach, r.past
        ) as h using (lane, fence)
        where l.consumer = $1
        -- In the order in which they are renewed and given back, see lane.ts.
        order by l.lane
        for no key update of l
      ),
      moved as (
        update ${s}.lane as l set reach = held.reach, past = held.past
        from held where l.consumer = $1 and l.lane = held.lane
      )
      select at.*, m.*
      from (
        select pg_current_snapshot()::text as snapshot,
          case when $8::boolean then pg_current_xact_id() end as xid,
          exists (select from found as r where not ${allowed('r', '$10::boolean')}) as left_out${more.told}
        offset 0
      ) as at
      left join (
        select r.lane, r.seq, r.attempt, r.fence, r.crashes, r.id, r.topic, r.key, r.content_type, r.expires_in_ms,
          ${readable('r', 'received_at, published_at, expires_at')}, not ${fits('r')} as beyond,
          ${onlyIf(fits('r'), 'r', 'headers, payload, body')}
        -- As an array: joined, all that was found would be gone through once for each lane.
        from found as r where r.lane = any (array(select held.lane from held)) and ${allowed('r', '$10::boolean')}
      ) as m on true`

  return {
    // A read of lanes: what their holder does not have in flight yet.
    read: statement(
      'read_lanes',
      read(
        `select ${head} from ${s}.inbox as i
          where i.consumer = $1 and i.lane = l.lane and i.seq > l.bound and i.seq <> all (l.held)
          order by i.seq
          limit l.budget`,
        'greatest(h.reach, h.last)',
        'h.past',
      ),
    ),

    // A read past the keys of $14, of each lane an array in text. It looks at $15 rows of a lane, and says up to where
    // that was, and how many there were.
    readPast: statement(
      'read_lanes_past',
      read(
        `select ${head} from (
            select i.* from ${s}.inbox as i
            where i.consumer = $1 and i.lane = l.lane and i.seq > l.bound
            order by i.seq
            limit $15::int
          ) as i
          where i.key <> all (l.without) and i.seq <> all (l.held)
          order by i.seq
          limit l.budget`,
        'h.reach',
        'h.past || h.seqs',
        {
          column: ', l.without::text[] as without',
          parameter: ', $14::text[]',
          name: ', without',
          told: `, (
            select json_object_agg(l.lane, (
              select json_build_object('last', max(w.seq), 'count', count(*), 'highest', (
                select i.seq from ${s}.inbox as i where i.consumer = $1 and i.lane = l.lane order by i.seq desc limit 1
              )) from (
                select i.seq from ${s}.inbox as i where i.consumer = $1 and i.lane = l.lane and i.seq > l.bound
                order by i.seq limit $15::int
              ) as w
            ))::text from unnest($2::smallint[], $4::bigint[]) as l(lane, bound)
          ) as ends`,
        },
      ),
    ),

    // The messages that a dead holder had in flight have been attempted once more. That is said once, whoever dies
    // next. One that is locked is not waited for: a frozen process may have completed it, and not said COMMIT; all the
    // others of the lane would wait as well.
    charge: statement(
      'charge',
      `with l as materialized (
          select l.lane, l.reach, l.past, n.watermark
          from ${s}.lane as l join unnest($2::smallint[], $3::bigint[], $4::bigint[]) as n(lane, fence, watermark) using (lane, fence)
          where l.consumer = $1 and (l.reach > 0 or l.past is not null)
          order by l.lane
          for no key update of l
        ),
        charged as (
          update ${s}.lane as c set reach = 0, past = null from l where c.consumer = $1 and c.lane = l.lane
        )
        update ${s}.inbox as i set attempt = i.attempt + 1
        from l cross join lateral (
          select seq from (
            select h.seq from ${s}.inbox as h
            where h.consumer = $1 and h.lane = l.lane and h.seq > l.watermark and h.seq <= l.reach
            for no key update skip locked
          ) as h
          union all
          select seq from (
            select h.seq from ${s}.inbox as h
            where h.consumer = $1 and h.lane = l.lane and h.seq > l.reach and h.seq = any (l.past)
            for no key update skip locked
          ) as h
        ) as h
        where i.consumer = ${joinedBy('h', '$1::text')} and i.lane = l.lane and i.seq = h.seq`,
    ),
  }
})
