import { layout } from '../layout.ts'
import type { FailedAttempt, MessageRow } from '../../message/row.ts'
import { bigints, optional, text, texts, uuids } from './parameter.ts'
import { each, messageColumns, perSchema, planned, readable } from './statement.ts'

/** Where a message can be whole, and `handled`, which has its key. */
export const holders = [
  'outbox',
  'inbox',
  'deferred',
  'parked_message',
  'unhandled',
  'dead_letter',
  'handled',
] as const
export type Holder = (typeof holders)[number]

/** What an erasure counts. */
export const erasedTables = [...holders, 'dedupe', 'audit', 'circuit'] as const
export type ErasedTable = (typeof erasedTables)[number]

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
}

/** Of what was handled, without the content. */
export interface ExportedRow extends Partial<MessageRow> {
  readonly id: string
  readonly topic: string
  readonly key: string | null
  readonly published_at: Date | null
  readonly place: Holder
  readonly consumer: string
  readonly attempt: number
  readonly reason: string | null
  readonly errors: readonly FailedAttempt[] | null
}

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
    // on, errors of the message included, finds the fence risen. A message without a key has a fence of its own, in its row.
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
          where g.consumer = l.consumer and g.lane = l.lane and (g.seq <= l.reach or g.seq = any (l.past))
        )
      )
      select ${erasedTables.map((table) => count(table, `found_${table}`)).join(', ')}, k.consumers, k.keys
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
      { who: text, why: optional(text), consumer: text, counts: text },
      `insert into ${s}.audit (action, who, why, consumer, reason) values ('erase', $who, $why, $consumer, $counts)`,
    ),

    /** The messages of a table whole, a page at a time, by their place. */
    places: each(holders, (table) =>
      planned(
        matching,
        `select ${place(table)} as place from ${s}.${table} as m where ${matches(table)} order by 1`,
      ).gives<{
        readonly place: number
      }>(),
    ),
    page: each(holders, (table) =>
      planned(
        { ...matching, places: bigints },
        `select '${table}' as place, ${consumerOf(table)} as consumer, m.attempt,
          ${readable('m', table === 'handled' ? 'id, topic, key, published_at' : messageColumns)},
          ${table === 'dead_letter' ? 'm.reason' : 'null::text as reason'}, ${table === 'handled' ? 'null::jsonb as errors' : 'm.errors'}
        from ${s}.${table} as m where ${matches(table)} and ${place(table)} = any ($places) order by ${place(table)}`,
      ).gives<ExportedRow>(),
    ),
  }
})

const place = (table: Holder): string =>
  table === 'dead_letter' || table === 'handled' ? 'm.number' : 'm.seq'
