import { layout } from '../layout.ts'
import type { migrationSql } from './migration.ts'
import { signing } from './audit.ts'
import { bigints, optional, text, texts, uuids } from './parameter.ts'
import {
  contentOf,
  messageStates,
  placed,
  shown,
  tableOf,
  type Holder,
  type MessageState,
  type PlacedRow,
} from './placed.ts'
import { each, msSince, perSchema, planned } from './statement.ts'

/** The tables in which a message can be whole, and `handled`, which has its key. */
const holders = Object.values(tableOf) as Holder[]

/** What an erasure counts. */
export type ErasedTable = Holder | 'dedupe' | 'audit' | 'circuit'
export const erasedTables: readonly ErasedTable[] = [...holders, 'dedupe', 'audit', 'circuit']

/** Messages by their key, or by ids; of all consumers and topics, unless said. */
const matching = {
  key: optional(text),
  ids: uuids,
  consumer: optional(text),
  topic: optional(text),
}

/** How many rows were found in each table, and of how many messages more is kept. */
export type ErasedCounts = Readonly<Record<ErasedTable, number>>

export interface ErasedRow extends ErasedCounts {
  /** The keys of messages that are gone, with their consumers. */
  readonly consumers: readonly string[]
  readonly keys: readonly string[]
  /** Of those of the outbox, how many lay in a lane that a relay holds. */
  readonly sending: number
}

/** Who has a row that is to be erased, and would have to end first. */
export type HeldRow = ReturnType<typeof migrationSql>['blockers']['row'] & { readonly table: string }

/** All that is stored of a message or of a key: erased and exported. None is prepared by name, see operate.ts. */
export const privacySql = perSchema('privacy', (s) => {
  const consumerOf = (table: ErasedTable): string =>
    table === 'outbox' || table === 'dedupe' ? `''::text` : 'm.consumer'
  const inScope = (table: ErasedTable): string =>
    `($consumer is null or ${consumerOf(table)} = $consumer) and ($topic is null or m.topic = $topic)`
  // In the tables that have lanes, a key is looked for in its lane alone.
  const laneOfKey = (table: ErasedTable): string =>
    ['outbox', 'inbox', 'parked_message'].includes(table) ? `m.lane = ${s}.lane_of($key) and` : ''
  const matches = (table: ErasedTable): string => {
    if (table === 'dedupe') return `m.id = any ($ids) and ${inScope(table)}`
    const what = `(${laneOfKey(table)} m.key = $key or m.id = any ($ids)) and ${inScope(table)}`
    // What an operator did stays, without what it was done to.
    return table === 'audit'
      ? `${what} and (m.key is not null or m.errors is not null or m.reason not like 'erased by %')`
      : what
  }
  const some = (select: string, tables: readonly ErasedTable[] = holders): string =>
    tables
      .map((table) => `select ${select} from ${s}.${table} as m where ${matches(table)}`)
      .join('\n      union ')
  // The errors of a topic quote one of its messages; of which one, nobody knows.
  const quoting = (gone: string): string =>
    `m.error <> 'erased' and ($consumer is null or m.consumer = $consumer) and (strpos(m.error, $key) > 0 or (m.consumer, m.topic) in (${gone}))`
  const count = (table: ErasedTable, from: string): string =>
    `(select count(*) from ${from})::int as ${table}`

  // Of each table the rows are locked before they go, and nobody is waited for: who completes one just now may wait for another.
  // What is not locked at once raises 55P03, and all is tried again.
  const erasing = (table: Exclude<ErasedTable, 'circuit'>): string => {
    // By a function, which takes out what is personal and no more.
    if (table === 'audit')
      return `found_audit as materialized (select from generate_series(1, ${s}.erase_audit($key, $ids, $consumer, $topic)))`
    const returning = `returning ${consumerOf(table)} as consumer, m.topic, m.key${
      table === 'outbox' || table === 'inbox' ? ', m.lane, m.seq' : ''
    }`
    return `found_${table} as materialized (
        select m.ctid from ${s}.${table} as m where ${matches(table)} for update nowait
      ),
      gone_${table} as (
        delete from ${s}.${table} as m using found_${table} as f where m.ctid = f.ctid${table === 'dedupe' ? '' : ` ${returning}`}
      )`
  }
  const plain = ['outbox', 'inbox', ...holders.slice(2), 'dedupe', 'audit'] as Exclude<
    ErasedTable,
    'circuit'
  >[]
  const allGone = (select: string): string =>
    holders.map((table) => `select ${select} from gone_${table}`).join(' union ')

  return {
    /** The ids of a dedupe key's messages. A key whose window has ended is not known any more. */
    idsOfDedupeKey: planned(
      { dedupeKey: text, topic: optional(text) },
      `select k.id from ${s}.dedupe as k where k.dedupe_key = $dedupeKey and ($topic is null or k.topic = $topic)
      union select d.id from ${s}.deferred as d where d.dedupe_key = $dedupeKey and ($topic is null or d.topic = $topic)`,
    ).gives<{ readonly id: string }>(),

    /** The ids under which the rest is found: of dedupe keys, of the audit. */
    ids: planned(matching, some('m.id', [...holders, 'audit'])).gives<{ readonly id: string | null }>(),

    /** What lies in the lanes stays where it is from here on. In the order in which workers lock lanes. */
    lockLanes: planned(
      matching,
      `select l.consumer, l.lane from ${s}.lane as l
      where ($consumer is null or l.consumer = $consumer) and (l.lane = ${s}.lane_of($key) or l.lane in (
        ${some(`${s}.lane_of(m.key)`)}))
      order by l.consumer, l.lane for no key update`,
    ),

    count: planned(
      matching,
      `select ${[...holders, 'dedupe' as const, 'audit' as const]
        .map((table) => count(table, `${s}.${table} as m where ${matches(table)}`))
        .join(',\n      ')},
        ${count('circuit', `${s}.circuit as m where ${quoting(some('m.consumer, m.topic', holders.slice(1)))}`)}`,
    ).gives<ErasedCounts>(),

    // What a worker has in flight is taken from it as if another one had taken its lane: what it writes for the lane from then
    // on, errors of the message included, finds the fence risen. Of the outbox it is not written down what is in flight: a key whose
    // message is gone would be parked behind it for good, with what the broker said. A message without a key has a fence of its own, in its row.
    erase: planned(
      matching,
      `with ${plain.map(erasing).join(',\n      ')},
      found_circuit as materialized (
        select m.ctid from ${s}.circuit as m where ${quoting(some('m.consumer, m.topic', holders.slice(1)))} for update nowait
      ),
      gone_circuit as (
        update ${s}.circuit as m set error = 'erased' from found_circuit as f where m.ctid = f.ctid
      ),
      fenced as (
        update ${s}.lane as l set fence = l.fence + 1, holder = null, since = null, lease_until = '-infinity', reach = 0, past = null
        where l.lane < ${layout.lanes} and exists (
          select from (
            select consumer, lane, seq from gone_outbox union all select consumer, lane, seq from gone_inbox
          ) as g
          where g.consumer = l.consumer and g.lane = l.lane and (g.seq <= l.reach or g.seq = any (l.past) or (l.consumer = '' and l.lease_until > clock_timestamp()))
        )
      )
      select ${erasedTables.map((table) => count(table, `found_${table}`)).join(', ')}, k.consumers, k.keys, (
        select count(*) from gone_outbox as g join ${s}.lane as l on l.consumer = g.consumer and l.lane = g.lane
        where l.lease_until > clock_timestamp()
      )::int as sending
      from (
        select coalesce(array_agg(g.consumer), '{}') as consumers, coalesce(array_agg(g.key), '{}') as keys
        from (${allGone('consumer, key')}) as g where g.key is not null
      ) as k`,
    ).gives<ErasedRow>(),

    // Keys that are held back behind what is gone: those of which nothing waits are struck off, the others go on.
    free: planned(
      { consumers: texts, keys: texts },
      `with touched as materialized (
        select p.ctid, p.consumer, p.lane, p.key, exists (
          select from ${s}.parked_message as m where m.consumer = p.consumer and m.lane = p.lane and m.key = p.key
        ) as waits, exists (
          select from ${s}.dead_letter as d where d.consumer = p.consumer and d.key = p.key and d.seq = p.blocker
          union all
          select from ${s}.parked_message as m
          where m.consumer = p.consumer and m.lane = p.lane and m.key = p.key and m.seq = p.blocker
        ) as behind
        from unnest($consumers, $keys) as t(consumer, key)
        join ${s}.parked as p on p.consumer = t.consumer and p.lane = ${s}.lane_of(t.key) and p.key = t.key
        for update of p nowait
      ),
      freed as (
        update ${s}.parked as p set until = clock_timestamp(), released_to = 0, blocker = null, reason = 'erased'
        from touched as t where p.ctid = t.ctid and t.waits and not t.behind
      )
      delete from ${s}.parked as p using touched as t where p.ctid = t.ctid and not t.waits and not t.behind`,
    ),

    /** Consumers in which a key is held back, whether or not one of its messages is left. */
    parkedIn: planned(
      { key: text, consumer: optional(text) },
      `select p.consumer from ${s}.parked as p
      where p.lane = ${s}.lane_of($key) and p.key = $key and ($consumer is null or p.consumer = $consumer)`,
    ).gives<{ readonly consumer: string }>(),

    /** What is named rather than erased: recurring messages of the key, and remembered ids. */
    schedules: planned(
      { key: text },
      `select h.name from ${s}.schedule as h where h.key = $key order by h.name`,
    ).gives<{
      readonly name: string
    }>(),
    seen: planned(
      { ids: uuids, consumer: optional(text) },
      `select count(*)::int as count from ${s}.seen as k where k.id = any ($ids) and ($consumer is null or k.consumer = $consumer)`,
    ).gives<{ readonly count: number }>(),

    /** That it was done, by whom, why and to how many. Nothing of what it was done to. */
    audit: planned(
      { ...signing, consumer: text, counts: text },
      `insert into ${s}.audit (action, who, why, consumer, reason) values ('erase', $who, $why, $consumer, $counts)`,
    ),

    // A row that is locked says by which transaction, and that says whose it is. A row that several share does not.
    held: planned(
      matching,
      `select t.name as "table", t.pid, nullif(a.application_name, '') as application, a.usename::text as "user", a.state,
        ${msSince('a.query_start')} as "queryMs",
        ${msSince('a.xact_start')} as "transactionMs"
      from (
        select distinct r.name, coalesce(k.pid, 0) as pid
        from (
          ${plain.map((table) => `select '${table}'::text as name, m.xmax as xid from ${s}.${table} as m where ${matches(table)}`).join(' union all ')}
          union all select 'circuit', m.xmax from ${s}.circuit as m where ${quoting(some('m.consumer, m.topic', holders.slice(1)))}
          union all select 'parked', m.xmax from ${s}.parked as m where m.lane = ${s}.lane_of($key) and m.key = $key
          union all select 'lane', l.xmax from ${s}.lane as l where l.lane = ${s}.lane_of($key) or l.lane in (${some(`${s}.lane_of(m.key)`)})
        ) as r
        join pg_locks as k on k.locktype = 'transactionid' and k.transactionid = r.xid and k.granted
        where k.pid is distinct from pg_backend_pid()
      ) as t
      left join pg_stat_activity as a on a.pid = t.pid
      order by a.xact_start nulls last, t.name limit 5`,
    ).gives<HeldRow>(),

    /** The messages in a state whole, a page at a time, by their place. */
    places: each(messageStates, (state) =>
      planned(
        matching,
        `select ${place(state)} as place from ${s}.${tableOf[state]} as m where ${matches(tableOf[state])} order by 1`,
      ).gives<{
        readonly place: number
      }>(),
    ),
    page: each(messageStates, (state) =>
      planned(
        { ...matching, places: bigints },
        `select ${shown('m', state)} from (
          select ${placed(s)[state]}, ${contentOf(state, null)} from ${s}.${tableOf[state]} as m
          ${state === 'inbox' ? `left join ${s}.lane as h on h.consumer = m.consumer and h.lane = m.lane` : ''}
          where ${matches(tableOf[state])} and ${place(state)} = any ($places)
        ) as m order by m.place`,
      ).gives<PlacedRow>(),
    ),
  }
})

const place = (state: MessageState): string =>
  state === 'dead' || state === 'handled' ? 'm.number' : 'm.seq'
