import { bigint, bigints, int, smallints, text, texts } from './parameter.ts'
import { perSchema, prepared, type Place } from './statement.ts'

/** What stands first of a topic. */
export interface First extends Place {
  readonly topic: string
}

/** Looking for what stands in the inbox behind a flood of many topics. */
export const floodSql = perSchema('flood', (s) => ({
  // What stands first of each topic other than `$without` in the next `$span` seqs of the lanes, of `$most` topics. At random: in
  // any order, somebody's many topics would be found before another's one, time and again. Goes through the primary key
  // of the inbox, and locks nothing. The bounds are reckoned first, see `partitions` in inbox.ts.
  firsts: prepared(
    { consumer: text, lanes: smallints, bounds: bigints, span: bigint, without: texts, most: int },
    `select first.topic, first.lane, first.seq
    from (
      select distinct on (first.topic) first.topic, l.lane, first.seq
      from (
        select l.lane, l.bound, l.bound + $span as until from unnest($lanes, $bounds) as l(lane, bound) offset 0
      ) as l
      cross join lateral (
        select i.topic, min(i.seq) as seq from ${s}.inbox as i
        where i.consumer = $consumer and i.lane = l.lane and i.seq > l.bound and i.seq <= l.until
          and i.topic <> all ($without) and i.lease_until <= clock_timestamp()
        group by i.topic
      ) as first
      order by first.topic, first.seq
    ) as first
    order by random()
    limit $most`,
  ).gives<First>(),
}))
