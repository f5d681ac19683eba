-- A topic for which a claimer has no handler is nobody's failure: its messages wait apart, and each worker says which
-- topics are its, so that they go to a claimer that has one.
--
-- Locks: adds a column without a default, so worker is locked for a moment and not rewritten. Old code can run beside it:
-- it counts a missing handler as a failure, as it did, and is handed nothing that waits here.

-- The handlers of a claimer, what a receiver receives: names and patterns. Null: it has not said.
alter table twinbox.worker add column topics text[] collate "C";

-- A message of a consumer that waits for a claimer with a handler for its topic. Its lane does not see it, however many
-- there are. It comes back when a claimer takes the lane that names the topic: to where it stood, its seq is its place.
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
  -- Serves whoever looks which topics wait in a lane, and their return in order. The id, since a seq may be given out
  -- again after a restore.
  primary key (consumer, lane, topic, seq, id)
) with (autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 1000);

insert into twinbox.migration (version, name) values (8, 'unhandled');
