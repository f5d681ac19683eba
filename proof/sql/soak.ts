import {
  bigint,
  bigints,
  boolean,
  int,
  ints,
  text,
  texts,
  timestamptz,
  uuid,
  uuids,
  sparse,
} from '../../src/database/sql/parameter.ts'
import { checks } from './rules.ts'
import { layout } from '../../src/database/layout.ts'
import { placesOf } from './places.ts'
import { perSchema, prepared } from '../../src/database/sql/statement.ts'

const places = (s: string) => placesOf(s, 'soak')

export interface Left {
  readonly outbox: number
  readonly inbox: number
  readonly deferred: number
  readonly parked: number
  readonly lag: number
}

export interface Counts {
  readonly published: number
  readonly handled: number
  readonly dead: number
  /** Dead letters of the outbox: those that the broker has refused for good. */
  readonly refused: number
  /** Publishes that were recognised as having happened before. */
  readonly duplicates: number
  /** Attempts beyond the first. */
  readonly repeats: number
  /** Effects beyond the first of a message: of handlers without a transaction, which are called at least once. */
  readonly repeatedEffects: number
  /** How often a worker stood still for 0.5 to 4 s, by SIGSTOP or in its event loop, and in how many of these cases it was taken for dead. */
  readonly stalls: number
  readonly takenForDead: number
  readonly laneTakeovers: number
  readonly rowTakeovers: number
  readonly failedPublishes: number
  /** Commits whose outcome the publisher could not find out. */
  readonly openCommits: number
}

/**
 * The oracle of `twinbox soak` and `twinbox demo`: what was committed with each message, what the handlers made of it, and who held what,
 * each written by the transaction that it is about. So an ambiguous commit needs no guessing: the tables know.
 */
export const soakSql = perSchema('soak', (s) => ({
  create: `
    create table ${s}.soak_ledger (
      -- Drawn under the ordering lock, if there was one: then it is the order of the commits of a key.
      at bigint primary key generated always as identity,
      n bigint not null,
      id uuid not null,
      topic text not null,
      key text collate "C",
      hash bigint not null,
      -- Of the publisher's transaction, as its history has it.
      tx bigint not null,
      locked boolean not null,
      dedupe_key text
    );
    create table ${s}.soak_duplicate (id uuid not null, dedupe_key text not null);
    create table ${s}.soak_effect (
      serial bigint primary key generated always as identity,
      n bigint not null,
      id uuid not null,
      topic text not null,
      key text collate "C",
      hash bigint not null,
      attempt integer not null,
      fence bigint not null,
      worker integer not null,
      -- Written by a handler that has no transaction: at least once is all that it is promised.
      plain boolean not null,
      xid bigint not null default pg_current_xact_id()::text::bigint,
      at timestamptz not null default clock_timestamp()
    );
    create table ${s}.soak_audit (
      serial bigint primary key generated always as identity,
      op text not null,
      id uuid,
      lane smallint not null,
      seq bigint,
      fence bigint not null,
      holder integer,
      previous integer,
      xid bigint not null default pg_current_xact_id()::text::bigint,
      began timestamptz not null default statement_timestamp(),
      at timestamptz not null default clock_timestamp()
    );
    create table ${s}.soak_fault (
      number integer primary key,
      kind text not null,
      workers integer[] not null,
      at timestamptz not null,
      healed_at timestamptz not null
    );
    -- From the histories, when all is over.
    create unlogged table ${s}.soak_attempt (tx bigint, outcome text, count integer, begun bigint, ended bigint);
    create unlogged table ${s}.soak_reported (id uuid, at bigint);
    create unlogged table ${s}.soak_away (process text, id uuid, attempt integer, at bigint);

    create function ${s}.soak_gone() returns trigger language plpgsql as $$
    begin
      if old.lane < ${layout.lanes} then
        insert into ${s}.soak_audit (op, id, lane, seq, fence, holder)
        select 'gone', old.id, old.lane, old.seq, l.fence, l.holder
        from ${s}.lane as l where l.consumer = old.consumer and l.lane = old.lane;
      else
        insert into ${s}.soak_audit (op, id, lane, seq, fence, holder)
        values ('gone', old.id, old.lane, old.seq, old.fence, old.holder);
      end if;
      return null;
    end $$;
    create function ${s}.soak_taken() returns trigger language plpgsql as $$
    begin
      insert into ${s}.soak_audit (op, id, lane, seq, fence, holder, previous)
      values ('claim', new.id, new.lane, new.seq, new.fence, new.holder, old.holder);
      return null;
    end $$;
    create function ${s}.soak_lane() returns trigger language plpgsql as $$
    begin
      insert into ${s}.soak_audit (op, lane, fence, holder, previous)
      values (case new.consumer when '' then 'outbox lane' else 'lane' end, new.lane, new.fence, new.holder,
        old.holder);
      return null;
    end $$;
    create trigger soak_gone after delete on ${s}.inbox for each row execute function ${s}.soak_gone();
    create trigger soak_taken after update on ${s}.inbox for each row
      when (old.holder is distinct from new.holder and old.holder is not null and new.holder is not null)
      execute function ${s}.soak_taken();
    create trigger soak_lane after update on ${s}.lane for each row
      when (old.holder is distinct from new.holder and new.holder is not null)
      execute function ${s}.soak_lane();
    create trigger soak_fence after update on ${s}.lane for each row
      when (old.fence is distinct from new.fence and old.holder is not distinct from new.holder)
      execute function ${s}.soak_lane();
    ${places(s).create}`,

  drop: `drop schema if exists ${s} cascade`,

  savepoint: 'savepoint part',
  undo: 'rollback to savepoint part',

  cut: 'select pg_terminate_backend(pg_backend_pid())',

  record: prepared(
    {
      numbers: bigints,
      ids: uuids,
      topics: texts,
      keys: sparse(texts),
      hashes: bigints,
      tx: bigint,
      locked: boolean,
      dedupeKeys: sparse(texts),
    },
    `insert into ${s}.soak_ledger (n, id, topic, key, hash, tx, locked, dedupe_key)
    select m.n, m.id, m.topic, m.key, m.hash, $tx, $locked, m.dedupe_key
    from unnest($numbers, $ids, $topics, $keys, $hashes, $dedupeKeys) with ordinality
      as m(n, id, topic, key, hash, dedupe_key, nr)
    order by m.nr`,
  ),

  duplicate: prepared(
    { ids: uuids, dedupeKeys: sparse(texts) },
    `insert into ${s}.soak_duplicate (id, dedupe_key) select * from unnest($ids, $dedupeKeys)`,
  ),

  effect: prepared(
    {
      numbers: bigints,
      ids: uuids,
      topics: texts,
      keys: sparse(texts),
      hashes: bigints,
      attempt: int,
      fence: bigint,
      worker: int,
      plain: boolean,
    },
    `insert into ${s}.soak_effect (n, id, topic, key, hash, attempt, fence, worker, plain)
    select m.n, m.id, m.topic, m.key, m.hash, $attempt, $fence, $worker, $plain
    from unnest($numbers, $ids, $topics, $keys, $hashes) with ordinality
      as m(n, id, topic, key, hash, nr)
    order by m.nr`,
  ),

  struck: prepared(
    { number: int, kind: text, workers: ints, at: timestamptz, healedAt: timestamptz },
    `insert into ${s}.soak_fault (number, kind, workers, at, healed_at) values ($number, $kind, $workers, $at, $healedAt)`,
  ),
  setBack: places(s).setBack,
  mended: places(s).mended,

  // What a restore that left them out, or somebody's clean-up, does. Not waited for long: what works on them waits behind this.
  truncate: (tables: readonly ('worker' | 'lane')[]) =>
    `set local lock_timeout = '500ms'; truncate ${tables.map((table) => `${s}.${table}`).join(', ')}`,

  // Dead letters of the outbox that hold the rest of their key back until an operator redrives them.
  holding: prepared(
    {},
    `select d.number::int from ${s}.dead_letter as d
    join ${s}.parked as p on p.consumer = d.consumer and p.key = d.key and p.until = 'infinity'
    where d.consumer = ''`,
  ).gives<{ readonly number: number }>(),

  clock: prepared({}, 'select clock_timestamp() as now').gives<{ readonly now: Date }>(),
  connections: prepared(
    { prefix: text },
    `select count(*)::int as count from pg_stat_activity
    where datname = current_database() and starts_with(application_name, $prefix)`,
  ).gives<{ readonly count: number }>(),

  // Our own backends: those of one member, or of all of them. Others of the same user are not ours to end.
  terminate: prepared(
    { prefix: text },
    `select count(pg_terminate_backend(pid))::int as count from pg_stat_activity
    where datname = current_database() and pid <> pg_backend_pid() and starts_with(application_name, $prefix)`,
  ).gives<{ readonly count: number }>(),

  // A transaction with an id and a snapshot, which keeps watermarks and dead rows where they are.
  hold: `begin isolation level repeatable read;
    create temporary table if not exists held (); select pg_current_xact_id()`,

  // What a claimer has claimed and not settled.
  held: prepared(
    { worker: int },
    `select i.id from ${s}.inbox as i
    join ${s}.lane as l on l.consumer = i.consumer and l.lane = i.lane
    where i.lane < ${layout.lanes} and l.holder = $worker and i.seq <= l.reach
    union all
    select id from ${s}.inbox where lane >= ${layout.lanes} and holder = $worker`,
  ).gives<{ readonly id: string }>(),

  progress: prepared(
    {},
    `select (select count(*)::int from ${s}.soak_ledger) as published,
      (select count(distinct n)::int from ${s}.soak_effect) as handled,
      (select count(*)::int from ${s}.dead_letter as d
        where not exists (select from ${s}.soak_effect as e where e.id = d.id)) as dead`,
  ).gives<{ readonly published: number; readonly handled: number; readonly dead: number }>(),

  left: prepared(
    {},
    `select
      (select count(*)::int from ${s}.outbox) as outbox,
      (select count(*)::int from ${s}.inbox) as inbox,
      (select count(*)::int from ${s}.deferred) as deferred,
      (select count(*)::int from ${s}.parked_message) as parked,
      coalesce(extract(epoch from clock_timestamp() - least(
        (select min(published_at) from ${s}.outbox), (select min(received_at) from ${s}.inbox))), 0)::float8 as lag`,
  ).gives<Left>(),

  attempts: prepared(
    { txs: bigints, outcomes: texts, counts: ints, begun: bigints, ended: bigints },
    `insert into ${s}.soak_attempt select * from unnest($txs, $outcomes, $counts, $begun, $ended)`,
  ),
  reported: prepared(
    { ids: uuids, ats: bigints },
    `insert into ${s}.soak_reported select * from unnest($ids, $ats)`,
  ),
  away: prepared(
    { processes: texts, ids: uuids, attempts: ints, ats: bigints },
    `insert into ${s}.soak_away select * from unnest($processes, $ids, $attempts, $ats)`,
  ),

  // A restore takes back what was committed from a time to another one (`$from`, `$to`) of the monotonic clock. It may be there, if
  // it was just being committed when the dump was made; there or not, it is so as a whole.
  taken_back: prepared(
    { from: bigint, to: bigint },
    `update ${s}.soak_attempt set outcome = 'info' where outcome = 'ok' and ended > $from and begun < $to`,
  ),
  // What handlers without a transaction did around a restore (`$ids`), and wrote to the new server before their worker knew of it:
  // of messages that are gone, and of those that were handled once more, together with what had been handled before them in their
  // key.
  outlived: prepared(
    { ids: uuids },
    `delete from ${s}.soak_effect as e where e.plain and e.id = any ($ids)
      and (not exists (select from ${s}.soak_ledger as l where l.id = e.id)
        or exists (select from ${s}.soak_effect as again where again.n = e.n and again.serial > e.serial))`,
  ),
  unsaid: prepared(
    { from: bigint, to: bigint },
    `delete from ${s}.soak_reported where at > $from and at < $to`,
  ),

  // Before the checks: a million rows that the planner knows nothing of would be joined in loops.
  // Whoever still writes then has outlived the run: an error, and not a wait without an end.
  prepare: `set work_mem = '256MB'; set jit = off; set max_parallel_workers_per_gather = 2; set lock_timeout = '60s';
    create index on ${s}.soak_effect (at); create index on ${s}.soak_audit (previous) where previous is not null;
    analyze ${s}.soak_ledger; analyze ${s}.soak_effect; analyze ${s}.soak_audit; analyze ${s}.soak_attempt; analyze ${s}.soak_reported;
    analyze ${s}.seen; analyze ${s}.dead_letter; analyze ${s}.soak_place;
    -- How each message with a key was handled first, with what is known of its transaction. Of a handler without a
    -- transaction only the first call counts for the order: a later one that came too late says so by its fence.
    create temporary table walk as
    select l.id, hashtextextended(l.key, 0) as key, l.tx, l.at, l.locked, t.begun, f.serial,
      case when t.outcome = 'ok' then t.ended end as ended
    from (select n, min(serial) as serial from ${s}.soak_effect group by n) as f
    join ${s}.soak_ledger as l using (n)
    left join ${s}.soak_attempt as t using (tx)
    where l.key is not null;
    create index on walk (key); analyze walk`,

  counts: prepared(
    {},
    `select
      (select count(*)::int from ${s}.soak_ledger) as published,
      (select count(distinct n)::int from ${s}.soak_effect) as handled,
      (select count(*)::int from ${s}.dead_letter where consumer <> '') as dead,
      (select count(*)::int from ${s}.dead_letter where consumer = '') as refused,
      (select count(*)::int from ${s}.soak_duplicate) as duplicates,
      (select coalesce(sum(attempt - 1), 0)::int from ${s}.soak_effect) as repeats,
      (select count(*) - count(distinct n) from ${s}.soak_effect)::int as "repeatedEffects",
      stood.stalls, stood."takenForDead",
      (select count(*)::int from ${s}.soak_audit where op = 'lane' and previous is not null) as "laneTakeovers",
      (select count(*)::int from ${s}.soak_audit where op = 'claim') as "rowTakeovers",
      (select count(*)::int from ${s}.soak_attempt where outcome <> 'ok') as "failedPublishes",
      (select count(*)::int from ${s}.soak_attempt where outcome = 'info') as "openCommits"
    from (
      select count(*)::int as stalls, (count(*) filter (where exists (
          select from ${s}.worker as w
          where w.id = any (f.workers) and w.ended_by in ('lock', 'heartbeat', 'session')
            and w.ended_at between f.at and f.healed_at + interval '2 s'
        )))::int as "takenForDead"
      from ${s}.soak_fault as f
      -- It is over a little later than it was meant to be.
      where f.kind in ('freeze', 'stall') and cardinality(f.workers) > 0
        and f.healed_at - f.at between interval '500 ms' and interval '4100 ms'
    ) as stood`,
  ).gives<Counts>(),

  // From a fault until the last that its victims had held was somebody else's, if it was the death of them; or else from
  // its end until something was handled again. A worker that lives also loses lanes to others that join.
  recovery: prepared(
    {},
    `select f.kind, coalesce(
        extract(epoch from (
          select max(a.at) from ${s}.soak_audit as a join ${s}.worker as w on w.id = a.previous
          where a.previous = any (f.workers) and a.holder <> a.previous and a.at between f.at and f.at + interval '2 minutes'
            and w.ended_by in ('lock', 'heartbeat', 'session') and w.ended_at between f.at and f.healed_at + interval '30 seconds'
        ) - f.at),
        extract(epoch from (select min(e.at) from ${s}.soak_effect as e where e.at > f.healed_at) - f.healed_at)
      )::float8 * 1000 as ms
    from ${s}.soak_fault as f
    order by f.number`,
  ).gives<{ readonly kind: string; readonly ms: number | null }>(),

  checks: checks(s),

  life_of: prepared(
    { id: uuid },
    `select at, what from (
      select null::timestamptz as at, 0 as nr, 'ledger ' || row_to_json(l) as what from ${s}.soak_ledger as l where l.id = $id
      union all select e.at, 1, 'effect ' || row_to_json(e) from ${s}.soak_effect as e where e.id = $id
      union all select a.at, 2, 'audit ' || row_to_json(a) from ${s}.soak_audit as a where a.id = $id
      union all select d.died_at, 3, 'dead letter ' || json_build_object('attempt', d.attempt, 'reason', d.reason, 'errors', d.errors)
        from ${s}.dead_letter as d where d.id = $id
      union all select i.received_at, 4, 'still in the inbox ' || json_build_object('lane', i.lane, 'seq', i.seq,
        'attempt', i.attempt, 'holder', i.holder, 'fence', i.fence, 'lease_until', i.lease_until)
        from ${s}.inbox as i where i.id = $id
      union all select o.published_at, 5, 'still in the outbox ' || json_build_object('lane', o.lane, 'seq', o.seq,
        'attempt', o.attempt, 'errors', o.errors)
        from ${s}.outbox as o where o.id = $id
      union all select k.seen_at, 6, 'seen' from ${s}.seen as k where k.id = $id
      union all select null, p.serial, format('place %s of the %s, the %s. that was given', p.seq, p.box, p.serial)
        from ${s}.soak_place as p where p.id = $id
      union all select null, b.serial, format('the sequence of the %s had come to %s and was set back after place no. %s', b.box, b.stood, b.serial)
        from ${s}.soak_back as b where exists (select from ${s}.soak_place as p where p.id = $id)
    ) as lives order by at nulls first, nr`,
  ).gives<{ readonly at: Date | null; readonly what: string }>(),
}))
