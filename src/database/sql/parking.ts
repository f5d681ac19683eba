import { columns, errors, joinedBy, lanesHeld, messageColumns, perSchema, withError } from './statement.ts'

/**
 * Keys that are held back, and their messages outside of the lane. The consumer '' is the outbox; which table a message
 * comes from and goes back to follows from that.
 */
export const parkingSql = perSchema((s, statement) => {
  // Locked, so that nobody takes the lane before this has been committed: the next holder would not hear of it, and leave
  // what is put back below its watermark lying there. If somebody has, the row has another fence by now, and nothing is
  // done.
  const held = `held as materialized (
      select from ${s}.lane as l where l.consumer = $1 and l.lane = $2 and l.fence = $3 for no key update
    )`
  const kept = (from: string): string => `${from}.seq, ${from}.attempt, ${from}.errors, ${columns(from)}`
  const ofConsumer = (consumer: string): string => `i.consumer = ${consumer} and`
  const ofAll = (): string => ''
  const failed = `coalesce(h.attempt, i.attempt) as attempt,
        ${withError('i', 'h')} as errors`
  const waits = `${s}.parked_message (consumer, lane, received_at, seq, attempt, errors, ${messageColumns})`
  const park = (table: string, of: typeof ofConsumer, receivedAt: string): string => `
    with wanted as materialized (
      select w.* from unnest($2::smallint[], $3::bigint[], $4::text[], $5::float8[], $6::bigint[], $7::uuid[],
        $8::text[], $9::int[], $10::int[], $11::boolean[])
        as w(lane, fence, key, for_ms, seq, id, reason, attempt, error, dead)
    ),
    ${errors('$15')},
    held as materialized (${lanesHeld(s, 'select distinct w.lane, w.fence from wanted as w')}),
    blocker as (
      delete from ${table} as i using (select w.* from wanted as w join held using (lane, fence)) as h
      where ${of(joinedBy('h', '$1::text'))} i.lane = h.lane and i.seq = h.seq and i.id = h.id
      returning h.dead, h.reason, ${receivedAt} as received_at, i.lane, i.seq, ${failed}, ${columns('i')}
    ),
    rest as (
      delete from ${table} as i using (
        select a.* from unnest($12::smallint[], $13::bigint[], $14::text[]) as a(lane, seq, key) join held using (lane)
      ) as a
      where ${of(joinedBy('a', '$1::text'))} i.lane = a.lane and i.seq = a.seq and i.key = a.key
      returning ${receivedAt} as received_at, i.lane, ${kept('i')}
    ),
    waiting as (
      insert into ${waits} select $1, blocker.lane, blocker.received_at, ${kept('blocker')} from blocker where not blocker.dead
    ),
    following as (insert into ${waits} select $1, rest.lane, rest.received_at, ${kept('rest')} from rest),
    buried as (
      insert into ${s}.dead_letter (consumer, seq, attempt, reason, errors, received_at, ${messageColumns})
      select $1, blocker.seq, blocker.attempt, blocker.reason, blocker.errors, blocker.received_at, ${columns('blocker')}
      from blocker where blocker.dead
      returning key
    )
    insert into ${s}.parked (consumer, lane, key, until, reason, blocker)
    select $1, w.lane, w.key, coalesce(clock_timestamp() + w.for_ms * interval '1 millisecond', 'infinity'), w.reason, w.seq
    from wanted as w join held using (lane, fence)
    on conflict (consumer, lane, key) do update set until = greatest(parked.until, excluded.until),
      reason = case when parked.until = 'infinity' then parked.reason else coalesce(excluded.reason, parked.reason) end,
      blocker = case when parked.until = 'infinity' then parked.blocker else excluded.blocker end, released_to = 0
    returning parked.lane, parked.key, exists (select from buried where buried.key = parked.key) as buried`
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
      update ${s}.lane as l set watermark = least(l.watermark, bound.first - 1), lowered = l.lowered + 1 from bound
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
    // Holds keys back: $2 lanes, $3 fences, $4 keys, $5 for how long (null: until redriven), $6, $7 seq and id of the message
    // behind which, $8 why. Of that message $9 is its attempts and $10 the number of the error, null if nothing is to
    // be written down, and $11 whether it is dead: in one statement, since a key that is parked behind a message that is no dead letter
    // waits for a message that nobody can redrive. $12 to $14 the others that leave the lane: lanes, seqs, keys. $15 errors.
    // A key that a dead letter has parked for good stays so, whoever parks it again. Returned are the keys of lanes that
    // are held under this fence.
    park: statement('park', park(`${s}.inbox`, ofConsumer, 'i.received_at')),
    parkOutbox: statement('park_outbox', park(`${s}.outbox`, ofAll, 'null::timestamptz')),

    // Later messages of a parked key leave the lane when they are read. Returned is what stays: its key is free again.
    follow: statement('follow', follow(`${s}.inbox`, ofConsumer, 'i.received_at')),
    followOutbox: statement('follow_outbox', follow(`${s}.outbox`, ofAll, 'null::timestamptz')),

    // Puts the first messages of a key back where they stood. Only up to `released_to` may it go on: the rest still waits.
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
  }
})
