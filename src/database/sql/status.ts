import type { DeadLetterRow } from './letter.ts'
import { int } from './parameter.ts'
import { everyConsumer, everyLane, msSince, perSchema, planned, readable } from './statement.ts'

export interface CountRow {
  readonly consumer: string
  readonly count: number
}

export interface DepthRow extends CountRow {
  readonly topic: string
  readonly lag_ms: number
  /** Of the whole box. */
  readonly total: number
  readonly topics: number
}

export interface LagRow {
  readonly consumer: string
  readonly lag_ms: number
}

/**
 * What an operator wants to see. Every statement reads a bounded number of rows: `most` is where counting ends, so a
 * count that reaches it means "or more"; `topics` is how many topics of a box are told apart. None is prepared by name, see
 * operate.ts.
 */
export const statusSql = perSchema('status', (s) => {
  const lanes = (table: string, since: string, where: string, limit: string): string => `
    select m.topic, m.since
    from ${everyLane}
    cross join lateral (
      select m.topic, m.${since} as since from ${s}.${table} as m
      where ${where} m.lane = l.lane
      order by m.seq limit ${limit}
    ) as m`
  const inInbox = (limit: string): string =>
    lanes('inbox', 'received_at', 'm.consumer = c.consumer and', limit)
  const unhandled = `select u.topic, u.received_at as since from ${s}.unhandled as u where u.consumer = c.consumer`
  const outbox = "(select '' as consumer)"
  const inboxes = everyConsumer(s)
  const depth = (rows: string, consumers: string): string => `
    select * from (
      select c.consumer, m.topic, count(*) as count, ${msSince('min(m.since)')} as lag_ms,
        (sum(count(*)) over box)::bigint as total, count(*) over box as topics,
        row_number() over (box order by count(*) desc, m.topic) as place
      from ${consumers} as c
      cross join lateral (${rows} limit $most) as m
      group by c.consumer, m.topic
      window box as (partition by c.consumer)
    ) as m
    where place <= $topics
    order by consumer, place`
  const lag = (table: string, since: string, where: string, consumers: string): string => `
    select c.consumer, ${msSince('min(m.since)')} as lag_ms
    from ${consumers} as c
    cross join lateral (${lanes(table, since, where, '1')}) as m
    group by c.consumer`
  const countOf = (table: string): string => `
    select c.consumer, count(*) as count
    from (select '' as consumer union select consumer from ${inboxes} as c) as c
    cross join lateral (select from ${s}.${table} as m where m.consumer = c.consumer limit $most) as m
    group by c.consumer`

  return {
    // One picture of all tables, and an end to it whatever happens.
    begin: 'set transaction isolation level repeatable read, read only',
    limit: "set local statement_timeout = '20s'",
    version: planned({}, `select max(version) as version from ${s}.migration`).gives<{
      readonly version: number
    }>(),
    consumers: planned(
      {},
      `select consumer, array_agg(pattern order by pattern) filter (where pattern is not null) as patterns
      from (
        select distinct consumer, pattern from ${s}.subscription where ended_at is null
        union all select consumer, null from ${inboxes} as c
      ) as known
      group by consumer order by consumer`,
    ).gives<{ readonly consumer: string; readonly patterns: readonly string[] | null }>(),
    outboxDepth: planned(
      { most: int, topics: int },
      depth(lanes('outbox', 'published_at', '', '$most'), outbox),
    ).gives<DepthRow>(),
    outboxLag: planned({}, lag('outbox', 'published_at', '', outbox)).gives<LagRow>(),
    inboxDepth: planned(
      { most: int, topics: int },
      depth(`(${inInbox('$most')}) union all (${unhandled})`, inboxes),
    ).gives<DepthRow>(),
    inboxLag: planned(
      {},
      lag('inbox', 'received_at', 'm.consumer = c.consumer and', inboxes),
    ).gives<LagRow>(),
    // Of the inbox, what waits for a handler.
    unhandled: planned({ most: int, topics: int }, depth(unhandled, inboxes)).gives<DepthRow>(),
    deferred: planned({ most: int }, countOf('deferred')).gives<CountRow>(),
    parkedKeys: planned({ most: int }, countOf('parked')).gives<CountRow>(),
    parkedMessages: planned({ most: int }, countOf('parked_message')).gives<CountRow>(),
    deadLetters: planned(
      { most: int },
      `select consumer, count(*) as count
      from (select consumer from ${s}.dead_letter order by number desc limit $most) as m
      group by consumer`,
    ).gives<CountRow>(),
    latestDeadLetters: planned(
      { most: int },
      `select ${readable('d', 'number, died_at, id, consumer, topic, key, attempt, reason')}
      from ${s}.dead_letter as d order by d.number desc limit $most`,
    ).gives<
      Pick<DeadLetterRow, 'number' | 'died_at' | 'id' | 'consumer' | 'topic' | 'key' | 'attempt' | 'reason'>
    >(),
  }
})
