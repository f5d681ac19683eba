-- A key with a long backlog holds up the other keys of its lane no more: their messages are read past it. What is in hand then
-- is no longer all up to one place.
--
-- Locks: access exclusive on lane, for a moment. Old code can run beside it, as long as it does not take over from new code.

-- The seqs that the holder has in hand beyond its reach, which it has read past a hot key. Null if there are none.
alter table twinbox.lane add column past bigint[];

insert into twinbox.migration (version, name) values (14, 'hot_key');
