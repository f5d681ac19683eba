import type { Entrant, Place, Stop, Task } from '../race/entrant.ts'
import { portions, share, topic } from '../race/messages.ts'
import type { Tally } from '../race/tally.ts'
import { looping, onPool, publishingToo } from './common.ts'
import pg from 'pg'

/**
 * The outbox that most teams write for themselves: a column says what state a message is in. PENDING, DELIVERING,
 * DELIVERED, and now and then a job that deletes the delivered ones; here each worker does that in between.
 */

const tables = `
  create table outbox_event (
    id uuid primary key default gen_random_uuid(),
    topic text not null,
    key text,
    payload jsonb not null,
    status text not null default 'PENDING',
    attempts int not null default 0,
    available_at timestamptz not null default now(),
    created_at timestamptz not null default clock_timestamp(),
    locked_at timestamptz,
    locked_by text,
    delivered_at timestamptz
  );
  create index on outbox_event (available_at, created_at) where status = 'PENDING';
  create index on outbox_event (locked_at) where status = 'DELIVERING'`

const insert = `insert into outbox_event (topic, key, payload)
  select $1, key, payload from unnest($2::text[], $3::jsonb[]) as m(key, payload)`

const claim = {
  name: 'claim',
  text: `with c as materialized (
      select id from outbox_event where status = 'PENDING' and available_at <= now()
      order by available_at, created_at limit $1 for update skip locked
    )
    update outbox_event as e set status = 'DELIVERING', locked_at = now(), locked_by = $2, attempts = attempts + 1
    from c where e.id = c.id returning e.id, e.topic, e.key, e.payload`,
}

const finish = {
  name: 'finish',
  text: `update outbox_event set status = 'DELIVERED', delivered_at = now(), locked_at = null, locked_by = null
    where id = any ($1::uuid[])`,
}

const prune = `delete from outbox_event where status = 'DELIVERED'`

async function create(url: string): Promise<void> {
  await onPool(url, 1, async (pool) => {
    await pool.query(tables)
  })
}

async function fill(url: string, task: Task): Promise<void> {
  await onPool(url, 1, async (pool) => {
    for (const portion of portions(task)) {
      await pool.query(insert, [
        topic,
        portion.map(({ key }) => key),
        portion.map(({ payload }) => JSON.stringify(payload)),
      ])
    }
  })
}

async function publish({ url, process }: Place, task: Task, tally: Tally): Promise<Stop> {
  const { from, to } = share(task, process)
  await onPool(url, 1, async (pool) => {
    for (const portion of portions(task, task.batchSize, from, to)) {
      const since = tally.now
      await pool.query(insert, [
        topic,
        portion.map(({ key }) => key),
        portion.map(({ payload }) => JSON.stringify(payload)),
      ])
      for (const { n } of portion) tally.note(n, since)
    }
  })
  return async () => {}
}

async function work({ url, process }: Place, task: Task, tally: Tally): Promise<Stop> {
  const pool = new pg.Pool({ connectionString: url, max: 2 })
  pool.on('error', () => {})
  const stop = looping(2, async () => {
    const { rows } = await pool.query<{ id: string; payload: { n: number; at?: number } }>({
      ...claim,
      values: [task.batchSize, `worker ${process}`],
    })
    if (rows.length === 0) {
      await pool.query(prune)
      return new Promise((resolve) => setTimeout(resolve, 20))
    }
    for (const { payload } of rows) tally.note(payload.n, payload.at)
    await pool.query({ ...finish, values: [rows.map(({ id }) => id)] })
  })
  return async () => {
    await stop()
    await pool.end()
  }
}

const left = 'select count(*)::int as left from outbox_event'

export const entrants: Readonly<Record<string, Entrant>> = {
  claim: { create, fill, left, work },
  cycle: { create, left, work: publishingToo(work, publish) },
  publish: {
    once: true,
    create,
    written: `select (payload->>'n')::int as n from outbox_event order by available_at, created_at`,
    work: publish,
  },
}
