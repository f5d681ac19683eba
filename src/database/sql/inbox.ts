import type { MessageRow } from '../../message/row.ts'
import { layout } from '../layout.ts'
import {
  bigint,
  bigints,
  boolean,
  float8,
  int,
  ints,
  jsonbs,
  smallints,
  text,
  texts,
  uuids,
} from './parameter.ts'
import {
  bounded,
  fencedClaim,
  fits,
  joinedBy,
  messageColumns,
  perSchema,
  planned,
  prepared,
  readable,
  type Place,
} from './statement.ts'
import { op } from './qualified.ts'
import { isHere } from './server.ts'
import { allowed, crashes, over, times } from './quarantine.ts'

/** A row of the inbox as a claim brings it. */
export interface ClaimedRow extends MessageRow, Place {
  /** In lanes the attempts before this one; in partitions this one included. */
  readonly attempt: number
  /** Of the lane, or of the row. */
  readonly fence: number
  /** How many claims of it have ended with the death of their claimer. */
  readonly crashes: number
  readonly received_at: Date
  readonly expires_in_ms: number | null
}

/** A row without a key. One of a claim's rows says the xid that was assigned after the snapshot. */
export interface PartitionedRow extends ClaimedRow {
  readonly previous: number | null
  readonly xid: number | null
  readonly snapshot: string | null
}

export interface PartitionHead {
  readonly lane: number
  readonly snapshot: string
  readonly head: number | null
}

/**
 * The inbox: claimed by lane (with a key, see `reading.ts`) or by row (without), deleted when handled. How messages come in is
 * in `receive.ts`.
 */
export const inboxSql = perSchema('inbox', (s) => {
  const fenced = fencedClaim(s)
  const claimed = `i.lane, i.seq, i.attempt, ${readable('i', `received_at, ${messageColumns}`)}, ${times}`
  // Partitions, each from a bound on, or from its watermark if that is higher: below it nothing lives. Reckoned before the inbox is
  // looked at: under the role of one consumer, an index serves no condition that reckons, since that may betray rows.
  const partitions = (until = ''): string => `(
        select p.lane, greatest(p.bound, (select l.watermark from ${s}.lane as l where l.consumer = $consumer and l.lane = p.lane)) as bound${until}
        from unnest($partitions, $bounds) as p(lane, bound) offset 0
      ) as partition`
  const inPartition = 'i.consumer = $consumer and i.lane = partition.lane and i.seq > partition.bound'
  const claims = {
    consumer: text,
    partitions: smallints,
    bounds: bigints,
    limit: int,
    worker: int,
    leaseMs: float8,
    gone: ints,
    room: int,
    alone: boolean,
    dealt: bigints,
    avoider: int,
    avoidMs: float8,
    onlyHeld: boolean,
    bytes: bigint,
    server: text,
  }
  // A claim of rows: the first that nobody holds, of the first partition that has any. MATERIALIZED, since a nested
  // loop would otherwise evaluate the limited subquery again and claim more than its limit.
  // `$gone`: workers known to be dead. `$dealt`: the parts of dead workers' rows that were dealt to this one. `$room`,
  // `$alone`: room for quarantined messages, and whether none is in flight. `$avoider` leaves what it failed with to
  // somebody else, for `$avoidMs`. `$onlyHeld`: take only what others have held, which stands first in its partition.
  // `$server`: as for reads, see reading.ts.
  // A claim does not wait for the disk, so a crash of the server may take it back, and who claims next counts from
  // the same number. The fence therefore ends in the worker's id, which is never given out twice.
  const claim = (until = '', only = ''): string =>
    `with locked as materialized (
      select i.*
      from ${partitions(until)}
      cross join lateral (
        select i.lane, i.seq, i.holder, i.size, ${crashes} as crashes
        from ${s}.inbox as i
        where ${inPartition}
          ${only}and (i.lease_until <= clock_timestamp() or i.holder = any ($gone)
            or i.holder::bigint * ${layout.perWorker} + i.seq % ${layout.rowParts} = any ($dealt))
          and (coalesce(i.avoid, 0) <> $avoider
            or i.lease_until <= clock_timestamp() - $avoidMs * interval '1 millisecond')
        order by i.seq
        limit $limit
        for no key update skip locked
      ) as i
      where (i.holder is not null or not $onlyHeld) and ${isHere(s)}
      limit $limit
    ),
    ${over('locked', '$room')},
    ${bounded('locked', '$bytes', '$limit')},
    c as materialized (
      select r.* from locked as r where ${allowed('r', '$alone')} and ${fits('r')}
    )
    update ${s}.inbox as i set
      holder = $worker, lease_until = clock_timestamp() + $leaseMs * interval '1 millisecond',
      fence = (((i.fence >> 31) + 1) << 31) | $worker, attempt = i.attempt + 1
    from c
    where i.consumer = ${joinedBy('c', '$consumer')} and i.lane = c.lane and i.seq = c.seq
    returning ${claimed}, i.fence, c.crashes, c.holder as previous,
      case when i.seq = (select min(seq) from c) then pg_current_xact_id() end as xid,
      case when i.seq = (select min(seq) from c) then pg_current_snapshot()::text end as snapshot`
  return {
    claim: prepared(claims, claim()).gives<PartitionedRow>(),

    // A claim behind a flood: of other topics, in the next `$span` seqs.
    claimOthers: prepared(
      { ...claims, without: texts, span: bigint },
      claim(', p.bound + $span as until', 'and i.topic <> all ($without) and i.seq <= partition.until '),
    ).gives<PartitionedRow>(),

    // The messages that a dead holder had in flight have been attempted once more. That is said once, whoever dies
    // next. One that is locked is not waited for: a frozen process may have completed it, and not said COMMIT; all the
    // others of the lane would wait as well.
    charge: prepared(
      { consumer: text, lanes: smallints, fences: bigints, watermarks: bigints },
      `with l as materialized (
          select l.lane, l.reach, l.past, n.watermark
          from ${s}.lane as l join unnest($lanes, $fences, $watermarks) as n(lane, fence, watermark) using (lane, fence)
          where l.consumer = $consumer and (l.reach > 0 or l.past is not null)
          order by l.lane
          for no key update of l
        ),
        charged as (
          update ${s}.lane as c set reach = 0, past = null from l where c.consumer = $consumer and c.lane = l.lane
        )
        update ${s}.inbox as i set attempt = i.attempt + 1
        from l cross join lateral (
          select seq from (
            select h.seq from ${s}.inbox as h
            where h.consumer = $consumer and h.lane = l.lane and h.seq > l.watermark and h.seq <= l.reach
            for no key update skip locked
          ) as h
          union all
          select seq from (
            select h.seq from ${s}.inbox as h
            where h.consumer = $consumer and h.lane = l.lane and h.seq > l.reach and h.seq = any (l.past)
            for no key update skip locked
          ) as h
        ) as h
        where i.consumer = ${joinedBy('h', '$consumer')} and i.lane = l.lane and i.seq = h.seq`,
    ),

    // Extends the leases of the rows that are still in flight.
    renew: prepared(
      { consumer: text, lanes: smallints, seqs: bigints, fences: bigints, leaseMs: float8 },
      `update ${s}.inbox as i set lease_until = clock_timestamp() + $leaseMs * interval '1 millisecond'
      from unnest($lanes, $seqs, $fences) as a(lane, seq, fence)
      where i.consumer = ${joinedBy('a', '$consumer')} and i.lane = a.lane and i.seq = a.seq and i.fence = a.fence
      returning i.lane, i.seq`,
    ).gives<Place>(),

    // The same for rows whose handler's transaction reads from one snapshot: in it, a row that has been changed since
    // cannot be deleted. As long as it has locked the row itself, nobody else takes it.
    // On the handler's connection, whose search_path is not ours: see qualified.ts.
    hold: planned(
      { consumer: text, lanes: smallints, seqs: bigints, fences: bigints },
      `select i.lane, i.seq
      from ${s}.inbox as i join unnest($lanes, $seqs, $fences) as a(lane, seq, fence)
        on i.lane ${op('=')} a.lane and i.seq ${op('=')} a.seq and i.fence ${op('=')} a.fence
      where i.consumer ${op('=')} $consumer
        and pg_catalog.current_setting('transaction_isolation') ${op('=')} any (array['repeatable read', 'serializable']::pg_catalog.text[])
      for no key update of i skip locked`,
    ).gives<Place>(),

    // Gives rows back untouched: the interruption is ours, so the attempt is not held against the message.
    release: prepared(
      { consumer: text, lanes: smallints, seqs: bigints, fences: bigints },
      `update ${s}.inbox as i
      set lease_until = '-infinity', holder = null, attempt = greatest(i.attempt - 1, 0)
      from unnest($lanes, $seqs, $fences) as a(lane, seq, fence)
      where i.consumer = ${joinedBy('a', '$consumer')} and i.lane = a.lane and i.seq = a.seq and i.fence = a.fence
      returning i.lane, i.seq`,
    ).gives<Place>(),

    // A failed message with a key that stays in flight for a short backoff.
    fail: prepared(
      {
        consumer: text,
        lanes: smallints,
        seqs: bigints,
        fences: bigints,
        ids: uuids,
        attempts: ints,
        errors: jsonbs,
      },
      `update ${s}.inbox as i set attempt = a.attempt, errors = coalesce(i.errors, '[]') || a.error
      from unnest($lanes, $seqs, $fences, $ids, $attempts, $errors)
        as a(lane, seq, fence, id, attempt, error)
      where ${fenced}
      returning i.lane, i.seq`,
    ).gives<Place>(),

    // The first row of each partition, from a bound on.
    heads: prepared(
      { consumer: text, partitions: smallints, bounds: bigints },
      `select partition.lane, pg_current_snapshot()::text as snapshot, (
        select i.seq from ${s}.inbox as i
        where ${inPartition}
        order by i.seq limit 1
      ) as head
      from ${partitions()}`,
    ).gives<PartitionHead>(),
  }
})
