import { waking } from './sleep.ts'
import { columns, messageColumns, parted, perSchema } from './statement.ts'

/**
 * The outbox: published by the caller's transaction, read by the holder of the lane, deleted once the broker has
 * confirmed. Deferred and parked messages of the outbox stand in `waiting.ts`.
 */
export const outboxSql = perSchema((s, statement) => {
  // The transaction's xid is assigned before any row draws its seq: no row comes out of this join before `x` was
  // evaluated. The floor of a lane depends on it, see leases/floor.ts. The ordering locks are taken here for the same
  // reason: a seq drawn before the lock was granted would be out of order.
  const newMessages = (arrays = '', names = ''): string => `
    select m.id, m.topic, m.key, nullif(m.headers, '')::json as headers, nullif(m.payload, '')::json as payload, m.body,
      m.content_type, m.dedupe_key${names.replaceAll(/\w+/g, 'm.$&')}, m.nr
    from (
      select pg_current_xact_id() as xid, case when $10::boolean then (
        select count(pg_advisory_xact_lock('${s}.outbox'::regclass::oid::int, hashtext(k.key)))
        from (select distinct key from unnest($3::text[]) as k(key) where key is not null order by key) as k
      ) end as locks, ${waking(s, "''")} as woken
      offset 0
    ) as x
    cross join unnest(
      $1::uuid[], $2::text[], $3::text[], ${parted('$4')}, ${parted('$5')}, $6::bytea[], $7::text[], $8::text[]${arrays}
    ) with ordinality as m(id, topic, key, headers, payload, body, content_type, dedupe_key${names}, nr)
    where x.xid is not null`

  // Messages without a key fill one lane after the other, 64 at a time: a lane each would touch 64 pages per call.
  const insert = (more = ''): string => `
    insert into ${s}.outbox (lane, id, topic, key, headers, payload, body, content_type${more.replaceAll('m.', '')})
    select coalesce(${s}.lane_of(m.key), (($9::int + m.nr / 64) % 64)::smallint),
      m.id, m.topic, m.key, m.headers, m.payload, m.body, m.content_type${more}`

  // Of two transactions with one dedupe key, the second waits for the first to end: the unique index decides.
  const deduped = (messages: string, written: string): string => `with m as materialized (${messages}),
      known as (
        insert into ${s}.dedupe as known (topic, dedupe_key, id, expires_at)
        select m.topic, m.dedupe_key, m.id, clock_timestamp() + $11::float8 * interval '1 millisecond'
        from m where m.dedupe_key is not null
        order by m.topic, m.dedupe_key
        on conflict (topic, dedupe_key) do update set
          id = case when known.expires_at <= clock_timestamp() then excluded.id else known.id end,
          expires_at =
            case when known.expires_at <= clock_timestamp() then excluded.expires_at else known.expires_at end
        returning topic, dedupe_key, id
      ),
      ${written}
      select m.nr::int - 1 as index, known.id
      from m join known using (topic, dedupe_key) where known.id <> m.id`
  const fresh = 'm left join known using (topic, dedupe_key) where (m.dedupe_key is null or known.id = m.id)'

  return {
    publish: statement('publish', `${insert()} from (${newMessages()}) as m order by m.nr`),

    // One message alone, which most calls are: the same without arrays, for two thirds of the server's time.
    publishOne: statement(
      'publish_one',
      `insert into ${s}.outbox (lane, id, topic, key, headers, payload, body, content_type)
      select coalesce(${s}.lane_of($3::text), $8::smallint), $1::uuid, $2::text, $3, $4::json, $5::json, $6::bytea,
        $7::text
      from (
        select pg_current_xact_id() as xid, case when $9::boolean then (
          select count(pg_advisory_xact_lock('${s}.outbox'::regclass::oid::int, hashtext($3)))
        ) end as locks, ${waking(s, "''")} as woken
        offset 0
      ) as x
      where x.xid is not null`,
    ),

    publishDeduped: statement(
      'publish_deduped',
      deduped(newMessages(), `inserted as (${insert()} from ${fresh} order by m.nr)`),
    ),

    // With a time at which to send it or to give it up. What is due already goes the usual way. Whether it is, is asked
    // once: asked twice, what comes due in between would go both ways, or neither.
    publishTimed: statement(
      'publish_timed',
      deduped(
        `select m.*, (m.due_at <= clock_timestamp()) is not false as ready
        from (
          select m.*, coalesce(m.deliver_at, clock_timestamp() + m.delay_ms * interval '1 millisecond') as due_at
          from (${newMessages(', $12::timestamptz[], $13::float8[], $14::timestamptz[]', ', deliver_at, delay_ms, expires_at')}) as m
        ) as m`,
        `ready as (
          ${insert(', m.expires_at')} from ${fresh} and m.ready order by m.nr
        ),
        later as (
          insert into ${s}.deferred (
            consumer, due_at, published_at, dedupe_key, id, topic, key, headers, payload, body, content_type, expires_at)
          select '', m.due_at, m.due_at, m.dedupe_key, m.id, m.topic, m.key, m.headers, m.payload, m.body,
            m.content_type, m.expires_at
          from ${fresh} and not m.ready order by m.nr
        )`,
      ),
    ),

    // What is being promoted at this moment is waited for, and then it is too late. The dedupe key is free again.
    cancel: statement(
      'cancel',
      `with gone as (
        delete from ${s}.deferred as d
        where d.consumer = '' and d.attempt = 0 and d.id = coalesce($1::uuid, (
          select k.id from ${s}.dedupe as k where k.topic = $2 and k.dedupe_key = $3))
        returning d.topic, d.dedupe_key, d.id
      ),
      freed as (
        delete from ${s}.dedupe as k using gone
        where k.topic = gone.topic and k.dedupe_key = gone.dedupe_key and k.id = gone.id
      )
      select count(*)::int as count from gone`,
    ),

    // A message is named by its place and its id: after a failover, its place may be another message's.

    // One round trip between two batches: deletes what was confirmed, reads the heads of the lanes.
    // $1 to $3 confirmed (lane, seq, id); $4 to $6 lanes, bounds and quotas; $7 whether to assign an xid, for a mark; $8
    // what was confirmed of each of these lanes, as an array in text. Only constants are looked up in a hash table, so
    // each row is compared with those of its lane and not with all.
    step: statement(
      'relay_step',
      `with gone as (
        delete from ${s}.outbox as o using unnest($1::smallint[], $2::bigint[], $3::uuid[]) as a(lane, seq, id)
        where o.lane = a.lane and o.seq = a.seq and o.id = a.id
      )
      select at.snapshot, at.xid, m.*
      from (
        select pg_current_snapshot()::text as snapshot,
          case when $7::boolean then pg_current_xact_id() end as xid
        offset 0
      ) as at
      left join (
        select head.*
        from (
          select l.lane, l.bound, l.quota, l.confirmed::bigint[] as confirmed
          from unnest($4::smallint[], $5::bigint[], $6::int[], $8::text[]) as l(lane, bound, quota, confirmed)
          offset 0
        ) as l
        cross join lateral (
          select o.lane, o.seq, o.attempt, o.expires_at <= clock_timestamp() as expired, ${columns('o')}
          from ${s}.outbox as o
          where o.lane = l.lane and o.seq > l.bound and o.seq <> all (l.confirmed)
          order by o.seq
          limit l.quota
        ) as head
      ) as m on true`,
    ),

    // A message that the broker refused by itself and that has no key: tried again later, behind nobody's back.
    defer: statement(
      'outbox_defer',
      `with gone as (
        delete from ${s}.outbox as o
        using unnest($1::smallint[], $2::bigint[], $3::uuid[], $4::float8[], $5::jsonb[])
          as a(lane, seq, id, delay_ms, error)
        where o.lane = a.lane and o.seq = a.seq and o.id = a.id
        returning a.delay_ms, a.error, o.attempt, o.errors, ${columns('o')}
      )
      insert into ${s}.deferred (consumer, due_at, attempt, errors, ${messageColumns})
      select '', clock_timestamp() + gone.delay_ms * interval '1 millisecond', gone.attempt + 1,
        coalesce(gone.errors, '[]') || gone.error, ${columns('gone')}
      from gone`,
    ),

    bury: statement(
      'outbox_bury',
      `with gone as (
        delete from ${s}.outbox as o
        using unnest($1::smallint[], $2::bigint[], $3::uuid[], $4::text[], $5::jsonb[])
          as a(lane, seq, id, reason, error)
        where o.lane = a.lane and o.seq = a.seq and o.id = a.id
        returning a.reason, a.error, o.seq, o.attempt, o.errors, ${columns('o')}
      )
      insert into ${s}.dead_letter (consumer, seq, attempt, reason, errors, ${messageColumns})
      select '', gone.seq, gone.attempt + case gone.reason when 'expired' then 0 else 1 end, gone.reason, coalesce(gone.errors, '[]') || gone.error, ${columns('gone')}
      from gone`,
    ),

    fail: statement(
      'outbox_fail',
      `update ${s}.outbox as o set attempt = o.attempt + 1, errors = coalesce(o.errors, '[]') || $4::jsonb
      where o.lane = $1 and o.seq = $2 and o.id = $3`,
    ),
  }
})
