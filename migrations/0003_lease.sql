-- Who may work on what: workers, and the lanes that they hold.
--
-- A worker registers here and beats once a second. It takes its share of the lanes by writing its id into them and raising
-- their fence; every write that the worker makes for a lane names the fence that it got. When a worker dies, its leases lapse,
-- or a survivor finds it dead first and says in its row who shall have what it held. The next holder raises the fence again,
-- and the dead worker's late writes touch nothing.
--
-- Locks: none on existing tables. Old code: there is none.

-- A worker: one running relay, receiver or claimer. The row stays for a while when the worker has ended.
create table twinbox.worker (
  id integer primary key generated always as identity,
  kind text not null check (kind in ('relay', 'receiver', 'claimer')),
  consumer text collate "C" not null,
  host text not null,
  pid integer not null,
  version text not null,
  started_at timestamptz not null default clock_timestamp(),
  beat_at timestamptz not null default clock_timestamp(),
  -- The application_name of its connections, so that those of a dead worker can be closed: a transaction that a frozen process
  -- left open would hold up whoever continues its work.
  application text not null,
  -- Who was logged in. No role of ours may say it, so a row ends nobody's sessions but those of the user who wrote it.
  login text not null default session_user,
  -- Set if the worker's session holds the advisory lock (the table's oid, the worker's id): then its process is gone as soon
  -- as the lock is. The value is the start of the server that the lock was taken on, since a restart or a failover frees all
  -- locks and kills nobody. Null behind a pooler that shares sessions.
  locked_on timestamptz,
  -- What the worker shows elsewhere for as long as it lives, as a session of ZooKeeper, by which those who look there know it again.
  -- Null while it shows nothing: then nobody may take its absence for a death.
  sign text collate "C",
  -- What it works on: messages in flight; topics and patterns of its handlers or of its receiver, null if it has not said; of a
  -- handler that does not end, the topic and since when it runs; of the busiest topics, how many messages a second it has sent or
  -- handled in the ten seconds before its heartbeat; and of a broker that a relay cannot reach, why and since when.
  in_flight integer not null default 0,
  topics text[] collate "C",
  busy_topics text[] collate "C" not null default '{}',
  busy_rates double precision[] not null default '{}',
  stuck_topic text collate "C",
  stuck_since timestamptz,
  broker_error text,
  broker_down_since timestamptz,
  -- Set when the worker stopped by itself, was found dead or was evicted. A worker that finds an end in its own row has been
  -- given up on.
  ended_at timestamptz,
  ended_by text check (ended_by in ('stop', 'lock', 'heartbeat', 'session', 'evict')),
  -- Until reserved_until, what the worker held belongs to these: a lane to the worker at the lane's number (from 0), a row to
  -- the worker at seq modulo the length. Null: to whoever comes first.
  lane_assignees integer[],
  row_assignees integer[],
  reserved_until timestamptz
) with (fillfactor = 10, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500);

-- A worker's row is written by those who may do what a worker of its kind does: a receiver that could write a claimer's could end all
-- claimers. Those that have ended are deleted by whoever may delete.
create function twinbox.own_kind() returns trigger
  language plpgsql
  set search_path = pg_catalog, pg_temp
as $$
begin
  if tg_op = 'DELETE' and old.ended_at is not null then
    return old;
  end if;
  if not (case coalesce(new.kind, old.kind)
    when 'relay' then has_table_privilege('twinbox.outbox', 'delete')
    when 'receiver' then has_table_privilege('twinbox.seen', 'insert')
    else has_table_privilege('twinbox.inbox', 'delete')
  end) then
    raise exception 'The user % may not do what a % does, and so writes no row of one', current_user, coalesce(new.kind, old.kind)
      using errcode = 'insufficient_privilege';
  end if;
  return coalesce(new, old);
end
$$;

revoke all on function twinbox.own_kind from public;

create trigger own_kind before insert or update or delete on twinbox.worker
  for each row execute function twinbox.own_kind();

-- A lane of the outbox or of one consumer's inbox, and who holds it. None of the columns but the key may ever enter an index.
create table twinbox.lane (
  -- '' is the outbox, anything else a consumer of the inbox.
  consumer text collate "C" not null,
  lane smallint not null,
  -- The worker that holds the lane, and when it took the lane.
  holder integer,
  since timestamptz,
  -- Rises with every change of the holder, and never falls.
  fence bigint not null default 0,
  lease_until timestamptz not null default '-infinity',
  -- No message of this lane at or below this seq exists or can still appear. Reads start above the watermark, or they would visit
  -- every dead row since the oldest open transaction began.
  watermark bigint not null default 0,
  -- How often messages have come back below the watermark. A renewal that was sent before and arrives after may not raise the
  -- watermark over them again.
  lowered integer not null default 0,
  -- The highest seq that the holder has in flight. If the holder dies, the messages up to here have been attempted.
  reach bigint not null default 0,
  -- The seqs that the holder has in flight beyond its reach, which it has read past a hot key. Null if there are none.
  past bigint[],
  primary key (consumer, lane)
) with (fillfactor = 10, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500);

insert into twinbox.lane (consumer, lane) select '', generate_series(0, 63);

-- Since when the server runs without a crash: one row, or none after a crash. Unlogged, since that is the meaning: a crash
-- empties the table, and whoever asks next writes another mark. A clean stop keeps the mark.
create unlogged table twinbox.incarnation (
  mark uuid not null,
  one boolean primary key default true check (one)
);

-- Reads the mark, or writes one. Null on a server that has no mark and cannot be written. A function, since a standby refuses
-- any statement that so much as names an unlogged table.
create function twinbox.incarnation() returns uuid
  language plpgsql volatile
  set search_path = pg_catalog, pg_temp
as $$
declare
  found uuid;
begin
  if pg_is_in_recovery() then
    return null;
  end if;
  select i.mark into found from twinbox.incarnation as i;
  if found is null and current_setting('transaction_read_only') = 'off' then
    -- Of two who find it empty the second waits for the first, and reads what that one has written.
    insert into twinbox.incarnation (mark) values (gen_random_uuid()) on conflict do nothing;
    select i.mark into found from twinbox.incarnation as i;
  end if;
  return found;
end
$$;

revoke all on function twinbox.incarnation from public;

insert into twinbox.migration (version, name, oldest_worker) values (3, 'lease', 3);
