import { layout } from '../layout.ts'
import { float8, text } from './parameter.ts'
import { everyConsumer, everyLane, perSchema, planned } from './statement.ts'

export interface ConsumerRow {
  readonly consumer: string
  readonly waits: boolean
  readonly workers: number
  readonly stuck: number
  readonly below: number
  readonly subscribed: boolean
  readonly lately: number
}

export interface TopicRow {
  readonly consumer: string
  readonly topic: string
  readonly count: number
  /** What the living claimers have handlers for. */
  readonly patterns: readonly string[]
}

export interface TableRow {
  readonly name: string
  readonly dead: number
  readonly live: number
  readonly unlogged: boolean
  readonly unvacuumed: boolean
}

export interface IndexRow {
  readonly name: string
  readonly valid: boolean
  readonly bytes: number
  readonly table_bytes: number
}

export interface StuckRow {
  readonly id: number
  readonly consumer: string
  readonly host: string
  readonly pid: number
  readonly topic: string
  readonly for_ms: number
}

export interface ReasonRow {
  readonly reason: string
  readonly count: number
}

export interface ForgottenRow {
  readonly consumer: string
  readonly count: number
  readonly oldest_ms: number
}

export interface CatalogItem {
  readonly kind: string
  readonly name: string
  readonly definition: string
}

export interface ServerRow {
  readonly fsync: string
  readonly full_page_writes: string
  readonly synchronous_commit: string
  readonly autovacuum: string
  readonly track_counts: string
  readonly max_connections: number
  readonly connections: number
  readonly sees_all: boolean
  readonly me: string
  readonly now_ms: number
  /** The share of the server's queue of notifications that is taken. */
  readonly notify_usage: number
}

/** What `twinbox doctor` asks. Each statement reads catalogs, or a bounded number of rows. */
export const doctorSql = perSchema('doctor', (s) => {
  const bare = s.replaceAll('"', '')
  // Another schema's name in a function's text, and ours, have to compare as the same.
  const plain = (words: string): string =>
    `replace(replace(replace(${words}, '"' || $schema || '"', 'S'), $schema, 'S'), 'twinbox', 'S')`

  return {
    server: planned(
      {},
      `select current_setting('fsync') as fsync, current_setting('full_page_writes') as full_page_writes,
      current_setting('synchronous_commit') as synchronous_commit, current_setting('autovacuum') as autovacuum,
      current_setting('track_counts') as track_counts, current_setting('max_connections')::int as max_connections,
      (select count(*) from pg_stat_activity where backend_type = 'client backend')::int as connections,
      pg_has_role(current_user, 'pg_read_all_stats', 'usage') as sees_all, current_user::text as me,
      extract(epoch from clock_timestamp())::float8 * 1000 as now_ms, pg_notification_queue_usage() as notify_usage`,
    ).gives<ServerRow>(),

    // Everything that a migration makes, as the server itself describes it.
    catalog: planned(
      { schema: text },
      `select 'column' as kind, c.relname || '.' || a.attname as name, concat_ws(' ',
          ${plain('format_type(a.atttypid, a.atttypmod)')}, case when a.attnotnull then 'not null' end,
          case when a.attidentity <> '' then 'identity' end,
          case when a.attcollation <> t.typcollation then 'collate ' || l.collname end,
          'default ' || ${plain('pg_get_expr(d.adbin, d.adrelid)')}) as definition
        from pg_class as c
        join pg_attribute as a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
        join pg_type as t on t.oid = a.atttypid
        left join pg_collation as l on l.oid = a.attcollation
        left join pg_attrdef as d on d.adrelid = c.oid and d.adnum = a.attnum
        where c.relnamespace = to_regnamespace(quote_ident($schema)) and c.relkind in ('r', 'p')
      union all
      select 'domain', t.typname::text, concat_ws(' ', format_type(t.typbasetype, t.typtypmod), (
          select string_agg(${plain('pg_get_constraintdef(k.oid)')}, ' ' order by k.conname) from pg_constraint as k where k.contypid = t.oid))
        from pg_type as t where t.typnamespace = to_regnamespace(quote_ident($schema)) and t.typtype = 'd'
      union all
      select 'index', i.relname::text, ${plain('pg_get_indexdef(i.oid)')}
        from pg_class as i where i.relnamespace = to_regnamespace(quote_ident($schema)) and i.relkind = 'i'
      union all
      select 'constraint', r.relname || '.' || k.conname, ${plain('pg_get_constraintdef(k.oid)')}
        from pg_constraint as k join pg_class as r on r.oid = k.conrelid
        where k.connamespace = to_regnamespace(quote_ident($schema)) and k.contype in ('c', 'p', 'u', 'f', 'x')
      union all
      select 'function', ${plain("p.proname || '(' || pg_get_function_identity_arguments(p.oid) || ')'")},
          ${plain('pg_get_functiondef(p.oid)')}
        from pg_proc as p where p.pronamespace = to_regnamespace(quote_ident($schema)) and p.prokind = 'f'
      union all
      select 'trigger', r.relname || '.' || g.tgname, ${plain('pg_get_triggerdef(g.oid)')}
        from pg_trigger as g join pg_class as r on r.oid = g.tgrelid
        where r.relnamespace = to_regnamespace(quote_ident($schema)) and not g.tgisinternal
      union all
      select 'storage settings of', c.relname::text,
          coalesce((select string_agg(o, ', ' order by o) from unnest(c.reloptions) as o), 'none')
        from pg_class as c where c.relnamespace = to_regnamespace(quote_ident($schema)) and c.relkind = 'r'
      union all
      select 'persistence of', c.relname::text, case c.relpersistence when 'p' then 'logged' else 'unlogged' end
        from pg_class as c where c.relnamespace = to_regnamespace(quote_ident($schema)) and c.relkind = 'r'
      order by 1, 2`,
    ).gives<CatalogItem>(),

    // Dead letters that have been there for so long that nobody seems to look at them, counted up to a million.
    forgotten: planned(
      { olderThanMs: float8 },
      `select consumer, count(*)::int as count, extract(epoch from clock_timestamp() - min(died_at))::float8 * 1000 as oldest_ms
      from (
        select consumer, died_at from ${s}.dead_letter
        where died_at < statement_timestamp() - $olderThanMs * interval '1 millisecond' limit 1000000
      ) as d
      group by consumer order by count(*) desc, consumer`,
    ).gives<ForgottenRow>(),

    // Why keys of the outbox wait for another attempt, counted up to 100,000.
    waitingKeys: planned(
      {},
      `select reason, count(*)::int as count
      from (select reason from ${s}.parked where consumer = '' and until < 'infinity' limit 100000) as p
      group by reason order by count(*) desc, reason limit 5`,
    ).gives<ReasonRow>(),

    // Handlers that do not end, as their claimers say.
    stuck: planned(
      {},
      `select id, consumer, host, pid, stuck_topic as topic,
        extract(epoch from clock_timestamp() - stuck_since)::float8 * 1000 as for_ms
      from ${s}.worker
      where ended_at is null and stuck_since is not null and beat_at > clock_timestamp() - interval '30 seconds'
      order by stuck_since limit 20`,
    ).gives<StuckRow>(),

    // Relays whose broker is out of reach, as they say.
    brokerless: planned(
      {},
      `select id, host, pid, broker_error as error, extract(epoch from clock_timestamp() - broker_down_since)::float8 * 1000 as for_ms
      from ${s}.worker
      where ended_at is null and broker_down_since is not null and beat_at > clock_timestamp() - interval '30 seconds'
      order by broker_down_since limit 20`,
    ).gives<Pick<StuckRow, 'id' | 'host' | 'pid' | 'for_ms'> & { readonly error: string }>(),

    tables: planned(
      {},
      `select t.relname::text as name, t.n_dead_tup::float8 as dead, t.n_live_tup::float8 as live,
      c.relpersistence = 'u' and t.relname <> 'incarnation' as unlogged, coalesce('autovacuum_enabled=false' = any (c.reloptions), false)
        or coalesce('autovacuum_enabled=off' = any (c.reloptions), false) as unvacuumed
      from pg_stat_user_tables as t join pg_class as c on c.oid = t.relid
      where t.schemaname = '${bare}' order by t.relname`,
    ).gives<TableRow>(),

    // An index of queues shrinks to nothing again and again; what is still large beside its table is bloat.
    indexes: planned(
      {},
      `select i.relname::text as name, x.indisvalid and x.indisready as valid,
        pg_relation_size(i.oid)::float8 as bytes, pg_relation_size(r.oid)::float8 as table_bytes
      from pg_index as x join pg_class as i on i.oid = x.indexrelid join pg_class as r on r.oid = x.indrelid
      where i.relnamespace = to_regnamespace('${bare}') order by i.relname`,
    ).gives<IndexRow>(),

    // Topics of which messages wait for a handler, and what the living claimers of their consumers have handlers for.
    unhandled: planned(
      {},
      `select c.consumer, m.topic, count(*)::int as count, (
        select coalesce(array_agg(distinct t.topic), '{}') from ${s}.worker as w cross join unnest(w.topics) as t(topic)
        where w.kind = 'claimer' and w.consumer = c.consumer and w.ended_at is null
          and w.beat_at > clock_timestamp() - interval '30 seconds') as patterns
      from ${everyConsumer(s)} as c
      cross join lateral (
        select u.topic from ${s}.unhandled as u where u.consumer = c.consumer limit 100000
      ) as m
      group by c.consumer, m.topic
      order by c.consumer, count(*) desc, m.topic`,
    ).gives<TopicRow>(),

    // Of each consumer ('' is the outbox) whether anything waits to be worked on, who could do it, and how many lanes
    // with something in them nobody has taken for longer than any lease should lapse.
    consumers: planned(
      {},
      `select c.consumer,
        (case when c.consumer = '' then exists (select from ${s}.outbox)
          else exists (select from ${s}.inbox as i where i.consumer = c.consumer)
            or exists (select from ${s}.unhandled as u where u.consumer = c.consumer) end) as waits,
        (select count(*) from ${s}.worker as w where w.consumer = c.consumer
          and w.kind = case when c.consumer = '' then 'relay' else 'claimer' end and w.ended_at is null
          and w.beat_at > clock_timestamp() - interval '30 seconds')::int as workers,
        (select count(*) from ${everyLane}
          where l.lane < ${layout.lanes} and not exists (select from ${s}.lane as h where h.consumer = c.consumer and h.lane = l.lane
              and h.lease_until >= clock_timestamp() - interval '30 seconds')
            and case when c.consumer = ''
              then exists (select from ${s}.outbox as o where o.lane = l.lane
                and o.published_at < clock_timestamp() - interval '30 seconds')
              else exists (select from ${s}.inbox as i
                where i.consumer = c.consumer and i.lane = l.lane
                  and i.received_at < clock_timestamp() - interval '30 seconds') end)::int as stuck,
        -- Workers read from the watermark of a lane on: what stands below is seen by nobody.
        (select count(*) from ${s}.lane as l where l.consumer = c.consumer and case when c.consumer = ''
            then exists (select from ${s}.outbox as o where o.lane = l.lane and o.seq <= l.watermark)
            else exists (select from ${s}.inbox as i where i.consumer = c.consumer and i.lane = l.lane and i.seq <= l.watermark)
            end)::int as below,
        exists (select from ${s}.subscription as u where u.consumer = c.consumer and u.ended_at is null) as subscribed,
        (select count(*) from ${s}.worker as w where w.consumer = c.consumer and c.consumer <> ''
          and (w.ended_at is null or w.ended_at > clock_timestamp() - interval '1 hour')
          and w.beat_at > clock_timestamp() - interval '1 hour')::int as lately
      from (select '' as consumer union select consumer from ${everyConsumer(s)} as c union select consumer from ${s}.subscription where ended_at is null) as c
      order by c.consumer`,
    ).gives<ConsumerRow>(),
  }
})
