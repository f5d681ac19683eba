-- What an operator works with: dead letters in order, who did what and why, delayed and recurring messages, history.
--
-- Locks: adds columns without a default that is not a constant, so each table is locked for a moment and not rewritten;
-- the indexes are on tables that hold what failed. Old code can run beside it, but does not carry expires_at on.

-- After this, a message is a dead letter rather than handled. Null: never.
alter table twinbox.outbox add column expires_at timestamptz;
alter table twinbox.inbox add column expires_at timestamptz;
alter table twinbox.parked_message add column expires_at timestamptz;
alter table twinbox.dead_letter add column expires_at timestamptz;
alter table twinbox.deferred add column expires_at timestamptz;

-- Of a delayed message, so that its key is free again when it is cancelled.
alter table twinbox.deferred add column dedupe_key text collate "C";

-- Serves cancelling. Retries of a consumer do not pay for it.
create index deferred_id on twinbox.deferred (id) where consumer = '';

-- The place of the message that the key is held back behind: among the dead letters, or the first that waits.
alter table twinbox.parked add column head bigint;

-- Serves the lane's holder, who looks for keys that may go on: of 100,000 that wait for an operator it reads none.
create index parked_due on twinbox.parked (consumer, lane, until) where until < 'infinity';

-- A delivery that was no message had no place in a lane.
update twinbox.dead_letter set seq = 0 where seq is null;
alter table twinbox.dead_letter alter column seq set default 0, alter column seq set not null;

-- Serves redriving, in the order in which the messages arrived.
create index dead_letter_place on twinbox.dead_letter (consumer, seq, number);

-- Serves the same for one key, and finds out whether a key is still held back behind a dead letter.
create index dead_letter_key on twinbox.dead_letter (consumer, key, seq, number) where key is not null;

create index dead_letter_id on twinbox.dead_letter (id);

-- Serves pruning, if dead letters are not to be kept for ever.
create index dead_letter_died_at on twinbox.dead_letter using brin (died_at) with (autosummarize = on);

-- What operators did: one row per message or key.
create table twinbox.audit (
  number bigint primary key generated always as identity,
  at timestamptz not null default clock_timestamp(),
  action text not null check (action in ('redrive', 'skip', 'prune')),
  who text not null,
  why text,
  consumer text collate "C" not null,
  topic text collate "C",
  key text collate "C",
  -- Of a dead letter: what it was, since a redriven one starts anew. Never the payload.
  id uuid,
  seq bigint,
  died_at timestamptz,
  attempt smallint,
  reason text,
  errors jsonb
);

-- Serves the question what became of a message.
create index audit_id on twinbox.audit (id);

create index audit_at on twinbox.audit using brin (at) with (autosummarize = on);

-- Messages that were handled, if a claimer is told to keep them. Without the payload.
create table twinbox.handled (
  handled_at timestamptz not null default clock_timestamp(),
  received_at timestamptz,
  published_at timestamptz,
  id uuid not null,
  worker integer,
  attempt smallint not null,
  consumer text collate "C" not null,
  topic text collate "C" not null,
  key text collate "C"
) with (autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 1000);

-- Not unique: after the dedupe window, a redelivery is handled again.
create index handled_id on twinbox.handled (id);

-- Serves pruning; BRIN for the reason given at dedupe_expires_at.
create index handled_at on twinbox.handled using brin (handled_at) with (autosummarize = on);

-- Completes messages at the end of their handler's transaction, all of them or none: if the fence of one is no longer
-- the holder's, it raises TWX01, and what the handler wrote is rolled back. With a worker, a history is kept.
--
-- A function, since a handler's connection is not ours to set: the plan is made once per session, or planning would cost
-- more than completing, and is an index scan even if the table was empty then.
create function twinbox.complete(
  consumer text, lanes smallint[], seqs bigint[], fences bigint[], ids uuid[], attempts smallint[], worker integer
) returns void
  language plpgsql volatile
  set enable_seqscan = off
  set enable_bitmapscan = off
  set enable_hashjoin = off
  set enable_mergejoin = off
  set plan_cache_mode = force_generic_plan
as $$
declare
  completed bigint;
begin
  -- By far the most frequent case, at half the cost.
  if cardinality(complete.seqs) = 1 and complete.worker is null then
    delete from twinbox.inbox as i
    where i.consumer = complete.consumer and i.lane = complete.lanes[1] and i.seq = complete.seqs[1]
      and i.id = complete.ids[1] and case
        when complete.lanes[1] < 64 then exists (
          select from twinbox.lane as l
          where l.consumer = complete.consumer and l.lane = complete.lanes[1] and l.fence = complete.fences[1])
        else i.fence = complete.fences[1] end;
    if not found then
      raise exception using errcode = 'TWX01', message = 'The message is held by somebody else.';
    end if;
    return;
  end if;
  with gone as (
    delete from twinbox.inbox as i
    using unnest(complete.lanes, complete.seqs, complete.fences, complete.ids, complete.attempts)
      as a(lane, seq, fence, id, attempt)
    -- Not the consumer alone: a plan made while the table was empty would look through all that it has.
    where i.consumer = case when a.seq is not null then complete.consumer end
      and i.lane = a.lane and i.seq = a.seq and i.id = a.id and case
      when a.lane < 64 then exists (
        select from twinbox.lane as l
        where l.consumer = complete.consumer and l.lane = a.lane and l.fence = a.fence)
      else i.fence = a.fence end
    returning i.id, i.topic, i.key, i.received_at, i.published_at, a.attempt
  ),
  kept as (
    insert into twinbox.handled (consumer, id, topic, key, received_at, published_at, attempt, worker)
    select complete.consumer, id, topic, key, received_at, published_at, attempt, complete.worker
    from gone where complete.worker is not null
  )
  select count(*) into completed from gone;
  if completed < cardinality(complete.seqs) then
    raise exception using errcode = 'TWX01',
      message = format('%s of %s messages are held by somebody else.',
        cardinality(complete.seqs) - completed, cardinality(complete.seqs));
  end if;
end
$$;

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

-- Publishes a message in the current transaction, for triggers, psql and services in other languages.
--
-- Exactly one of payload and body is given. With deliver_at or delay it is sent when that time has come; it is not handled
-- after expires_at. A second publish of the same topic and dedupe_key inside dedupe_window writes nothing and returns the
-- id of the first, with duplicate = true. Raises SQLSTATE 22023 for bad input.
create function twinbox.publish(
  topic text,
  payload json default null,
  key text default null,
  headers json default null,
  dedupe_key text default null,
  dedupe_window interval default '7 days',
  body bytea default null,
  content_type text default null,
  deliver_at timestamptz default null,
  delay interval default null,
  expires_at timestamptz default null,
  out id uuid,
  out duplicate boolean
)
  language plpgsql volatile
  set search_path = twinbox, pg_temp
as $$
#variable_conflict use_column
declare
  new_id uuid := new_id();
  sound boolean;
  due_at timestamptz := coalesce(publish.deliver_at, clock_timestamp() + publish.delay);
  latest timestamptz := clock_timestamp() + interval '3650 days';
begin
  if topic is null or topic !~ '^[A-Za-z0-9._-]{1,249}$' or topic in ('.', '..') then
    raise exception 'twinbox.publish: topic must be 1 to 249 characters of A-Z a-z 0-9 . _ -' using errcode = '22023';
  end if;
  if (payload is null) = (body is null) then
    raise exception 'twinbox.publish: give either payload or body' using errcode = '22023',
      hint = 'For a message that has nothing to say, the payload is ''null''::json.';
  end if;
  if coalesce(octet_length(payload::text), octet_length(body)) > 1048576 then
    raise exception 'twinbox.publish: the payload has more than 1048576 bytes, the limit' using errcode = '22023';
  end if;
  if key = '' or octet_length(key) > 255 then
    raise exception 'twinbox.publish: key must have 1 to 255 bytes, or be null' using errcode = '22023';
  end if;
  if dedupe_key = '' or octet_length(dedupe_key) > 512 then
    raise exception 'twinbox.publish: dedupe_key must have 1 to 512 bytes, or be null' using errcode = '22023';
  end if;
  if dedupe_key is not null
    and (dedupe_window between interval '1 second' and interval '3650 days') is not true then
    raise exception 'twinbox.publish: dedupe_window must be between 1 second and 3650 days' using errcode = '22023';
  end if;
  if content_type is not null and (
    case when body is null then content_type <> 'application/json'
      else length(content_type) > 100
        or content_type !~ '^[A-Za-z0-9!#$&^_.+-]+/[A-Za-z0-9!#$&^_.+-]+( *; *[^\s;[:cntrl:]]+)*$'
    end
  ) then
    raise exception 'twinbox.publish: content_type must be a media type of at most 100 characters, and goes with body'
      using errcode = '22023';
  end if;
  if headers is not null then
    begin
      select json_typeof(headers) = 'object' and octet_length(headers::text) <= 16384 and count(*) <= 64
        and bool_and(
          json_typeof(header.raw) = 'string'
          and header.key ~ '^[A-Za-z0-9!#$%&''*+.^_`|~-]{1,100}$'
          and header.key !~* '^(ce_|cloudevents|twinbox|x-twinbox|__proto__$)'
          and header.value !~ '[\r\n]'
        ) is not false
      into sound
      from rows from (json_each_text(headers), json_each(headers)) as header (key, value, raw_key, raw);
    exception
      -- No object, \u0000, or half a surrogate pair.
      when data_exception then sound := false;
    end;
    if not sound then
      raise exception 'twinbox.publish: headers must be a JSON object of at most 64 strings and 16384 bytes'
        using errcode = '22023', hint = 'Names are 1 to 100 characters of HTTP header names and not ours (ce_, '
          'cloudevents, twinbox); values have no line breaks.';
    end if;
  end if;

  if publish.deliver_at is not null and publish.delay is not null then
    raise exception 'twinbox.publish: give either deliver_at or delay' using errcode = '22023';
  end if;
  if publish.delay < interval '0' or due_at > latest or due_at = '-infinity' then
    raise exception 'twinbox.publish: deliver_at and delay must end within 3650 days, and delay may not be negative'
      using errcode = '22023';
  end if;
  if publish.expires_at <= greatest(clock_timestamp(), due_at) or publish.expires_at > latest then
    raise exception 'twinbox.publish: expires_at must be within 3650 days, and after the message can be sent'
      using errcode = '22023';
  end if;
  -- The transaction's id is assigned before the row's seq is drawn. The relay's lower bound depends on it: see
  -- src/leases/floor.ts.
  perform pg_current_xact_id();
  -- Relays that sleep are woken, and none falls asleep before this is committed: see src/database/sql/sleep.ts.
  perform pg_notify(current_schema(), '')
  where not pg_try_advisory_xact_lock_shared('migration'::regclass::oid::int, hashtext(''));

  id := new_id;
  duplicate := false;
  if publish.dedupe_key is not null then
    insert into dedupe as known (topic, dedupe_key, id, expires_at)
    values (publish.topic, publish.dedupe_key, new_id, clock_timestamp() + dedupe_window)
    on conflict (topic, dedupe_key) do update set
      id = case when known.expires_at <= clock_timestamp() then excluded.id else known.id end,
      expires_at = case when known.expires_at <= clock_timestamp() then excluded.expires_at else known.expires_at end
    returning known.id into publish.id;
    duplicate := publish.id <> new_id;
  end if;
  if publish.body is not null then
    content_type := coalesce(publish.content_type, 'application/octet-stream');
  else
    content_type := null;
  end if;
  if duplicate then
    return;
  elsif due_at > clock_timestamp() then
    insert into deferred (
      due_at, published_at, dedupe_key, id, topic, key, headers, payload, body, content_type, expires_at
    )
    values (
      due_at, due_at, publish.dedupe_key, new_id, publish.topic, publish.key, publish.headers, publish.payload,
      publish.body, publish.content_type, publish.expires_at
    );
  else
    insert into outbox (lane, id, topic, key, headers, payload, body, content_type, expires_at)
    values (
      coalesce(lane_of(publish.key), floor(random() * 64)::smallint),
      new_id, publish.topic, publish.key, publish.headers, publish.payload, publish.body, publish.content_type,
      publish.expires_at
    );
  end if;
end
$$;

insert into twinbox.migration (version, name) values (5, 'operate');
