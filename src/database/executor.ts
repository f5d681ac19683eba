import type pg from 'pg'
import { TransactionError } from '../base/errors.ts'
import { recognise, type LibraryTransaction, type Recognised } from './libraries.ts'
import { keepsNone, keepsStatements } from './prepared.ts'
import { releaseSavepoint, savepoint } from './sql/server.ts'
import type { Parameters, ValuesOf } from './sql/parameter.ts'
import type { Statement } from './sql/statement.ts'
import { isUnknownStatement, statesOf } from './sqlstate.ts'
import { rowTypes } from './types.ts'

/** A Kysely `Transaction`, recognised by its shape, so that its version need not be ours. */
export interface KyselyTransaction {
  readonly isTransaction: true
  executeQuery(query: never): Promise<{ readonly rows: unknown[] }>
}

/**
 * Anything that runs a statement inside your transaction: a `pg` client, or an object of your own over another driver. Its
 * parameters are texts, nulls, and a Buffer for bytes. What does not tell by itself whether it is in a transaction, as
 * `pg` does, is asked for a savepoint first.
 */
export interface Queryable {
  query(text: string, values: unknown[]): Promise<{ readonly rows: unknown[] }>
}

/** A `pg.Pool` has none of these shapes on purpose: each of its statements is a transaction of its own. */
export type TransactionInput =
  | KyselyTransaction
  | LibraryTransaction
  | (Queryable & { readonly totalCount?: never; readonly createQueryRunner?: never })

type Row = Readonly<Record<string, unknown>>
export type Run = <Takes extends Parameters, Gives>(
  statement: Statement<Takes, Gives>,
  values: ValuesOf<Takes>,
) => Promise<Gives[]>
/** The same once the values are in their order. Rows of somebody's driver are what it makes of them. */
interface Bound {
  readonly run: (statement: Statement, values: unknown[]) => Promise<Row[]>
  /** Of what does not tell whether it is in a transaction: asks the server, before each statement or once. */
  readonly insist?: () => Promise<void>
}

/**
 * How to run a statement on the object that the caller passes. What cannot be a transaction is refused at once; what
 * does not say whether it is one, before its first statement. @throws TransactionError
 */
export function executor(
  verb: string,
  transaction: unknown,
  autocommit: boolean,
  prepared: boolean | null,
): Run {
  const { run, insist } = bound(verb, transaction, autocommit, prepared)
  return async <Takes extends Parameters, Gives>(
    statement: Statement<Takes, Gives>,
    values: ValuesOf<Takes>,
  ) => {
    await insist?.()
    return (await run(statement, statement.bind(values))) as Gives[]
  }
}

/** The same in a transaction that a library has just begun, once it is sure that it has. @throws TransactionError */
export async function joined(verb: string, transaction: unknown): Promise<Run> {
  const { run, insist } = bound(verb, transaction, false, false)
  await insist?.()
  return async <Takes extends Parameters, Gives>(
    statement: Statement<Takes, Gives>,
    values: ValuesOf<Takes>,
  ) => (await run(statement, statement.bind(values))) as Gives[]
}

function bound(verb: string, transaction: unknown, autocommit: boolean, prepared: boolean | null): Bound {
  const no = (text: string, cause?: unknown): never => {
    throw new TransactionError('NO_TRANSACTION', `${verb} got ${text}`, { cause })
  }
  const isObject = typeof transaction === 'object' && transaction !== null
  if (isObject && 'isTransaction' in transaction && 'executeQuery' in transaction) {
    if (transaction.isTransaction !== true && !autocommit) {
      no('a Kysely instance that is not a transaction. Pass the trx of db.transaction().execute(...).')
    }
    const kysely = transaction as unknown as { executeQuery(query: unknown): Promise<unknown> }
    const run: Bound['run'] = async ({ text }, parameters) => {
      const query = { kind: 'RawNode', sqlFragments: [text], parameters: [] }
      const compiled = { sql: text, parameters, query, queryId: { queryId: 'twinbox' } }
      return rowsOf(verb, 'a Kysely transaction', await kysely.executeQuery(compiled).catch(explain))
    }
    return { run }
  }
  const isClient = isObject && hasMethods(transaction, 'query', 'getTransactionStatus')
  const known = isClient ? null : recognise(transaction)
  if (known !== null) return ofLibrary(verb, known, autocommit, prepared)
  const given = describe(transaction)
  if (!(isObject || typeof transaction === 'function') || !hasMethods(transaction, 'query')) {
    return no(`${given}, and needs your transaction as its first argument: ${whatToPass}`)
  }
  if ('totalCount' in transaction || /Pool$/.test(transaction.constructor?.name ?? '')) {
    no('a pool, where each statement is a transaction of its own. Pass the client on which you ran BEGIN.')
  }
  const client = transaction as pg.ClientBase
  const status = isClient ? client.getTransactionStatus() : null
  if (status === null) {
    const query = async (text: string, values: unknown[]): Promise<unknown> => client.query(text, values)
    return asking({ verb, given, pass: whatToPass, ask: !autocommit, query })
  }
  if (status === 'I' && !autocommit) {
    no(
      'a client that is not in a transaction. Await BEGIN first, or pass { autocommit: true } if the message stands by itself.',
    )
  }
  if (status === 'E') throw new TransactionError('TRANSACTION_ABORTED', abortedText)
  const run: Bound['run'] = async ({ name, text, isPrepared }, values) => {
    // Only pg itself is known to take a named statement.
    const named = prepared ?? (await Promise.resolve(keepsStatements(client)).catch(explain))
    const query = { ...(named && isPrepared ? { name } : {}), text, values, types: rowTypes }
    const answer = client.query(query).catch((error: unknown) => {
      // This transaction has ended with it; the client would name the statement in the next one as well, and in each after that.
      if (named && statesOf(error).some(isUnknownStatement)) keepsNone(client)
      return explain(error)
    })
    return rowsOf(verb, given, await answer)
  }
  return { run }
}

const hasMethods = (given: object, ...names: readonly string[]): boolean =>
  names.every((name) => typeof (given as Record<string, unknown>)[name] === 'function')

/** What is recognised says how it is asked, and mostly whether it is in a transaction. @throws TransactionError */
function ofLibrary(
  verb: string,
  { what, pass, inside, alone, over, query }: Recognised,
  autocommit: boolean,
  prepared: boolean | null,
): Bound {
  if (inside === false && !(autocommit && alone === true)) {
    throw new TransactionError(
      'NO_TRANSACTION',
      `${verb} got ${what} that is not in a transaction. Pass ${pass}.`,
    )
  }
  if (query === undefined) return bound(verb, over, autocommit, prepared)
  return asking({ verb, given: what, pass: `${pass}.`, ask: inside === null && !autocommit, query })
}

interface Asked {
  readonly verb: string
  readonly given: string
  readonly pass: string
  /** Whether a pool, a manager or a whole library may be behind it: then only the server knows. It wants no right for this. */
  readonly ask: boolean
  readonly query: (text: string, values: unknown[]) => PromiseLike<unknown>
}

function asking({ verb, given, pass, ask, query }: Asked): Bound {
  const insist = async (): Promise<void> => {
    try {
      const answers: unknown[] = [await query(savepoint, []), await query(releaseSavepoint, [])]
      for (const answer of answers) rowsOf(verb, given, answer, 'Nothing was written')
    } catch (cause) {
      if (!statesOf(cause).includes('25P01')) explain(cause)
      throw new TransactionError(
        'NO_TRANSACTION',
        `${verb} got ${given} that is not in a transaction: the database says so. Pass ${pass} Or pass { autocommit: true } if the message stands by itself.`,
        { cause },
      )
    }
  }
  const run: Bound['run'] = async ({ text }, values) => {
    try {
      return rowsOf(verb, given, await query(text, values))
    } catch (error) {
      return explain(error)
    }
  }
  return ask ? { run, insist } : { run }
}

const whatToPass =
  'a pg client after BEGIN, a transaction of Kysely, Drizzle, postgres.js, Prisma, Knex, Objection, TypeORM, MikroORM, Sequelize, Slonik or PGlite, or an object whose query(text, values) runs in your transaction and resolves with { rows }.'

/** What it is, in words for whoever passed it. Never its content. */
function describe(transaction: unknown): string {
  if (transaction === undefined || transaction === null) return String(transaction)
  if (typeof transaction === 'function') return 'a function'
  if (typeof transaction !== 'object') return `something of type ${typeof transaction}`
  const name: unknown = transaction.constructor?.name
  return typeof name === 'string' && name !== '' && name !== 'Object'
    ? `a ${name.slice(0, 100)}`
    : 'an object'
}

/**
 * The rows of an answer, whatever gave it: libraries differ in whether they hand on what the server said or only the rows,
 * and some give something else. @throws TransactionError
 */
function rowsOf(verb: string, given: string, answer: unknown, so = 'Roll back'): Row[] {
  const rows: unknown = Array.isArray(answer)
    ? answer
    : typeof answer === 'object' && answer !== null && 'rows' in answer
      ? answer.rows
      : null
  if (Array.isArray(rows) && rows.every(isRow)) return rows as Row[]
  throw new TransactionError(
    'UNKNOWN_RESULT',
    `${verb} got ${given}, whose query answers with something else than rows. ${so}. Pass ${whatToPass}`,
  )
}

const isRow = (row: unknown): boolean => typeof row === 'object' && row !== null && !Array.isArray(row)

const abortedText =
  'publish got a transaction in which an earlier statement has failed; it can only be rolled back.'

/** Says what an error of the server means here, where that is not for the server to know. */
function explain(error: unknown): never {
  const states = statesOf(error)
  // Right after a failure, the client does not know yet that its transaction is aborted.
  if (states.includes('25P02'))
    throw new TransactionError('TRANSACTION_ABORTED', abortedText, { cause: error })
  if (states.some(isUnknownStatement)) {
    throw new TransactionError(
      'TRANSACTION_ABORTED',
      'The server does not know a statement that was prepared on this connection: a pooler shares its sessions, or DISCARD ALL or DEALLOCATE was run. Leave preparedStatements out, or set it to false.',
      { cause: error },
    )
  }
  throw error
}
