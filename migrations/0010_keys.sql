-- Every table has a primary key, so that a publication for all tables, as tools for change data capture make it, does not
-- forbid to delete from it; and what waits for a time is checked like what is sent.
--
-- Locks: rewrites handled, for as long as that takes. Only claimers with keepHandledMs wait; whoever keeps millions of
-- rows may prune them first. deferred is locked for a moment. Old code can run beside it.

drop index twinbox.handled_id;

alter table twinbox.handled add column number bigint not null generated always as identity;

-- By id first, which serves whoever asks what became of a message: after the dedupe window, a redelivery is handled again.
alter table twinbox.handled add primary key (id, number);

-- Otherwise the outbox or the inbox would refuse the row when it is due, and with it all that is due then.
alter table twinbox.deferred add constraint payload_or_body check ((payload is null) <> (body is null)) not valid;

insert into twinbox.migration (version, name) values (10, 'keys');
