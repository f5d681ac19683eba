import { narrowColumns, wideColumns } from '../../message/row.ts'
import { signing } from './audit.ts'
import type { DeadLetterRow, DeadListRow, DeadStepRow } from './letter.ts'
import {
  bigint,
  bigints,
  boolean,
  float8,
  int,
  optional,
  text,
  uuid,
  uuids,
  type ValuesOf,
} from './parameter.ts'
import { columns, each, messageColumns, perSchema, planned, readable } from './statement.ts'

/** By what the candidates are found. Each has an index, so that what is looked at is bounded before it is filtered. */
const deadScopes = ['all', 'consumer', 'key', 'named'] as const
export type DeadScope = (typeof deadScopes)[number]

/** What is done with those that were chosen. */
export type DeadAction = 'count' | 'redrive' | 'skip'

/** Each null if it does not matter. */
const filtering = {
  consumer: optional(text),
  topic: optional(text),
  key: optional(text),
  /** Text in the reason. */
  error: optional(text),
  errorClass: optional(text),
  olderThanMs: optional(float8),
  youngerThanMs: optional(float8),
  numbers: optional(bigints),
  ids: optional(uuids),
}
const stepping = {
  ...filtering,
  afterConsumer: text,
  afterSeq: bigint,
  afterNumber: bigint,
  /** Those that died later are left alone. */
  newest: bigint,
  look: int,
  most: int,
}
export type Filtering = ValuesOf<typeof filtering>

/**
 * Dead letters: read, redriven and skipped by operators. None is prepared by name, see operate.ts; and each run gets a
 * plan for the filters that it was given.
 */
export const deadSql = perSchema('dead', (s) => {
  const scopes: Record<DeadScope, string> = {
    all: 'true',
    consumer: 'd.consumer = $consumer',
    key: 'd.consumer = $consumer and d.key = $key',
    named: '(d.number = any ($numbers) or d.id = any ($ids))',
  }
  const filters = `($consumer is null or d.consumer = $consumer) and ($topic is null or d.topic = $topic)
    and ($key is null or d.key = $key)
    and ($error is null or strpos(lower(d.reason), lower($error)) > 0)
    and ($errorClass is null or d.reason = $errorClass or starts_with(d.reason, $errorClass || ':'))
    and ($olderThanMs is null or d.died_at <= clock_timestamp() - $olderThanMs * interval '1 millisecond')
    and ($youngerThanMs is null or d.died_at >= clock_timestamp() - $youngerThanMs * interval '1 millisecond')
    and (($numbers is null and $ids is null)
      or d.number = any ($numbers) or d.id = any ($ids))`
  const shown = `number, died_at, seq, attempt, consumer, reason, received_at, ${narrowColumns}`
  // Narrow scopes have an index of their own, in which only what is not fixed is compared.
  const orders: Record<DeadScope, string> = {
    all: 'd.consumer, d.seq, d.number',
    consumer: 'd.seq, d.number',
    key: 'd.seq, d.number',
    named: 'd.consumer, d.seq, d.number',
  }
  const beyond = (scope: DeadScope): string =>
    orders[scope] === 'd.seq, d.number'
      ? '(d.seq, d.number) > ($afterSeq, $afterNumber) and $afterConsumer is not null'
      : '(d.consumer, d.seq, d.number) > ($afterConsumer, $afterSeq, $afterNumber)'
  // It starts anew: whoever redrives a message that had expired wants it handled all the same.
  const anew = columns('gone').replace(
    'gone.expires_at',
    'case when gone.expires_at > clock_timestamp() then gone.expires_at end',
  )

  // A step looks at `$look` letters from a place on, in the order in which the messages arrived, and does it to the first
  // `$most` that match. So what a step costs does not depend on how many there are, nor on how few of them match. Those that
  // die while it goes on are above `$newest`, and left alone: they would come round again and again.
  const step = (scope: DeadScope, action: DeadAction): string => `with page as materialized (
      select d.number, d.died_at, d.seq, d.consumer, d.topic, d.key, d.id, d.reason
      from ${s}.dead_letter as d
      where ${scopes[scope]} and ${beyond(scope)} and d.number <= $newest
      order by ${orders[scope]} limit $look
    ),
    chosen as materialized (
      select d.number, d.consumer, d.seq from page as d where ${filters}
      order by d.consumer, d.seq, d.number limit $most
    )${effects(action)}
    select (select count(*) from page) as looked_at,
      coalesce((select array_agg(number order by consumer, seq, number) from ${action === 'count' ? 'chosen' : 'gone'}), '{}')
        as numbers,
      (select count(*) from chosen) as chosen, at.consumer, at.seq, at.number
    from (select) as one
    left join lateral (
      -- Where the next step goes on: behind the last that was chosen, or if all of the page was filtered, behind it.
      select l.consumer, l.seq, l.number from (
        (select consumer, seq, number from chosen
          where (select count(*) from chosen) = $most order by consumer desc, seq desc, number desc limit 1)
        union all
        (select consumer, seq, number from page order by consumer desc, seq desc, number desc limit 1)
      ) as l limit 1
    ) as at on true`

  const effects = (action: DeadAction): string => {
    if (action === 'count') return ''
    const gone = `,
    gone as materialized (
      delete from ${s}.dead_letter as d using chosen where d.number = chosen.number
      returning d.*
    ),
    audited as (
      insert into ${s}.audit (action, who, why, consumer, topic, key, id, seq, died_at, attempt, reason, errors)
      select '${action}', $who, $why, consumer, topic, key, id, seq, died_at, attempt, reason, errors from gone
      order by number
    )`
    if (action === 'skip') {
      return `${gone},
    freed as (
      update ${s}.parked as p set until = clock_timestamp(), released_to = 0 from gone
      where p.consumer = gone.consumer and p.lane = ${s}.lane_of(gone.key) and p.key = gone.key
        and p.until = 'infinity' and p.blocker = gone.seq
    )`
    }
    return `${gone},
    -- What has a place in a lane goes back to it, before what waits and what comes; the holder of the lane sees to it.
    -- A key that is held back behind another dead letter stays so, or it would go on without that one. Sorted, or two
    -- operators could deadlock.
    freed as (
      insert into ${s}.parked as p (consumer, lane, key, until, reason, blocker)
      select distinct on (consumer, lane, key) consumer, ${s}.lane_of(key) as lane, key, clock_timestamp(), reason, seq
      from gone where key is not null and seq > 0
      order by consumer, lane, key, seq
      on conflict (consumer, lane, key) do update set released_to = 0, until = case
        when p.until < 'infinity' or p.blocker is null
          or exists (select from gone as g where (g.consumer, g.key, g.seq) = (p.consumer, p.key, p.blocker))
          or exists (
            select from ${s}.parked_message as m
            where m.consumer = p.consumer and m.lane = p.lane and m.key = p.key and m.seq = p.blocker)
        then clock_timestamp() else p.until end
    ),
    waiting as (
      insert into ${s}.parked_message (consumer, lane, seq, received_at, attempt, ${messageColumns})
      select consumer, ${s}.lane_of(key), seq, received_at, 0, ${anew} from gone
      where key is not null and seq > 0
    ),
    -- The others are due at once. A delivery that was no message never had a place, and its key may be too long for one.
    due as (
      insert into ${s}.deferred (consumer, due_at, received_at, attempt, ${messageColumns})
      select consumer, clock_timestamp(), received_at, 0, ${anew.replace(
        'gone.key',
        'case when octet_length(gone.key) <= 255 then gone.key end',
      )}
      from gone where key is null or seq = 0
      order by seq, number
    )`
  }

  return {
    newest: planned({}, `select coalesce(max(number), 0) as number from ${s}.dead_letter`).gives<{
      readonly number: number
    }>(),

    /** A page for people, the latest first. */
    list: each(deadScopes, (scope) => {
      // Those of one key stand in its index by their seq.
      const [order, below] =
        scope === 'key'
          ? ['d.seq desc, d.number desc', '(d.seq, d.number) < ($belowSeq, $belowNumber)']
          : ['d.number desc', 'd.number < $belowNumber and $belowSeq is not null']
      return planned(
        { ...filtering, belowSeq: bigint, belowNumber: bigint, look: int, limit: int },
        `with page as materialized (
          select ${columns('d', shown)} from ${s}.dead_letter as d where ${scopes[scope]} and ${below}
          order by ${order} limit $look
        ),
        last as (select d.seq, d.number from page as d order by ${order.replaceAll('desc', 'asc')} limit 1)
        select (select count(*) from page) as looked_at, last.seq as last_seq, last.number as last_number, ${readable('m', shown)}
        from (select) as one
        left join last on true
        left join (select * from page as d where ${filters} order by ${order} limit $limit) as m on true
        order by ${order.replaceAll('d.', 'm.')}`,
      ).gives<DeadListRow>()
    }),

    step: each(deadScopes, (scope) => ({
      count: planned(stepping, step(scope, 'count')).gives<DeadStepRow>(),
      redrive: planned({ ...stepping, ...signing }, step(scope, 'redrive')).gives<DeadStepRow>(),
      skip: planned({ ...stepping, ...signing }, step(scope, 'skip')).gives<DeadStepRow>(),
    })),

    /** Those of a step, whole. */
    letters: planned(
      { numbers: bigints },
      `select ${readable('d', `${shown}, ${wideColumns}`)}, d.errors
      from ${s}.dead_letter as d where d.number = any ($numbers) order by d.consumer, d.seq, d.number`,
    ).gives<DeadLetterRow>(),

    show: planned(
      { number: optional(bigint), id: optional(uuid), payload: boolean },
      `select ${readable('d', shown)}, d.headers, d.errors,
        coalesce(octet_length(d.payload::text), octet_length(d.body)) as bytes,
        case when $payload then d.payload end as payload, case when $payload then d.body end as body,
        exists (
          select from ${s}.parked as p where p.consumer = d.consumer and p.lane = ${s}.lane_of(d.key) and p.key = d.key
            and p.until = 'infinity' and p.blocker = d.seq
        ) as holds_key
      from ${s}.dead_letter as d where d.number = $number or d.id = $id order by d.number limit 100`,
    ).gives<DeadLetterRow>(),

    known: planned(
      { numbers: bigints, ids: uuids },
      `select number, id from ${s}.dead_letter where number = any ($numbers) or id = any ($ids)`,
    ).gives<{ readonly number: number; readonly id: string }>(),
  }
})
