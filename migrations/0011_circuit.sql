-- A topic of a consumer pauses while what its handlers need is away: no attempt is counted, and one message at a time tries.
-- And a claimer says of a handler that does not end since when it runs.
--
-- Locks: adds columns without a default, so worker is locked for a moment and not rewritten. Old code can run beside it: its
-- claimers do not pause.

alter table twinbox.worker add column stuck_topic text collate "C";
alter table twinbox.worker add column stuck_since timestamptz;

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

insert into twinbox.migration (version, name) values (11, 'circuit');
