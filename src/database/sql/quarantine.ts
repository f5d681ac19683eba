/** Messages whose claims have ended with the death of their claimer, for statements that claim. Why is in claimer/quarantine.ts. */

// Each failure leaves an error behind; an attempt without one ended with the death of its claimer.
export const crashes = `i.attempt - coalesce(jsonb_array_length(i.errors), 0)`
// Of quarantined messages, as many as there is room for; of those with two deaths behind them, one without any other.
// `over` is the first that is too many: by order of seq, what stands behind it is left as well, since it may be of the
// same key. Only quarantined messages are counted, of which there are mostly none.
export const over = (rows: string, room: string): string => `over as materialized (
      select r.seq, r.load = r.weight as first
      from (
        select r.seq, r.weight, sum(r.weight) over (order by r.seq) as load
        from (
          select r.seq, case when r.crashes > 1 then 1000000 else 1 end as weight from ${rows} as r where r.crashes > 0
        ) as r
      ) as r
      where r.load > ${room} order by r.seq limit 1
    )`
export const allowed = (row: string, noneInFlight: string): string => `coalesce(
    ${row}.seq < (select seq from over)
      or (${row}.seq = (select seq from over) and (select first from over) and ${noneInFlight}), true)`
// How long it may still be handled, by the clock of the database.
export const times = `extract(epoch from i.expires_at - clock_timestamp())::float8 * 1000 as expires_in_ms`
