import { bigint, float8s, texts, uuids } from './parameter.ts'
import { op } from './qualified.ts'
import { perSchema, planned, quoted } from './statement.ts'

/** What a transaction has published, as whatever driver is in between makes of it: texts. */
export interface PublishedRow {
  readonly id: string
  readonly topic: string
  readonly key: string | null
  readonly headers: string | null
  readonly payload: string | null
  /** In hexadecimals. */
  readonly body: string | null
  readonly content_type: string | null
  /** Milliseconds since 1970. */
  readonly deliver_at: string | null
  readonly expires_at: string | null
}

/** Where messages are, of one topic and one consumer; '' is the outbox. */
export interface LeftRow {
  readonly place:
    'outbox' | 'broker' | 'inbox' | 'delayed' | 'retrying' | 'parked' | 'unhandled' | 'dead' | 'schedule'
  readonly consumer: string
  readonly topic: string
  /** Whether its time has come, or it waits for none. */
  readonly due: boolean
  readonly count: number
  /** One of them. */
  readonly id: string | null
}

const mark = 'twinbox test schema'
/** All that a test leaves behind. Not the lanes: they know how far they were read, and numbers go on from there. */
const leavings = [
  ...['outbox', 'dedupe', 'inbox', 'seen', 'subscription', 'handled', 'deferred', 'parked', 'parked_message'],
  ...['unhandled', 'circuit', 'dead_letter', 'schedule', 'audit'],
]

/** For tests of applications. Nothing else may move times, or delete what nobody has settled. */
export const testingSql = perSchema('testing', (s) => {
  const named = quoted(s.slice(1, -1))
  const fields = (m: string): string => `${m}.id, ${m}.topic, ${m}.key, ${m}.headers, ${m}.payload, ${m}.body,
          ${m}.content_type, ${m}.expires_at, ${m}.xmin, ${m}.cmin, ${m}.seq`
  const msOf = (time: string): string => `(extract(epoch from ${time}) ${op('*')} 1000)::pg_catalog.text`
  const moved = (time: string): string =>
    `greatest(${time} - $ms * interval '1 millisecond', timestamptz '2000-01-02Z')`
  const none = leavings.map((table) => `not exists (select from ${s}.${table})`).join(' and ')

  return {
    // On a connection of the user's, see qualified.ts. A savepoint writes under a number of its own, above that of its transaction. Of
    // rows that can be seen, only those are of a transaction in progress that are of this one. xmin has half the bits of a
    // number, and is taken for the one next to ours.
    published: planned(
      {},
      `select m.id::pg_catalog.text as id, m.topic::pg_catalog.text as topic, m.key::pg_catalog.text as key,
        m.headers::pg_catalog.text as headers, m.payload::pg_catalog.text as payload,
        pg_catalog.encode(m.body, 'hex'::pg_catalog.text) as body, m.content_type::pg_catalog.text as content_type,
        ${msOf('m.due_at')} as deliver_at, ${msOf('m.expires_at::pg_catalog.timestamptz')} as expires_at
      from (
        select m.*, w.own, (((m.xmin::pg_catalog.text::bigint ${op('-')} (w.own ${op('&')} 4294967295)) ${op('+')} 6442450944)
          ${op('%')} 4294967296) ${op('-')} 2147483648 as above
        from (select pg_catalog.pg_current_xact_id_if_assigned()::pg_catalog.text::bigint as own offset 0) as w
        cross join (
          select ${fields('o')}, null::pg_catalog.timestamptz as due_at from ${s}.outbox as o
          union all
          select ${fields('d')}, d.due_at from ${s}.deferred as d
          where d.consumer ${op('=')} ''::pg_catalog.text and d.attempt ${op('=')} 0::smallint
        ) as m
        where w.own is not null
      ) as m
      where case when m.above ${op('<')} 0 then false
        else pg_catalog.pg_xact_status((m.own ${op('+')} m.above)::pg_catalog.text::pg_catalog.xid8) ${op('=')} 'in progress'::pg_catalog.text end
      order by m.cmin::pg_catalog.text::bigint, m.due_at is not null, m.seq`,
    ).gives<PublishedRow>(),

    // What waits and what does not, in one snapshot: a message on its way from one table to another is in one of them. `$ids` were
    // handed to a broker, for `$consumers`; those that no inbox has seen are still there.
    left: planned(
      { consumers: texts, ids: uuids, topics: texts },
      `select m.place, m.consumer, m.topic, m.due, count(*) as count, min(m.id::text) as id
      from (
        select 'outbox' as place, '' as consumer, topic::text as topic, true as due, id from ${s}.outbox
        union all select 'inbox', consumer, topic, true, id from ${s}.inbox
        union all select case when consumer = '' and attempt = 0 then 'delayed' else 'retrying' end, consumer, topic,
          due_at <= statement_timestamp(), id from ${s}.deferred
        union all select case when p.until = 'infinity' then 'parked' else 'retrying' end, m.consumer, m.topic,
          coalesce(p.until <= statement_timestamp(), true), m.id
          from ${s}.parked_message as m left join ${s}.parked as p using (consumer, lane, key)
        union all select 'unhandled', consumer, topic, true, id from ${s}.unhandled
        union all select 'dead', consumer, topic, true, id from ${s}.dead_letter
        union all select 'schedule', '', topic, next_at <= statement_timestamp(), null
          from ${s}.schedule where paused_at is null and next_at is not null
        union all select 'broker', b.consumer, b.topic, true, b.id
          from unnest($consumers, $ids, $topics) as b(consumer, id, topic)
          where not exists (select from ${s}.seen as k where k.consumer = b.consumer and k.id = b.id)
      ) as m
      group by m.place, m.consumer, m.topic, m.due
      order by m.place, m.consumer, m.topic`,
    ).gives<LeftRow>(),

    // Failed messages that wait for their next attempt: for so long from now on.
    pause: planned(
      { consumers: texts, ids: uuids, ms: float8s },
      `with failed as materialized (
        select f.consumer, f.id, clock_timestamp() + f.ms * interval '1 millisecond' as until
        from unnest($consumers, $ids, $ms) as f(consumer, id, ms)
      ),
      keys as (
        update ${s}.parked as p set until = f.until
        from failed as f join ${s}.parked_message as m using (consumer, id)
        where p.consumer = m.consumer and p.lane = m.lane and p.key = m.key and p.blocker = m.seq and p.until < 'infinity'
      )
      update ${s}.deferred as d set due_at = f.until from failed as f where d.consumer = f.consumer and d.id = f.id`,
    ),

    // All by as much, or of one key what becomes due later would go first.
    advance: planned(
      { ms: bigint },
      `with d as (
        update ${s}.deferred set due_at = ${moved('due_at')},
          published_at = case when published_at = due_at then ${moved('published_at')} else published_at end
      ),
      p as (update ${s}.parked set until = ${moved('until')} where until < 'infinity')
      update ${s}.schedule set next_at = ${moved('next_at')}`,
    ),

    // Row by row, and the sequences go on: a message that is numbered below where its lane was read would be invisible.
    reset: `with ${leavings.map((table) => `${table}_gone as (delete from ${s}.${table})`).join(', ')}
      delete from ${s}.worker where ended_at is not null`,

    // A schema that has no tables of ours has had no message.
    state: planned(
      {},
      `select exists (select from pg_namespace where nspname = ${named}) as there,
        exists (select from pg_class as c join pg_namespace as n on n.oid = c.relnamespace
          where n.nspname = ${named} and c.relname = 'migration') as migrated,
        coalesce((select obj_description(n.oid, 'pg_namespace') ~ '${mark}' from pg_namespace as n where n.nspname = ${named}), false)
          as marked`,
    ).gives<{ readonly there: boolean; readonly migrated: boolean; readonly marked: boolean }>(),
    unused: planned({}, `select ${none} and not exists (select from ${s}.worker) as unused`).gives<{
      readonly unused: boolean
    }>(),
    // These and `reset` are texts, so that nobody finds them among the statements that `twinbox sql` prints.
    mark: `do $mark$ begin
      execute format('comment on schema %I is %L', ${named},
        concat_ws('; ', obj_description(${named}::regnamespace, 'pg_namespace'), '${mark}'));
    end $mark$`,
    drop: `drop schema ${s} cascade`,
  }
})
