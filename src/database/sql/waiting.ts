import { waking } from './sleep.ts'
import { columns, fencedClaim, joinedBy, messageColumns, perSchema } from './statement.ts'

/** What a promotion has done. */
export interface Promoted {
  readonly count: number
  /** In how long the next one is due, in milliseconds; null if none waits. */
  readonly due_in_ms: number | null
  /** Whether keys are parked for a time, in whatever lane. */
  readonly parks: boolean
}

/**
 * Messages that are not ready: deferred until a time, parked behind a failed one of their key, or dead letters.
 * The consumer '' is the outbox; which table a message comes from and goes back to follows from that.
 */
export const waitingSql = perSchema((s, statement) => {
  // Locked, so that nobody takes the lane before this has been committed: the next holder would not hear of it, and leave
  // what is put back below its floor lying there. If somebody has, the row has another fence by now, and nothing is done.
  const held = `held as materialized (
      select from ${s}.lane as l where l.consumer = $1 and l.lane = $2 and l.fence = $3 for no key update
    )`
  const kept = (from: string): string => `${from}.seq, ${from}.attempt, ${from}.errors, ${columns(from)}`
  const buried = (from: string, last: { attempts: string; reason: string; error: string }): string => `
      insert into ${s}.dead_letter (consumer, seq, attempt, reason, errors, received_at, ${messageColumns})
      select $1, ${from}.seq, ${last.attempts}, ${last.reason}, coalesce(${from}.errors, '[]') || ${last.error},
        ${from}.received_at, ${columns(from)}
      from ${from}`
  const next = (consumer: string): string => `(
    select extract(epoch from d.due_at - statement_timestamp())::float8 * 1000 from ${s}.deferred as d
    where d.consumer = ${consumer} and d.due_at > statement_timestamp() order by d.due_at limit 1) as due_in_ms,
    exists (select from ${s}.parked as p where p.consumer = ${consumer} and p.until < 'infinity') as parks`
  const ofConsumer = (consumer: string): string => `i.consumer = ${consumer} and`
  const ofAll = (): string => ''
  const park = (table: string, of: typeof ofConsumer, receivedAt: string): string => `
    with ${held},
    gone as (
      delete from ${table} as i using unnest($6::bigint[]) as a(seq)
      where ${of(joinedBy('a', '$1::text'))} i.lane = ${joinedBy('a', '$2::smallint')} and i.seq = a.seq and i.key = $4 and exists (select from held)
      returning ${receivedAt} as received_at, ${kept('i')}
    ),
    moved as (
      insert into ${s}.parked_message (consumer, lane, received_at, seq, attempt, errors, ${messageColumns})
      select $1, $2, gone.received_at, ${kept('gone')} from gone
    ),
    dead as (
      delete from ${table} as i
      where ${of('$1')} i.lane = $2 and i.seq = $8 and i.id = $9::uuid and exists (select from held)
      returning ${receivedAt} as received_at, ${kept('i')}
    ),
    buried as (${buried('dead', { attempts: '$10::int', reason: '$7', error: '$11::jsonb' })} returning 1)
    insert into ${s}.parked (consumer, lane, key, until, reason, head)
    select $1, $2, $4, coalesce(clock_timestamp() + $5::float8 * interval '1 millisecond', 'infinity'), $7, $8::bigint
    from held
    on conflict (consumer, lane, key) do update
      set until = excluded.until, reason = coalesce(excluded.reason, parked.reason), head = excluded.head, released_to = 0
    returning exists (select from buried) as buried`
  const follow = (table: string, of: typeof ofConsumer, receivedAt: string): string => `
    with ${held},
    gone as (
      delete from ${table} as i using unnest($4::bigint[]) as a(seq)
      where ${of(joinedBy('a', '$1::text'))} i.lane = ${joinedBy('a', '$2::smallint')} and i.seq = a.seq and exists (select from held)
        and exists (select from ${s}.parked as p where p.consumer = $1 and p.lane = $2 and p.key = i.key)
      returning ${receivedAt} as received_at, ${kept('i')}
    ),
    moved as (
      insert into ${s}.parked_message (consumer, lane, received_at, seq, attempt, errors, ${messageColumns})
      select $1, $2, gone.received_at, ${kept('gone')} from gone
    )
    select i.seq, i.key from ${table} as i join unnest($4::bigint[]) as a(seq) using (seq)
    where ${of('$1')} i.lane = $2 and exists (select from held) and not exists (select from gone where gone.seq = i.seq)`
  // An operator may put a dead letter before what waits while this runs, and this would neither see it nor wait for it:
  // the key would be struck off with a message left, or go on without it. An operator always changes `until`, so if it
  // is not what it was, nothing is done, and the next round looks again.
  const release = (table: string, names: string, values: string): string => `
    with ${held},
    before as materialized (
      select p.until from ${s}.parked as p where p.consumer = $1 and p.lane = $2 and p.key = $4
    ),
    turn as materialized (
      select p.until from ${s}.parked as p where p.consumer = $1 and p.lane = $2 and p.key = $4 for no key update
    ),
    ours as materialized (select from turn join before using (until) where until <= clock_timestamp()),
    gone as (
      delete from ${s}.parked_message as p
      where p.consumer = $1 and p.lane = $2 and p.key = $4 and exists (select from held)
        and exists (select from ours) and p.seq = any (array(
          select c.seq from ${s}.parked_message as c
          where c.consumer = $1 and c.lane = $2 and c.key = $4
          order by c.seq limit $5
        ))
      returning p.lane, p.received_at, ${kept('p')}
    ),
    back as (
      insert into ${table} (lane, seq, attempt, errors, ${messageColumns}${names}) overriding system value
      select gone.lane, ${kept('gone')}${values} from gone
    ),
    bound as (select min(seq) as first, max(seq) as last, count(*) as count from gone),
    opened as (
      update ${s}.parked as p set released_to = bound.last from bound
      where p.consumer = $1 and p.lane = $2 and p.key = $4 and bound.count > 0
    ),
    lowered as (
      update ${s}.lane as l set floor = least(l.floor, bound.first - 1), lowered = l.lowered + 1 from bound
      where l.consumer = $1 and l.lane = $2 and bound.count > 0
      returning l.lowered
    ),
    emptied as (
      delete from ${s}.parked as p using bound
      where p.consumer = $1 and p.lane = $2 and p.key = $4 and bound.count = 0 and exists (select from held)
        and exists (select from ours)
      returning 1
    )
    select first, last, count, (select lowered from lowered) as lowered,
      exists (select from emptied) or not exists (select from turn) as free
    from bound`

  return {
    // $1 consumer, $2 lane, $3 fence, $4 key, $5 for how long (null: until redriven), $6 seqs, $7 reason, $8 the seq
    // behind which. If that message is dead, $9 is its id, $10 its attempts, $11 the last error: in one statement, since a
    // key that is parked behind a message that is no dead letter waits for nobody knows what.
    park: statement('park', park(`${s}.inbox`, ofConsumer, 'i.received_at')),
    parkOutbox: statement('park_outbox', park(`${s}.outbox`, ofAll, 'null::timestamptz')),

    // Later messages of a parked key leave the lane when they are read, so that others can be. Returned is what stays,
    // since its key is not parked any more.
    follow: statement('follow', follow(`${s}.inbox`, ofConsumer, 'i.received_at')),
    followOutbox: statement('follow_outbox', follow(`${s}.outbox`, ofAll, 'null::timestamptz')),

    // Puts the first messages of a key back where they stood. Only up to `released_to` may the key go on, since the
    // rest is still waiting. Once nothing waits, the key is free.
    release: statement(
      'release_parked',
      release(`${s}.inbox`, ', consumer, received_at', ', $1, coalesce(gone.received_at, clock_timestamp())'),
    ),
    releaseOutbox: statement('release_parked_outbox', release(`${s}.outbox`, '', '')),

    parkedKeys: statement(
      'parked_keys',
      `select lane, key, released_to, until <= clock_timestamp() as due
      from ${s}.parked where consumer = $1 and lane = any ($2::smallint[])`,
    ),
    // Those whose time has come, also if it was an operator who has just parked them. Some of each lane, the longest due
    // first, or the keys of one lane could keep those of the others waiting.
    dueKeys: statement(
      'due_keys',
      `select p.lane, p.key, p.released_to
      from unnest($2::smallint[]) as l(lane)
      cross join lateral (
        select p.lane, p.key, p.released_to from ${s}.parked as p
        where p.consumer = $1 and p.lane = l.lane and p.until <= statement_timestamp() and p.until < 'infinity'
        order by p.until limit $3
      ) as p`,
    ),

    // A failed message without a key. $8 the worker that shall not have it next, or null.
    defer: statement(
      'inbox_defer',
      `with gone as (
        delete from ${s}.inbox as i
        using unnest($2::smallint[], $3::bigint[], $4::bigint[], $5::uuid[], $6::float8[], $7::jsonb[])
          as a(lane, seq, fence, id, delay_ms, error)
        where ${fencedClaim(s)}
        returning a.delay_ms, a.error, i.lane, i.received_at, ${kept('i')}
      ),
      moved as (
        insert into ${s}.deferred (consumer, due_at, received_at, avoid, attempt, errors, ${messageColumns})
        select $1, clock_timestamp() + gone.delay_ms * interval '1 millisecond', gone.received_at, $8::int,
          gone.attempt, coalesce(gone.errors, '[]') || gone.error, ${columns('gone')}
        from gone
      )
      select lane, seq from gone`,
    ),

    bury: statement(
      'inbox_bury',
      `with gone as (
        delete from ${s}.inbox as i
        using unnest($2::smallint[], $3::bigint[], $4::bigint[], $5::uuid[], $6::int[], $7::text[], $8::jsonb[])
          as a(lane, seq, fence, id, attempt, reason, error)
        where ${fencedClaim(s)}
        returning a.attempt as attempts, a.reason, a.error, i.lane, i.received_at, ${kept('i')}
      ),
      moved as (${buried('gone', { attempts: 'gone.attempts', reason: 'gone.reason', error: 'gone.error' })})
      select lane, seq from gone`,
    ),

    // A delivery that is no message we could handle: kept for an operator, byte for byte.
    refuse: statement(
      'refuse',
      `with fresh as (
        insert into ${s}.seen (consumer, id) values ($1, $2) on conflict do nothing returning id
      )
      insert into ${s}.dead_letter (consumer, id, topic, key, headers, body, content_type, attempt, reason, received_at)
      select $1, fresh.id, $3, $4, $5, $6, $7, 0, $8, clock_timestamp() from fresh`,
    ),

    // What is due goes back to where it is worked on, in bounded batches. The time of the statement, since that of the
    // clock changes while it runs, so no index can be searched for it: all that is not due yet would be read each time.
    promote: statement(
      'promote',
      `with due as materialized (
        select due_at, seq from ${s}.deferred
        where consumer = $1 and due_at <= statement_timestamp()
        order by due_at, seq limit $2
        for no key update skip locked
      ),
      gone as (
        delete from ${s}.deferred as d using due
        where d.consumer = ${joinedBy('due', '$1::text')} and d.due_at = due.due_at and d.seq = due.seq
        returning d.received_at, d.avoid, d.attempt, d.errors, ${columns('d')}, pg_current_xact_id() as xid
      ),
      back as (
        insert into ${s}.inbox (consumer, lane, avoid, lease_until, attempt, errors, received_at, ${messageColumns})
        select $1, coalesce(${s}.lane_of(gone.key), (64 + floor(random() * 8))::smallint), gone.avoid,
          -- From here on it is counted for how long it waits for somebody else.
          case when gone.avoid is null then '-infinity' else clock_timestamp() end, gone.attempt, gone.errors,
          coalesce(gone.received_at, clock_timestamp()), ${columns('gone')}
        from gone where gone.xid is not null
      )
      select count(*) as count, count(${waking(s, '$1')}) as woken, ${next('$1')} from gone`,
    ),
    // One relay at a time, and in order: messages of a key that become due one after the other are sent like that.
    promoteOutbox: statement(
      'promote_outbox',
      `with turn as materialized (
        select pg_try_advisory_xact_lock('${s}.deferred'::regclass::oid::int, 0) as ours
      ),
      due as materialized (
        select d.due_at, d.seq from ${s}.deferred as d
        where (select ours from turn) and d.consumer = '' and d.due_at <= statement_timestamp()
        order by d.due_at, d.seq limit $1
        for no key update skip locked
      ),
      gone as (
        delete from ${s}.deferred as d using due
        where d.consumer = '' and d.due_at = due.due_at and d.seq = due.seq
        returning d.due_at, d.seq, d.attempt, d.errors, ${columns('d')}, pg_current_xact_id() as xid
      ),
      back as (
        insert into ${s}.outbox (lane, attempt, errors, ${messageColumns})
        select coalesce(${s}.lane_of(gone.key), floor(random() * 64)::smallint), gone.attempt, gone.errors,
          ${columns('gone')}
        from gone where gone.xid is not null
        order by gone.due_at, gone.seq
      )
      select count(*) as count, count(${waking(s, "''")}) as woken, ${next("''")} from gone`,
    ),
  }
})
