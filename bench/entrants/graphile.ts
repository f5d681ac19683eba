import pg from 'pg'
import { Logger, run, runMigrations, type TaskList } from 'graphile-worker'
import type { Entrant, Place, Stop, Task } from '../race/entrant.ts'
import { portions, share, type RaceMessage } from '../race/messages.ts'
import type { Tally } from '../race/tally.ts'
import { effectsTable, onPool, retryError, publishingToo } from './common.ts'
import { publishSeldom, publishSteadily } from './steady.ts'

/**
 * graphile-worker, with the settings of its own performance page: a local queue that fetches 500 jobs at a time, and
 * completions and failures in batches.
 */

const silent = new Logger(() => () => {})

/** All in one call, as its own performance test does. */
const addJobs = `select 1 from graphile_worker.add_jobs(
  array(select json_populate_recordset(null::graphile_worker.job_spec, $1::json)))`

function specsOf(messages: readonly RaceMessage[], failures: number): string {
  return JSON.stringify(
    messages.map(({ key, payload }) => ({
      identifier: 'noop',
      payload,
      ...(key === null ? {} : { queue_name: key }),
      ...(failures > 0 ? { max_attempts: failures + 1 } : {}),
    })),
  )
}

async function create(url: string): Promise<void> {
  await runMigrations({ connectionString: url, logger: silent })
  await onPool(url, 1, async (pool) => {
    await pool.query(effectsTable)
  })
}

async function fill(url: string, task: Task): Promise<void> {
  await onPool(url, 1, async (pool) => {
    for (const portion of portions(task)) await pool.query(addJobs, [specsOf(portion, task.failures ?? 0)])
  })
}

interface Body {
  readonly n: number
  readonly at?: number
}

async function work({ url }: Place, task: Task, tally: Tally): Promise<Stop> {
  const { failures = 0, concurrency, batchSize } = task
  const taskList: TaskList = {
    noop: (payload, { job }) => {
      if (job.attempts <= failures) throw retryError
      const { n, at } = payload as Body
      tally.note(n, at)
      return task.handler === 'hold' ? new Promise<void>(() => {}) : undefined
    },
  }
  const runner = await run({
    preset: {
      worker: {
        connectionString: url,
        concurrentJobs: concurrency,
        maxPoolSize: concurrency + 1,
        logger: silent,
        localQueue: { size: batchSize, refetchDelay: { durationMs: 10 } },
        completeJobBatchDelay: 0,
        failJobBatchDelay: 0,
      },
    },
    noHandleSignals: true,
    taskList,
  })
  // Jobs that never end are not waited for.
  return task.handler === 'hold' ? async () => {} : () => runner.stop()
}

async function publish({ url, process }: Place, task: Task, tally: Tally): Promise<Stop> {
  const { from, to } = share(task, process)
  await onPool(url, 1, async (pool) => {
    const client: pg.PoolClient = await pool.connect()
    for (const portion of portions(task, task.batchSize, from, to)) {
      const since = tally.now
      await client.query('begin')
      await client.query(addJobs, [specsOf(portion, 0)])
      await client.query('commit')
      for (const { n } of portion) tally.note(n, since)
    }
    client.release()
  })
  return async () => {}
}

/** Publishes in the first process; the others work. */
const publishing =
  (how: typeof publishSteadily): Entrant['work'] =>
  async (place, task, tally) => {
    if (place.process > 0) return work(place, task, tally)
    const pool = new pg.Pool({ connectionString: place.url, max: 1 })
    pool.on('error', () => {})
    const published = how(task, tally, async (messages) => {
      await pool.query(addJobs, [specsOf(messages, 0)])
    })
    published.catch(() => {})
    return async () => {
      await published
      await pool.end()
    }
  }

const left = 'select count(*)::int as left from graphile_worker._private_jobs'

export const entrants: Readonly<Record<string, Entrant>> = {
  claim: { create, fill, left, work },
  steady: { create, left, work: publishing(publishSteadily) },
  latency: { create, left, work: publishing(publishSeldom) },
  cycle: { create, left, work: publishingToo(work, publish) },
  publish: {
    once: true,
    create,
    written: `select (payload->>'n')::int as n from graphile_worker._private_jobs order by priority, run_at, id`,
    work: publish,
  },
}
