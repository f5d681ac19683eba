-- Messages that are not ready: waiting for a time or for a handler, held back behind a failed one of their key, or given up on.
--
-- They live apart from the outbox and the inbox, so that the heads of those two hold only what is ready or in flight. In all
-- tables the consumer '' means the outbox.
--
-- Locks: none on existing tables. Old code: there is none.

-- A message that waits for a time: a delayed publish, or a message without a key until the pause after a failure ends.
create table twinbox.deferred (
  due_at timestamptz not null,
  seq bigint not null generated always as identity,
  id uuid not null,
  received_at timestamptz,
  published_at timestamptz,
  expires_at timestamptz,
  -- The worker that failed with the message, if another worker shall have it next.
  avoid integer,
  attempt smallint not null default 0,
  -- The outbox, unless somebody says otherwise; a publisher has no right to.
  consumer text collate "C" not null default '',
  topic text collate "C" not null,
  key text collate "C",
  -- Of a delayed publish, so that the dedupe key is free again when the message is cancelled.
  dedupe_key text collate "C",
  headers json,
  payload json,
  body bytea,
  content_type text,
  errors jsonb,
  -- As the outbox and the inbox have it: otherwise they would refuse the row when it is due, and with it all that is due then.
  constraint payload_or_body check ((payload is null) <> (body is null)),
  -- Of the outbox, what the outbox itself asks for, and times that a relay can read. What a consumer received is others' to say.
  constraint message check (
    isfinite(due_at) and (consumer <> ''
      or due_at::twinbox.finite_time is not null
      and (dedupe_key is null or octet_length(dedupe_key) between 1 and 512)
      -- A cast raises what a domain refuses, so nothing is left to compare.
      and num_nulls(topic::twinbox.topic_name, key::twinbox.key_text, headers::twinbox.message_headers,
        content_type::twinbox.media_type, published_at::twinbox.finite_time, expires_at::twinbox.finite_time,
        (coalesce(octet_length(payload::text), octet_length(body)) + coalesce(octet_length(headers::text), 0))::twinbox.byte_count) >= 0)
  ),
  -- Serves the promotion of what is due, soonest first.
  primary key (consumer, due_at, seq)
) with (autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 1000);

-- Serves cancelling. Retries of a consumer do not pay for it.
create index deferred_id on twinbox.deferred (id) where consumer = '';

-- Takes back a delayed message that is not due yet, by its id or by its topic and dedupe key, and frees its dedupe key. False if
-- there is none that still waits. What is being promoted at this moment is waited for, and then it is too late. Raises SQLSTATE
-- 22023 unless given one of the two.
--
-- With its owner's rights: whoever cancels may neither read dedupe keys nor touch what a consumer's or a relay's failure has deferred.
create function twinbox.cancel(id uuid default null, topic text default null, dedupe_key text default null) returns boolean
  language plpgsql volatile security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  cancelled boolean;
begin
  if (id is null) = (topic is null) or (topic is null) <> (dedupe_key is null) then
    raise exception 'twinbox.cancel: give either id, or topic and dedupe_key' using errcode = '22023';
  end if;
  -- Several, if somebody has published under the id of another one: an id is a publisher's to say.
  with gone as (
    delete from twinbox.deferred as d
    where d.consumer = '' and d.attempt = 0 and d.id = coalesce(cancel.id, (
      select k.id from twinbox.dedupe as k where k.topic = cancel.topic and k.dedupe_key = cancel.dedupe_key))
    returning d.topic, d.dedupe_key, d.id
  ),
  freed as (
    delete from twinbox.dedupe as k using gone as g
    where k.topic = g.topic and k.dedupe_key = g.dedupe_key and k.id = g.id
  )
  select exists (select from gone) into cancelled;
  return cancelled;
end
$$;

revoke all on function twinbox.cancel from public;

-- A key that is held back, and why: its failed message and all later ones wait in parked_message, other keys go on.
create table twinbox.parked (
  -- 'infinity': until an operator redrives or skips.
  until timestamptz not null,
  since timestamptz not null default clock_timestamp(),
  -- Messages of the key up to here are back in their lane and may be handled; later ones go on waiting.
  released_to bigint not null default 0,
  -- The place of the message that the key is held back behind: among the dead letters, or the first that waits.
  blocker bigint,
  lane smallint not null,
  consumer text collate "C" not null,
  key text collate "C" not null,
  reason text not null,
  -- Serves the lane's holder, who has to know the parked keys of its lanes.
  primary key (consumer, lane, key)
) with (fillfactor = 50);

-- Serves the lane's holder, who looks for keys that may go on: of 100,000 that wait for an operator it reads none.
create index parked_due on twinbox.parked (consumer, lane, until) where until < 'infinity';

-- A message of a parked key, which waits until the key is released. Its seq is its place in the lane.
create table twinbox.parked_message (
  seq bigint not null,
  id uuid not null,
  received_at timestamptz,
  published_at timestamptz,
  expires_at timestamptz,
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
  -- Serves the release of a key, in order. The id, since a seq may be given out again after a restore.
  primary key (consumer, lane, key, seq, id)
) with (autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 1000);

-- How many messages wait in the outbox, delayed and parked ones included, counted up to `most`.
--
-- With its owner's rights: a publisher may not read what waits, but be told when it is too much.
create function twinbox.pending(most integer) returns integer
  language sql stable security definer
  set search_path = pg_catalog, pg_temp
as $$
  select count(*)::int from (
    select from twinbox.outbox
    union all select from twinbox.deferred where consumer = ''
    union all select from twinbox.parked_message where consumer = ''
    limit most
  ) as m
$$;

revoke all on function twinbox.pending from public;

-- A message that is not tried again until it is redriven.
create table twinbox.dead_letter (
  number bigint primary key generated always as identity,
  died_at timestamptz not null default clock_timestamp(),
  id uuid not null,
  received_at timestamptz,
  published_at timestamptz,
  expires_at timestamptz,
  -- The place in its lane, for a redrive in order. 0: a delivery that was no message had no place.
  seq bigint not null default 0,
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

-- Serves redriving, in the order in which the messages arrived.
create index dead_letter_place on twinbox.dead_letter (consumer, seq, number);

-- Serves the same for one key, and finds out whether a key is still held back behind a dead letter.
create index dead_letter_key on twinbox.dead_letter (consumer, key, seq, number) where key is not null;

-- Serves the question what became of a message.
create index dead_letter_id on twinbox.dead_letter (id);

-- Serves pruning, if dead letters are not to be kept for ever.
create index dead_letter_died_at on twinbox.dead_letter using brin (died_at) with (autosummarize = on);

-- A message that waits for a claimer with a handler for its topic: a missing handler is nobody's failure. Its lane does not see
-- the message, however many there are. The message comes back when a claimer takes the lane that names the topic: to the place
-- where it stood, its seq.
create table twinbox.unhandled (
  seq bigint not null,
  id uuid not null,
  received_at timestamptz not null,
  published_at timestamptz,
  expires_at timestamptz,
  attempt smallint not null default 0,
  -- 64 for all that have no key: they are taken one by one.
  lane smallint not null,
  size integer not null generated always as (
    coalesce(octet_length(payload::text), octet_length(body)) + coalesce(octet_length(headers::text), 0)
  ) stored,
  consumer text collate "C" not null,
  topic text collate "C" not null,
  key text collate "C",
  headers json,
  payload json,
  body bytea,
  content_type text,
  errors jsonb,
  -- Serves whoever looks which topics wait in a lane, and their return in order. The id, since a seq may be given out again
  -- after a restore.
  primary key (consumer, lane, topic, seq, id)
) with (autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 1000);

-- A topic of a consumer that pauses while what its handlers need is away: no attempt is counted, and one message at a time tries.
create table twinbox.circuit (
  opened_at timestamptz not null default clock_timestamp(),
  -- When the next message may try, whichever claimer has it.
  probe_at timestamptz not null,
  probes int not null default 0,
  consumer text collate "C" not null,
  topic text collate "C" not null,
  -- The code or class of the errors, and the last of them.
  reason text not null,
  error text not null,
  primary key (consumer, topic)
) with (fillfactor = 50);

insert into twinbox.migration (version, name, oldest_worker) values (4, 'failure', 4);
