import { perSchema } from './statement.ts'

/** Who gets what, for the Postgres broker. */
export const subscriptionSql = perSchema((s, statement) => ({
  subscribe: statement(
    'subscribe',
    `insert into ${s}.subscription (consumer, pattern) select $1, unnest($2::text[]) on conflict do nothing`,
  ),
  all: statement(
    'subscriptions',
    `select consumer, pattern from ${s}.subscription order by consumer, pattern`,
  ),
}))
