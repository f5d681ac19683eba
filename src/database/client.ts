import type { EventEmitter } from 'node:events'
import type pg from 'pg'
import { isConnectionLost } from './sqlstate.ts'

/** What a `pg` client or pool needs to survive what it meets in production, whoever has made it. */

/** No statement of ours takes this long unless the network swallows its answer: `pg` itself would wait for ever. */
export const queryTimeoutMs = 15_000

/** A statement whose answer is overdue after 15 s. On a connection that has silently died it would never come. */
export const bounded = (text: string): pg.QueryConfig =>
  ({ text, query_timeout: queryTimeoutMs }) as pg.QueryConfig

/**
 * Gives the client back to its pool after `work`, or throws it away: after a time-out or a broken connection its next
 * user would wait for an answer that belongs to somebody else, and in an open transaction that user's writes would
 * become part of it.
 */
export async function useClient<Result>(client: pg.PoolClient, work: () => Promise<Result>): Promise<Result> {
  // A pool of the user's may have made this connection before we listened to the pool.
  surviveErrors(client)
  try {
    const result = await work()
    client.release()
    return result
  } catch (error) {
    giveBack(client, error)
    throw error
  }
}

/** What `useClient` does with a client after an error. */
export function giveBack(client: pg.PoolClient, error: unknown): void {
  // Its own error may be wrapped in one of the user's: a server that has become read-only would be kept for ever.
  const lost = [error, error instanceof Error ? error.cause : null].some(isConnectionLost)
  client.release(lost || client.getTransactionStatus?.() !== 'I')
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
}
