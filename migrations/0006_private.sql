-- Nobody may call our functions just because everybody may call any function: each role is granted what it needs, see
-- "twinbox roles". Tables and the schema itself are private from the start.
--
-- Locks: none on tables. Old code runs on: a publisher that is neither the owner nor granted the functions by name never
-- could use the schema either.

revoke all on all functions in schema twinbox from public;

insert into twinbox.migration (version, name) values (6, 'private');
