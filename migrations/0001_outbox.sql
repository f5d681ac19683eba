-- The outbox: messages that were committed and are not yet sent.
--
-- A message's way through this file: publish() writes one row, in the caller's transaction; a relay reads the heads of
-- the lanes that it holds, hands them to the broker, and deletes what the broker confirmed. No row is ever updated, so
-- a message costs one insert and one delete, and one index entry.
--
-- Locks: none on existing tables. Old code: there is none.
-- "twinbox" in this file is the schema; "twinbox migrate --schema NAME" puts another one in its place.

create schema if not exists twinbox;

create table twinbox.migration (
  version integer primary key,
  name text not null,
  applied_at timestamptz not null default clock_timestamp()
);

-- Which lane a key belongs to: 0 to 63. The one place that decides it, so that publishers in any language agree.
create function twinbox.lane_of(key text) returns smallint
  language sql immutable strict parallel safe
  return (hashtextextended(key, 0) & 63)::smallint;

create table twinbox.outbox (
  -- The order of insertion, which is the order of sending within a lane. CACHE 1 (the default) matters: with a cache,
  -- a later transaction could draw an earlier number.
  seq bigint not null generated always as identity,
  published_at timestamptz not null default clock_timestamp(),
  id uuid not null,
  -- A key's own lane; any lane for a message without a key.
  lane smallint not null,
  attempt smallint not null default 0,
  -- In bytes, as it is read: a relay takes only so much at once. On disk it may be packed a hundred times as tight, and
  -- finding out would mean to unpack it.
  size integer not null generated always as (
    coalesce(octet_length(payload::text), octet_length(body)) + coalesce(octet_length(headers::text), 0)
  ) stored,
  topic text collate "C" not null,
  key text collate "C",
  headers json,
  -- json rather than jsonb: what was published goes out byte for byte, "\u0000", 1e400 and long numbers included.
  payload json,
  body bytea,
  content_type text,
  errors jsonb,
  constraint payload_or_body check ((payload is null) <> (body is null)),
  -- Serves the relay: the heads of its lanes, oldest first. The only index.
  primary key (lane, seq)
) with (
  autovacuum_vacuum_scale_factor = 0.01,
  autovacuum_vacuum_threshold = 1000,
  autovacuum_vacuum_insert_scale_factor = 0.05,
  autovacuum_vacuum_cost_delay = 0,
  autovacuum_analyze_scale_factor = 0,
  autovacuum_analyze_threshold = 50000
);

-- A publisher's dedupe keys inside their window, apart from the messages: a message is gone in milliseconds, its
-- identity has to be known for days.
create table twinbox.dedupe (
  expires_at timestamptz not null,
  id uuid not null,
  topic text collate "C" not null,
  dedupe_key text collate "C" not null,
  primary key (topic, dedupe_key)
) with (
  fillfactor = 90,
  autovacuum_vacuum_scale_factor = 0.01,
  autovacuum_vacuum_threshold = 1000
);

-- Serves the pruning of expired keys. BRIN, since rows come in the order of time: a btree would cost each publish a
-- second index entry for what is read once a minute.
create index dedupe_expires_at on twinbox.dedupe using brin (expires_at) with (autosummarize = on);

-- A UUID version 7 (RFC 9562), for publishers in SQL. Postgres has its own from 18 on.
create function twinbox.new_id() returns uuid
  language sql volatile parallel safe
  return encode(
    set_bit(set_bit(
      overlay(
        uuid_send(gen_random_uuid())
        placing substring(int8send((extract(epoch from clock_timestamp()) * 1000)::bigint) from 3)
        from 1 for 6
      ), 52, 1), 53, 1),
    'hex')::uuid;

insert into twinbox.migration (version, name) values (1, 'outbox');
