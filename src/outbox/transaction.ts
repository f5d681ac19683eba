import type pg from 'pg'
import type { Statement } from '../database/database.ts'
import { sqlstate } from '../database/sqlstate.ts'
import { TransactionError } from '../errors.ts'

/** A Kysely `Transaction`, recognised by its shape, so that its version need not be ours. */
export interface KyselyTransaction {
  readonly isTransaction: true
  executeQuery(query: never): Promise<{ readonly rows: unknown[] }>
}

/** Anything that runs a statement inside your transaction: a `pg` client, or a driver of the same shape. */
export interface Queryable {
  query(text: string, values: unknown[]): Promise<{ readonly rows: unknown[] }>
}

/** A `pg.Pool` has neither shape on purpose: each of its statements is a transaction of its own. */
export type TransactionInput = KyselyTransaction | (Queryable & { readonly totalCount?: never })

export type Run = (statement: Statement, values: unknown[]) => Promise<unknown[]>

/** How to run a statement on what the caller has in hand. @throws TransactionError */
export function executor(verb: string, transaction: unknown, autocommit: boolean, prepared: boolean): Run {
  if (typeof transaction !== 'object' || transaction === null) {
    throw new TransactionError('NO_TRANSACTION', `${verb} needs your transaction as its first argument.`)
  }
  if ('isTransaction' in transaction && 'executeQuery' in transaction) {
    if (transaction.isTransaction !== true && !autocommit) {
      throw new TransactionError(
        'NO_TRANSACTION',
        `${verb} got a Kysely instance that is not a transaction. Pass the trx of db.transaction().execute(...).`,
      )
    }
    const kysely = transaction as unknown as { executeQuery(query: unknown): Promise<{ rows: unknown[] }> }
    return async ({ text }, parameters) => {
      const query = { kind: 'RawNode', sqlFragments: [text], parameters: [] }
      const compiled = { sql: text, parameters, query, queryId: { queryId: 'twinbox' } }
      return (await kysely.executeQuery(compiled).catch(explain)).rows
    }
  }
  if (!('query' in transaction) || typeof transaction.query !== 'function') {
    throw new TransactionError(
      'NO_TRANSACTION',
      `${verb} needs a pg client inside a transaction, a Kysely transaction, or an object with query(text, values).`,
    )
  }
  if ('totalCount' in transaction || /Pool$/.test(transaction.constructor?.name ?? '')) {
    throw new TransactionError(
      'NO_TRANSACTION',
      `${verb} got a pool, where each statement is a transaction of its own. Pass the client on which you ran BEGIN.`,
    )
  }
  const client = transaction as pg.ClientBase
  const status = typeof client.getTransactionStatus === 'function' ? client.getTransactionStatus() : null
  if (status === 'I' && !autocommit) {
    throw new TransactionError(
      'NO_TRANSACTION',
      `${verb} got a client that is not in a transaction. Await BEGIN first, or pass { autocommit: true } if the message stands by itself.`,
    )
  }
  if (status === 'E') throw new TransactionError('TRANSACTION_ABORTED', abortedText)
  // Only pg itself is known to take a named statement.
  if (status === null || !prepared) {
    return async ({ text }, values) => (await Promise.resolve(client.query(text, values)).catch(explain)).rows
  }
  return async (statement, values) =>
    (await client.query<Record<string, unknown>>({ ...statement, values }).catch(explain)).rows
}

const abortedText =
  'publish got a transaction in which an earlier statement has failed; it can only be rolled back.'

/** Says what an error of the server means here, where that is not for the server to know. */
function explain(error: unknown): never {
  const state = sqlstate(error)
  // Right after a failure, the client does not know yet that its transaction is aborted.
  if (state === '25P02') throw new TransactionError('TRANSACTION_ABORTED', abortedText, { cause: error })
  if (state === '26000' || state === '42P05') {
    throw new TransactionError(
      'TRANSACTION_ABORTED',
      'The server does not know a statement that was prepared on this connection: a pooler shares its sessions. Create the outbox with { preparedStatements: false }.',
      { cause: error },
    )
  }
  throw error
}
