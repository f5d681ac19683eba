-- Who may work on what: workers, and the lanes that they hold.
--
-- A worker registers here and beats once a second. It takes its share of the lanes by writing its id into them and
-- raising their fence; every write that it makes for a lane names the fence that it got. When it dies, its leases
-- lapse, or a survivor finds it dead first and says in its row who shall have what it held; the next holder raises the
-- fence again, and the dead one's late writes touch nothing.
--
-- Locks: none on existing tables. Old code can run beside it.

create table twinbox.worker (
  id integer primary key generated always as identity,
  kind text not null check (kind in ('relay', 'receiver', 'claimer')),
  consumer text collate "C" not null,
  host text not null,
  pid integer not null,
  version text not null,
  started_at timestamptz not null default clock_timestamp(),
  beat_at timestamptz not null default clock_timestamp(),
  -- Of its connections, so that those of a dead worker can be closed: a transaction that a frozen process left open
  -- would hold up whoever continues its work.
  application text not null,
  -- Set if the worker's session holds the advisory lock (the table's oid, the worker's id): then its process is gone
  -- as soon as the lock is. It is the start of the server that the lock was taken on, since a restart or a failover
  -- frees all locks and kills nobody. Null behind a pooler that shares sessions.
  locked_on timestamptz,
  in_hand integer not null default 0,
  -- Set when it stopped by itself, was found dead or was evicted. A worker that finds this in its own row has been
  -- given up on.
  ended_at timestamptz,
  ended_by text check (ended_by in ('stop', 'lock', 'heartbeat', 'evict')),
  -- Until reserved_until, what it held belongs to these: a lane to the worker at its number (from 0), a row to the
  -- one at seq modulo the length. Null: to whoever comes first.
  lane_heirs integer[],
  row_heirs integer[],
  reserved_until timestamptz
) with (fillfactor = 10, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500);

create table twinbox.lane (
  -- '' is the outbox, anything else a consumer of the inbox.
  consumer text collate "C" not null,
  lane smallint not null,
  holder integer,
  -- When the holder took it.
  since timestamptz,
  -- Rises with every change of the holder, and never falls.
  fence bigint not null default 0,
  lease_until timestamptz not null default '-infinity',
  -- No message of this lane at or below this seq exists or can still appear. Reads start above it, or they would visit
  -- every dead row since the oldest open transaction began.
  floor bigint not null default 0,
  -- How often parked messages have come back below the floor. A renewal that was sent before and arrives after may not
  -- raise the floor over them again.
  lowered integer not null default 0,
  -- The highest seq that the holder has in hand. If it dies, the messages up to here have been attempted.
  reach bigint not null default 0,
  primary key (consumer, lane)
) with (fillfactor = 10, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500);

insert into twinbox.lane (consumer, lane) select '', generate_series(0, 63);

insert into twinbox.migration (version, name) values (3, 'lease');
