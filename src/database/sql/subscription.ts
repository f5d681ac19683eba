import { noting, signing } from './audit.ts'
import { float8, int, optional, text, texts } from './parameter.ts'
import { instant, perSchema, planned, prepared } from './statement.ts'

/** All that is subscribed to over Postgres, as one number: whoever knows it sees by it whether that has changed. */
export const subscribed = (schema: string): string =>
  `(select coalesce(sum(hashtextextended(
      consumer || ' ' || pattern || case when ended_at is null then '' else ' ended' end, 0)), 0)::text
    from ${schema}.subscription where broker = 'postgres')`

export interface Subscription {
  readonly consumer: string
  readonly pattern: string
  /** Unsubscribed since. */
  readonly ended: boolean
  /** Of all subscriptions. */
  readonly version: string
}

/** One that lasts. */
export interface SubscriptionRow {
  readonly consumer: string
  readonly broker: string
  readonly pattern: string
  readonly created_at: Date
}

/** Who gets what, for the Postgres broker; of the others, what their receivers have bound. */
export const subscriptionSql = perSchema('subscription', (s) => {
  // `$patterns` is what this receiver names; for `$afterMs` nobody else may have named it. Workers that have
  // ended are remembered for a day. One of a version that does not say what it receives may receive all.
  const unwanted = `u.consumer = $consumer and u.broker = $broker and u.ended_at is null and u.pattern <> all ($patterns)
      and u.created_at < clock_timestamp() - $afterMs * interval '1 millisecond'
      and not exists (
        select from ${s}.worker as w
        where w.kind = 'receiver' and w.consumer = $consumer
          and w.beat_at > clock_timestamp() - $afterMs * interval '1 millisecond'
          and (w.topics is null or u.pattern = any (w.topics)))`
  const ending = { consumer: text, patterns: texts, brokers: texts }
  const ended = `update ${s}.subscription set ended_at = clock_timestamp()
        where consumer = $consumer and pattern = any ($patterns) and broker = any ($brokers) and ended_at is null`
  return {
    subscribe: prepared(
      { consumer: text, patterns: texts, broker: text },
      `insert into ${s}.subscription as u (consumer, pattern, broker) select $consumer, unnest($patterns), $broker
      on conflict (consumer, broker, pattern) do update set ended_at = null, created_at = clock_timestamp()
      where u.ended_at is not null`,
    ),
    all: prepared(
      {},
      `select consumer, pattern, ended_at is not null as ended, ${subscribed(s)} as version
      from ${s}.subscription where broker = 'postgres' order by consumer, pattern`,
    ).gives<Subscription>(),
    unwanted: prepared(
      { consumer: text, broker: text, patterns: texts, afterMs: float8 },
      `select u.pattern from ${s}.subscription as u where ${unwanted}`,
    ).gives<{ readonly pattern: string }>(),
    endUnwanted: prepared(
      { consumer: text, broker: text, patterns: texts, afterMs: float8, ended: texts },
      `update ${s}.subscription as u set ended_at = clock_timestamp() where ${unwanted} and u.pattern = any ($ended)
      returning u.pattern`,
    ).gives<{ readonly pattern: string }>(),

    // What an operator asks and does, see operate.ts.
    list: planned(
      { consumer: optional(text), limit: int },
      `select consumer, broker, pattern, ${instant('created_at')} as created_at from ${s}.subscription
      where ended_at is null and ($consumer is null or consumer = $consumer)
      order by consumer, pattern, broker limit $limit`,
    ).gives<SubscriptionRow>(),
    known: planned(
      { consumer: text, patterns: texts },
      `select broker, pattern from ${s}.subscription
      where consumer = $consumer and pattern = any ($patterns) and ended_at is null`,
    ).gives<{ readonly broker: string; readonly pattern: string }>(),
    end: planned(ending, ended),
    // Its own statement: the Postgres broker, which ends what a receiver names no more, may write nothing down.
    endNoted: planned(
      { ...ending, ...signing },
      `with ended as (
        ${ended}
        returning consumer, pattern, broker
      )
      ${noting(s, 'unsubscribe', {
        from: 'ended order by pattern, broker',
        ...{ consumer: 'consumer', topic: 'pattern', what: "'subscription over ' || broker" },
      })}`,
    ),
    naming: planned(
      { consumer: text, patterns: texts },
      `select id, host, (select t.topic from unnest(topics) as t(topic) where t.topic = any ($patterns) limit 1) as pattern
      from ${s}.worker
      where kind = 'receiver' and consumer = $consumer and topics && $patterns collate "C" and ended_at is null
        and beat_at > clock_timestamp() - interval '30 seconds'
      order by id limit 1`,
    ).gives<{ readonly id: number; readonly host: string; readonly pattern: string }>(),
  }
})
