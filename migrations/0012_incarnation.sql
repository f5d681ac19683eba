-- Since when the server runs without a crash. Until now a worker read this from the time at which the server's statistics were
-- reset, which an operator may do at any time: each worker then gave up all that it had in hand.
--
-- Locks: none on tables in use. Old code can run beside it; it looks at the statistics still.

-- Unlogged, since that is its meaning: a crash empties it, and whoever asks next writes another mark. A clean stop keeps it.
create unlogged table twinbox.incarnation (
  mark uuid not null,
  one boolean primary key default true check (one)
);

-- A function, since a standby refuses any statement that so much as names an unlogged table. Null on a server that has no
-- mark and cannot be written.
create function twinbox.incarnation() returns uuid
  language plpgsql volatile
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

revoke all on function twinbox.incarnation() from public;

insert into twinbox.migration (version, name) values (12, 'incarnation');
