import type pg from 'pg'
import { kyselyTransaction } from '../database/kysely.ts'
import type { Abort } from './abort.ts'
import type { Claim } from './claim.ts'
import type { HandlerContext, TransactionContext } from './handlers.ts'

const abortOf = Symbol('abort')

/**
 * What a handler is told beside its message. A signal is made only for a handler that asks for it.
 *
 * Its getters are properties of its own, so that `{ ...context, more }` has them. They are the same functions for all contexts: in an
 * object literal each would be made anew, and each object a dictionary, which cost a twelfth of all that a claim costs.
 */
class OwnContext implements HandlerContext {
  declare readonly signal: AbortSignal
  readonly attempt: number
  readonly idempotencyKey: string
  readonly fence: number
  // No private field: whoever wraps a context in a proxy reads through it.
  readonly [abortOf]: Abort

  constructor(consumer: string, claims: readonly Claim[], abort: Abort) {
    const first = claims[0]!
    this.attempt = claims.length === 1 ? first.attempt : Math.max(...claims.map(({ attempt }) => attempt))
    this.idempotencyKey = `${consumer}:${first.id}`
    this.fence = first.fence
    this[abortOf] = abort
    Object.defineProperty(this, 'signal', signal)
  }
}

const signal: PropertyDescriptor & ThisType<OwnContext> = {
  enumerable: true,
  get() {
    return this[abortOf].signal
  },
}

const trx: PropertyDescriptor & ThisType<TransactionContext<unknown>> = {
  enumerable: true,
  get() {
    return kyselyTransaction<unknown>(this.client)
  },
}

export const contextOf = (consumer: string, claims: readonly Claim[], abort: Abort): HandlerContext =>
  new OwnContext(consumer, claims, abort)

/** The same, of a handler with a transaction. A transaction of Kysely is made only for a handler that asks for it. */
export const withTransaction = (
  context: HandlerContext,
  client: pg.ClientBase,
): TransactionContext<unknown> =>
  Object.defineProperty(Object.assign(context, { client }) as never, 'trx', trx)
