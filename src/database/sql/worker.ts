import type { DeathSign } from '../../base/events.ts'
import { numbering } from './sequence.ts'
import { serverIdentity, writable } from './server.ts'
import {
  boolean,
  booleans,
  float8,
  float8s,
  int,
  ints,
  intsOrNull,
  numeric,
  optional,
  text,
  texts,
  like,
} from './parameter.ts'
import { durably, instant, perSchema, planned, prepared } from './statement.ts'

/** A row of the table `worker`, as its peers see it. */
export interface Peer {
  readonly id: number
  readonly host: string
  readonly ended_by: DeathSign | 'stop' | 'evict' | null
  /** Its last heartbeat, as the database's text: only compared, and JavaScript would cut its microseconds. */
  readonly beat: string
  readonly in_flight: number
  /** It should hold a lock on this server, and does not. */
  readonly unlocked: boolean
  /** The sign that it gives beside its row, as its coordination knows it. */
  readonly sign: string | null
  readonly reserved: boolean
  readonly lane_assignees: readonly (number | null)[] | null
  readonly row_assignees: readonly (number | null)[] | null
}

/** What a sign of life tells beside the peers. */
export interface Beat {
  readonly server: string
  /** The sequence that numbers what it reads, and how far that has come: null if there is none, or nobody may know. */
  readonly file: number | null
  readonly position: number | null
}

/** A tag of ours at the end of a name (see `applicationName`), and behind it the number of one of several workers that share connections. */
const tag = '(^| )twinbox [0-9a-f]{8}( [0-9a-f]{4})?$'
/** The name of the connections that a worker shares with others. */
const sharedName = (application: string): string =>
  String.raw`regexp_replace(${application}, ' [0-9a-f]{4}$', '')`

/**
 * Ends what `$worker`, which has ended, left open: the sessions under the name that its row says, and with the last worker of
 * several that share connections those too. Others can write rows, so the name has to end in a tag of ours, and the sessions
 * have to be of the user who wrote the row, which nobody can feign. What began after the verdict is of another life.
 */
export const disconnecting = (s: string): string => `select count(pg_terminate_backend(a.pid)) as closed
    from ${s}.worker as w
    join pg_stat_activity as a on a.usename = w.login and a.backend_start <= w.ended_at
      and (a.application_name = w.application or a.application_name = ${sharedName('w.application')} and not exists (
        select from ${s}.worker as fellow
        where fellow.ended_at is null and fellow.login = w.login and ${sharedName('fellow.application')} = ${sharedName('w.application')}))
    where w.id = $worker and w.application ~ '${tag}'
      and a.usename = current_user and a.datname = current_database() and a.pid <> pg_backend_pid()`

// Everybody who shares the work: the living, and those whose leases may not have been taken over yet. A lock that was
// taken on another server, or on this one before its restart, says nothing.
const peers = (s: string): string => `
    select w.id, w.host, w.ended_by, ${instant('w.beat_at')}::text as beat, w.in_flight, w.sign, w.lane_assignees, w.row_assignees,
      coalesce(w.reserved_until > clock_timestamp(), false) as reserved,
      coalesce(w.locked_on = pg_postmaster_start_time(), false) and w.ended_at is null and w.id::oid not in (
        select lock.objid from pg_locks as lock
        where lock.locktype = 'advisory' and lock.objsubid = 2 and lock.granted
          and lock.database = (select oid from pg_database where datname = current_database())
          and lock.classid = '${s}.worker'::regclass
      ) as unlocked
    from ${s}.worker as w
    where w.kind = $kind and w.consumer = $consumer
      and (w.ended_at is null or w.ended_at > clock_timestamp() - $windowMs * interval '1 millisecond')`

/** Workers: who is there, since when, and who has died. */
export const workerSql = perSchema('worker', (s) => {
  // On the session that all of a process share, nobody waits for a row.
  const unlockedRow = `select free.id from ${s}.worker as free where free.id = $id and free.ended_at is null for no key update skip locked`
  return {
    nextId: prepared({}, `select nextval(pg_get_serial_sequence('${s}.worker', 'id'))::int as id`).gives<{
      readonly id: number
    }>(),

    lock: prepared(
      { id: int },
      `select pg_try_advisory_lock('${s}.worker'::regclass::oid::int, $id) as locked`,
    ).gives<{ readonly locked: boolean }>(),

    unlock: prepared(
      { id: int },
      `select pg_advisory_unlock('${s}.worker'::regclass::oid::int, $id) as unlocked`,
    ).gives<{
      readonly unlocked: boolean
    }>(),

    // The lock comes first: a worker that is registered as locked and whose lock is free is dead.
    register: prepared(
      {
        id: int,
        kind: like(text, "'relay'"),
        consumer: text,
        host: text,
        pid: int,
        version: text,
        application: text,
        locked: boolean,
        topics: optional(texts),
      },
      `insert into ${s}.worker (id, kind, consumer, host, pid, version, application, locked_on, topics)
    overriding system value
    select $id, $kind, $consumer, $host, $pid, $version, $application, case when $locked then pg_postmaster_start_time() end, $topics
    from ${durably} as d where d.durable is not null
    returning ${serverIdentity(s)} as server, current_database() as database`,
    ).gives<{ readonly server: string; readonly database: string }>(),

    // Of all workers of a process that share their work, with a look at all their peers, since both are due at the same time.
    // Nobody waits for a row that somebody has locked.
    beat: prepared(
      {
        kind: text,
        consumer: text,
        windowMs: float8,
        ids: ints,
        inFlights: ints,
        locked: booleans,
        signs: texts,
        busyIds: ints,
        busyTopics: texts,
        busyRates: float8s,
      },
      `with said as materialized (
      select id, in_flight, locked, nullif(sign, '') as sign from unnest($ids, $inFlights, $locked, $signs) as said(id, in_flight, locked, sign)
    ), free as materialized (
      select w.id from said join ${s}.worker as w on w.id = said.id
      where w.ended_at is null order by w.id for no key update of w skip locked
    ), busy as materialized (
      select id, array_agg(topic order by place) as topics, array_agg(rate order by place) as rates
      from unnest($busyIds, $busyTopics, $busyRates) with ordinality as said(id, topic, rate, place) group by id
    ), beat as (
      update ${s}.worker as w
      set beat_at = clock_timestamp(), in_flight = said.in_flight, sign = said.sign,
        busy_topics = coalesce(busy.topics, '{}'), busy_rates = coalesce(busy.rates, '{}'),
        locked_on = case when said.locked then pg_postmaster_start_time() end
      from free join said using (id) left join busy using (id)
      where w.id = free.id
      returning w.id
    )
    select ${serverIdentity(s)} as server, numbered.file, numbered.position, beat.id is not null as beaten, peer.*
    from ${numbering(s, '$kind')} as numbered left join (${peers(s)}) as peer on true left join beat on beat.id = peer.id`,
    ).gives<(Peer | { readonly id: null }) & Beat & { readonly beaten: boolean }>(),

    peers: prepared({ kind: text, consumer: text, windowMs: float8 }, peers(s)).gives<Peer>(),

    topicsOf: prepared({ ids: ints }, `select id, topics from ${s}.worker where id = any ($ids)`).gives<{
      readonly id: number
      readonly topics: readonly string[] | null
    }>(),

    // Of the handler that has run for longest, if that is too long; null if there is none.
    stuck: prepared(
      { id: int, topic: optional(text), sinceMs: optional(float8) },
      `update ${s}.worker set stuck_topic = $topic,
      stuck_since = clock_timestamp() - $sinceMs * interval '1 millisecond' where id = $id`,
    ),

    // Of a relay: why its broker is out of reach, and for how long; null if it is not.
    brokerDown: prepared(
      { id: int, error: optional(text), sinceMs: optional(float8) },
      `update ${s}.worker set broker_error = $error,
      broker_down_since = clock_timestamp() - $sinceMs * interval '1 millisecond' where id = $id`,
    ),

    look: planned({}, `select ${serverIdentity(s)} as server, ${writable} as writable`).gives<{
      readonly server: string
      readonly writable: boolean
    }>(),

    lanesOf: prepared(
      { consumer: text, worker: int },
      `select lane from ${s}.lane where consumer = $consumer and holder = $worker order by lane`,
    ).gives<{ readonly lane: number }>(),

    // Only if it has not beaten since it was looked at; a row that somebody has locked is looked at again. Who shall have what it held is part of the verdict.
    declareDead: prepared(
      {
        id: int,
        foundBy: text,
        beat: numeric,
        laneAssignees: optional(intsOrNull),
        rowAssignees: optional(intsOrNull),
        reservedMs: optional(float8),
      },
      `update ${s}.worker as w set ended_at = clock_timestamp(), ended_by = $foundBy, lane_assignees = $laneAssignees, row_assignees = $rowAssignees,
      reserved_until = clock_timestamp() + $reservedMs * interval '1 millisecond'
    where w.id = (${unlockedRow}) and w.ended_at is null and ${instant('w.beat_at')} = $beat
    returning extract(epoch from clock_timestamp() - w.beat_at)::float8 * 1000 as silent_ms`,
    ).gives<{ readonly silent_ms: number }>(),

    // What a frozen or cut-off process has left open would keep rows locked that its successors need, for as long as TCP
    // takes to notice: hours. Those of other roles are not ours to close.
    disconnect: prepared({ worker: int }, disconnecting(s)),

    // Of a former life. If somebody has locked its row, it is found dead, since its lock is free.
    endFormer: prepared(
      { id: int },
      `update ${s}.worker set ended_at = clock_timestamp(), ended_by = 'stop', in_flight = 0 where id = (${unlockedRow})`,
    ),

    end: prepared(
      { id: int },
      `update ${s}.worker set ended_at = clock_timestamp(), ended_by = 'stop', in_flight = 0
    where id = $id and ended_at is null`,
    ),
  }
})
