import { columns, fencedClaim, messageColumns, perSchema } from './statement.ts'

/** What of the consumer $1 pauses, as JSON in text; null if nothing does. Claimers ask it with whatever else is due. */
export const pausedTopics = (s: string): string => `(
    select json_agg(json_build_object('topic', c.topic, 'reason', c.reason,
      'dueInMs', extract(epoch from c.probe_at - clock_timestamp())::float8 * 1000))::text
    from ${s}.circuit as c where c.consumer = $1) as paused`

/** Topics that pause, as the claimers of their consumer share them. */
export const circuitSql = perSchema((s, statement) => ({
  // Whoever is first. $5 in how many milliseconds a message may try.
  open: statement(
    'circuit_open',
    `insert into ${s}.circuit (consumer, topic, reason, error, probe_at)
    values ($1, $2, $3, $4, clock_timestamp() + $5::float8 * interval '1 millisecond')
    on conflict do nothing`,
  ),

  // One claimer at a time. The pause until the next grows from $3 to $4 milliseconds, with jitter.
  probe: statement(
    'circuit_probe',
    `update ${s}.circuit set probes = probes + 1, probe_at = clock_timestamp()
      + least($3::float8 * 2 ^ least(probes + 1, 30), $4::float8) * (0.8 + random() * 0.4) * interval '1 millisecond'
    where consumer = $1 and topic = $2 and probe_at <= clock_timestamp()
    returning probes`,
  ),

  close: statement('circuit_close', `delete from ${s}.circuit where consumer = $1 and topic = $2`),

  // What pauses, for people. $1 a consumer, or null for all.
  all: {
    text: `select consumer, topic, reason, error, opened_at, probes from ${s}.circuit
    where $1::text is null or consumer = $1 order by consumer, topic`,
  },

  // Messages without a key of which more is in flight than can be kept: due again later, and their attempt not counted.
  // $1 consumer; $2 to $5 lanes, seqs, fences, ids; $6 for how long.
  putOff: statement(
    'circuit_put_off',
    `with gone as (
      delete from ${s}.inbox as i
      using unnest($2::smallint[], $3::bigint[], $4::bigint[], $5::uuid[]) as a(lane, seq, fence, id)
      where ${fencedClaim(s)}
      returning i.lane, i.seq, i.received_at, i.attempt, i.errors, ${columns('i')}
    ),
    moved as (
      insert into ${s}.deferred (consumer, due_at, received_at, attempt, errors, ${messageColumns})
      select $1, clock_timestamp() + $6::float8 * (1 + random()) * interval '1 millisecond', gone.received_at,
        greatest(gone.attempt - 1, 0), gone.errors, ${columns('gone')}
      from gone
    )
    select lane, seq from gone`,
  ),
}))
