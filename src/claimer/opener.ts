import { OptionError } from '../base/errors.ts'

/** How handlers get transactions of a data library, see `inTransaction`. */
export interface Opener<Tx> {
  readonly open: (run: (tx: Tx) => Promise<void>) => PromiseLike<unknown>
}

/**
 * Handlers get the transactions of your data library: `transaction: inTransaction((run) => prisma.$transaction(run))`. The
 * function opens a transaction, calls `run` with it, and resolves after the commit. `run` calls the handler, with the transaction as
 * `tx`, and completes the message in the last statement before the commit: both are committed, or neither is.
 *
 * It has to be a transaction in the database in which the claimer works, of a user with the rights of the claimer. Any that
 * `publish` takes will do. If nothing comes within 5 s of the completion, neither COMMIT nor ROLLBACK, the server ends the session.
 *
 * @throws OptionError for what is no function
 */
export function inTransaction<Tx = unknown>(open: Opener<Tx>['open']): Opener<Tx> {
  if (typeof open !== 'function') {
    throw new OptionError(
      'transaction',
      'inTransaction takes a function, which opens a transaction and calls run(tx) in it.',
    )
  }
  return { open }
}
