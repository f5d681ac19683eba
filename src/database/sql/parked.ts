import { signing } from './audit.ts'
import { float8, int, optional, smallint, text } from './parameter.ts'
import { columns, each, instant, messageColumns, perSchema, planned, readable } from './statement.ts'

/** What is done with the keys that were chosen. */
export type ParkedAction = 'count' | 'redrive' | 'skip'

/** Whether one key of one consumer is meant, which is looked up. */
const widths = ['all', 'one'] as const
type Width = (typeof widths)[number]

/** A filter, each null if it does not matter, and a page of what matches. */
const paging = {
  consumer: optional(text),
  key: optional(text),
  /** Text in the reason. */
  error: optional(text),
  olderThanMs: optional(float8),
  youngerThanMs: optional(float8),
  afterConsumer: text,
  afterLane: smallint,
  afterKey: text,
  look: int,
  most: int,
}
export interface ParkedListRow {
  readonly looked_at: number
  readonly last_consumer: string
  readonly last_lane: number
  readonly last_key: string
  readonly consumer: string
  readonly lane: number
  readonly key: string
  readonly since: Date
  readonly until: Date | null
  readonly reason: string
  readonly waiting: number
  readonly letter: number | null
}

/** What one step has looked at and done, and where the next one goes on. */
export interface ParkedStepRow {
  readonly looked_at: number
  readonly chosen: number
  readonly numbers: readonly number[]
  readonly consumer: string
  readonly lane: number
  readonly key: string
}

/**
 * Keys that are held back: read and let go of by operators. Their messages are moved by the holder of the lane only, so
 * what is done here is to say that the key is due. None is prepared by name, see operate.ts.
 */
export const parkedSql = perSchema('parked', (s) => {
  // Without a key only those that wait for an operator are meant: the others go on by themselves.
  const page = (width: Width): string => `page as materialized (
      select p.consumer, p.lane, p.key, p.since, p.until, p.reason, p.blocker
      from ${s}.parked as p
      where (p.consumer, p.lane, p.key) > ($afterConsumer, $afterLane, $afterKey)
        ${width === 'one' ? `and p.consumer = $consumer and p.lane = ${s}.lane_of($key) and p.key = $key` : ''}
      order by p.consumer, p.lane, p.key limit $look
    ),
    chosen as materialized (
      select * from page as p
      where ($consumer is null or p.consumer = $consumer) and ($key is null or p.key = $key)
        and ($error is null or strpos(lower(p.reason), lower($error)) > 0)
        and ($olderThanMs is null or p.since <= clock_timestamp() - $olderThanMs * interval '1 millisecond')
        and ($youngerThanMs is null or p.since >= clock_timestamp() - $youngerThanMs * interval '1 millisecond')
      `
  const behind = (alias: string): string =>
    `${alias}.consumer = c.consumer and ${alias}.key = c.key and ${alias}.seq = c.blocker`

  const redrive = `,
    gone as (
      delete from ${s}.dead_letter as d using chosen as c where ${behind('d')} returning d.*
    ),
    waiting as (
      insert into ${s}.parked_message (consumer, lane, seq, received_at, attempt, ${messageColumns})
      select consumer, ${s}.lane_of(key), seq, received_at, 0, ${columns('gone')} from gone
    ),
    -- Its holder died when it had parked the key and not yet buried the message: that starts anew as well.
    anew as (
      update ${s}.parked_message as m set attempt = 0, errors = null from chosen as c
      where ${behind('m')} and m.lane = c.lane and c.until = 'infinity'
    )`
  const skip = `,
    gone as (select d.* from ${s}.dead_letter as d join chosen as c on ${behind('d')}),
    first as (
      delete from ${s}.parked_message as m using chosen as c where ${behind('m')} and m.lane = c.lane returning m.*
    ),
    buried as (
      insert into ${s}.dead_letter (consumer, seq, attempt, reason, errors, received_at, ${messageColumns})
      select consumer, seq, attempt, 'skipped by ' || $who, errors, received_at, ${columns('first')} from first
    )`

  const step = (
    width: Width,
    action: ParkedAction,
  ): string => `with ${page(width)} and ($key is not null or p.until = 'infinity')
        -- Its holder is about to bury this one, and the key would go on without it: the next time it is a dead letter.
        and not exists (
          select from ${s}.inbox as i where i.consumer = p.consumer and i.lane = p.lane and i.seq = p.blocker and i.key = p.key)
        and not (p.consumer = '' and exists (
          select from ${s}.outbox as o where o.lane = p.lane and o.seq = p.blocker and o.key = p.key))
        order by p.consumer, p.lane, p.key limit $most)
      ${
        action === 'count'
          ? ''
          : `${action === 'redrive' ? redrive : skip},
    -- Unless its holder has parked it anew meanwhile: then it waits for what happens to that message.
    freed as (
      update ${s}.parked as p set until = clock_timestamp(), released_to = 0 from chosen as c
      where p.consumer = c.consumer and p.lane = c.lane and p.key = c.key
        and p.blocker is not distinct from c.blocker and p.until = c.until
    ),
    audited as (
      insert into ${s}.audit (action, who, why, consumer, topic, key, id, seq, died_at, attempt, reason, errors)
      select '${action}', $who, $why, c.consumer, gone.topic, c.key, gone.id, c.blocker, gone.died_at, gone.attempt,
        c.reason, gone.errors
      from chosen as c left join gone on (gone.consumer, gone.key, gone.seq) = (c.consumer, c.key, c.blocker)
      order by c.consumer, c.lane, c.key
    )`
      }
      select (select count(*) from page) as looked_at, (select count(*) from chosen) as chosen,
        array(select 1 from chosen) as numbers, at.consumer, at.lane, at.key
      from (select) as one
      left join lateral (
        select l.consumer, l.lane, l.key from (
          (select consumer, lane, key from chosen where (select count(*) from chosen) = $most
            order by consumer desc, lane desc, key desc limit 1)
          union all
          (select consumer, lane, key from page order by consumer desc, lane desc, key desc limit 1)
        ) as l limit 1
      ) as at on true`

  return {
    list: each(widths, (width) =>
      planned(
        paging,
        `with ${page(width)} order by p.consumer, p.lane, p.key limit $most)
      select (select count(*) from page) as looked_at, last.consumer as last_consumer, last.lane as last_lane,
        last.key as last_key, m.*
      from (select) as one
      left join (select * from page order by consumer desc, lane desc, key desc limit 1) as last on true
      left join (
        select ${readable('c', 'consumer, lane, key, since, reason')},
          ${instant("nullif(c.until, 'infinity')")} as until,
          (select count(*) from (
            select from ${s}.parked_message as w
            where w.consumer = c.consumer and w.lane = c.lane and w.key = c.key limit 1001
          ) as w) as waiting,
          (select d.number from ${s}.dead_letter as d where ${behind('d')} limit 1) as letter
        from chosen as c
      ) as m on true
      order by m.consumer, m.lane, m.key`,
      ).gives<ParkedListRow>(),
    ),

    step: each(widths, (width) => ({
      count: planned(paging, step(width, 'count')).gives<ParkedStepRow>(),
      redrive: planned({ ...paging, ...signing }, step(width, 'redrive')).gives<ParkedStepRow>(),
      skip: planned({ ...paging, ...signing }, step(width, 'skip')).gives<ParkedStepRow>(),
    })),
  }
})
