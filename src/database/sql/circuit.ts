import { bigints, float8, optional, smallints, text, uuids } from './parameter.ts'
import {
  columns,
  fencedClaim,
  messageColumns,
  perSchema,
  planned,
  prepared,
  readable,
  type Place,
} from './statement.ts'

/** What of `$consumer` pauses, as JSON in text; null if nothing does. Claimers ask it with whatever else is due. */
export const pausedTopics = (s: string): string => `(
    select json_agg(json_build_object('topic', c.topic, 'reason', c.reason,
      'dueInMs', extract(epoch from c.probe_at - clock_timestamp())::float8 * 1000))::text
    from ${s}.circuit as c where c.consumer = $consumer) as paused`

export interface PausedRow {
  readonly consumer: string
  readonly topic: string
  /** The code or the class of the errors, and the error that it began with. */
  readonly reason: string
  readonly error: string
  readonly opened_at: Date
  /** How many messages have tried since, and when the next one may. */
  readonly probes: number
  readonly probe_at: Date
}

/** Topics that pause, as the claimers of their consumer share them. */
export const circuitSql = perSchema('circuit', (s) => ({
  // Whoever is first. A message may try in `$probeMs`.
  open: prepared(
    { consumer: text, topic: text, reason: text, error: text, probeMs: float8 },
    `insert into ${s}.circuit (consumer, topic, reason, error, probe_at)
    values ($consumer, $topic, $reason, $error, clock_timestamp() + $probeMs * interval '1 millisecond')
    on conflict do nothing`,
  ),

  // One claimer at a time. The pause until the next grows from `$leastMs` to `$mostMs`, with jitter.
  probe: prepared(
    { consumer: text, topic: text, leastMs: float8, mostMs: float8 },
    `update ${s}.circuit set probes = probes + 1, probe_at = clock_timestamp()
      + least($leastMs * 2 ^ least(probes + 1, 30), $mostMs) * (0.8 + random() * 0.4) * interval '1 millisecond'
    where consumer = $consumer and topic = $topic and probe_at <= clock_timestamp()
    returning probes`,
  ).gives<{ readonly probes: number }>(),

  close: prepared(
    { consumer: text, topic: text },
    `delete from ${s}.circuit where consumer = $consumer and topic = $topic`,
  ),

  // What pauses, for people: of a consumer, or of all.
  all: planned(
    { consumer: optional(text) },
    `select ${readable('c', 'consumer, topic, reason, error, opened_at, probes, probe_at')} from ${s}.circuit as c
    where $consumer is null or c.consumer = $consumer order by c.consumer, c.topic`,
  ).gives<PausedRow>(),

  // Messages without a key of which more is in flight than can be kept: due again later, and their attempt not counted.
  putOff: prepared(
    { consumer: text, lanes: smallints, seqs: bigints, fences: bigints, ids: uuids, forMs: float8 },
    `with gone as (
      delete from ${s}.inbox as i
      using unnest($lanes, $seqs, $fences, $ids) as a(lane, seq, fence, id)
      where ${fencedClaim(s)}
      returning i.lane, i.seq, i.received_at, i.attempt, i.errors, ${columns('i')}
    ),
    moved as (
      insert into ${s}.deferred (consumer, due_at, received_at, attempt, errors, ${messageColumns})
      select $consumer, clock_timestamp() + $forMs * (1 + random()) * interval '1 millisecond', gone.received_at,
        greatest(gone.attempt - 1, 0), gone.errors, ${columns('gone')}
      from gone
    )
    select lane, seq from gone`,
  ).gives<Place>(),
}))
