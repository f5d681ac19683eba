import type pg from 'pg'
import { OptionError, TransactionError } from '../base/errors.ts'
import { bindings } from './bindings.ts'
import { isObject, recognise } from './libraries.ts'

/** What a data library calls its transactions, by what `bind` is given of it. */
export type BoundTo<Library> = Library extends { getTransactionContext(): unknown }
  ? Library
  : Library extends { readonly manager: infer Manager; createQueryRunner(...given: never[]): unknown }
    ? Manager
    : Library extends { startTransaction(): { execute(): Promise<infer Transaction> } }
      ? Transaction
      : Library extends { getQueryInterface(): unknown; transaction(): Promise<infer Transaction> }
        ? Transaction
        : Library extends { transaction(work: infer Work, ...rest: never[]): unknown }
          ? NonNullable<Work> extends (transaction: infer Transaction) => unknown
            ? Transaction
            : never
          : never

/**
 * Binds a data library to the transaction of a handler: what is written through what this gives commits together with the message's
 * completion, or not at all, and `publish` takes it too.
 *
 * `const em = await bind(client, dataSource)`. Takes a Drizzle database over node-postgres, a Kysely, a Knex (of Objection:
 * `Model.knex()`), a DataSource of TypeORM, an EntityManager of MikroORM or a Sequelize, and gives what the library calls a
 * transaction. A transaction inside of it is a savepoint. It can neither commit nor roll back, even if the refusal is
 * swallowed: a handler that tries has failed. After the handler has ended, all is refused.
 *
 * Not promised: what a library sets on connections of its own, such as a search path or a time zone, is not set here; and hooks for
 * after the commit are not called. The client of `withTransaction` will do as well.
 *
 * @throws TransactionError for what is no client, or in no transaction; OptionError for another library, or a version of which this
 *   does not know how to bind it
 */
export async function bind<Library extends object>(
  client: pg.ClientBase,
  library: Library,
): Promise<BoundTo<Library>> {
  checkClient(client)
  for (const binding of bindings) {
    const bound = isObject(library) ? binding(client, library) : null
    if (bound !== null) return (await bound) as BoundTo<Library>
  }
  const { what = 'something that is no data library known here' } = recognise(library) ?? {}
  throw new OptionError(
    'library',
    `bind got ${what}, which cannot be bound to a connection. Let it open the transaction: transaction: inTransaction((run) => …).`,
  )
}

function checkClient(client: pg.ClientBase): void {
  if (typeof client?.query !== 'function' || typeof client.on !== 'function' || 'totalCount' in client) {
    throw new TransactionError(
      'NO_TRANSACTION',
      'bind needs the pg client of a transaction as its first argument: that of async (message, { client }) => …',
    )
  }
  const status = client.getTransactionStatus?.()
  if (status === 'I')
    throw new TransactionError('NO_TRANSACTION', 'bind got a client that is not in a transaction.')
  if (status === 'E') {
    throw new TransactionError(
      'TRANSACTION_ABORTED',
      'bind got a transaction in which an earlier statement has failed; it can only be rolled back.',
    )
  }
}
