import pg from 'pg'
import type { Entrant } from '../race/entrant.ts'
import { Tally } from '../race/tally.ts'

/** What entrants share, so that it costs them the same. */

/** What a handler writes. */
export const effectsTable = 'create table effect (n int not null)'
export const insertEffect = 'insert into effect (n) values ($1)'
export const insertEffects = 'insert into effect (n) select unnest($1::int[])'

/** What an application writes in the transaction in which it publishes. */
export const businessTable = `create table placed (n int primary key, at timestamptz not null default now(), note text)`
export const insertBusiness = `insert into placed (n, note) values ($1, 'an order')`

/** Thrown on purpose, and made once: what its stack costs is the handler's matter. */
export const retryError = new Error('Not yet.')

export async function onPool(
  url: string,
  size: number,
  work: (pool: pg.Pool) => Promise<void>,
): Promise<void> {
  const pool = new pg.Pool({ connectionString: url, max: size })
  pool.on('error', () => {})
  try {
    await work(pool)
  } finally {
    await pool.end()
  }
}

/** The whole life of messages: all processes work, and the first one also publishes everything. */
export const publishingToo =
  (work: Entrant['work'], publish: Entrant['work']): Entrant['work'] =>
  async (place, task, tally) => {
    const stop = await work(place, task, tally)
    if (place.process === 0) await publish(place, { ...task, processes: 1 }, new Tally())
    return stop
  }

/** Runs `each` in so many endless loops. Resolves the returned function's promise when all have ended. */
export function looping(
  count: number,
  each: (loop: number, ended: () => boolean) => Promise<void>,
): () => Promise<void> {
  let stopped = false
  const loops = Array.from({ length: count }, async (_, loop) => {
    while (!stopped) await each(loop, () => stopped)
  })
  const all = Promise.all(loops)
  // Told when it is stopped.
  all.catch(() => {})
  return async () => {
    stopped = true
    await all
  }
}
