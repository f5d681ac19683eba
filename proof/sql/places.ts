import { bigint, text } from '../../src/database/sql/parameter.ts'
import { prepared } from '../../src/database/sql/statement.ts'

/**
 * Which place each message with a key got in outbox and inbox, in the order in which they were written, and when a
 * sequence of places was set back. What was written until it was set forward again has lost its order with what was there
 * before, whose places are higher, and with what came after, which is read before somebody looks below. Of what was written
 * in between, the same holds on both sides of where the lane had been read up to: beyond, it is read at once. So much a
 * restore costs, and no more: on each side, those in between are in order among themselves, and so are all others.
 */
export const placesOf = (s: string, tables: string) => ({
  create: `
    create table ${s}.${tables}_place (
      serial bigint primary key generated always as identity,
      box text not null,
      lane smallint not null,
      id uuid not null,
      seq bigint not null
    );
    create index on ${s}.${tables}_place (id);
    create function ${s}.${tables}_placed() returns trigger language plpgsql as $$
    begin
      insert into ${s}.${tables}_place (box, lane, id, seq) select tg_table_name, lane, id, seq from placed where key is not null;
      return null;
    end $$;
    create trigger ${tables}_placed after insert on ${s}.outbox referencing new table as placed
      for each statement execute function ${s}.${tables}_placed();
    create trigger ${tables}_placed after insert on ${s}.inbox referencing new table as placed
      for each statement execute function ${s}.${tables}_placed();
    -- Beyond this serial, what got a place up to "stood" may have got a place that was given before. The sequence was set
    -- forward to "mended", by what a worker has told: what it could not see yet may have stood beyond. Each lane had been read
    -- up to its watermark at least, and up to "stood" at most.
    create table ${s}.${tables}_back (
      box text not null, serial bigint not null, stood bigint not null, watermarks jsonb not null, at bigint not null,
      mended bigint
    );`,

  /** Sets the sequence of a table (`$box`) back by so many (`$by`), at this time of the monotonic clock (`$at`). */
  setBack: prepared(
    { box: text, by: bigint, at: bigint },
    `
    with q as materialized (
      select pg_get_serial_sequence('${s}.' || $box, 'seq') as name
    ), stood as materialized (
      select coalesce(pg_sequence_last_value(name::regclass), 0) as at from q
    ), noted as (
      insert into ${s}.${tables}_back (box, serial, stood, watermarks, at)
      select $box, coalesce((select max(serial) from ${s}.${tables}_place), 0), at, (
        select coalesce(jsonb_object_agg(l.lane, l.watermark), '{}') from (
          select lane, min(watermark) as watermark from ${s}.lane where (consumer = '') = ($box = 'outbox') group by lane
        ) as l
      ), $at from stood
    )
    select setval(name, greatest(1, at - $by), false) from q, stood`,
  ),

  /** A worker has told that it set the sequence of a table (`$box`) forward to a number (`$to`), at this time (`$at`). */
  mended: prepared(
    { box: text, to: bigint, at: bigint },
    `
    update ${s}.${tables}_back set mended = $to where box = $box and at <= $at and mended is null`,
  ),

  /** Whether a sequence that had gone back is why the message `late` could be handled before `first`. Both are ids. */
  excuses: (late: string, first: string): string => {
    const between = (id: string, other: string, how: string): string => `
      select from ${s}.${tables}_place as p_in
      join ${s}.${tables}_back as p_back on p_back.box = p_in.box and p_in.serial > p_back.serial and p_in.seq <= p_back.stood
      join ${s}.${tables}_place as p_out on p_out.box = p_in.box and ${how}
      where p_in.id = ${id} and p_out.id = ${other}
        -- A message that was put back has its place from before.
        and not exists (
          select from ${s}.${tables}_place as p where p.box = p_in.box and p.id = p_in.id and p.serial < p_in.serial)`
    return `(exists (${between(late, first, 'p_out.serial < p_in.serial and p_out.seq > p_in.seq')})
      or exists (${between(first, late, 'p_out.serial > p_in.serial and p_out.seq > least(coalesce((p_back.watermarks ->> p_out.lane::text)::bigint, 0), p_back.mended)')}))`
  },
})
