import { narrowColumns, wideColumns, type MessageRow } from '../../message/row.ts'
import type { ClaimedRow } from './inbox.ts'
import {
  bigint,
  bigints,
  boolean,
  int,
  ints,
  numberLists,
  smallints,
  text,
  textLists,
  texts,
} from './parameter.ts'
import {
  bounded,
  columns,
  fits,
  messageColumns,
  onlyIf,
  perSchema,
  prepared,
  readable,
  type Place,
} from './statement.ts'
import { allowed, crashes, over, times } from './quarantine.ts'
import { isHere } from './server.ts'

/** What a read says beside its rows. */
export interface LaneRead {
  /** Whether it has found the server that the worker means. On another one it reads nothing. */
  readonly here: boolean
  readonly snapshot: string
  /** Assigned after that snapshot, if it was asked for. */
  readonly xid: number | null
}

/** A row of a read, with what the read says; or that alone, if there is none. */
export type OrNot<Row, At> = (Row & At) | (At & { readonly lane: null })

/** A message at the head of a lane. */
export interface HeadRow extends MessageRow, Place {
  readonly attempt: number
  readonly published_at: Date
  readonly expired: boolean | null
  readonly size: number | null // Of one that was read without its content.
  /** More than is read at once: it has come without its content. */
  readonly beyond: boolean | null
}

/** What a read of a consumer's lanes says beside its rows. */
export interface KeyedRead extends LaneRead {
  /** Whether there was more that caution forbade to take. */
  readonly left_out: boolean
  /** Of a read past hot keys, an `End` by lane, as JSON. */
  readonly ends?: string
}

/** A message with a key, as its lane's holder reads it. */
export interface KeyedRow extends ClaimedRow {
  /** More than is read at once: it has come without its content. */
  readonly beyond: boolean | null
}

/** Lanes of the inbox, read by their holder. */
export const readingSql = perSchema('reading', (s) => {
  const head = `i.lane, i.seq, i.size, ${crashes} as crashes, i.attempt, ${times},
            ${columns('i', `received_at, ${messageColumns}`)}`
  // Writes down what is in flight of a lane before anything of it is handled, so that a successor knows what has been
  // attempted: all up to `reach`, and beyond it what was read past a hot key. A holder that has lost a lane reads nothing
  // from it.
  // `$server`: where the worker is registered. A restart, a failover or a restore takes all leases from the worker, which knows
  // that only at its next heartbeat: what it read until then, it would handle for nothing.
  // `$held`: what is in flight of each lane, and `$past` what of that is beyond the reach. `$mark`: whether to assign
  // an xid. `$room`, `$alone`: room for quarantined messages, and whether none is in flight. What is beyond `$bytes`
  // and `$limit` comes without its content: it is there, and read the next time.
  const read = (
    heads: string,
    reach: string,
    past: string,
    more = { column: '', parameter: '', name: '', told: '' },
  ): string => `with there as materialized (select ${isHere(s)} as here),
      found as materialized (
        -- What is looked at more than once stands first, before what is wide.
        select l.fence, l.reach, l.past, head.*
        from (
          select l.lane, l.fence, l.bound, l.budget, l.reach, l.held::bigint[] as held, l.past::bigint[] as past${more.column}
          from unnest($lanes, $fences, $bounds, $budgets, $reaches, $held, $past${more.parameter})
            as l(lane, fence, bound, budget, reach, held, past${more.name})
          where (select here from there)
          offset 0
        ) as l
        cross join lateral (
          ${heads}
        ) as head
      ),
      ${over('found', '$room')},
      ${bounded('found', '$bytes', '$limit')},
      held as materialized (
        select l.lane, ${reach} as reach, ${past} as past
        from ${s}.lane as l join (
          -- Also lanes of which nothing fits: whoever is told of no row takes them for empty.
          select r.lane, r.fence, r.reach, r.past, max(r.seq) filter (where ${fits('r')}) as last,
            array_agg(r.seq) filter (where ${fits('r')}) as seqs
          from found as r
          where ${allowed('r', '$alone')}
          group by r.lane, r.fence, r.reach, r.past
        ) as h using (lane, fence)
        where l.consumer = $consumer
        -- In the order in which they are renewed and given back, see lane.ts.
        order by l.lane
        for no key update of l
      ),
      moved as (
        update ${s}.lane as l set reach = held.reach, past = held.past
        from held where l.consumer = $consumer and l.lane = held.lane
      )
      select at.*, m.*
      from (
        select (select here from there) as here, pg_current_snapshot()::text as snapshot,
          case when $mark then pg_current_xact_id() end as xid,
          exists (select from found as r where not ${allowed('r', '$alone')}) as left_out${more.told}
        offset 0
      ) as at
      left join (
        select r.lane, r.seq, r.attempt, r.fence, r.crashes, r.expires_in_ms,
          ${readable('r', `received_at, ${narrowColumns}`)}, not ${fits('r')} as beyond,
          ${onlyIf(fits('r'), 'r', wideColumns)}
        -- As an array: joined, all that was found would be gone through once for each lane.
        from found as r where r.lane = any (array(select held.lane from held)) and ${allowed('r', '$alone')}
      ) as m on true`

  // What stands behind a flood. Of each key only the first that is not in flight, and only if it is none of the flood's: nothing goes
  // before what stands before it in its key.
  const behind = (which: string, only = '', until = ''): string =>
    read(
      `select ${head}
          from (
            with other as materialized (
              select i.seq, i.key from ${which}
            )
            select min(i.seq) as seq from ${s}.inbox as i
            where i.consumer = $consumer and i.lane = l.lane and i.seq > l.bound
              and i.seq <= (select max(other.seq) from other)
              and i.key = any (array(select other.key from other)) and i.seq <> all (l.held)
            group by i.key
          ) as first
          -- Each looked up by its place: of many at once, all of the lane would be gone through.
          cross join lateral (
            select * from ${s}.inbox as i where i.consumer = $consumer and i.lane = l.lane and i.seq = first.seq offset 0
          ) as i
          ${only}
          order by i.seq
          limit l.budget`,
      'h.reach',
      'h.past || h.seqs',
      { column: until, parameter: '', name: '', told: '' },
    )

  /** What both reads take. `$held` and `$past` have a list for each lane. */
  const asked = {
    consumer: text,
    lanes: smallints,
    fences: bigints,
    bounds: bigints,
    budgets: ints,
    reaches: bigints,
    held: numberLists,
    mark: boolean,
    room: int,
    alone: boolean,
    bytes: bigint,
    limit: int,
    past: numberLists,
    server: text,
  }

  return {
    // A read of lanes: what their holder does not have in flight yet.
    read: prepared(
      asked,
      read(
        `select ${head} from ${s}.inbox as i
          where i.consumer = $consumer and i.lane = l.lane and i.seq > l.bound and i.seq <> all (l.held)
          order by i.seq
          limit l.budget`,
        'greatest(h.reach, h.last)',
        'h.past',
      ),
    ).gives<OrNot<KeyedRow, KeyedRead>>(),

    // A read past the keys `$without` of each lane. It looks at `$look` rows of a lane, and says up to where
    // that was, and how many there were.
    readPast: prepared(
      { ...asked, without: textLists, look: int },
      read(
        `select ${head} from (
            select i.* from ${s}.inbox as i
            where i.consumer = $consumer and i.lane = l.lane and i.seq > l.bound
            order by i.seq
            limit $look
          ) as i
          where i.key <> all (l.without) and i.seq <> all (l.held)
          order by i.seq
          limit l.budget`,
        'h.reach',
        'h.past || h.seqs',
        {
          column: ', l.without::text[] as without',
          parameter: ', $without',
          name: ', without',
          told: `, (
            select json_object_agg(l.lane, (
              select json_build_object('last', max(w.seq), 'count', count(*), 'highest', (
                select i.seq from ${s}.inbox as i where i.consumer = $consumer and i.lane = l.lane order by i.seq desc limit 1
              )) from (
                select i.seq from ${s}.inbox as i where i.consumer = $consumer and i.lane = l.lane and i.seq > l.bound
                order by i.seq limit $look
              ) as w
            ))::text from unnest($lanes, $bounds) as l(lane, bound)
          ) as ends`,
        },
      ),
    ).gives<OrNot<KeyedRow, KeyedRead>>(),

    // A read behind a flood: what topics other than `$without` have in the next `$span` seqs.
    readOthers: prepared(
      { ...asked, without: texts, span: bigint },
      behind(
        `${s}.inbox as i
              where i.consumer = $consumer and i.lane = l.lane and i.seq > l.bound and i.seq <= l.until
                and i.topic <> all ($without) and i.seq <> all (l.held)
              order by i.seq limit 500`,
        'where i.topic <> all ($without)',
        ', l.bound + $span as until',
      ),
    ).gives<OrNot<KeyedRow, KeyedRead>>(),

    // The same behind a flood of many topics: the messages `$chosen` of the lanes `$chosenLanes`, or what stands before them in their key.
    readFirsts: prepared(
      { ...asked, chosenLanes: smallints, chosen: bigints },
      behind(
        `unnest($chosenLanes, $chosen) as c(lane, seq) cross join lateral (
                select i.seq, i.key from ${s}.inbox as i
                where i.consumer = $consumer and i.lane = c.lane and i.seq = c.seq offset 0
              ) as i where c.lane = l.lane and c.seq > l.bound and c.seq <> all (l.held)`,
      ),
    ).gives<OrNot<KeyedRow, KeyedRead>>(),
  }
})
