import { layout } from '../layout.ts'
import type { FailedAttempt } from '../../message/row.ts'
import { int, text, texts, timestamptz, uuid } from './parameter.ts'
import { placed, tableOf, type MessageState } from './placed.ts'
import { everyLane, instant, perSchema, planned } from './statement.ts'

/** What is told of a message that was found, in rows `m`. */
export const told = (
  state: MessageState,
): string => `'${state}' as state, m.consumer, m.topic, m.key, m.place,
    ${instant('m.since')} as since, ${instant('m.due_at')} as due_at, ${
      state === 'handled' ? 'null::numeric' : instant('m.expires_at')
    } as expires_at, m.attempt, m.holder, m.reason, m.errors -> -1 as error`

/** Where a message waits. */
export type WaitingState = Exclude<MessageState, 'dead' | 'handled'>

/** A message where it is, without its content: a reader may not see that. */
export interface FoundRow {
  readonly state: MessageState
  readonly consumer: string
  readonly topic: string
  readonly key: string | null
  /** Null of what has no lane of its own: deferred, handled. */
  readonly lane: number | null
  /** Its place in the lane; of a dead letter its number. */
  readonly place: number
  readonly since: Date | null
  readonly due_at: Date | null
  readonly expires_at: Date | null
  readonly attempt: number
  /** Who has it in flight, or has handled it. */
  readonly holder: number | null
  /** Until when, if it has a lease of its own. */
  readonly lease_until: Date | null
  readonly reason: string | null
  readonly error: FailedAttempt | null
}

/** The same with all of its failed attempts. */
export interface PlaceRow extends FoundRow {
  readonly errors: readonly FailedAttempt[] | null
}

export const light = 'm.id, m.seq, m.topic, m.key, m.attempt, m.errors, m.expires_at'
/** Of each table what `placed` needs beside. */
export const beside: Readonly<Record<Exclude<WaitingState, 'deferred'>, string>> = {
  outbox: `''::text as consumer, m.lane, m.published_at`,
  inbox: 'm.consumer, m.lane, m.received_at, m.holder, m.lease_until',
  parked: 'm.consumer, m.lane, m.received_at',
  unhandled: 'm.consumer, m.lane, m.received_at',
}
/** The order of each table's key within a lane. */
export const order: Readonly<Record<keyof typeof beside, string>> = {
  outbox: 'm.seq',
  inbox: 'm.seq',
  parked: 'm.key, m.seq, m.id',
  unhandled: 'm.topic, m.seq, m.id',
}

/**
 * Finds a message by its id. No index knows the ids of what waits, since each would cost every publish: of each lane `$look` rows are
 * looked at from its beginning, and then as many around the time at which the message came. None is prepared by name, see operate.ts.
 */
export const searchSql = perSchema('search', (s) => {
  const held = `left join ${s}.lane as h on h.consumer = m.consumer and h.lane = m.lane`
  const of = (state: keyof typeof beside, consumer: string): string =>
    state === 'outbox' ? 'm.lane = l.lane' : `m.consumer = ${consumer} and m.lane = l.lane`
  const consumers = (state: keyof typeof beside): string =>
    state === 'outbox' ? `(select '') as c(consumer)` : 'unnest($consumers) as c(consumer)'
  const evidence = (state: keyof typeof beside, rows: string): string => `
    select ${told(state)}, m.errors, m.lane, ${instant('m.lease_until')} as lease_until
    from (
      select ${placed(s)[state]}, m.topic, m.key, m.lane, m.expires_at, ${
        state === 'inbox' ? 'm.lease_until' : 'null::timestamptz'
      } as lease_until from (${rows}) as m
      ${state === 'inbox' ? held : ''} where m.id = $id
    ) as m`
  // The beginning of each lane. The condition stands outside of the limit, or all of a lane would be looked at.
  const heads = (state: keyof typeof beside): string =>
    evidence(
      state,
      `select m.* from ${consumers(state)} cross join ${everyLane} cross join lateral (
        select ${light}, ${beside[state]} from ${s}.${tableOf[state]} as m where ${of(state, 'c.consumer')}
        order by ${order[state]} limit $look
      ) as m`,
    )
  const more = (state: keyof typeof beside): string => `exists (
      select from ${consumers(state)} cross join ${everyLane} where exists (
        select from ${s}.${tableOf[state]} as m where ${of(state, 'c.consumer')} offset $look))`
  // The place in each lane where its time begins: by halves, since a lane is almost in the order of time.
  const around = (state: 'outbox' | 'inbox', time: string): string => {
    const rows = (names: string): string =>
      `select ${names} from ${s}.${tableOf[state]} as m where ${of(state, '$consumer')}`
    const whole = `${light}, ${beside[state]}`
    return `with recursive lanes as materialized (
        select l.lane, (${rows('m.seq - 1')} order by m.seq limit 1) as low, (${rows('m.seq')} order by m.seq desc limit 1) as high
        from ${everyLane}
      ),
      halves as (
        select lane, low, high, 0 as step from lanes where low is not null
        union all
        select l.lane, case when found.at < $at then found.seq else l.low end,
          case when found.at < $at then l.high else (l.low + l.high) / 2 end, l.step + 1
        from halves as l
        left join lateral (${rows(`m.seq, m.${time} as at`)} and m.seq > (l.low + l.high) / 2 order by m.seq limit 1) as found on true
        where l.high - l.low > 1 and l.step < 100
      ),
      places as materialized (select distinct on (lane) lane, low from halves order by lane, step desc)
      ${evidence(
        state,
        `select m.* from places as l cross join lateral (
          (${rows(whole)} and m.seq <= l.low order by m.seq desc limit $look)
          union all
          (${rows(whole)} and m.seq > l.low order by m.seq limit $look)
        ) as m`,
      )}`
  }
  const takes = { id: uuid, consumers: texts, look: int }
  const takesOutbox = { id: uuid, look: int }
  const takesTime = { id: uuid, at: timestamptz, look: int }
  return {
    heads: {
      outbox: planned(takesOutbox, heads('outbox')).gives<PlaceRow>(),
      inbox: planned(takes, heads('inbox')).gives<PlaceRow>(),
      parked: planned(takes, heads('parked')).gives<PlaceRow>(),
      unhandled: planned(takes, heads('unhandled')).gives<PlaceRow>(),
      deferred: planned(
        takes,
        `select ${told('deferred')}, m.errors, null::smallint as lane, null::numeric as lease_until
        from (
          select ${placed(s).deferred}, m.topic, m.key, m.expires_at from (
            (select ${light}, m.consumer, m.received_at, m.published_at, m.due_at from ${s}.deferred as m
              where m.consumer = '' and m.id = $id and '' = any ($consumers))
            union all
            (select m.* from unnest($consumers) as c(consumer) cross join lateral (
              select ${light}, m.consumer, m.received_at, m.published_at, m.due_at from ${s}.deferred as m
              where m.consumer = c.consumer order by m.due_at, m.seq limit $look::bigint * ${layout.lanes}
            ) as m where c.consumer <> '')
          ) as m where m.id = $id
        ) as m`,
      ).gives<PlaceRow>(),
      dead: planned(
        { id: uuid },
        `select ${told('dead')}, m.errors, null::smallint as lane, null::numeric as lease_until
        from (
          select ${placed(s).dead}, m.topic, m.key, m.expires_at from ${s}.dead_letter as m where m.id = $id order by m.number limit 100
        ) as m`,
      ).gives<PlaceRow>(),
      handled: planned(
        { id: uuid },
        `select ${told('handled')}, m.errors, null::smallint as lane, null::numeric as lease_until
        from (select ${placed(s).handled}, m.topic, m.key from ${s}.handled as m where m.id = $id order by m.number desc limit 100) as m`,
      ).gives<PlaceRow>(),
    },
    around: {
      outbox: planned(takesTime, around('outbox', 'published_at')).gives<PlaceRow>(),
      inbox: planned({ ...takesTime, consumer: text }, around('inbox', 'received_at')).gives<PlaceRow>(),
    },
    // Whether some lane has more than was looked at.
    more: {
      outbox: planned(
        { consumers: texts, look: int },
        `select ${more('outbox')} or ${more('parked')} as more`,
      ).gives<{ readonly more: boolean }>(),
      inbox: planned(
        { consumers: texts, look: int },
        `select ${more('inbox')} or ${more('parked')} or ${more('unhandled')} or exists (
          select from unnest($consumers) as c(consumer) where exists (
            select from ${s}.deferred as m where m.consumer = c.consumer offset $look::bigint * ${layout.lanes})) as more`,
      ).gives<{ readonly more: boolean }>(),
    },
  }
})
