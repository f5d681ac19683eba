import {
  bigint,
  bigints,
  booleans,
  float8s,
  int,
  ints,
  jsons,
  smallint,
  smallints,
  sparse,
  text,
  texts,
  uuids,
} from './parameter.ts'
import {
  columns,
  errors,
  joinedBy,
  lanesHeld,
  messageColumns,
  perSchema,
  placed,
  prepared,
  withError,
} from './statement.ts'

export interface Released {
  readonly first: number | null
  readonly last: number | null
  readonly count: number
  readonly lowered: number | null
  /** Nothing of the key waits any more. */
  readonly free: boolean
}

export interface ParkedRow {
  readonly lane: number
  readonly key: string
  readonly released_to: number
}

/** A key that is held back now. */
export interface ParkedBehind {
  readonly lane: number
  readonly key: string
  /** Whether its message was there to be buried. */
  readonly buried: boolean
}

const parks = {
  consumer: text,
  lanes: smallints,
  fences: bigints,
  keys: texts,
  forMs: sparse(float8s),
  seqs: bigints,
  ids: uuids,
  reasons: texts,
  attempts: sparse(ints),
  errorNumbers: sparse(ints),
  dead: booleans,
  restLanes: smallints,
  restSeqs: bigints,
  restKeys: texts,
  errors: jsons,
}

const follows = { consumer: text, lane: smallint, fence: bigint, seqs: bigints }

const releases = { consumer: text, lane: smallint, fence: bigint, key: text, most: int }

/**
 * Keys that are held back, and their messages outside of the lane. The consumer '' is the outbox; which table a message
 * comes from and goes back to follows from that.
 */
export const parkingSql = perSchema('parking', (s) => {
  // Locked, so that nobody takes the lane before this has been committed: the next holder would not hear of it, and leave
  // what is put back below its watermark lying there. If somebody has, the row has another fence by now, and nothing is
  // done.
  const held = `held as materialized (
      select from ${s}.lane as l where l.consumer = $consumer and l.lane = $lane and l.fence = $fence for no key update
    )`
  const kept = (from: string): string => `${from}.seq, ${from}.attempt, ${from}.errors, ${columns(from)}`
  const ofConsumer = (consumer: string): string => `i.consumer = ${consumer} and`
  const ofAll = (): string => ''
  const failed = `coalesce(h.attempt, i.attempt) as attempt,
        ${withError('i', 'h')} as errors`
  const waits = `${s}.parked_message (consumer, lane, received_at, seq, attempt, errors, ${messageColumns})`
  const park = (table: string, of: typeof ofConsumer, receivedAt: string): string => `
    with wanted as materialized (
      select w.* from unnest($lanes, $fences, $keys, $forMs, $seqs, $ids,
        $reasons, $attempts, $errorNumbers, $dead)
        as w(lane, fence, key, for_ms, seq, id, reason, attempt, error, dead)
    ),
    ${errors('$errors')},
    held as materialized (${lanesHeld(s, 'select distinct w.lane, w.fence from wanted as w')}),
    blocker as (
      delete from ${table} as i using (select w.* from wanted as w join held using (lane, fence)) as h
      where ${of(joinedBy('h', '$consumer'))} i.lane = h.lane and i.seq = h.seq and i.id = h.id
      returning h.dead, h.reason, ${receivedAt} as received_at, i.lane, i.seq, ${failed}, ${columns('i')}
    ),
    rest as (
      delete from ${table} as i using (
        select a.* from unnest($restLanes, $restSeqs, $restKeys) as a(lane, seq, key) join held using (lane)
      ) as a
      where ${of(joinedBy('a', '$consumer'))} i.lane = a.lane and i.seq = a.seq and i.key = a.key
      returning ${receivedAt} as received_at, i.lane, ${kept('i')}
    ),
    waiting as (
      insert into ${waits} select $consumer, blocker.lane, blocker.received_at, ${kept('blocker')} from blocker where not blocker.dead
    ),
    following as (insert into ${waits} select $consumer, rest.lane, rest.received_at, ${kept('rest')} from rest),
    buried as (
      insert into ${s}.dead_letter (consumer, seq, attempt, reason, errors, received_at, ${messageColumns})
      select $consumer, blocker.seq, blocker.attempt, blocker.reason, blocker.errors, blocker.received_at, ${columns('blocker')}
      from blocker where blocker.dead
      returning key
    )
    insert into ${s}.parked (consumer, lane, key, until, reason, blocker)
    select $consumer, w.lane, w.key, coalesce(clock_timestamp() + w.for_ms * interval '1 millisecond', 'infinity'), w.reason, w.seq
    from wanted as w join held using (lane, fence)
    on conflict (consumer, lane, key) do update set until = greatest(parked.until, excluded.until),
      reason = case when parked.until = 'infinity' then parked.reason else coalesce(excluded.reason, parked.reason) end,
      blocker = case when parked.until = 'infinity' then parked.blocker else excluded.blocker end, released_to = 0
    returning parked.lane, parked.key, exists (select from buried where buried.key = parked.key) as buried`
  const follow = (table: string, of: typeof ofConsumer, receivedAt: string): string => `
    with ${held},
    gone as (
      delete from ${table} as i using unnest($seqs) as a(seq)
      where ${of(joinedBy('a', '$consumer'))} i.lane = ${joinedBy('a', '$lane')} and i.seq = a.seq and exists (select from held)
        and exists (select from ${s}.parked as p where p.consumer = $consumer and p.lane = $lane and p.key = i.key)
      returning ${receivedAt} as received_at, ${kept('i')}
    ),
    moved as (
      insert into ${s}.parked_message (consumer, lane, received_at, seq, attempt, errors, ${messageColumns})
      select $consumer, $lane, gone.received_at, ${kept('gone')} from gone
    )
    select i.seq, i.key from ${table} as i join unnest($seqs) as a(seq) using (seq)
    where ${of('$consumer')} i.lane = $lane and exists (select from held) and not exists (select from gone where gone.seq = i.seq)`
  // An operator may put a dead letter before what waits while this runs, and this would neither see it nor wait for it:
  // the key would be struck off with a message left, or go on without it. An operator always changes `until`, so if it
  // is not what it was, nothing is done, and the next round looks again.
  const release = (table: string, of: typeof ofConsumer, names: string, values: string): string => `
    with ${held},
    before as materialized (
      select p.until from ${s}.parked as p where p.consumer = $consumer and p.lane = $lane and p.key = $key
    ),
    turn as materialized (
      select p.until from ${s}.parked as p where p.consumer = $consumer and p.lane = $lane and p.key = $key for no key update
    ),
    ours as materialized (select from turn join before using (until) where until <= clock_timestamp()),
    ${placed(
      `select m.seq, m.id from ${s}.parked_message as m
        where m.consumer = $consumer and m.lane = $lane and m.key = $key
        order by m.seq, m.id limit $most`,
      `${table} as i where ${of('$consumer')} i.lane = $lane`,
    )},
    gone as (
      delete from ${s}.parked_message as p
      where p.consumer = $consumer and p.lane = $lane and p.key = $key and exists (select from held)
        and exists (select from ours) and p.seq = any (array(select placed.seq from placed where not placed.waits))
        and p.id = any (array(select placed.id from placed where not placed.waits))
      returning p.lane, p.received_at, ${kept('p')}
    ),
    back as (
      insert into ${table} (lane, seq, attempt, errors, ${messageColumns}${names}) overriding system value
      select gone.lane, ${kept('gone')}${values} from gone
    ),
    bound as (select min(seq) as first, max(seq) as last, count(*) as count from gone),
    opened as (
      update ${s}.parked as p set released_to = bound.last from bound
      where p.consumer = $consumer and p.lane = $lane and p.key = $key and bound.count > 0
    ),
    lowered as (
      update ${s}.lane as l set watermark = least(l.watermark, bound.first - 1), lowered = l.lowered + 1 from bound
      where l.consumer = $consumer and l.lane = $lane and bound.count > 0
      returning l.lowered
    ),
    emptied as (
      delete from ${s}.parked as p using bound
      where p.consumer = $consumer and p.lane = $lane and p.key = $key and not exists (select from placed) and exists (select from held)
        and exists (select from ours)
      returning 1
    )
    select first, last, count, (select lowered from lowered) as lowered,
      exists (select from emptied) or not exists (select from turn) as free
    from bound`

  return {
    // Holds keys back for `$forMs` (null: until redriven), behind the messages `$seqs`, `$ids`. Of these, attempts and number
    // of the error are null if nothing is to be written down. Whether the message is dead is told in the same statement: a
    // key that is parked behind a message that is no dead letter waits for a message that nobody can redrive. `$restLanes`,
    // `$restSeqs`, `$restKeys` are the others that leave the lane.
    // A key that a dead letter has parked for good stays so, whoever parks it again. Returned are the keys of lanes that
    // are held under this fence.
    park: prepared(parks, park(`${s}.inbox`, ofConsumer, 'i.received_at')).gives<ParkedBehind>(),
    parkOutbox: prepared(parks, park(`${s}.outbox`, ofAll, 'null::timestamptz')).gives<ParkedBehind>(),

    // Later messages of a parked key leave the lane when they are read. Returned is what stays: its key is free again.
    follow: prepared(follows, follow(`${s}.inbox`, ofConsumer, 'i.received_at')).gives<{
      readonly seq: number
      readonly key: string
    }>(),
    followOutbox: prepared(follows, follow(`${s}.outbox`, ofAll, 'null::timestamptz')).gives<{
      readonly seq: number
      readonly key: string
    }>(),

    // Puts the first messages of a key back where they stood. Only up to `released_to` may it go on: the rest still waits.
    release: prepared(
      releases,
      release(
        `${s}.inbox`,
        ofConsumer,
        ', consumer, received_at',
        ', $consumer, coalesce(gone.received_at, clock_timestamp())',
      ),
    ).gives<Released>(),
    releaseOutbox: prepared(releases, release(`${s}.outbox`, ofAll, '', '')).gives<Released>(),

    parkedKeys: prepared(
      { consumer: text, lanes: smallints },
      `select lane, key, released_to, until <= clock_timestamp() as due
      from ${s}.parked where consumer = $consumer and lane = any ($lanes)`,
    ).gives<ParkedRow & { readonly due: boolean }>(),
    // Those whose time has come, also if it was an operator who has just parked them. Some of each lane, the longest due
    // first, or the keys of one lane could keep those of the others waiting.
    dueKeys: prepared(
      { consumer: text, lanes: smallints, most: int },
      `select p.lane, p.key, p.released_to
      from unnest($lanes) as l(lane)
      cross join lateral (
        select p.lane, p.key, p.released_to from ${s}.parked as p
        where p.consumer = $consumer and p.lane = l.lane and p.until <= statement_timestamp() and p.until < 'infinity'
        order by p.until limit $most
      ) as p`,
    ).gives<ParkedRow>(),
  }
})
