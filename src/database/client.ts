import type { EventEmitter } from 'node:events'
import type pg from 'pg'
import { evidenceOf } from './evidence.ts'
import { sqlstate } from './sqlstate.ts'

/** What a `pg` client or pool needs to survive what it meets in production, whoever has made it. */

/** No statement of ours takes this long unless the network swallows its answer: `pg` itself would wait for ever. */
export const queryTimeoutMs = 15_000

/** A statement whose answer is overdue after 15 s, or so long. On a connection that has silently died it would never come. */
export const bounded = (text: string, ms = queryTimeoutMs): pg.QueryConfig =>
  ({ text, query_timeout: ms }) as pg.QueryConfig

/**
 * Gives the client back to its pool after `work`, or throws it away: after a time-out or a broken connection its next
 * user would wait for an answer that belongs to somebody else, and in an open transaction that user's writes would
 * become part of it.
 */
export async function useClient<Result>(client: pg.PoolClient, work: () => Promise<Result>): Promise<Result> {
  // A pool of the user's may have made this connection before we listened to the pool.
  surviveErrors(client)
  evidenceOf(client).forget()
  try {
    const result = await work()
    giveBack(client)
    return result
  } catch (error) {
    giveBack(client, error)
    throw error
  }
}

/** What `useClient` does with a client in the end, after an error if there was one. Only the client tells whether it is sound. */
export function giveBack(client: pg.PoolClient, error?: unknown): void {
  const { gone, heard } = evidenceOf(client)
  // A server that has become read-only would be kept for ever, and the primary never looked for.
  const useless = gone !== null || sqlstate(heard) === '25006'
  // An answer that is still to come would be taken for that of the next user's statement; unless it was an error, after
  // which only the end of it is to come.
  const { readyForQuery } = client as unknown as { readyForQuery?: boolean }
  const busy = readyForQuery === false && (error === undefined || error !== heard)
  client.release(useless || busy || client.getTransactionStatus?.() !== 'I')
}

export function isPool(input: unknown): input is pg.Pool {
  return typeof input === 'object' && input !== null && 'connect' in input && 'totalCount' in input
}

const surviving = new WeakSet<EventEmitter>()

/** An `error` event without a listener ends the process: a restart of Postgres would take every worker with it. */
export function surviveErrors(emitter: EventEmitter): void {
  if (surviving.has(emitter)) return
  surviving.add(emitter)
  emitter.on('error', () => {})
  if (isPool(emitter)) emitter.on('connect', surviveErrors)
  else evidenceOf(emitter as pg.ClientBase)
}
