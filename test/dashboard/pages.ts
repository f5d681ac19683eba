import type { TestDatabase } from '../support/postgres.ts'
import type { Host } from './host.ts'

/** A page of the dashboard, as the scene has something to show on it. */
export interface Shown {
  /** Of its screenshots. */
  readonly name: string
  /** Below the mount. */
  readonly path: string
}

/** What an operator has started there, so slowly that it runs while it is looked at. */
export const startJob = (host: Host): Promise<string> =>
  host.startJob(
    `/dead/change?${new URLSearchParams({ does: 'redrive', box: 'billing', class: 'URIError' }).toString()}`,
    { reason: 'Release 4.2.1 escapes the names of streets', rate: '1' },
  )

/** Every view; of the job, its page if there is one. One test compares the list with the views that there are. */
export async function pages(database: TestDatabase, job = '/job'): Promise<readonly Shown[]> {
  const [worker] = await database.query<{ id: number }>(
    `select id from twinbox.worker where ended_at is null and kind = 'claimer' order by id limit 1`,
  )
  const [letter] = await database.query<{ id: string; consumer: string; key: string }>(
    `select id, consumer, key from twinbox.dead_letter where key is not null order by number limit 1`,
  )
  const [parked] = await database.query<{ consumer: string; key: string }>(
    'select consumer, key from twinbox.parked order by consumer, key limit 1',
  )
  const query = (fields: Record<string, string>): string => `?${new URLSearchParams(fields).toString()}`
  const { consumer, key } = parked ?? letter!
  return [
    { name: 'overview', path: '/' },
    { name: 'messages', path: '/messages' },
    { name: 'message', path: `/message${query({ id: letter!.id })}` },
    { name: 'key', path: `/key${query({ box: consumer, key })}` },
    { name: 'dead', path: '/dead' },
    { name: 'dead-list', path: '/dead/list' },
    { name: 'dead-change', path: `/dead/change${query({ does: 'redrive' })}` },
    { name: 'parked', path: '/parked' },
    { name: 'parked-change', path: `/parked/change${query({ does: 'redrive', box: consumer, key })}` },
    { name: 'erase', path: '/erase' },
    { name: 'jobs', path: '/jobs' },
    { name: 'job', path: job },
    { name: 'audit', path: '/audit' },
    { name: 'workers', path: '/workers' },
    { name: 'evict', path: `/workers/evict${query({ id: String(worker!.id) })}` },
    { name: 'schedules', path: '/schedules' },
    {
      name: 'schedule-change',
      path: `/schedules/change${query({ name: 'daily-report', does: 'pause' })}`,
    },
    { name: 'subscriptions', path: '/subscriptions' },
    { name: 'doctor', path: '/doctor' },
  ]
}
