import { perSchema } from './statement.ts'

/** All that is subscribed to, as one number: whoever knows it sees by it whether that has changed. */
export const subscribed = (schema: string): string =>
  `(select coalesce(sum(hashtextextended(consumer || ' ' || pattern, 0)), 0)::text from ${schema}.subscription)`

/** Who gets what, for the Postgres broker. */
export const subscriptionSql = perSchema((s, statement) => ({
  subscribe: statement(
    'subscribe',
    `insert into ${s}.subscription (consumer, pattern) select $1, unnest($2::text[]) on conflict do nothing`,
  ),
  all: statement(
    'subscriptions',
    `select consumer, pattern, ${subscribed(s)} as version from ${s}.subscription order by consumer, pattern`,
  ),
}))
