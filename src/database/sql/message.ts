import { layout } from '../layout.ts'
import {
  columns,
  everyConsumer,
  everyLane,
  instant,
  messageColumns,
  perSchema,
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

/**
 * Where messages are, for operators. $1 states, $2 consumer ('' the outbox), $3 topic, $4 key, $5 id: null if it does not
 * matter; $6 how many rows of each table are looked at, $7 limit, $8 whether to read payloads.
 */
export const messageSql = perSchema((s) => {
  const wanted = `($2::text is null or m.consumer = $2) and ($3::text is null or m.topic = $3)
    and ($4::text is null or m.key = $4) and ($5::uuid is null or m.id = $5)`
  const shown = `consumer, id, topic, key, since, due_at, attempt, holder, reason, published_at, received_at, expires_at,
    content_type, headers, errors, payload, body`
  const branch = (state: MessageState, rows: string): string => `(
    select '${state}' as state, ${readable('m', shown)} from (${rows}) as m
    where '${state}' = any ($1::text[]) and ${wanted}
    order by m.consumer, m.place limit $7)`
  const content = (alias: string): string =>
    columns(alias, messageColumns.replace(', payload, body', '')) +
    `, case when $8::boolean then ${alias}.payload end as payload, case when $8::boolean then ${alias}.body end as body`
  const inFlight = (holder: string, leaseUntil: string): string =>
    `case when ${leaseUntil} > clock_timestamp() then ${holder} end`
  // With a key only its lane.
  const lanes = (table: string, where: string, consumers: string, select: string): string => `
    select m.* from ${consumers} as c cross join ${everyLane}
    left join ${s}.lane as h on h.consumer = c.consumer and h.lane = l.lane
    cross join lateral (
      select ${select}, ${content('m')} from ${s}.${table} as m
      where ${where} m.lane = l.lane order by m.seq limit $6
    ) as m
    where ($2::text is null or c.consumer = $2)
      and ($4::text is null or l.lane = ${s}.lane_of($4)) limit $6`
  const each = (table: string, select: string, payload = content('m')): string => `
    select ${select}, ${payload} from ${s}.${table} as m
    where ($2::text is null or m.consumer = $2) and ($5::uuid is null or m.id = $5) limit $6`
  const nothing = `null::timestamptz as due_at, null::int as holder, null::text as reason`

  return {
    find: {
      text: [
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
    },

    /** Who has received it inside the dedupe window. $1 id. */
    seen: {
      text: `select c.consumer, ${instant('k.seen_at')} as seen_at
      from (select distinct consumer from ${s}.lane where consumer <> '') as c
      join ${s}.seen as k on k.consumer = c.consumer and k.id = $1
      order by c.consumer`,
    },

    audit: {
      text: `select ${readable('a', 'consumer, action, at, who, why, died_at, attempt, reason, errors')}
      from ${s}.audit as a where a.id = $1 order by a.number limit 1000`,
    },
  }
})
