import { layout } from '../layout.ts'
import { ints } from './parameter.ts'
import { everyConsumer, everyLane, perSchema, planned } from './statement.ts'

/** Who keeps dead rows from being removed, and since how many transactions and seconds. */
export interface Horizon {
  readonly source: 'session' | 'standby' | 'replication slot' | 'prepared transaction'
  /** A pid, a slot's name, a transaction's gid. */
  readonly name: string
  /** A role, or a slot's name. */
  readonly holder: string
  readonly application: string
  readonly pid: number | null
  readonly age: number
  readonly seconds: number
}

export interface ProgressRow {
  readonly id: number
  readonly ended_by: string | null
  readonly silent_ms: number
  readonly keyed_ms: number | null
  readonly free_ms: number | null
}

/** What metrics and health checks ask beside the status. Each statement reads a bounded number of rows. */
export const watchSql = perSchema('watch', (s) => {
  const headOf = (table: string, since: string, where: string): string => `
    select m.${since} as since from ${s}.${table} as m
    where ${where} m.lane = l.lane order by m.seq limit 1`
  const ageOf = (time: string): string => `extract(epoch from clock_timestamp() - ${time})::float8 * 1000`

  return {
    // Of each kind of holder the one that holds back vacuum the furthest. What belongs to other databases does not hold
    // back ours. Sessions of other roles show their xmin only to pg_monitor and pg_read_all_stats.
    horizon: planned(
      {},
      `select distinct on (source) source, name, holder, coalesce(application, '') as application, pid,
        age::float8 as age, coalesce(extract(epoch from clock_timestamp() - since)::float8, 0) as seconds
      from (
        select 'session' as source, pid::text as name, usename::text as holder, application_name as application, pid,
          greatest(age(backend_xmin), age(backend_xid)) as age, xact_start as since
        from pg_stat_activity
        where datname = current_database() and pid <> pg_backend_pid() and coalesce(backend_xmin, backend_xid) is not null
        union all
        select 'standby', pid::text, application_name, application_name, pid, age(backend_xmin), null
        from pg_stat_replication where backend_xmin is not null
        union all
        select 'replication slot', slot_name::text, slot_name::text, plugin::text, active_pid, age(xmin), null
        from pg_replication_slots where xmin is not null
        union all
        select 'prepared transaction', gid, owner::text, gid, null, age(transaction), prepared
        from pg_prepared_xacts where database = current_database()
      ) as held
      order by source, age desc, since`,
    ).gives<Horizon>(),

    // Keyed lanes with messages in them that nobody holds. Of partitions, the rows are leased and not the lane.
    abandonedLanes: planned(
      {},
      `select l.consumer, count(*) as count
      from (select c.consumer, l.lane from (select '' as consumer union select consumer from ${everyConsumer(s)} as c) as c
        cross join ${everyLane} where l.lane < ${layout.lanes}) as l
      where not exists (select from ${s}.lane as h
          where h.consumer = l.consumer and h.lane = l.lane and h.lease_until > clock_timestamp())
        and case when l.consumer = '' then exists (${headOf('outbox', 'published_at', '')})
          else exists (${headOf('inbox', 'received_at', 'm.consumer = l.consumer and')}) end
      group by l.consumer`,
    ).gives<{ readonly consumer: string; readonly count: number }>(),

    // Of workers of this process: whether each is believed to live, and how old the oldest message is that is its to
    // work on: at the head of a lane that it holds, or in a partition and held by nobody or by itself.
    progress: planned(
      { workers: ints },
      `select w.id, w.ended_by, ${ageOf('w.beat_at')} as silent_ms, (
        select ${ageOf('min(head.since)')}
        from ${s}.lane as l
        cross join lateral (
          select o.since from (${headOf('outbox', 'published_at', '')}) as o where w.kind = 'relay'
          union all
          select i.since from (${headOf('inbox', 'received_at', 'm.consumer = l.consumer and')}) as i
          where w.kind = 'claimer'
        ) as head
        where l.consumer = w.consumer and l.holder = w.id and (l.lane < ${layout.lanes} or w.kind = 'relay')
      ) as keyed_ms, (
        select ${ageOf('min(head.since)')}
        from ${s}.lane as l
        cross join lateral (
          select m.received_at as since from ${s}.inbox as m
          where m.consumer = l.consumer and m.lane = l.lane
            and (m.lease_until <= clock_timestamp() or m.holder = w.id)
          order by m.seq limit 1
        ) as head
        where w.kind = 'claimer' and l.consumer = w.consumer and l.lane >= ${layout.lanes}
      ) as free_ms
      from ${s}.worker as w where w.id = any ($workers)`,
    ).gives<ProgressRow>(),
  }
})
