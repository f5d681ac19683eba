import { columns, instant, messageColumns, perSchema, readable, type Statement } from './statement.ts'

/** What is done with the keys that were chosen. */
export type ParkedAction = 'count' | 'redrive' | 'skip'

/**
 * Keys that are held back: read and let go of by operators. Their messages are moved by the holder of the lane only, so
 * what is done here is to say that the key is due. None is prepared by name, see operate.ts.
 *
 * $1 consumer, $2 key, $3 text in the reason, $4 and $5 least and greatest age in milliseconds: each null if it does
 * not matter.
 */
export const parkedSql = perSchema((s) => {
  // Without a key only those that wait for an operator are meant: the others go on by themselves.
  const page = (narrow: boolean): string => `page as materialized (
      select p.consumer, p.lane, p.key, p.since, p.until, p.reason, p.blocker
      from ${s}.parked as p
      where (p.consumer, p.lane, p.key) > ($6::text, $7::smallint, $8::text)
        ${narrow ? `and p.consumer = $1 and p.lane = ${s}.lane_of($2) and p.key = $2` : ''}
      order by p.consumer, p.lane, p.key limit $9
    ),
    chosen as materialized (
      select * from page as p
      where ($1::text is null or p.consumer = $1) and ($2::text is null or p.key = $2)
        and ($3::text is null or strpos(lower(p.reason), lower($3)) > 0)
        and ($4::float8 is null or p.since <= clock_timestamp() - $4::float8 * interval '1 millisecond')
        and ($5::float8 is null or p.since >= clock_timestamp() - $5::float8 * interval '1 millisecond')
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
      select consumer, seq, attempt, 'skipped by ' || $11::text, errors, received_at, ${columns('first')} from first
    )`

  return {
    list: (narrow: boolean): Statement => ({
      text: `with ${page(narrow)} order by p.consumer, p.lane, p.key limit $10)
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
    }),

    // $9 how many to look at, $10 how many to change at most, $11 and $12 who and why.
    step: (narrow: boolean, action: ParkedAction): Statement => ({
      text: `with ${page(narrow)} and ($2::text is not null or p.until = 'infinity')
        -- Its holder is about to bury this one, and the key would go on without it: the next time it is a dead letter.
        and not exists (
          select from ${s}.inbox as i where i.consumer = p.consumer and i.lane = p.lane and i.seq = p.blocker and i.key = p.key)
        and not (p.consumer = '' and exists (
          select from ${s}.outbox as o where o.lane = p.lane and o.seq = p.blocker and o.key = p.key))
        order by p.consumer, p.lane, p.key limit $10)
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
      select '${action}', $11::text, $12::text, c.consumer, gone.topic, c.key, gone.id, c.blocker, gone.died_at, gone.attempt,
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
          (select consumer, lane, key from chosen where (select count(*) from chosen) = $10
            order by consumer desc, lane desc, key desc limit 1)
          union all
          (select consumer, lane, key from page order by consumer desc, lane desc, key desc limit 1)
        ) as l limit 1
      ) as at on true`,
    }),
  }
})
