import type { FailedAttempt } from '../../message/row.ts'
import { bigint, int, optional, smallint, text } from './parameter.ts'
import { tableOf } from './placed.ts'
import { instant, perSchema, planned, readable } from './statement.ts'

export interface AheadRow {
  /** How many stand before it in its lane, up to twice what is looked at. */
  readonly ahead: number
  /** How many of them are of its key, and the first. */
  readonly of_key: number
  readonly first: string | null
  readonly first_in_flight: boolean
}

/** A key that is held back, and the message behind which it is. */
export interface HeldKeyRow {
  readonly until: Date | null
  readonly since: Date
  readonly reason: string
  /** Messages of the key up to here are back in their lane. */
  readonly released_to: number
  /** The number, if it is a dead letter. */
  readonly letter: number | null
  readonly id: string | null
  readonly place: number | null
  readonly attempt: number | null
  readonly error: FailedAttempt | null
}

export interface HeldLaneRow {
  readonly holder: number | null
  readonly since: Date | null
  readonly lease_until: Date
  readonly runs: boolean
  /** Its holder reads what stands above. */
  readonly watermark: number
}

export interface WorkerNameRow {
  readonly id: number
  readonly kind: 'relay' | 'receiver' | 'claimer'
  readonly host: string
  readonly pid: number
  readonly stuck_topic: string | null
  readonly stuck_since: Date | null
  readonly broker_error: string | null
  readonly broker_down_since: Date | null
}

/** A transaction that has written to the outbox and has not ended. */
export interface WriterRow {
  readonly pid: number
  readonly application: string
  readonly user: string
  /** Null of other users' sessions, for whoever may not see that. */
  readonly since: Date | null
}

/** Why a message waits: what bears on one that was found, see search.ts. None is prepared by name, see operate.ts. */
export const explainSql = perSchema('explain', (s) => {
  const ahead = (state: 'outbox' | 'inbox'): string => {
    const before = `select m.seq, m.key, m.id from ${s}.${tableOf[state]} as m
        where ${state === 'outbox' ? '' : 'm.consumer = $consumer and'} m.lane = $lane and m.seq < $seq order by m.seq`
    return `select count(*)::int as ahead, count(*) filter (where m.key = $key)::int as of_key,
        (array_agg(m.id order by m.seq) filter (where m.key = $key))[1] as first,
        coalesce((array_agg(m.seq <= h.reach or m.seq = any (h.past) order by m.seq) filter (where m.key = $key))[1], false) as first_in_flight
      from ((${before} limit $look) union (${before} desc limit $look)) as m
      left join ${s}.lane as h on h.consumer = $consumer and h.lane = $lane and h.lease_until > clock_timestamp()`
  }

  return {
    // What is read is looked up. Where no index serves, an end comes by the time limit and not by reading all.
    plans: `set local enable_seqscan = off; set local enable_bitmapscan = off; set local jit = off`,
    now: planned({}, `select ${instant('clock_timestamp()')} as at`).gives<{ readonly at: Date }>(),

    ahead: {
      outbox: planned(
        { consumer: text, lane: smallint, seq: bigint, key: optional(text), look: int },
        ahead('outbox'),
      ).gives<AheadRow>(),
      inbox: planned(
        { consumer: text, lane: smallint, seq: bigint, key: optional(text), look: int },
        ahead('inbox'),
      ).gives<AheadRow>(),
    },

    lane: planned(
      { consumer: text, lane: smallint },
      `select ${readable('l', 'holder, since, lease_until')}, l.lease_until > clock_timestamp() as runs, l.watermark
      from ${s}.lane as l where l.consumer = $consumer and l.lane = $lane`,
    ).gives<HeldLaneRow>(),

    key: planned(
      { consumer: text, key: text },
      `select ${instant(`nullif(p.until, 'infinity')`)} as until, ${instant('p.since')} as since, p.reason, p.released_to, p.blocker as place,
        d.number as letter, coalesce(w.id, d.id) as id, coalesce(w.attempt, d.attempt) as attempt,
        coalesce(w.errors, d.errors) -> -1 as error
      from ${s}.parked as p
      left join lateral (
        select m.id, m.attempt, m.errors from ${s}.parked_message as m
        where m.consumer = p.consumer and m.lane = p.lane and m.key = p.key and m.seq = p.blocker limit 1
      ) as w on true
      left join lateral (
        select m.number, m.id, m.attempt, m.errors from ${s}.dead_letter as m
        where m.consumer = p.consumer and m.key = p.key and m.seq = p.blocker order by m.number desc limit 1
      ) as d on w.id is null
      where p.consumer = $consumer and p.lane = ${s}.lane_of($key) and p.key = $key`,
    ).gives<HeldKeyRow>(),

    workers: planned(
      { id: int },
      `select w.id, w.kind, w.host, w.pid, w.stuck_topic, ${instant('w.stuck_since')} as stuck_since,
        w.broker_error, ${instant('w.broker_down_since')} as broker_down_since
      from ${s}.worker as w where w.id = $id`,
    ).gives<WorkerNameRow>(),

    // A transaction keeps the lock on a table that it has written to until it ends, and everybody may see who has one. Relays, which
    // delete what was sent, are no publishers.
    writers: planned(
      {},
      `select a.pid, a.application_name as application, a.usename::text as user, ${instant('a.xact_start')} as since
      from (
        select distinct k.pid from pg_locks as k
        where k.locktype = 'relation' and k.granted and k.mode = 'RowExclusiveLock' and k.pid <> pg_backend_pid()
          and k.database = (select oid from pg_database where datname = current_database())
          and k.relation in ('${s}.outbox'::regclass, '${s}.deferred'::regclass)
      ) as k
      join pg_stat_activity as a on a.pid = k.pid
      where a.application_name not in (select w.application from ${s}.worker as w where w.kind = 'relay' and w.ended_at is null)
      order by a.xact_start nulls last, a.pid limit 20`,
    ).gives<WriterRow>(),
  }
})
