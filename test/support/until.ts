import type pg from 'pg'

/**
 * Waits for what no event tells, such as a row that another process writes. It looks 100 times a second, for as long as the test
 * may last: the test's own time says that it never came to pass.
 */
export async function until(condition: () => boolean | Promise<boolean>): Promise<void> {
  while (!(await condition())) await new Promise((resolve) => setTimeout(resolve, 10))
}

/** Waits until a query answers with `done`. A server that is away, or has no such tables yet, has not answered. */
export const untilDone = (pool: pg.Pool, query: string): Promise<void> =>
  until(() =>
    pool.query<{ done: boolean }>(query).then(
      ({ rows }) => rows[0]?.done === true,
      () => false,
    ),
  )
