import { anyLaneSql } from '../layout.ts'
import { noting, signing } from './audit.ts'
import { waking } from './sleep.ts'
import {
  bytea,
  float8,
  int,
  json,
  like,
  optional,
  sparse,
  text,
  texts,
  timestamptz,
  timestamptzs,
  uuids,
} from './parameter.ts'
import { instant, perSchema, planned, prepared, readable } from './statement.ts'

/** What becomes of ticks that nobody was there for. */
export const catchUps = ['one', 'skip', 'all'] as const
export type CatchUp = (typeof catchUps)[number]

export interface ScheduleRow {
  readonly name: string
  readonly cron: string
  readonly time_zone: string
  readonly catch_up: CatchUp
  readonly topic: string
  readonly key: string | null
  readonly headers: string | null
  readonly content_type: string | null
  readonly expires_ms: number | null
  readonly next_at: Date | null
  readonly last_at: Date | null
  readonly paused_at: Date | null
  readonly created_at: Date
  readonly updated_at: Date
}

export interface DueRow {
  readonly name: string
  readonly cron: string
  readonly time_zone: string
  readonly catch_up: CatchUp
  readonly next_at: Date
  readonly now: Date
}

/**
 * Recurring messages. Whoever publishes a tick holds the row of its schedule, and moves it to the next tick in the same
 * transaction: so each tick is published once, by whichever worker comes first.
 */
export const scheduleSql = perSchema('schedule', (s) => {
  const shown = `name, cron, time_zone, catch_up, topic, key, headers, content_type, expires_ms, next_at, last_at,
    paused_at, created_at, updated_at`
  const defined = [
    ...['cron', 'time_zone', 'catch_up', 'topic', 'key', 'headers', 'payload', 'body', 'content_type'],
    'expires_ms',
  ]
  // JSON has no equality; that of its text is enough to see that a declaration is the same as before.
  const comparable = (alias: string): string =>
    `(${defined.map((name) => `${alias}.${name}${/^(headers|payload)$/.test(name) ? '::text' : ''}`).join(', ')})`
  const audited = (action: 'set' | 'remove' | 'pause' | 'resume', more = ''): string => `,
    audited as (
      ${noting(s, action, { from: 'done', topic: 'topic', what: `'schedule ' || name${more}` })}
    )`
  return {
    now: prepared({}, `select ${instant('clock_timestamp()')} as now`).gives<{ readonly now: Date }>(),

    // `$aheadMs`: how far the clock of a test is ahead of the database's, otherwise 0. Left out are those named `$aside`.
    anyDue: prepared(
      { aheadMs: float8, aside: texts },
      `select exists (
        select from ${s}.schedule
        where paused_at is null and next_at <= statement_timestamp() + $aheadMs * interval '1 millisecond'
          and name <> all ($aside)
      ) as due`,
    ).gives<{ readonly due: boolean }>(),
    lockDue: prepared(
      { aheadMs: float8, most: int, aside: texts },
      `select name, cron, time_zone, catch_up, ${instant('next_at')} as next_at,
        ${instant("(statement_timestamp() + $aheadMs * interval '1 millisecond')")} as now
      from ${s}.schedule
      where paused_at is null and next_at <= statement_timestamp() + $aheadMs * interval '1 millisecond'
        and name <> all ($aside)
      order by next_at limit $most
      for no key update skip locked`,
    ).gives<DueRow>(),

    // Publishes ticks, in their order. A schedule may have been set back by hand: what it has published is known.
    publish: prepared(
      { names: texts, ticks: timestamptzs, ids: uuids, dedupeKeys: texts, windowMs: float8 },
      `with t as materialized (
        select t.*, c.topic, c.key, c.headers, c.payload, c.body, c.content_type,
          t.tick + c.expires_ms * interval '1 millisecond' as expires_at
        from (select pg_current_xact_id() as xid, ${waking(s, "''")} as woken offset 0) as x
        cross join unnest($names, $ticks, $ids, $dedupeKeys)
          with ordinality as t(name, tick, id, dedupe_key, nr)
        join ${s}.schedule as c using (name)
        where x.xid is not null
      ),
      fresh as (
        insert into ${s}.dedupe (topic, dedupe_key, id, expires_at)
        select t.topic, t.dedupe_key, t.id, clock_timestamp() + $windowMs * interval '1 millisecond' from t
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
    ).gives<{ readonly count: number }>(),
    move: prepared(
      { names: texts, nextAt: sparse(timestamptzs), lastAt: sparse(timestamptzs) },
      `update ${s}.schedule as c set next_at = n.next_at, last_at = coalesce(n.last_at, c.last_at)
      from unnest($names, $nextAt, $lastAt) as n(name, next_at, last_at)
      where c.name = n.name`,
    ),

    // No row comes back if nothing has changed. What is declared anew goes on where it was, unless its times are others.
    set: planned(
      {
        name: text,
        cron: text,
        timeZone: text,
        catchUp: like(text, "'all'"),
        topic: text,
        key: optional(text),
        headers: optional(json),
        payload: optional(json),
        body: like(optional(bytea), 'null'),
        contentType: optional(text),
        expiresMs: optional(float8),
        nextAt: optional(timestamptz),
        ...signing,
      },
      `with done as (
      insert into ${s}.schedule as c (name, ${defined.join(', ')}, next_at)
      values ($name, $cron, $timeZone, $catchUp, $topic, $key, $headers, $payload, $body, $contentType, $expiresMs, $nextAt)
      on conflict (name) do update set
        ${defined.map((name) => `${name} = excluded.${name}`).join(', ')}, updated_at = clock_timestamp(),
        next_at = case
          when (c.cron, c.time_zone) = (excluded.cron, excluded.time_zone) then c.next_at else excluded.next_at end
      where ${comparable('c')} is distinct from ${comparable('excluded')}
      returning name, topic, cron, time_zone
    )${audited('set', " || ', ' || cron || ' ' || time_zone")}
    select name from done`,
    ),
    remove: planned(
      { name: text, ...signing },
      `with done as (
      delete from ${s}.schedule where name = $name returning name, topic
    )${audited('remove')}
    select name from done`,
    ),
    // One that is paused already is as it was asked for, and nothing was done to it.
    pause: planned(
      { name: text, ...signing },
      `with done as (
      update ${s}.schedule set paused_at = clock_timestamp() where name = $name and paused_at is null returning name, topic
    )${audited('pause')}
    select name from ${s}.schedule where name = $name`,
    ),
    resume: planned(
      { name: text, nextAt: optional(timestamptz), ...signing },
      `with done as (
      update ${s}.schedule set paused_at = null, next_at = $nextAt where name = $name and paused_at is not null
      returning name, topic
    )${audited('resume')}
    select name from done`,
    ),
    list: planned(
      { name: optional(text) },
      `select ${readable('c', shown)} from ${s}.schedule as c
      where $name is null or c.name = $name order by c.name limit 10000`,
    ).gives<ScheduleRow>(),
  }
})
