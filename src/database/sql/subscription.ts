import { perSchema } from './statement.ts'

/** All that is subscribed to over Postgres, as one number: whoever knows it sees by it whether that has changed. */
export const subscribed = (schema: string): string =>
  `(select coalesce(sum(hashtextextended(
      consumer || ' ' || pattern || case when ended_at is null then '' else ' ended' end, 0)), 0)::text
    from ${schema}.subscription where broker = 'postgres')`

/** Who gets what, for the Postgres broker; of the others, what their receivers have bound. */
export const subscriptionSql = perSchema((s, statement) => {
  // $1 consumer, $2 broker, $3 what this receiver names, $4 for how long nobody else may have named it. Workers that have
  // ended are remembered for a day. One of a version that does not say what it receives may receive all.
  const unwanted = `u.consumer = $1 and u.broker = $2 and u.ended_at is null and u.pattern <> all ($3::text[])
      and u.created_at < clock_timestamp() - $4::float8 * interval '1 millisecond'
      and not exists (
        select from ${s}.worker as w
        where w.kind = 'receiver' and w.consumer = $1
          and w.beat_at > clock_timestamp() - $4::float8 * interval '1 millisecond'
          and (w.topics is null or u.pattern = any (w.topics)))`
  return {
    // $1 consumer, $2 patterns, $3 broker.
    subscribe: statement(
      'subscribe',
      `insert into ${s}.subscription as u (consumer, pattern, broker) select $1, unnest($2::text[]), $3
      on conflict (consumer, broker, pattern) do update set ended_at = null, created_at = clock_timestamp()
      where u.ended_at is not null`,
    ),
    all: statement(
      'subscriptions',
      `select consumer, pattern, ended_at is not null as ended, ${subscribed(s)} as version
      from ${s}.subscription where broker = 'postgres' order by consumer, pattern`,
    ),
    unwanted: statement('unwanted', `select u.pattern from ${s}.subscription as u where ${unwanted}`),
    endUnwanted: statement(
      'end_unwanted',
      `update ${s}.subscription as u set ended_at = clock_timestamp() where ${unwanted} and u.pattern = any ($5::text[])
      returning u.pattern`,
    ),

    // What an operator asks and does, see operate.ts. $1 consumer, $2 patterns, $3 brokers.
    known: {
      text: `select broker, pattern from ${s}.subscription
      where consumer = $1 and pattern = any ($2::text[]) and ended_at is null`,
    },
    end: {
      text: `update ${s}.subscription set ended_at = clock_timestamp()
      where consumer = $1 and pattern = any ($2::text[]) and broker = any ($3::text[]) and ended_at is null`,
    },
    naming: {
      text: `select id, host, (select t.topic from unnest(topics) as t(topic) where t.topic = any ($2::text[]) limit 1) as pattern
      from ${s}.worker
      where kind = 'receiver' and consumer = $1 and topics && $2::text[] collate "C" and ended_at is null
        and beat_at > clock_timestamp() - interval '30 seconds'
      order by id limit 1`,
    },
  }
})
