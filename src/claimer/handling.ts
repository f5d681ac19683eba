import type pg from 'pg'
import { bounded } from '../database/client.ts'
import { kyselyTransaction } from '../database/kysely.ts'
import { claimLost } from '../database/sql/completion.ts'
import { rollback } from '../database/sql/server.ts'
import { isConnectionLost, sqlstate } from '../database/sqlstate.ts'
import { HandleTimeoutError, LeaseLostError, TransactionError, TwinboxError } from '../errors.ts'
import { noFailpoint, type Failpoint } from '../failpoint.ts'
import type { Trace } from '../telemetry.ts'
import { Abort } from './abort.ts'
import type { ClaimerContext } from './context.ts'
import type { Claim } from './claim.ts'
import type { HandlerContext, ResolvedHandler, TransactionContext } from './handlers.ts'
import type { Transactions } from './transactions.ts'

/** The interruption is not the handler's: the database went away, or the outcome of a commit is open. */
export class Interrupted extends Error {
  /** True if the messages may have been completed all the same, so that they must be read again. */
  readonly open: boolean

  constructor(cause: unknown, open: boolean) {
    super('Handling was interrupted.', { cause })
    this.open = open
  }
}

/** Completes many claims in one statement, and tells which of them it completed. */
export type Complete = (claims: readonly Claim[]) => Promise<readonly Claim[]>

export interface HandlingParts {
  readonly transactions: Transactions
  readonly consumer: string
  readonly failpoint: Failpoint
  readonly complete: Complete
  /** Whether there will be something to handle after this. */
  readonly hasNext: () => boolean
  /** What ends the handler's transaction: it completes the claims and commits, or raises. It may begin the next one. */
  readonly ending: (goOn: boolean) => string
  /** What the handler does belongs to it. */
  readonly trace: Trace | null
}

/**
 * Runs one handler over one message, or over a batch of them, and completes them.
 *
 * With a transaction, the completion is a statement of that transaction and names the fence: if the claim has been
 * lost, it raises, and everything that the handler wrote is rolled back. Without one, the completion comes
 * after the handler has returned, so that a crash in between repeats the message.
 *
 * @param begun what the handler has given, if it has been called already; only without a transaction
 * @throws LeaseLostError, Interrupted, HandleTimeoutError or what the handler threw. Nothing was completed then.
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
  const run = async (context: HandlerContext | TransactionContext<unknown>): Promise<unknown> => {
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
    const work = (): unknown => call(handler, claims, context)
    try {
      return await (parts.trace === null ? work() : parts.trace.run(work))
    } finally {
      clearTimeout(timeout)
    }
  }
  try {
    const context = contextOf(parts.consumer, claims, abort)
    if (handler.transaction) {
      const runOn = (client: pg.ClientBase): Promise<unknown> =>
        run(
          Object.defineProperty(Object.assign(context, { client }) as never, 'trx', {
            get: () => kyselyTransaction<unknown>(client),
            enumerable: true,
          }),
        )
      await inTransaction(parts, runOn, claims, abort)
    } else {
      const before = begun === undefined ? parts.failpoint('claimer.before_handle') : undefined
      if (before !== undefined) await before
      await abort.unless(Promise.resolve(begun ?? run(context)))
      const after = parts.failpoint('claimer.before_settle')
      if (after !== undefined) await after
      const completed = await parts.complete(claims)
      await parts.failpoint('claimer.after_commit')
      if (completed.length < claims.length) throw lost(claims)
    }
  } finally {
    clearTimeout(timeout)
    if (claims.length > 1) for (const claim of claims) claim.abort.unlisten(passOn)
  }
}

export const handledAtOnce = Symbol('handled')

/**
 * A message whose handler has no transaction and is not async is handled here and now, without a promise: they would
 * cost more than all the rest. What a handler gives that is async is handed on.
 */
export function handleAtOnce(
  { failpoint, consumer, telemetry }: Pick<ClaimerContext, 'failpoint' | 'consumer' | 'telemetry'>,
  handler: ResolvedHandler | undefined,
  [claim, ...more]: readonly Claim[],
): typeof handledAtOnce | PromiseLike<unknown> | undefined {
  const simple = handler?.transaction === false && !handler.batch && handler.handleTimeoutMs === 0
  const late = performance.now() >= claim!.expiresAt
  const watched = failpoint !== noFailpoint || telemetry !== undefined
  if (!simple || late || watched || more.length > 0 || claim!.attempt > handler.maxAttempts) return undefined
  try {
    const work = call(handler, [claim!], contextOf(consumer, [claim!], claim!.abort))
    return isThenable(work) ? work : handledAtOnce
  } catch (error) {
    return Promise.reject(error)
  }
}

/** A signal is made only for a handler that asks for it. */
function contextOf(consumer: string, claims: readonly Claim[], abort: Abort): HandlerContext {
  const first = claims[0]!
  return {
    attempt: claims.length === 1 ? first.attempt : Math.max(...claims.map(({ attempt }) => attempt)),
    idempotencyKey: `${consumer}:${first.id}`,
    fence: first.fence,
    get signal() {
      return abort.signal
    },
  }
}

async function inTransaction(
  parts: HandlingParts,
  run: (client: pg.ClientBase) => Promise<unknown>,
  claims: readonly Claim[],
  abort: Abort,
): Promise<void> {
  const { transactions, failpoint, hasNext } = parts
  const seat = await Promise.resolve(transactions.take()).catch((error: unknown) => {
    throw new Interrupted(error, false)
  })
  const { client } = seat
  // Under the handler's feet the connection may go; what the handler makes of that error says nothing about it.
  let broken: unknown = null
  const onError = (error: unknown): void => void (broken ??= error)
  let isEnding = false
  client.on('error', onError)
  try {
    // Every statement can be given up: on a connection that swallows bytes it would never end.
    await abort.unless(transactions.begin(seat))
    await failpoint('claimer.before_handle')
    await abort.unless(run(client))
    if (client.getTransactionStatus?.() === 'I' && broken === null) {
      throw new TwinboxError(
        'TRANSACTION_ENDED',
        `The handler of "${claims[0]!.topic}" ended the transaction itself. Let it return instead, or set transaction: false.`,
      )
    }
    await failpoint('claimer.before_settle')
    for (const claim of claims) claim.settling = true
    isEnding = true
    const goOn = hasNext() && transactions.mayStay(seat)
    await abort.unless(client.query(bounded(parts.ending(goOn))))
    await failpoint('claimer.after_commit')
    transactions.leave(seat, goOn)
  } catch (caught) {
    let error: unknown = caught
    if (!abort.aborted && broken === null && !isConnectionLost(error)) {
      await client.query(bounded(rollback)).catch((failure: unknown) => (error = failure))
    }
    // The handler may still be running: it must find its connection gone, not in somebody else's transaction.
    transactions.giveUp(seat, error, abort.aborted)
    if (abort.aborted) throw error
    if (sqlstate(error) === claimLost) throw lost(claims)
    if (sqlstate(error) === '25P02') {
      throw new TransactionError(
        'TRANSACTION_ABORTED',
        `A statement failed in the transaction of the handler of "${claims[0]!.topic}", and its error was swallowed. Use a savepoint, or let the error pass.`,
        { cause: error },
      )
    }
    // If it may have been committed, what is still in the inbox tells.
    if (broken !== null || isConnectionLost(error) || isConnectionLost(causeOf(error))) {
      throw new Interrupted(error, isEnding)
    }
    throw error
  } finally {
    client.off('error', onError)
  }
}

/** A handler that is not async may throw at once. */
function call(
  handler: ResolvedHandler,
  claims: readonly Claim[],
  context: HandlerContext | TransactionContext<unknown>,
): unknown {
  const input = handler.batch ? claims.map(({ message }) => message) : claims[0]!.message
  return handler.handle(input as never, context as never)
}

function isThenable(value: unknown): value is PromiseLike<unknown> {
  return typeof value === 'object' && value !== null && 'then' in value
}

export function lost(claims: readonly Claim[]): LeaseLostError {
  return new LeaseLostError(
    `The claim on ${claims.length === 1 ? `message ${claims[0]!.id}` : `${claims.length} messages`} was lost while the handler of "${claims[0]!.topic}" was running. Another worker has it. Raise leaseMs, or make the handler stop when its signal aborts.`,
  )
}

function causeOf(error: unknown): unknown {
  return error instanceof Error ? error.cause : undefined
}
