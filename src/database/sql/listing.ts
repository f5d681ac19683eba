import { int, optional, text, texts } from './parameter.ts'
import { messageStates, placed, tableOf, type MessageState } from './placed.ts'
import { beside, light, order, told, type FoundRow } from './search.ts'
import { each, everyLane, instant, perSchema, planned } from './statement.ts'

/** A message of a list, if there is one, beside how many rows were looked at and whether there were more. */
export type ListedRow = {
  readonly looked_at: number
  readonly beyond: boolean
} & ((FoundRow & { readonly id: string }) | { readonly state: null })

/** A message that was published with a dedupe key, if there is one, beside whether more topics have keys than were looked at. */
export interface DedupeRow {
  readonly id: string | null
  readonly topic: string
  readonly beyond: boolean
}

/** Dead letters that are alike. */
export interface GroupRow {
  readonly looked_at: number
  readonly consumer: string
  readonly topic: string
  /** What stands before the first colon of the reason: the class of the error, mostly. */
  readonly class: string
  readonly count: number
  readonly oldest: Date
  readonly latest: Date
  /** The number and the reason of the latest one. */
  readonly number: number
  readonly reason: string
  /** How many groups there are, told or not. */
  readonly groups: number
}

/**
 * Messages and dead letters by what people ask for, without their content, so that a reader may ask. What no index serves is
 * looked at up to a bound, and the answer says whether there was more. None is prepared by name, see operate.ts.
 */
export const listingSql = perSchema('listing', (s) => {
  const besides: Readonly<Record<MessageState, string>> = {
    ...beside,
    deferred: 'm.consumer, m.received_at, m.published_at, m.due_at',
    dead: 'm.consumer, m.number, m.died_at, m.received_at, m.reason',
    handled: 'm.consumer, m.number, m.handled_at, m.worker, m.received_at',
  }
  const rows = (state: MessageState, where: string, by: string): string =>
    `select ${
      state === 'handled'
        ? 'm.id, m.topic, m.key, m.attempt'
        : state === 'dead'
          ? light.replace('m.seq, ', '')
          : light
    }, ${besides[state]} from ${s}.${tableOf[state]} as m ${where} ${by} limit $look`
  const inLanes = (state: keyof typeof beside, where: string): string =>
    `select m.* from unnest($consumers) as c(consumer) cross join ${everyLane} cross join lateral (
        ${rows(
          state,
          `where ${state === 'outbox' ? `c.consumer = ''` : 'm.consumer = c.consumer'} and m.lane = l.lane ${where}`,
          `order by ${order[state]}`,
        )}
      ) as m where $key is null or l.lane = ${s}.lane_of($key)`
  const ofEach = (state: MessageState, where: string, by: string): string =>
    `select m.* from unnest($consumers) as c(consumer) cross join lateral (
        ${rows(state, `where m.consumer = c.consumer ${where}`, `order by ${by}`)}
      ) as m`
  // What an index serves is compared within the limit, and everything else outside, or all of a table would be looked at.
  const pages: Readonly<Record<MessageState, string>> = {
    outbox: inLanes('outbox', ''),
    inbox: inLanes('inbox', ''),
    deferred: ofEach('deferred', '', 'm.due_at, m.seq'),
    parked: inLanes('parked', 'and ($key is null or m.key = $key)'),
    unhandled: inLanes('unhandled', 'and ($topic is null or m.topic = $topic)'),
    dead: ofEach('dead', 'and ($key is null or m.key = $key)', 'm.seq desc, m.number desc'),
    handled: `(${rows('handled', '', '')})`,
  }
  const list = (state: MessageState): string => {
    const lane = state in beside ? 'm.lane' : 'null::smallint'
    const held =
      state === 'inbox' ? `left join ${s}.lane as h on h.consumer = m.consumer and h.lane = m.lane` : ''
    return `with page as materialized (${pages[state]}),
      chosen as (
        select ${placed(s)[state]}, m.id, m.topic, m.key, ${lane} as lane, ${
          state === 'handled' ? 'null::timestamptz as expires_at' : 'm.expires_at'
        } from page as m ${held}
        where m.consumer = any ($consumers) and ($topic is null or m.topic = $topic) and ($key is null or m.key = $key)
      )
      select (select count(*) from page) as looked_at,
        coalesce((select bool_or(n.full) from (
          select count(*) >= $look as full from page as m group by ${state === 'handled' ? '()' : `m.consumer, ${lane}`}
        ) as n), false) as beyond, f.*
      from (select) as one left join lateral (
        select ${told(state)}, m.id, m.lane, null::numeric as lease_until from chosen as m
        where $error is null or strpos(lower(m.errors -> -1 ->> 'error'), lower($error)) > 0 or strpos(lower(m.reason), lower($error)) > 0
        order by case when $key is null then m.since end, m.place limit $limit
      ) as f on true`
  }
  return {
    limit: "set local statement_timeout = '2s'",
    list: each(messageStates, (state) =>
      planned(
        {
          consumers: texts,
          topic: optional(text),
          key: optional(text),
          /** Text in the last error or in the reason. */
          error: optional(text),
          /** Rows looked at: of each lane, or of each consumer where there are no lanes. */
          look: int,
          limit: int,
        },
        list(state),
      ).gives<ListedRow>(),
    ),

    // The first colon ends the class of an error, as in the filter of dead letters, so that a group is what a filter names.
    groups: planned(
      { consumer: optional(text), look: int, limit: int },
      `with page as materialized (
        select d.number, d.consumer, d.topic, d.died_at, split_part(d.reason, ':', 1) as class
        from ${s}.dead_letter as d where $consumer is null or d.consumer = $consumer
        order by d.number desc limit $look
      )
      select (select count(*) from page) as looked_at, g.*, (select d.reason from ${s}.dead_letter as d where d.number = g.number) as reason
      from (
        select consumer, topic, class, count(*) as count, max(number) as number, ${instant('min(died_at)')} as oldest,
          ${instant('max(died_at)')} as latest, count(*) over () as groups
        from page group by consumer, topic, class order by count(*) desc, max(number) desc limit $limit
      ) as g
      order by g.count desc, g.number desc`,
    ).gives<GroupRow>(),

    // Of a dedupe key whose topic is not known, one topic after the other.
    dedupe: planned(
      { dedupeKey: text, topic: optional(text), look: int },
      `with recursive topics as (
        (select case when $topic is null then (select min(k.topic) from ${s}.dedupe as k) else $topic end as topic, 1 as nr)
        union all
        select (select min(k.topic) from ${s}.dedupe as k where k.topic > t.topic), t.nr + 1
        from topics as t where t.topic is not null and $topic is null and t.nr <= $look
      )
      select k.id, k.topic, (select max(nr) from topics) > $look as beyond
      from (select) as one left join (
        select k.id, k.topic from topics as t join ${s}.dedupe as k on k.topic = t.topic and k.dedupe_key = $dedupeKey
        union
        select d.id, d.topic from (
          select m.id, m.topic, m.dedupe_key from ${s}.deferred as m where m.consumer = '' order by m.due_at limit $look
        ) as d where d.dedupe_key = $dedupeKey and ($topic is null or d.topic = $topic)
      ) as k on true limit 100`,
    ).gives<DedupeRow>(),
  }
})
