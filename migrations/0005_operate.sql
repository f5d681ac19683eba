-- What an operator works with: who did what and why, recurring messages, and the repair of sequences after a restore.
--
-- Locks: none on existing tables. Old code: there is none.

-- What an operator did: with a message or with a key, a worker, a schedule, a subscription, or what is remembered. Rows are added and no more: no role of ours may change or delete one, or say
-- number, time and login. What has to go, goes through prune_audit() and erase_audit(), which leave word of it.
create table twinbox.audit (
  number bigint primary key generated always as identity,
  at timestamptz not null default clock_timestamp(),
  action text not null check (action in (
    'redrive', 'skip', 'prune', 'erase', 'evict', 'unsubscribe', 'set', 'remove', 'pause', 'resume')),
  -- What they call themselves, and who was logged in: a connection's user, whatever role it has taken.
  who text not null,
  login text not null default session_user,
  why text,
  consumer text collate "C" not null,
  topic text collate "C",
  key text collate "C",
  -- Of a dead letter: what it was, since a redriven one starts anew. Never the payload.
  id uuid,
  seq bigint,
  died_at timestamptz,
  attempt smallint,
  -- Of a dead letter why it died; of all else, what was changed: 'worker 42, ...', 'schedule daily', 'seen 17'. The key and the
  -- content of a schedule are left out, so that nothing of a person is here that erase_audit() does not find.
  reason text,
  errors jsonb
);

-- Serves the question what became of a message.
create index audit_id on twinbox.audit (id);

create index audit_at on twinbox.audit using brin (at) with (autosummarize = on);

-- Deletes up to so many rows of the audit that are older than that, of a consumer or of all, and returns how many. A row that is
-- written after them says who did it: whoever prunes all, is the one who is left.
--
-- With its owner's rights, as erase_audit(): an operator may not delete what an operator did.
create function twinbox.prune_audit(most integer, older_than interval, consumer text, who text, why text) returns bigint
  language plpgsql volatile security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  pruned bigint;
begin
  delete from twinbox.audit as a
  where a.ctid = any (array(
    select o.ctid from twinbox.audit as o
    where o.at < statement_timestamp() - prune_audit.older_than
      and (prune_audit.consumer is null or o.consumer = prune_audit.consumer)
    limit prune_audit.most
  ));
  get diagnostics pruned = row_count;
  if pruned > 0 then
    insert into twinbox.audit (action, who, why, consumer, reason)
    values ('prune', prune_audit.who, prune_audit.why, coalesce(prune_audit.consumer, ''), 'audit ' || pruned);
  end if;
  return pruned;
end
$$;

revoke all on function twinbox.prune_audit from public;

-- Takes key, reason and errors out of the rows of the audit that have this key or one of these ids, of a consumer and a topic or of
-- all, and returns of how many. Who, when, what and why stay, and the reason says whose session erased it. A row that somebody else
-- is at raises 55P03.
create function twinbox.erase_audit(key text, ids uuid[], consumer text, topic text) returns integer
  language plpgsql volatile security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  erased integer;
begin
  with found as materialized (
    select a.number from twinbox.audit as a
    where (a.key = erase_audit.key or a.id = any (erase_audit.ids))
      and (erase_audit.consumer is null or a.consumer = erase_audit.consumer)
      and (erase_audit.topic is null or a.topic = erase_audit.topic)
      and (a.key is not null or a.errors is not null or a.reason not like 'erased by %')
    for update nowait
  )
  update twinbox.audit as a set key = null, errors = null, reason = 'erased by ' || session_user::text
  from found as f where a.number = f.number;
  get diagnostics erased = row_count;
  return erased;
end
$$;

revoke all on function twinbox.erase_audit from public;

-- A recurring message.
create table twinbox.schedule (
  name text collate "C" primary key,
  cron text not null,
  time_zone text not null,
  -- What becomes of ticks that were missed by more than a minute.
  catch_up text not null check (catch_up in ('skip', 'one', 'all')),
  topic text collate "C" not null,
  key text collate "C",
  headers json,
  payload json,
  body bytea,
  content_type text,
  -- How long after its tick a message may still be handled.
  expires_ms double precision,
  -- The next tick. Moved in the transaction that publishes the message of the last one; null: there is none any more.
  next_at timestamptz,
  last_at timestamptz,
  paused_at timestamptz,
  created_at timestamptz not null default clock_timestamp(),
  updated_at timestamptz not null default clock_timestamp(),
  constraint payload_or_body check ((payload is null) <> (body is null))
) with (fillfactor = 50);

-- Serves whoever looks what is due, several times a second.
create index schedule_due on twinbox.schedule (next_at) where paused_at is null;

-- Sets the sequences forward that have fallen behind their tables, and has the lanes of these tables read from their beginning.
-- Returns the sequences that were set, and nothing if all is well. The roles of Twinbox may call it at any time.
--
-- A sequence goes back by a switch to a logical replica, which copies rows and not sequences, by some restores, and by a test
-- suite that truncates with RESTART IDENTITY. What is numbered from then on stands below what workers have long read, where they
-- never look, and a number that is still taken makes the insert fail.
--
-- With its owner's rights: of the roles that work here, none may set a sequence, since a sequence could be set back as well.
create function twinbox.mend_sequences() returns table (name text, stood_at bigint, set_to bigint)
  language plpgsql volatile security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  sequence regclass;
  needed bigint;
begin
  -- One at a time: the second one would set back what the first has set forward and publishers have drawn from since.
  perform pg_advisory_xact_lock('twinbox.dead_letter'::regclass::oid::int, 1);
  for name, sequence, needed in
    -- A message that waits elsewhere comes back to the place that it had. Of the tables, the last place of each lane is
    -- looked up in its index.
    select 'outbox', pg_get_serial_sequence('twinbox.outbox', 'seq')::regclass, greatest(
      (select max(l.watermark) from twinbox.lane as l where l.consumer = ''),
      (select max(m.seq) from generate_series(0, 63) as lane cross join lateral (
        select o.seq from twinbox.outbox as o where o.lane = lane.lane order by o.seq desc limit 1) as m),
      (select max(p.seq) from twinbox.parked_message as p where p.consumer = ''),
      (select max(d.seq) from twinbox.dead_letter as d where d.consumer = ''))
    union all
    select 'inbox', pg_get_serial_sequence('twinbox.inbox', 'seq')::regclass, greatest(
      (select max(l.watermark) from twinbox.lane as l where l.consumer <> ''),
      (select max(m.seq) from twinbox.lane as l cross join lateral (
        select i.seq from twinbox.inbox as i where i.consumer = l.consumer and i.lane = l.lane
        order by i.seq desc limit 1) as m where l.consumer <> ''),
      (select max(p.seq) from twinbox.parked_message as p where p.consumer <> ''),
      (select max(u.seq) from twinbox.unhandled as u),
      (select max(m.seq) from (select distinct l.consumer from twinbox.lane as l where l.consumer <> '') as l
        cross join lateral (select max(d.seq) as seq from twinbox.dead_letter as d where d.consumer = l.consumer) as m))
    union all
    select 'dead_letter', pg_get_serial_sequence('twinbox.dead_letter', 'number')::regclass,
      (select max(d.number) from twinbox.dead_letter as d)
    union all
    select 'audit', pg_get_serial_sequence('twinbox.audit', 'number')::regclass,
      (select max(a.number) from twinbox.audit as a)
    union all
    select 'worker', pg_get_serial_sequence('twinbox.worker', 'id')::regclass,
      (select max(w.id) from twinbox.worker as w)
  loop
    stood_at := coalesce(pg_sequence_last_value(sequence), 0);
    set_to := needed;
    if set_to > stood_at then
      perform setval(sequence, set_to);
      -- In the order in which workers lock them.
      update twinbox.lane as l set watermark = 0, lowered = l.lowered + 1
      from (
        select k.consumer, k.lane from twinbox.lane as k
        where name = 'outbox' and k.consumer = '' or name = 'inbox' and k.consumer <> ''
        order by k.consumer, k.lane
        for no key update
      ) as k
      where l.consumer = k.consumer and l.lane = k.lane;
      return next;
    end if;
  end loop;
end
$$;

revoke all on function twinbox.mend_sequences() from public;

insert into twinbox.migration (version, name, oldest_worker) values (5, 'operate', 5);
