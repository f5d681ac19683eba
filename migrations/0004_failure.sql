-- Messages that are not ready: waiting for a time, held back behind a failed one of their key, or given up on.
--
-- They live apart from the outbox and the inbox so that the heads of those hold only what is ready or in hand. In all
-- four tables the consumer '' means the outbox.
--
-- Locks: none on existing tables. Old code can run beside it.

-- A message without a key, until its backoff ends.
create table twinbox.deferred (
  due_at timestamptz not null,
  seq bigint not null generated always as identity,
  id uuid not null,
  received_at timestamptz,
  published_at timestamptz,
  -- The worker that failed with it, if somebody else shall have it next.
  avoid integer,
  attempt smallint not null default 0,
  -- The outbox, unless somebody says otherwise; a publisher has no right to.
  consumer text collate "C" not null default '',
  topic text collate "C" not null,
  key text collate "C",
  headers json,
  payload json,
  body bytea,
  content_type text,
  errors jsonb,
  -- Serves the promotion of what is due, soonest first.
  primary key (consumer, due_at, seq)
) with (autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 1000);

-- A key that is held back: its failed message and all later ones wait in parked_message, other keys go on.
create table twinbox.parked (
  -- 'infinity': until an operator redrives or skips.
  until timestamptz not null,
  since timestamptz not null default clock_timestamp(),
  -- Messages of the key up to here are back in their lane and may be handled; later ones go on waiting.
  released_to bigint not null default 0,
  lane smallint not null,
  consumer text collate "C" not null,
  key text collate "C" not null,
  reason text not null,
  -- Serves the lane's holder, who has to know the parked keys of its lanes.
  primary key (consumer, lane, key)
) with (fillfactor = 50);

create table twinbox.parked_message (
  seq bigint not null,
  id uuid not null,
  received_at timestamptz,
  published_at timestamptz,
  attempt smallint not null default 0,
  lane smallint not null,
  consumer text collate "C" not null,
  key text collate "C" not null,
  topic text collate "C" not null,
  headers json,
  payload json,
  body bytea,
  content_type text,
  errors jsonb,
  -- Serves the release of a key, in order.
  primary key (consumer, lane, key, seq)
) with (autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 1000);

-- A message that is not tried again until it is redriven.
create table twinbox.dead_letter (
  number bigint primary key generated always as identity,
  died_at timestamptz not null default clock_timestamp(),
  id uuid not null,
  received_at timestamptz,
  published_at timestamptz,
  -- Where it stood in its lane, for a redrive in order.
  seq bigint,
  attempt smallint not null,
  consumer text collate "C" not null,
  topic text collate "C" not null,
  key text collate "C",
  headers json,
  payload json,
  body bytea,
  content_type text,
  reason text not null,
  errors jsonb
);

insert into twinbox.migration (version, name) values (4, 'failure');
