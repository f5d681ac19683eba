import { anyLaneSql, anyPartitionSql } from '../layout.ts'
import { pausedTopics } from './circuit.ts'
import { waking } from './sleep.ts'
import {
  bigints,
  float8s,
  int,
  ints,
  jsons,
  optional,
  smallints,
  sparse,
  text,
  texts,
  uuids,
} from './parameter.ts'
import {
  columns,
  errors,
  fencedClaim,
  joinedBy,
  lanesHeld,
  messageColumns,
  perSchema,
  prepared,
  withError,
  type Place,
} from './statement.ts'

/** What a promotion has done. */
export interface Promoted {
  readonly count: number
  /** In how long the next one is due, in milliseconds; null if none waits. */
  readonly due_in_ms: number | null
  /** Whether keys are parked for a time, in whatever lane; and of a consumer, what `pausedTopics` says. */
  readonly parks: boolean
  readonly paused: string | null
}

const defers = {
  consumer: text,
  lanes: smallints,
  seqs: bigints,
  fences: bigints,
  ids: uuids,
  delaysMs: float8s,
  attempts: ints,
  errorNumbers: sparse(ints),
  errors: jsons,
  avoid: optional(int),
}

const buries = {
  consumer: text,
  lanes: smallints,
  seqs: bigints,
  fences: bigints,
  ids: uuids,
  attempts: ints,
  reasons: texts,
  errorNumbers: sparse(ints),
  errors: jsons,
}

/**
 * Messages that are not ready: deferred until a time, or dead letters; those of parked keys are in `parking.ts`. The
 * consumer '' is the outbox; which table a message comes from and goes back to follows from that.
 */
export const waitingSql = perSchema('waiting', (s) => {
  const next = (consumer: string): string => `(
    select extract(epoch from d.due_at - statement_timestamp())::float8 * 1000 from ${s}.deferred as d
    where d.consumer = ${consumer} and d.due_at > statement_timestamp() order by d.due_at limit 1) as due_in_ms,
    exists (select from ${s}.parked as p where p.consumer = ${consumer} and p.until < 'infinity') as parks`
  // Messages as whoever gives them up names them.
  const given = (names: string, types: string): string => `unnest(
          $lanes, $seqs, $fences, $ids, ${types}) as a(lane, seq, fence, id, ${names})`
  const ofInbox = { table: `${s}.inbox`, receivedAt: 'i.received_at', held: '', fenced: fencedClaim(s) }
  // A claimer's late write finds its row gone. A relay's finds it there, in the hands of who sends it now: the lane is locked.
  const ofOutbox = {
    table: `${s}.outbox`,
    receivedAt: 'null::timestamptz',
    held: `held as materialized (${lanesHeld(s, 'select distinct n.lane, n.fence from unnest($lanes, $fences) as n(lane, fence)')}),`,
    fenced:
      'i.lane = a.lane and i.seq = a.seq and i.id = a.id and (a.lane, a.fence) in (select held.lane, held.fence from held)',
  }
  const lastly = `a.attempt, ${withError('i', 'a')} as errors`
  const defer = ({ table, receivedAt, held, fenced }: typeof ofInbox): string => `
    with ${held} ${errors('$errors')},
    gone as (
      delete from ${table} as i using ${given('delay_ms, attempt, error', '$delaysMs, $attempts, $errorNumbers')}
      where ${fenced}
      returning a.delay_ms, i.lane, i.seq, ${receivedAt} as received_at, ${lastly}, ${columns('i')}
    ),
    moved as (
      insert into ${s}.deferred (consumer, due_at, received_at, avoid, attempt, errors, ${messageColumns})
      select $consumer, clock_timestamp() + gone.delay_ms * interval '1 millisecond', gone.received_at, $avoid,
        gone.attempt, gone.errors, ${columns('gone')}
      from gone
    )
    select lane, seq from gone`
  const bury = ({ table, receivedAt, held, fenced }: typeof ofInbox): string => `
    with ${held} ${errors('$errors')},
    gone as (
      delete from ${table} as i using ${given('attempt, reason, error', '$attempts, $reasons, $errorNumbers')}
      where ${fenced}
      returning a.reason, i.lane, i.seq, ${receivedAt} as received_at, ${lastly}, ${columns('i')}
    ),
    moved as (
      insert into ${s}.dead_letter (consumer, seq, attempt, reason, errors, received_at, ${messageColumns})
      select $consumer, gone.seq, gone.attempt, gone.reason, coalesce(gone.errors, '[]'), gone.received_at, ${columns('gone')}
      from gone
    )
    select lane, seq from gone`

  return {
    // A failed message without a key. `$avoid` is the worker that shall not have it next, or null.
    defer: prepared(defers, defer(ofInbox)).gives<Place>(),
    deferOutbox: prepared(defers, defer(ofOutbox)).gives<Place>(),

    bury: prepared(buries, bury(ofInbox)).gives<Place>(),
    buryOutbox: prepared(buries, bury(ofOutbox)).gives<Place>(),

    // What is due goes back to where it is worked on, in bounded batches. The time of the statement, since that of the
    // clock changes while it runs, so no index can be searched for it: all that is not due yet would be read each time.
    promote: prepared(
      { consumer: text, most: int },
      `with due as materialized (
        select due_at, seq from ${s}.deferred
        where consumer = $consumer and due_at <= statement_timestamp()
        order by due_at, seq limit $most
        for no key update skip locked
      ),
      gone as (
        delete from ${s}.deferred as d using due
        where d.consumer = ${joinedBy('due', '$consumer')} and d.due_at = due.due_at and d.seq = due.seq
        returning d.received_at, d.avoid, d.attempt, d.errors, ${columns('d')}, pg_current_xact_id() as xid
      ),
      back as (
        insert into ${s}.inbox (consumer, lane, avoid, lease_until, attempt, errors, received_at, ${messageColumns})
        select $consumer, coalesce(${s}.lane_of(gone.key), ${anyPartitionSql}), gone.avoid,
          -- From here on it is counted for how long it waits for somebody else.
          case when gone.avoid is null then '-infinity' else clock_timestamp() end, gone.attempt, gone.errors,
          coalesce(gone.received_at, clock_timestamp()), ${columns('gone')}
        from gone where gone.xid is not null
      )
      select count(*) as count, count(${waking(s, '$consumer')}) as woken, ${next('$consumer')}, ${pausedTopics(s)} from gone`,
    ).gives<Promoted>(),
    // One relay at a time, and in order: messages of a key that become due one after the other are sent like that.
    promoteOutbox: prepared(
      { most: int },
      `with turn as materialized (
        select pg_try_advisory_xact_lock('${s}.deferred'::regclass::oid::int, 0) as ours
      ),
      due as materialized (
        select d.due_at, d.seq from ${s}.deferred as d
        where (select ours from turn) and d.consumer = '' and d.due_at <= statement_timestamp()
        order by d.due_at, d.seq limit $most
        for no key update skip locked
      ),
      gone as (
        delete from ${s}.deferred as d using due
        where d.consumer = '' and d.due_at = due.due_at and d.seq = due.seq
        returning d.due_at, d.seq, d.attempt, d.errors, ${columns('d')}, pg_current_xact_id() as xid
      ),
      back as (
        insert into ${s}.outbox (lane, attempt, errors, ${messageColumns})
        select coalesce(${s}.lane_of(gone.key), ${anyLaneSql}), gone.attempt, gone.errors,
          ${columns('gone')}
        from gone where gone.xid is not null
        order by gone.due_at, gone.seq
      )
      select count(*) as count, count(${waking(s, "''")}) as woken, ${next("''")} from gone`,
    ).gives<Promoted>(),
  }
})
