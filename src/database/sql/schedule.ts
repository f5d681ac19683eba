import { anyLaneSql } from '../layout.ts'
import { waking } from './sleep.ts'
import { instant, perSchema, readable } from './statement.ts'

/**
 * Recurring messages. Whoever publishes a tick holds the row of its schedule, and moves it to the next tick in the same
 * transaction: so each tick is published once, by whichever worker comes first.
 */
export const scheduleSql = perSchema((s, statement) => {
  const shown = `name, cron, time_zone, catch_up, topic, key, headers, content_type, expires_ms, next_at, last_at,
    paused_at, created_at, updated_at`
  const defined = [
    ...['cron', 'time_zone', 'catch_up', 'topic', 'key', 'headers', 'payload', 'body', 'content_type'],
    'expires_ms',
  ]
  // JSON has no equality; that of its text is enough to see that a declaration is the same as before.
  const comparable = (alias: string): string =>
    `(${defined.map((name) => `${alias}.${name}${/^(headers|payload)$/.test(name) ? '::text' : ''}`).join(', ')})`
  return {
    now: statement('schedule_now', `select ${instant('clock_timestamp()')} as now`),

    // $1 is how far the clock of a test is ahead of the database's, otherwise 0. Left out are those named last.
    anyDue: statement(
      'schedules_due',
      `select exists (
        select from ${s}.schedule
        where paused_at is null and next_at <= statement_timestamp() + $1::float8 * interval '1 millisecond'
          and name <> all ($2::text[])
      ) as due`,
    ),
    lockDue: statement(
      'lock_schedules',
      `select name, cron, time_zone, catch_up, ${instant('next_at')} as next_at,
        ${instant("(statement_timestamp() + $1::float8 * interval '1 millisecond')")} as now
      from ${s}.schedule
      where paused_at is null and next_at <= statement_timestamp() + $1::float8 * interval '1 millisecond'
        and name <> all ($3::text[])
      order by next_at limit $2
      for no key update skip locked`,
    ),

    // Publishes ticks, in their order. A schedule may have been set back by hand: what it has published is known.
    publish: statement(
      'publish_ticks',
      `with t as materialized (
        select t.*, c.topic, c.key, c.headers, c.payload, c.body, c.content_type,
          t.tick + c.expires_ms * interval '1 millisecond' as expires_at
        from (select pg_current_xact_id() as xid, ${waking(s, "''")} as woken offset 0) as x
        cross join unnest($1::text[], $2::timestamptz[], $3::uuid[], $4::text[])
          with ordinality as t(name, tick, id, dedupe_key, nr)
        join ${s}.schedule as c using (name)
        where x.xid is not null
      ),
      fresh as (
        insert into ${s}.dedupe (topic, dedupe_key, id, expires_at)
        select t.topic, t.dedupe_key, t.id, clock_timestamp() + $5::float8 * interval '1 millisecond' from t
        order by t.topic, t.dedupe_key
        on conflict do nothing
        returning id
      ),
      inserted as (
        insert into ${s}.outbox (
          lane, id, topic, key, headers, payload, body, content_type, published_at, expires_at)
        select coalesce(${s}.lane_of(t.key), ${anyLaneSql}), t.id, t.topic, t.key, t.headers,
          t.payload, t.body, t.content_type, t.tick, t.expires_at
        from t join fresh using (id)
        order by t.nr
      )
      select count(*)::int as count from fresh`,
    ),
    move: statement(
      'move_schedules',
      `update ${s}.schedule as c set next_at = n.next_at, last_at = coalesce(n.last_at, c.last_at)
      from unnest($1::text[], $2::timestamptz[], $3::timestamptz[]) as n(name, next_at, last_at)
      where c.name = n.name`,
    ),

    // No row comes back if nothing has changed. What is declared anew goes on where it was, unless its times are others.
    set: {
      text: `insert into ${s}.schedule as c (name, ${defined.join(', ')}, next_at)
      values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)
      on conflict (name) do update set
        ${defined.map((name) => `${name} = excluded.${name}`).join(', ')}, updated_at = clock_timestamp(),
        next_at = case
          when (c.cron, c.time_zone) = (excluded.cron, excluded.time_zone) then c.next_at else excluded.next_at end
      where ${comparable('c')} is distinct from ${comparable('excluded')}
      returning name`,
    },
    remove: { text: `delete from ${s}.schedule where name = $1 returning name` },
    pause: {
      text: `update ${s}.schedule set paused_at = coalesce(paused_at, clock_timestamp()) where name = $1 returning name`,
    },
    resume: {
      text: `update ${s}.schedule set paused_at = null, next_at = $2 where name = $1 and paused_at is not null
      returning name`,
    },
    list: {
      text: `select ${readable('c', shown)} from ${s}.schedule as c
      where $1::text is null or c.name = $1 order by c.name limit 10000`,
    },
  }
})
