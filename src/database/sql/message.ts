import type { FailedAttempt, MessageRow } from '../../message/row.ts'
import { layout } from '../layout.ts'
import { boolean, int, optional, text, texts, uuid } from './parameter.ts'
import {
  columns,
  everyConsumer,
  everyLane,
  instant,
  messageColumns,
  perSchema,
  planned,
  readable,
} from './statement.ts'

/** Where a message can be. */
export const messageStates = [
  'outbox',
  'inbox',
  'deferred',
  'parked',
  'unhandled',
  'dead',
  'handled',
] as const
export type MessageState = (typeof messageStates)[number]

export interface PlacedRow extends MessageRow {
  readonly state: MessageState
  readonly consumer: string
  readonly since: Date | null
  readonly due_at: Date | null
  readonly attempt: number
  readonly holder: number | null
  readonly reason: string | null
  readonly received_at: Date | null
  readonly errors: readonly FailedAttempt[] | null
}

/**
 * Where messages are, for operators. Of each table `$look` rows are looked at, and of each state `$limit` messages are told.
 * Consumer ('' the outbox), topic, key and id are null if they do not matter.
 */
export const messageSql = perSchema('message', (s) => {
  const wanted = `($consumer is null or m.consumer = $consumer) and ($topic is null or m.topic = $topic)
    and ($key is null or m.key = $key) and ($id is null or m.id = $id)`
  const shown = `consumer, id, topic, key, since, due_at, attempt, holder, reason, published_at, received_at, expires_at,
    content_type, headers, errors, payload, body`
  const branch = (state: MessageState, rows: string): string => `(
    select '${state}' as state, ${readable('m', shown)} from (${rows}) as m
    where '${state}' = any ($states) and ${wanted}
    order by m.consumer, m.place limit $limit)`
  const content = (alias: string): string =>
    columns(alias, messageColumns.replace(', payload, body', '')) +
    `, case when $payload then ${alias}.payload end as payload, case when $payload then ${alias}.body end as body`
  const inFlight = (holder: string, leaseUntil: string): string =>
    `case when ${leaseUntil} > clock_timestamp() then ${holder} end`
  // With a key only its lane.
  const lanes = (table: string, where: string, consumers: string, select: string): string => `
    select m.* from ${consumers} as c cross join ${everyLane}
    left join ${s}.lane as h on h.consumer = c.consumer and h.lane = l.lane
    cross join lateral (
      select ${select}, ${content('m')} from ${s}.${table} as m
      where ${where} m.lane = l.lane order by m.seq limit $look
    ) as m
    where ($consumer is null or c.consumer = $consumer)
      and ($key is null or l.lane = ${s}.lane_of($key)) limit $look`
  const each = (table: string, select: string, payload = content('m')): string => `
    select ${select}, ${payload} from ${s}.${table} as m
    where ($consumer is null or m.consumer = $consumer) and ($id is null or m.id = $id) limit $look`
  const nothing = `null::timestamptz as due_at, null::int as holder, null::text as reason`

  return {
    find: planned(
      {
        states: texts,
        consumer: optional(text),
        topic: optional(text),
        key: optional(text),
        id: optional(uuid),
        look: int,
        limit: int,
        payload: boolean,
      },
      [
        branch(
          'outbox',
          lanes(
            'outbox',
            '',
            `(select '' as consumer)`,
            `c.consumer, m.seq as place, m.published_at as since, m.attempt, null::timestamptz as received_at, m.errors,
            ${nothing}`,
          ),
        ),
        branch(
          'inbox',
          lanes(
            'inbox',
            'm.consumer = c.consumer and',
            everyConsumer(s),
            `m.consumer, m.seq as place, m.received_at as since, m.attempt, m.received_at, m.errors,
            null::timestamptz as due_at, case when m.lane >= ${layout.lanes} then ${inFlight('m.holder', 'm.lease_until')}
              when m.seq <= h.reach or m.seq = any (h.past) then ${inFlight('h.holder', 'h.lease_until')} end as holder, null::text as reason`,
          ),
        ),
        branch(
          'deferred',
          each(
            'deferred',
            `m.consumer, m.seq as place, coalesce(m.received_at, m.published_at) as since, m.attempt, m.received_at,
            m.errors, m.due_at, null::int as holder, null::text as reason`,
          ),
        ),
        branch(
          'parked',
          // Each with when its key goes on, and why it does not yet.
          each(
            'parked_message',
            `m.consumer, m.seq as place, m.received_at as since, m.attempt, m.received_at, m.errors,
            (select nullif(k.until, 'infinity') from ${s}.parked as k
              where (k.consumer, k.lane, k.key) = (m.consumer, m.lane, m.key)) as due_at, null::int as holder,
            (select k.reason from ${s}.parked as k where (k.consumer, k.lane, k.key) = (m.consumer, m.lane, m.key))
              as reason`,
          ),
        ),
        branch(
          'unhandled',
          each(
            'unhandled',
            `m.consumer, m.seq as place, m.received_at as since, m.attempt, m.received_at, m.errors,
            null::timestamptz as due_at, null::int as holder, 'No claimer with a handler for it has taken it.' as reason`,
          ),
        ),
        branch(
          'dead',
          each(
            'dead_letter',
            `m.consumer, m.number as place, m.died_at as since, m.attempt, m.received_at, m.errors,
            null::timestamptz as due_at, null::int as holder, m.reason`,
          ),
        ),
        branch(
          'handled',
          each(
            'handled',
            `m.consumer, 0::bigint as place, m.handled_at as since, m.attempt, m.received_at, null::jsonb as errors,
            null::timestamptz as due_at, m.worker as holder, null::text as reason`,
            `m.id, m.topic, m.key, null::json as headers, null::text as content_type, m.published_at,
            null::timestamptz as expires_at, null::json as payload, null::bytea as body`,
          ),
        ),
      ].join(' union all '),
    ).gives<PlacedRow>(),

    /** Who has received it inside the dedupe window. $states id. */
    seen: planned(
      { id: uuid },
      `select c.consumer, ${instant('k.seen_at')} as seen_at
      from (select distinct consumer from ${s}.lane where consumer <> '') as c
      join ${s}.seen as k on k.consumer = c.consumer and k.id = $id
      order by c.consumer`,
    ).gives<{ readonly consumer: string; readonly seen_at: Date }>(),
  }
})
