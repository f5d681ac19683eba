import { layout } from '../layout.ts'
import { bounded, fencedClaim, fits, joinedBy, messageColumns, perSchema, readable } from './statement.ts'
import { allowed, crashes, over, times } from './quarantine.ts'

/**
 * The inbox: claimed by lane (with a key, see `reading.ts`) or by row (without), deleted when handled. How messages come in is
 * in `receive.ts`.
 */
export const inboxSql = perSchema((s, statement) => {
  const fenced = fencedClaim(s)
  const claimed = `i.lane, i.seq, i.attempt, ${readable('i', `received_at, ${messageColumns}`)}, ${times}`
  // Of a partition, from a bound on, or from its watermark if that is higher: below it nothing lives.
  const inPartition = `i.consumer = $1 and i.lane = partition.lane and i.seq > greatest(partition.bound, (
              select l.watermark from ${s}.lane as l where l.consumer = $1 and l.lane = partition.lane))`
  return {
    // A claim of rows: the first that nobody holds, of the first partition that has any. MATERIALIZED, since a nested
    // loop would otherwise evaluate the limited subquery again and claim more than its limit.
    // $1 consumer; $2, $3 partitions and their bounds; $4 limit; $5 worker; $6 lease; $7 workers known to be dead;
    // $8, $9 room for quarantined messages, and whether none is in flight; $10 the parts of dead workers' rows that
    // were dealt to this one; $11, $12 who leaves what it failed with to somebody else, and for how long; $13 whether
    // to take only what others have held, which stands first in its partition; $14 bytes. A claim does not wait for the
    // disk, so a crash of the server may take it back, and who claims next counts from the same number. The fence
    // therefore ends in the worker's id, which is never given out twice.
    claim: statement(
      'claim',
      `with locked as materialized (
        select i.*
        from unnest($2::smallint[], $3::bigint[]) as partition(lane, bound)
        cross join lateral (
          select i.lane, i.seq, i.holder, i.size, ${crashes} as crashes
          from ${s}.inbox as i
          where ${inPartition}
            and (i.lease_until <= clock_timestamp() or i.holder = any ($7::int[])
              or i.holder::bigint * ${layout.perWorker} + i.seq % ${layout.rowParts} = any ($10::bigint[]))
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

    // Extends the leases of the rows that are still in flight.
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

    // A failed message with a key that stays in flight for a short backoff.
    fail: statement(
      'inbox_fail',
      `update ${s}.inbox as i set attempt = a.attempt, errors = coalesce(i.errors, '[]') || a.error
      from unnest($2::smallint[], $3::bigint[], $4::bigint[], $5::uuid[], $6::int[], $7::jsonb[])
        as a(lane, seq, fence, id, attempt, error)
      where ${fenced}
      returning i.lane, i.seq`,
    ),

    // The first row of each partition, from a bound on.
    heads: statement(
      'partition_heads',
      `select partition.lane, pg_current_snapshot()::text as snapshot, (
        select i.seq from ${s}.inbox as i
        where ${inPartition}
        order by i.seq limit 1
      ) as head
      from unnest($2::smallint[], $3::bigint[]) as partition(lane, bound)`,
    ),
  }
})
