import type { TestDatabase } from '../support/postgres.ts'

/** A page of the dashboard, as the scene has something to show on it. */
export interface Shown {
  /** Of its screenshots. */
  readonly name: string
  /** Below the mount. */
  readonly path: string
}

/** Every view. One test compares the list with the views that there are. */
export async function pages(database: TestDatabase): Promise<readonly Shown[]> {
  const [worker] = await database.query<{ id: number }>(
    `select id from twinbox.worker where ended_at is null and kind = 'claimer' order by id limit 1`,
  )
  return [
    { name: 'overview', path: '/' },
    { name: 'workers', path: '/workers' },
    { name: 'evict', path: `/workers/evict?id=${worker!.id}` },
    { name: 'schedules', path: '/schedules' },
    { name: 'subscriptions', path: '/subscriptions' },
  ]
}
