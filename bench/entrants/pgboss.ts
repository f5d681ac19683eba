import PgBoss from 'pg-boss'
import type { Entrant, Place, Stop, Task } from '../race/entrant.ts'
import { portions, share, type RaceMessage } from '../race/messages.ts'
import type { Tally } from '../race/tally.ts'
import { looping, publishingToo } from './common.ts'

/**
 * pg-boss, by its functions fetch and complete in a loop: its own workers pause half a second between two fetches, so
 * this is the fastest way that it offers.
 */

const queue = 'bench'

async function open(url: string, size: number): Promise<PgBoss> {
  const boss = new PgBoss({ connectionString: url, supervise: false, schedule: false, max: size })
  boss.on('error', () => {})
  await boss.start()
  return boss
}

async function onBoss(url: string, use: (boss: PgBoss) => Promise<void>): Promise<void> {
  const boss = await open(url, 2)
  await use(boss)
  await boss.stop({ graceful: false, wait: true })
}

const jobsOf = (messages: readonly RaceMessage[]): PgBoss.JobInsert[] =>
  messages.map(({ payload }) => ({ name: queue, data: payload }))

const create = (url: string): Promise<void> => onBoss(url, (boss) => boss.createQueue(queue))

async function fill(url: string, task: Task): Promise<void> {
  await onBoss(url, async (boss) => {
    for (const portion of portions(task)) await boss.insert(jobsOf(portion))
  })
}

/** A few loops per process: while one waits for the server, another one handles. */
const loops = 2

async function work({ url }: Place, task: Task, tally: Tally): Promise<Stop> {
  const boss = await open(url, loops)
  const stop = looping(loops, async () => {
    const jobs = await boss.fetch<{ n: number; at?: number }>(queue, { batchSize: task.batchSize })
    if (jobs.length === 0) return new Promise((resolve) => setTimeout(resolve, 20))
    for (const { data } of jobs) tally.note(data.n, data.at)
    if (task.handler === 'hold') return new Promise(() => void jobs)
    await boss.complete(
      queue,
      jobs.map(({ id }) => id),
    )
  })
  return async () => {
    if (task.handler === 'hold') return
    await stop()
    await boss.stop({ graceful: false, wait: true })
  }
}

async function publish({ url, process }: Place, task: Task, tally: Tally): Promise<Stop> {
  const { from, to } = share(task, process)
  await onBoss(url, async (boss) => {
    for (const portion of portions(task, task.batchSize, from, to)) {
      const since = tally.now
      await boss.insert(jobsOf(portion))
      for (const { n } of portion) tally.note(n, since)
    }
  })
  return async () => {}
}

const left = `select count(*)::int as left from pgboss.job where name = '${queue}' and state < 'completed'`

export const entrants: Readonly<Record<string, Entrant>> = {
  claim: { create, fill, left, work },
  cycle: { create, left, work: publishingToo(work, publish) },
  publish: {
    once: true,
    create,
    written: `select (data->>'n')::int as n from pgboss.job order by created_on, n`,
    work: publish,
  },
}
