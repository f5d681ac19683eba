-- The inbox: messages that were received and are not yet handled, once per consumer.
--
-- A message's way through this file: a receiver (or, with the Postgres broker, a relay) writes the message's id to seen and, if
-- the id was new, one row to the inbox. A message with a key waits in its key's lane, which belongs to one claimer at a time. A
-- message without a key waits in a partition, where a claimer takes a lease on the row itself. complete_one() deletes the row at the
-- end of the handler's transaction; complete_many() does so for several, and writes them to handled if a history is kept.
--
-- Locks: none on existing tables. Old code: there is none.

-- A message to be handled by one consumer.
create table twinbox.inbox (
  -- The order of arrival, which is the order of handling within a lane.
  seq bigint not null generated always as identity,
  received_at timestamptz not null default clock_timestamp(),
  published_at timestamptz,
  -- The lease on this row. Only partitions use it; lanes are leased as a whole. None of the columns from lease_until to attempt
  -- may ever enter an index or a predicate of one: a claim is a HOT update only as long as none does.
  lease_until timestamptz not null default '-infinity',
  holder integer,
  -- How often the row was claimed, times 2^31, plus the worker that claimed it.
  fence bigint not null default 0,
  -- The worker that failed with the message, if another worker shall have it next.
  avoid integer,
  -- How often the message has been claimed before; the running attempt is one more.
  attempt smallint not null default 0,
  -- 0 to 63: lanes, for messages with a key. 64 to 71: partitions, for messages without one.
  lane smallint not null,
  -- As in the outbox: a claimer takes a bounded number of bytes at once.
  size integer not null generated always as (
    coalesce(octet_length(payload::text), octet_length(body)) + coalesce(octet_length(headers::text), 0)
  ) stored,
  -- After this time the message is a dead letter rather than handled. Null: never.
  expires_at timestamptz,
  id uuid not null,
  consumer text collate "C" not null,
  topic text collate "C" not null,
  key text collate "C",
  headers json,
  payload json,
  body bytea,
  content_type text,
  errors jsonb,
  constraint payload_or_body check ((payload is null) <> (body is null)),
  -- Serves every claim: the head of a lane or of a partition, oldest first. The only index.
  primary key (consumer, lane, seq)
) with (
  -- Room on the page for the version that a claim writes.
  fillfactor = 50,
  autovacuum_vacuum_scale_factor = 0.01,
  autovacuum_vacuum_threshold = 1000,
  autovacuum_vacuum_insert_scale_factor = 0.05,
  autovacuum_vacuum_cost_delay = 0,
  autovacuum_analyze_scale_factor = 0,
  autovacuum_analyze_threshold = 50000
);

-- The id of a message that a consumer has received inside the dedupe window.
create table twinbox.seen (
  seen_at timestamptz not null default clock_timestamp(),
  id uuid not null,
  -- Of the message's content, to tell a redelivery from another message with the same id. A uuid, since that is 16 bytes without
  -- a length. Null if the id is that of a delivery that became a dead letter.
  digest uuid,
  consumer text collate "C" not null,
  primary key (consumer, id)
) with (autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 1000);

-- Serves the pruning of old ids; BRIN for the reason given at dedupe_expires_at.
create index seen_at on twinbox.seen using brin (seen_at) with (autosummarize = on);

-- What a consumer is subscribed to. The Postgres broker finds in these rows where a message goes; the other brokers keep
-- bindings of their own. The row stays when the subscription has ended: a receiver whose topics became narrower has to know
-- what it was bound to before, and the Postgres broker who has had enough of a topic.
create table twinbox.subscription (
  consumer text collate "C" not null,
  pattern text collate "C" not null,
  -- By its name.
  broker text collate "C" not null default 'postgres',
  created_at timestamptz not null default clock_timestamp(),
  -- Since when nobody wants it; null while somebody does.
  ended_at timestamptz,
  primary key (consumer, broker, pattern)
);

-- A message that was handled, if a claimer is told to keep a history. Without the payload.
create table twinbox.handled (
  number bigint not null generated always as identity,
  handled_at timestamptz not null default clock_timestamp(),
  received_at timestamptz,
  published_at timestamptz,
  id uuid not null,
  worker integer,
  attempt smallint not null,
  consumer text collate "C" not null,
  topic text collate "C" not null,
  key text collate "C",
  -- Serves the question what became of a message. The number too: after the dedupe window, a redelivery is handled again.
  primary key (id, number)
) with (autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 1000);

-- Serves pruning; BRIN for the reason given at dedupe_expires_at.
create index handled_at on twinbox.handled using brin (handled_at) with (autosummarize = on);

-- Completes a message at the end of its handler's transaction: if its fence is no longer the holder's, it raises TWX01, and what
-- the handler wrote is rolled back. By far the most frequent case, and at half the cost of the one below.
--
-- What was claimed on another server is not the holder's either, whatever its fence: a standby that has taken over, or a server
-- that was restored from a dump, gives the same fences out again, and has earlier messages of the key that were done elsewhere.
-- The server is named by its start and its tables. Whether it has crashed since need not be asked, which takes 5 us: a crash takes
-- back nothing of this key, since what a handler's transaction wrote was on the disk.
--
-- A function, since a handler's connection is not ours to set. The plan is made once per session, or planning would cost more
-- than completing; and the plan is an index scan even if the table was empty when it was made.
create function twinbox.complete_one(consumer text, lane smallint, seq bigint, fence bigint, id uuid, server text) returns void
  language plpgsql volatile
  set search_path = pg_catalog, pg_temp
  set enable_seqscan = off
  set enable_bitmapscan = off
  set plan_cache_mode = force_generic_plan
as $$
begin
  if not starts_with(complete_one.server,
    extract(epoch from pg_postmaster_start_time())::text || ' ' || 'twinbox.inbox'::regclass::oid::text || ' ')
  then
    raise exception using errcode = 'TWX01', message = 'The message was claimed on another server.';
  end if;
  delete from twinbox.inbox as i
  where i.consumer = complete_one.consumer and i.lane = complete_one.lane and i.seq = complete_one.seq
    and i.id = complete_one.id and case
      when complete_one.lane < 64 then exists (
        select from twinbox.lane as l
        where l.consumer = complete_one.consumer and l.lane = complete_one.lane and l.fence = complete_one.fence)
      else i.fence = complete_one.fence end;
  if not found then
    raise exception using errcode = 'TWX01', message = 'The message is held by somebody else.';
  end if;
end
$$;

-- The same for several, all of them or none. With a worker, a history is kept.
create function twinbox.complete_many(
  consumer text, lanes smallint[], seqs bigint[], fences bigint[], ids uuid[], attempts smallint[], worker integer, server text
) returns void
  language plpgsql volatile
  set search_path = pg_catalog, pg_temp
  set enable_seqscan = off
  set enable_bitmapscan = off
  set enable_hashjoin = off
  set enable_mergejoin = off
  set plan_cache_mode = force_generic_plan
as $$
declare
  completed bigint;
begin
  if not starts_with(complete_many.server,
    extract(epoch from pg_postmaster_start_time())::text || ' ' || 'twinbox.inbox'::regclass::oid::text || ' ')
  then
    raise exception using errcode = 'TWX01', message = 'Messages were claimed on another server.';
  end if;
  with gone as (
    delete from twinbox.inbox as i
    using unnest(complete_many.lanes, complete_many.seqs, complete_many.fences, complete_many.ids, complete_many.attempts)
      as a(lane, seq, fence, id, attempt)
    -- Not the consumer alone: a plan made while the table was empty would look through all that it has.
    where i.consumer = case when a.seq is not null then complete_many.consumer end
      and i.lane = a.lane and i.seq = a.seq and i.id = a.id and case
      when a.lane < 64 then exists (
        select from twinbox.lane as l
        where l.consumer = complete_many.consumer and l.lane = a.lane and l.fence = a.fence)
      else i.fence = a.fence end
    returning i.id, i.topic, i.key, i.received_at, i.published_at, a.attempt
  ),
  kept as (
    insert into twinbox.handled (consumer, id, topic, key, received_at, published_at, attempt, worker)
    select complete_many.consumer, id, topic, key, received_at, published_at, attempt, complete_many.worker
    from gone where complete_many.worker is not null
  )
  select count(*) into completed from gone;
  if completed < cardinality(complete_many.seqs) then
    raise exception using errcode = 'TWX01',
      message = format('%s of %s messages are held by somebody else.',
        cardinality(complete_many.seqs) - completed, cardinality(complete_many.seqs));
  end if;
end
$$;

revoke all on function twinbox.complete_one, twinbox.complete_many from public;

insert into twinbox.migration (version, name, oldest_worker) values (2, 'inbox', 2);
