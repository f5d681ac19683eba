import { numbering } from './sequence.ts'
import { serverIdentity, writable } from './server.ts'
import { durably, instant, perSchema } from './statement.ts'

// Everybody who shares the work: the living, and those whose leases may not have been taken over yet. A lock that was
// taken on another server, or on this one before its restart, says nothing.
const peers = (s: string): string => `
    select w.id, w.ended_by, ${instant('w.beat_at')}::text as beat, w.in_flight, w.lane_assignees, w.row_assignees,
      coalesce(w.reserved_until > clock_timestamp(), false) as reserved,
      coalesce(w.locked_on = pg_postmaster_start_time(), false) and w.ended_at is null and w.id::oid not in (
        select lock.objid from pg_locks as lock
        where lock.locktype = 'advisory' and lock.objsubid = 2 and lock.granted
          and lock.database = (select oid from pg_database where datname = current_database())
          and lock.classid = '${s}.worker'::regclass
      ) as unlocked
    from ${s}.worker as w
    where w.kind = $1 and w.consumer = $2
      and (w.ended_at is null or w.ended_at > clock_timestamp() - $3::float8 * interval '1 millisecond')`

/** Workers: who is there, since when, and who has died. */
export const workerSql = perSchema((s, statement) => ({
  nextId: statement('worker_id', `select nextval(pg_get_serial_sequence('${s}.worker', 'id'))::int as id`),

  lock: statement(
    'worker_lock',
    `select pg_try_advisory_lock('${s}.worker'::regclass::oid::int, $1::int) as locked`,
  ),

  // The lock comes first: a worker that is registered as locked and whose lock is free is dead.
  register: statement(
    'worker_register',
    `insert into ${s}.worker (id, kind, consumer, host, pid, version, application, locked_on, topics)
    overriding system value
    select $1::int, $2, $3, $4, $5::int, $6, $7, case when $8::boolean then pg_postmaster_start_time() end, $9::text[]
    from ${durably} as d where d.durable is not null
    returning ${serverIdentity(s)} as server`,
  ),

  // With a look at the peers, since both are due at the same time.
  beat: statement(
    'worker_beat',
    `with beat as (
      update ${s}.worker
      set beat_at = clock_timestamp(), in_flight = $5, locked_on = case when $6 then pg_postmaster_start_time() end
      where id = $4 and ended_at is null
      returning ${serverIdentity(s)} as server
    )
    select beat.server, numbered.file, numbered.position, peer.*
    from ${numbering(s, '$1::text')} as numbered left join beat on true left join (${peers(s)}) as peer on true`,
  ),

  peers: statement('worker_peers', peers(s)),

  topicsOf: statement('worker_topics', `select id, topics from ${s}.worker where id = any ($1::int[])`),

  // Of the handler that has run for longest, if that is too long. $2 its topic, $3 for how long; null if there is none.
  stuck: statement(
    'worker_stuck',
    `update ${s}.worker set stuck_topic = $2,
      stuck_since = clock_timestamp() - $3::float8 * interval '1 millisecond' where id = $1`,
  ),

  look: { text: `select ${serverIdentity(s)} as server, ${writable} as writable` },

  lanesOf: statement(
    'worker_lanes',
    `select lane from ${s}.lane where consumer = $1 and holder = $2 order by lane`,
  ),

  // Only if it has not beaten since it was looked at. Who shall have what it held is part of the verdict.
  declareDead: statement(
    'worker_declare_dead',
    `update ${s}.worker as w set ended_at = clock_timestamp(), ended_by = $2, lane_assignees = $4, row_assignees = $5,
      reserved_until = clock_timestamp() + $6::float8 * interval '1 millisecond'
    where w.id = $1 and w.ended_at is null and ${instant('w.beat_at')} = $3::numeric
    returning w.application, extract(epoch from clock_timestamp() - w.beat_at)::float8 * 1000 as silent_ms`,
  ),

  // What a frozen or cut-off process has left open would keep rows locked that its successors need, for as long as TCP
  // takes to notice: hours. Those of other roles are not ours to close.
  disconnect: statement(
    'worker_disconnect',
    `select count(pg_terminate_backend(pid)) as closed from pg_stat_activity
    where application_name = $1 and usename = current_user and datname = current_database()
      and pid <> pg_backend_pid()`,
  ),

  end: statement(
    'worker_end',
    `update ${s}.worker set ended_at = clock_timestamp(), ended_by = 'stop', in_flight = 0
    where id = $1 and ended_at is null`,
  ),
}))
