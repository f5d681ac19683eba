import type { Statement } from '../database.ts'
import { perSchema, readable } from './statement.ts'

/**
 * What an operator wants to see. Every statement reads a bounded number of rows: $1 is where counting ends, so a count
 * that reaches it means "or more"; $2 is how many topics of a box are told apart. None is prepared by name, see
 * operate.ts.
 */
export const statusSql = perSchema((s) => {
  const statement = (text: string): Statement => ({ text })
  // From each lane's floor on, since below it there are only dead rows, and those may be many.
  const lanes = (table: string, since: string, where: string, limit: string): string => `
    select m.topic, m.since
    from ${s}.lane as l
    cross join lateral (
      select m.topic, m.${since} as since from ${s}.${table} as m
      where ${where} m.lane = l.lane and m.seq > l.floor
      order by m.seq limit ${limit}
    ) as m
    where l.consumer = c.consumer`
  const inInbox = (limit: string): string =>
    lanes('inbox', 'received_at', 'm.consumer = c.consumer and', limit)
  const unhandled = `select u.topic, u.received_at as since from ${s}.unhandled as u where u.consumer = c.consumer`
  const ageOf = (time: string): string => `extract(epoch from clock_timestamp() - ${time})::float8 * 1000`
  const depth = (rows: string, consumers: string): string => `
    select * from (
      select c.consumer, m.topic, count(*) as count, ${ageOf('min(m.since)')} as lag_ms,
        (sum(count(*)) over box)::bigint as total, count(*) over box as topics,
        row_number() over (box order by count(*) desc, m.topic) as place
      from (select distinct consumer from ${s}.lane where consumer ${consumers}) as c
      cross join lateral (${rows} limit $1) as m
      group by c.consumer, m.topic
      window box as (partition by c.consumer)
    ) as m
    where place <= $2
    order by consumer, place`
  const lag = (table: string, since: string, where: string, consumers: string): string => `
    select c.consumer, ${ageOf('min(m.since)')} as lag_ms
    from (select distinct consumer from ${s}.lane where consumer ${consumers}) as c
    cross join lateral (${lanes(table, since, where, '1')}) as m
    group by c.consumer`
  const countOf = (table: string): string => `
    select c.consumer, count(*) as count
    from (select distinct consumer from ${s}.lane) as c
    cross join lateral (select from ${s}.${table} as m where m.consumer = c.consumer limit $1) as m
    group by c.consumer`

  return {
    // One picture of all tables, and an end to it whatever happens.
    begin: 'set transaction isolation level repeatable read, read only',
    limit: "set local statement_timeout = '20s'",
    version: `select max(version) as version from ${s}.migration`,
    consumers: statement(
      `select consumer, array_agg(pattern order by pattern) filter (where pattern is not null) as patterns
      from (
        select distinct consumer, pattern from ${s}.subscription where ended_at is null
        union all select distinct consumer, null from ${s}.lane where consumer <> ''
      ) as known
      group by consumer order by consumer`,
    ),
    outboxDepth: statement(depth(lanes('outbox', 'published_at', '', '$1'), "= ''")),
    outboxLag: statement(lag('outbox', 'published_at', '', "= ''")),
    inboxDepth: statement(depth(`(${inInbox('$1')}) union all (${unhandled})`, "<> ''")),
    inboxLag: statement(lag('inbox', 'received_at', 'm.consumer = c.consumer and', "<> ''")),
    // Of the inbox, what waits for a handler.
    unhandled: statement(depth(unhandled, "<> ''")),
    deferred: statement(countOf('deferred')),
    parkedKeys: statement(countOf('parked')),
    parkedMessages: statement(countOf('parked_message')),
    deadLetters: statement(
      `select consumer, count(*) as count
      from (select consumer from ${s}.dead_letter order by number desc limit $1) as m
      group by consumer`,
    ),
    latestDeadLetters: statement(
      `select ${readable('d', 'number, died_at, id, consumer, topic, key, attempt, reason')}
      from ${s}.dead_letter as d order by d.number desc limit $1`,
    ),
  }
})
