-- The inbox: messages that were received and are not yet handled, once per consumer.
--
-- A message's way through this file: a receiver (or, with the Postgres broker, a relay) writes its id to seen and, if
-- the id was new, one row to the inbox. A message with a key waits in its key's lane, which belongs to one claimer at a
-- time. A message without a key waits in a stripe, where a claimer takes a lease on the row itself. Completing a
-- message deletes its row.
--
-- Locks: none on existing tables. Old code can run beside it.

create table twinbox.inbox (
  seq bigint not null generated always as identity,
  received_at timestamptz not null default clock_timestamp(),
  published_at timestamptz,
  -- The lease on this row. Only stripes use it; lanes are leased as a whole. None of these columns may ever enter
  -- an index or a predicate of one: a claim is a HOT update only as long as they do not.
  lease_until timestamptz not null default '-infinity',
  holder integer,
  -- How often it was claimed, times 2^31, plus the worker that did.
  fence bigint not null default 0,
  -- The worker that failed with it, if somebody else shall have it next.
  avoid integer,
  -- How often the message has been claimed before; the running attempt is one more.
  attempt smallint not null default 0,
  -- 0 to 63: lanes, for messages with a key. 64 and up: stripes, for the others.
  lane smallint not null,
  -- As in the outbox: a claimer takes only so much at once.
  size integer not null generated always as (
    coalesce(octet_length(payload::text), octet_length(body)) + coalesce(octet_length(headers::text), 0)
  ) stored,
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
  -- Serves every claim: the head of a lane or of a stripe, oldest first. The only index.
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

-- The ids that a consumer has received inside the dedupe window.
create table twinbox.seen (
  seen_at timestamptz not null default clock_timestamp(),
  id uuid not null,
  consumer text collate "C" not null,
  primary key (consumer, id)
) with (autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 1000);

-- Serves the pruning of old ids; BRIN for the reason given at dedupe_expires_at.
create index seen_at on twinbox.seen using brin (seen_at) with (autosummarize = on);

-- Who gets what, for the Postgres broker: the other brokers keep their own bindings.
create table twinbox.subscription (
  consumer text collate "C" not null,
  pattern text collate "C" not null,
  created_at timestamptz not null default clock_timestamp(),
  primary key (consumer, pattern)
);

insert into twinbox.migration (version, name) values (2, 'inbox');
