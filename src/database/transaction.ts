import type pg from 'pg'
import { TransactionError } from '../base/errors.ts'
import { surviveErrors, useClient } from './client.ts'
import { ofDatabase } from './evidence.ts'
import { takeBack } from './loan.ts'
import * as sql from './sql/server.ts'
import { isConnectionLost } from './sqlstate.ts'

/**
 * Runs `work` in a transaction on a client of `pool`, and resolves only if it was committed.
 *
 * Two things that a plain BEGIN … COMMIT gets wrong: a COMMIT in a failed transaction is answered with ROLLBACK, which
 * neither pg nor Kysely takes for an error; and a connection that breaks at COMMIT leaves the outcome open, which is
 * looked up here by the transaction's id.
 *
 * @throws TransactionError `TRANSACTION_ROLLED_BACK` if a statement had failed and `work` swallowed its error: nothing
 *   was written. `COMMIT_UNKNOWN` if the outcome could not be looked up. Otherwise what `work` threw; nothing was
 *   written.
 */
export async function withTransaction<Result>(
  pool: pg.Pool | { readonly pool: pg.Pool },
  work: (client: pg.PoolClient) => Promise<Result>,
): Promise<Result> {
  return inTransaction('pool' in pool ? pool.pool : pool, sql.begin, work)
}

/** The same, begun as `begin` says, on the client that `connect` gives. */
export async function inTransaction<Result>(
  source: pg.Pool,
  begin: string,
  work: (client: pg.PoolClient) => Promise<Result>,
  connect = (): Promise<pg.PoolClient> => source.connect(),
): Promise<Result> {
  surviveErrors(source)
  const client = await connect()
  return useClient(client, async () => {
    takeBack(client)
    await ofDatabase(client.query(begin))
    let result: Result
    let xid: string | null = null
    try {
      result = await work(client)
      const refused = takeBack(client)
      if (refused !== null) throw refused
      const assigned = await client.query<{ xid: string | null }>(sql.currentXid).catch((error: unknown) => {
        // 25P02: a statement has failed, and the rollback below will say so better.
        if (isConnectionLost(error)) throw error
        return null
      })
      xid = assigned?.rows[0]?.xid ?? null
    } catch (error) {
      takeBack(client)
      // What went wrong first is what the caller has to know; a client that cannot roll back is thrown away.
      await client.query(sql.rollback).catch(() => {})
      throw error
    }
    await commit(client, source, xid)
    return result
  })
}

/** COMMIT, and the truth about it. */
async function commit(client: pg.ClientBase, pool: pg.Pool, xid: string | null): Promise<void> {
  let command: string
  try {
    command = (await client.query(sql.commit)).command
  } catch (error) {
    if (!isConnectionLost(error)) throw error
    const status = xid === null ? 'aborted' : await transactionStatus(pool, xid)
    if (status === 'committed') return
    if (status === 'aborted') {
      throw new TransactionError(
        'TRANSACTION_ROLLED_BACK',
        'The connection broke before the commit; nothing was written.',
        { cause: error },
      )
    }
    throw new TransactionError(
      'COMMIT_UNKNOWN',
      'The connection broke at the commit, and whether it took place could not be found out. Publish again with the same dedupe key.',
      { cause: error },
    )
  }
  if (command !== 'COMMIT') {
    throw new TransactionError(
      'TRANSACTION_ROLLED_BACK',
      'The server answered COMMIT with ROLLBACK: a statement of this transaction had failed and its error was swallowed. Nothing was written.',
    )
  }
}

async function transactionStatus(pool: pg.Pool, xid: string): Promise<'committed' | 'aborted' | 'unknown'> {
  for (let round = 0; round < 10; round++) {
    try {
      const { rows } = await pool.query<{ status: string | null }>(
        sql.transactionStatus.text,
        sql.transactionStatus.bind({ xid }),
      )
      const status = rows[0]?.status
      if (status === 'committed' || status === 'aborted') return status
      if (status !== 'in progress') return 'unknown'
    } catch {
      // The server may be restarting; it is asked again.
    }
    await new Promise((resolve) => setTimeout(resolve, 50 * 2 ** Math.min(round, 5)))
  }
  return 'unknown'
}
