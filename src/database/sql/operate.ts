import { noting, signing } from './audit.ts'
import { disconnecting } from './worker.ts'
import type { DeathSign, WorkerKind } from '../../base/events.ts'
import { int, ints, optional, text } from './parameter.ts'
import { instant, msSince, perSchema, planned, readable } from './statement.ts'

export interface EvictRow {
  readonly id: number
  readonly known: boolean
  readonly evicted: boolean
  readonly silent_ms: number
}

/** What the statement `workers` reads. */
export interface WorkerRow {
  readonly id: number
  readonly kind: WorkerKind
  readonly consumer: string
  readonly host: string
  readonly pid: number
  readonly version: string
  readonly started_at: Date
  readonly in_flight: number
  readonly topics: readonly string[] | null
  readonly ended_at: Date | null
  readonly ended_by: DeathSign | 'stop' | 'evict' | null
  readonly silent_ms: number
  readonly locked: boolean
  readonly unlocked: boolean
  readonly signed: boolean
  readonly lanes: number[]
  readonly taken: Date[]
  readonly since: Date | null
  readonly beat_at: Date
  readonly stuck_topic: string | null
  readonly stuck_since: Date | null
  readonly broker_error: string | null
  readonly broker_down_since: Date | null
}

/**
 * What an operator sees of the workers, and does with them. None is prepared by name: each runs once on its connection,
 * and a pooler would hand the name to the next command, which prepares it again and fails.
 */
export const operateSql = perSchema('operate', (s) => ({
  // The living, then the dead of the last minutes, the latest first. A lock that was taken on another server, or on
  // this one before its restart, says nothing about its worker: after a failover all would be shown as gone.
  workers: planned(
    { limit: int, consumer: optional(text), kind: optional(text) },
    `select ${readable('w', 'id, kind, consumer, host, pid, version, started_at, in_flight, topics, beat_at, ended_at, ended_by')},
      w.stuck_topic, ${instant('w.stuck_since')} as stuck_since, w.broker_error, ${instant('w.broker_down_since')} as broker_down_since,
      ${msSince('w.beat_at')} as silent_ms,
      lock.objid is not null as locked,
      coalesce(w.locked_on = pg_postmaster_start_time(), false) and lock.objid is null as unlocked,
      w.sign is not null and w.ended_at is null as signed,
      coalesce(held.lanes, '{}') as lanes, coalesce(held.taken, '{}') as taken, ${instant('held.since')} as since
    from ${s}.worker as w
    left join (
      select holder, array_agg(lane order by lane) as lanes, array_agg(${instant('since')} order by lane) as taken, min(since) as since
      from ${s}.lane where lease_until > clock_timestamp() group by holder
    ) as held on held.holder = w.id
    left join pg_locks as lock
      on w.ended_at is null and lock.locktype = 'advisory' and lock.objsubid = 2 and lock.granted
      and lock.database = (select oid from pg_database where datname = current_database())
      and lock.classid = '${s}.worker'::regclass and lock.objid = w.id::oid
    where (w.ended_at is null or w.ended_at > clock_timestamp() - interval '10 minutes')
      and ($consumer is null or w.consumer = $consumer) and ($kind is null or w.kind = $kind)
    order by w.ended_at desc nulls first, w.kind, w.consumer, w.id
    limit $limit`,
  ).gives<WorkerRow>(),

  disconnect: planned({ worker: int }, disconnecting(s)),

  // An id that is known and was not evicted had ended before, even if that was a moment ago and the snapshot of this
  // statement does not know it yet.
  evict: planned(
    { ids: ints, ...signing },
    `with evicted as (
      update ${s}.worker set ended_at = clock_timestamp(), ended_by = 'evict'
      where id = any ($ids) and ended_at is null
      returning id, ${msSince('beat_at')} as silent_ms, consumer, kind, host, pid
    ),
    audited as (
      ${noting(s, 'evict', {
        from: 'evicted order by id',
        consumer: 'consumer',
        what: "'worker ' || id || ', ' || kind || ' on ' || host || ', process ' || pid",
      })}
    )
    select asked.id, w.id is not null as known, e.id is not null as evicted, e.silent_ms
    from unnest($ids) with ordinality as asked(id, place)
    left join evicted as e on e.id = asked.id
    left join ${s}.worker as w on w.id = asked.id
    order by asked.place`,
  ).gives<EvictRow>(),
}))
