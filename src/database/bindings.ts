import type { Kysely } from 'kysely'
import type pg from 'pg'
import { OptionError } from '../base/errors.ts'
import { transactionOf } from './kysely.ts'
import { has, isObject, type Members } from './libraries.ts'
import { lend } from './loan.ts'

/**
 * How each data library is made to work on a client that is open, as if it had begun the transaction. Some of this is private to the
 * libraries: `test/libraries` runs it with the versions that the docs name, and what looks otherwise is refused.
 */

type Method = (...given: unknown[]) => unknown
type Types = pg.CustomTypesConfig | undefined

const call = (given: Members, name: string, ...values: unknown[]): unknown =>
  (given[name] as Method).apply(given, values)

/** One for each library: its transaction, or null if what is given is none of the library's. */
export const bindings: readonly ((client: pg.ClientBase, given: Members) => Promise<unknown> | null)[] = [
  function drizzle(client, given) {
    const { session, dialect } = given
    if (!has(given, 'execute', 'transaction') || !isObject(session) || !isObject(dialect)) return null
    const Session = session.constructor as unknown as Members & (new (...parts: unknown[]) => Members)
    if (Session[Symbol.for('drizzle:entityKind')] !== 'NodePgSession') {
      throw new OptionError(
        'library',
        'bind got a Drizzle database that is not over node-postgres. Make one by drizzle(pool) of drizzle-orm/node-postgres.',
      )
    }
    if (Session.length !== 3 || !('schema' in session && 'options' in session)) throw unknown('Drizzle')
    const { client: lent } = lend(client, { begins: true })
    const own = new Session(lent, dialect, session['schema'], session['options'])
    return new Promise((resolve, reject) => {
      const work = (transaction: unknown): Promise<never> => {
        resolve(transaction)
        // Its session would commit after this.
        return new Promise(() => {})
      }
      ;(call(own, 'transaction', work) as Promise<never>).catch(reject)
    })
  },
  function kysely(client, given) {
    if (!has(given, 'startTransaction', 'getExecutor', 'selectFrom')) return null
    refuseTransaction('a Kysely', given['isTransaction'])
    return transactionOf(given as unknown as Kysely<unknown>, lend(client).client)
  },
  function knex(client, given) {
    if (!has(given, 'raw', 'transaction') || !isObject(given['client'])) return null
    const { transacting, connectionSettings } = given['client']
    refuseTransaction('a Knex', transacting)
    const { types } = isObject(connectionSettings) ? (connectionSettings as { types?: Types }) : {}
    return knexTransaction(client, given, types)
  },
  function mikroOrm(client, given) {
    if (!has(given, 'getTransactionContext', 'setTransactionContext', 'getConnection', 'fork')) return null
    const em = call(given, 'fork') as Members
    const connection = call(given, 'getConnection', 'write') as Members
    return contextOfMikroOrm(client, connection).then((context) => {
      call(em, 'setTransactionContext', context)
      const { refuse } = lend(client)
      // It would begin one on a connection of the library's own; and the others do not always wait for what they send.
      return Object.assign(em, { begin: refuse, commit: refuse, rollback: refuse })
    })
  },
  function typeOrm(client, given) {
    if (!has(given, 'createQueryRunner', 'getRepository')) return null
    return (async () => {
      const runner = call(given, 'createQueryRunner') as Members
      if (
        runner['isTransactionActive'] !== false ||
        runner['transactionDepth'] !== 0 ||
        !isObject(runner['manager'])
      )
        throw unknown('TypeORM')
      const databaseConnection = lend(client).client
      // So that its next transaction is a savepoint.
      Object.assign(runner, { databaseConnection, isTransactionActive: true, transactionDepth: 1 })
      return runner['manager']
    })()
  },
  function sequelize(client, given) {
    if (!has(given, 'getQueryInterface', 'transaction')) return null
    return (async () => {
      const { Transaction } = given.constructor as unknown as {
        Transaction?: new (...parts: unknown[]) => object
      }
      const { connectionManager } = given
      if (
        typeof Transaction !== 'function' ||
        !isObject(connectionManager) ||
        !has(connectionManager, 'getTypeParser')
      )
        throw unknown('Sequelize')
      const transaction = new Transaction(given, {})
      const getTypeParser = (connectionManager['getTypeParser'] as Method).bind(connectionManager)
      const { client: connection, refuse } = lend(client, { types: { getTypeParser } })
      const afterCommit = (): never => {
        throw new OptionError(
          'library',
          'The transaction of Sequelize is bound to that of a handler and does not learn of the commit. Use transaction: inTransaction((run) => sequelize.transaction(run)) with afterCommit.',
        )
      }
      return Object.assign(transaction, { connection, commit: refuse, rollback: refuse, afterCommit })
    })()
  },
]

async function knexTransaction(client: pg.ClientBase, knex: Members, types: Types): Promise<unknown> {
  const { client: connection } = lend(client, { types, begins: true })
  const transaction = await call(knex, 'transaction', null, { connection })
  if (typeof transaction !== 'function') throw unknown('Knex')
  return transaction
}

/** It is on Knex up to its version 6, and on Kysely since 7; each with types of its own on each connection. */
async function contextOfMikroOrm(client: pg.ClientBase, connection: Members): Promise<unknown> {
  if (has(connection, 'getKnex', 'getConnectionOptions')) {
    const { types } = call(connection, 'getConnectionOptions') as { types?: Types }
    return knexTransaction(client, call(connection, 'getKnex') as Members, types)
  }
  if (has(connection, 'getClient', 'mapOptions')) {
    const { types } = call(connection, 'mapOptions', {}) as { types?: Types }
    return transactionOf(call(connection, 'getClient') as Kysely<unknown>, lend(client, { types }).client)
  }
  throw unknown('MikroORM')
}

function refuseTransaction(what: string, isTransaction: unknown): void {
  if (isTransaction === true)
    throw new OptionError('library', `bind got ${what} transaction. Pass the instance that it was begun on.`)
}

const unknown = (name: string): OptionError =>
  new OptionError(
    'library',
    `bind does not know this version of ${name}, whose objects look otherwise than those of the tested versions: see docs/publishing.md. Let it open the transaction: transaction: inTransaction((run) => …).`,
  )
