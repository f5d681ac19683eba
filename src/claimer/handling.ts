import type pg from 'pg'
import { bounded } from '../database/client.ts'
import { lend, takeBack } from '../database/loan.ts'
import { claimLost } from '../database/sql/completion.ts'
import { isConflict, sqlstate } from '../database/sqlstate.ts'
import { HandleTimeoutError, TransactionError } from '../base/errors.ts'
import type { Failpoint } from '../base/failpoint.ts'
import type { Operation, Trace } from '../base/telemetry.ts'
import { Abort } from './abort.ts'
import type { Claim } from './claim.ts'
import { contextOf, withTransaction } from './handler-context.ts'
import type { HandlerContext, ResolvedHandler, TransactionContext } from './handlers.ts'
import { Conflict, Interrupted, lost, type Phase } from './interruptions.ts'
import { readable } from './readable.ts'
import { inTheirTransaction, type Theirs } from './theirs.ts'
import type { PooledConnection, Transactions } from './transactions.ts'

/** What is traced of handlers. */
export const handling = (membership: { readonly id: number | null }): Operation => ({
  name: 'handle',
  system: 'twinbox',
  workerId: membership.id,
})

/** Completes many claims in one statement, and tells which of them it completed. */
export type Complete = (claims: readonly Claim[]) => Promise<readonly Claim[]>

export interface HandlingParts {
  readonly transactions: Transactions
  readonly consumer: string
  readonly failpoint: Failpoint
  readonly complete: Complete
  /** Of a run, these are handled next. */
  readonly goesOn: (claims: readonly Claim[]) => void
  /** Whether there will be something to handle after this. */
  readonly hasNext: () => boolean
  /** Of a claimer whose handlers' transactions are a data library's; null if they are ours. */
  readonly theirs: Theirs | null
  /** What ends the handler's transaction: it completes the claims and commits, or raises. It may begin the next one. */
  readonly ending: (goOn: boolean) => string
  /** What the handler does belongs to it. */
  readonly trace: Trace | null
}

type Given = HandlerContext | TransactionContext<unknown>

/**
 * Runs one handler over one message, over a batch of them, or over the messages of a run one after the other, and completes them.
 *
 * With a transaction, the completion is a statement of that transaction and names the fence: if the claim has been
 * lost, it raises, and everything that the handler wrote is rolled back. Without one, the completion comes
 * after the handler has returned, so that a crash in between repeats the message.
 *
 * @param begun what the handler has given, if it has been called already; only without a transaction
 * @throws LeaseLostError, Interrupted, Conflict, HandleTimeoutError or what the handler threw. Nothing was completed then.
 */
export async function handle(
  parts: HandlingParts,
  handler: ResolvedHandler,
  claims: readonly Claim[],
  begun?: PromiseLike<unknown>,
): Promise<void> {
  const first = claims[0]!
  const abort = claims.length === 1 ? first.abort : new Abort()
  const passOn = (reason: Error): void => abort.abort(reason)
  if (claims.length > 1) for (const claim of claims) claim.abort.listen(passOn)
  let timeout: NodeJS.Timeout | undefined
  const run = async (called: readonly Claim[], context: Given): Promise<unknown> => {
    // Its time begins here and ends with it. If the wait for a connection were part of it, a server that is slow to give
    // one would fail every attempt of messages that no handler has seen, and each failure would cost it a connection.
    if (handler.handleTimeoutMs > 0) {
      timeout = setTimeout(() => {
        const error = new HandleTimeoutError(
          `The handler of "${first.topic}" ran longer than handleTimeoutMs, ${handler.handleTimeoutMs} ms.`,
        )
        for (const claim of claims) claim.abort.abort(error)
      }, handler.handleTimeoutMs)
    }
    const work = (): unknown => call(handler, called, context)
    try {
      return await (begun ?? (parts.trace === null ? work() : parts.trace.run(work)))
    } catch (error) {
      throw readable(error)
    } finally {
      clearTimeout(timeout)
    }
  }
  try {
    const context = contextOf(parts.consumer, claims, abort)
    if (handler.transaction && parts.theirs !== null) {
      const runOn = (tx: unknown): Promise<unknown> => run(claims, Object.assign(context, { tx }))
      await inTheirTransaction(parts, parts.theirs, runOn, claims, abort)
    } else if (handler.transaction && (handler.batch || claims.length === 1)) {
      const runOn = async (client: pg.ClientBase, check: () => void): Promise<void> => {
        await run(claims, withTransaction(context, client))
        check()
      }
      await inTransaction(parts, runOn, claims, abort)
    } else if (handler.transaction) {
      const runOn = async (client: pg.ClientBase, check: () => void): Promise<void> => {
        for (const [index, claim] of claims.entries()) {
          if (index > 0) await parts.failpoint('claimer.before_handle')
          // The one before need not have noticed that nobody waits for it any more.
          if (abort.aborted) throw abort.reason!
          parts.goesOn([claim])
          // Who ended the transaction would commit what the others of the run have done, and it is not completed.
          const own = contextOf(parts.consumer, [claim], abort)
          await run([claim], withTransaction(own, lend(client).client))
          check()
        }
      }
      await inTransaction(parts, runOn, claims, abort)
    } else {
      const before = begun === undefined ? parts.failpoint('claimer.before_handle') : undefined
      if (before !== undefined) await before
      await abort.unless(run(claims, context))
      const completed = await parts.complete(claims)
      await parts.failpoint('claimer.after_commit')
      if (completed.length < claims.length) throw lost(claims)
    }
  } finally {
    clearTimeout(timeout)
    if (claims.length > 1) for (const claim of claims) claim.abort.unlisten(passOn)
  }
}

async function inTransaction(
  parts: HandlingParts,
  run: (client: pg.ClientBase, check: () => void) => Promise<void>,
  claims: readonly Claim[],
  abort: Abort,
): Promise<void> {
  const { transactions, failpoint, hasNext } = parts
  let phase: Phase = 'before'
  const pooled = await Promise.resolve(transactions.take()).catch((error: unknown) => {
    throw new Interrupted(phase, error, null, performance.now())
  })
  const { client, evidence } = pooled
  try {
    // Every statement can be given up: on a connection that swallows bytes it would never end.
    await abort.unless(transactions.begin(pooled))
    await failpoint('claimer.before_handle')
    phase = 'handling'
    for (const claim of claims) claim.transaction = client
    takeBack(client)
    await abort.unless(run(client, () => checkSound(pooled, claims[0]!)))
    await failpoint('claimer.before_settle')
    phase = 'ending'
    const goOn = hasNext() && transactions.mayStay(pooled)
    await abort.unless(client.query(bounded(parts.ending(goOn))))
    await failpoint('claimer.after_commit')
    transactions.leave(pooled, goOn)
  } catch (error) {
    takeBack(client)
    // The handler may still be running: it must find its connection gone, not in somebody else's transaction.
    if (abort.aborted) {
      transactions.discard(pooled)
      throw error
    }
    const failed = client.getTransactionStatus?.() === 'E'
    const sound = await transactions.rollBack(pooled)
    // What the handler has made of an error of its connection does not matter: the connection itself tells.
    if (phase === 'before' || !sound) throw new Interrupted(phase, error, evidence, pooled.since)
    if (phase === 'ending' && isClaimLost(error)) throw lost(claims)
    if (isConflict(error) || (failed && isConflict(evidence.heard))) throw new Conflict(error)
    if (failed && sqlstate(error) === '25P02') {
      throw new TransactionError(
        'TRANSACTION_ABORTED',
        `A statement failed in the transaction of the handler of "${claims[0]!.topic}", and its error was swallowed. Use a savepoint, or let the error pass.`,
        { cause: evidence.heard ?? error },
      )
    }
    throw error
  } finally {
    for (const claim of claims) claim.transaction = null
  }
}

/** What a handler need not have noticed, or has done to its transaction. @throws that */
function checkSound({ client, evidence }: PooledConnection, { topic }: Claim): void {
  // What still runs, nobody waits for: it must not write into what comes next on this connection.
  const refused = takeBack(client)
  if (refused !== null) throw refused
  if (evidence.gone !== null) throw evidence.gone
  if (client.getTransactionStatus?.() !== 'I') return
  throw new TransactionError(
    'TRANSACTION_ENDED',
    `The handler of "${topic}" ended the transaction itself. Let it return instead, or set transaction: false.`,
  )
}

/** By where the server has raised it: a trigger that waits for the commit may raise the same, and would repeat its message for ever. */
function isClaimLost(error: unknown): boolean {
  return (
    sqlstate(error) === claimLost &&
    /\bcomplete_(one|many)\(text,/.test(String((error as pg.DatabaseError).where))
  )
}

/** A handler that is not async may throw at once. */
export function call(
  handler: ResolvedHandler,
  claims: readonly Claim[],
  context: HandlerContext | TransactionContext<unknown>,
): unknown {
  const input = handler.batch ? claims.map(({ message }) => message) : claims[0]!.message
  return handler.handle(input as never, context as never)
}
