-- What a consumer is subscribed to is written down for every broker, and stays when it has ended: a receiver whose topics
-- became narrower has to know what it was bound to before, and the Postgres broker who has had enough of a topic.
--
-- Locks: adds columns without a default that is not a constant and a primary key to a table of a few rows. Old code can run
-- beside it: it subscribes as before, and what it names stays subscribed.

alter table twinbox.subscription
  -- By its name. Only those of "postgres" say where messages go; the other brokers keep their own bindings.
  add column broker text collate "C" not null default 'postgres',
  -- Since when nobody wants it.
  add column ended_at timestamptz;

alter table twinbox.subscription
  drop constraint subscription_pkey,
  add primary key (consumer, broker, pattern);

insert into twinbox.migration (version, name) values (9, 'subscription');
