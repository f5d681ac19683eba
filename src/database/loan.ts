import type pg from 'pg'
import { ownedText, TransactionError } from '../base/errors.ts'
import { controlIn } from './sql/control.ts'

/** The client of an open transaction, as long as it is lent to data libraries: to all of one handler, until that has ended. */
class Loan {
  ended = false
  /** The first attempt at ending the transaction. Some libraries swallow its refusal, and so do users. */
  refused: TransactionError | null = null

  refuse(): TransactionError {
    const error = new TransactionError('TRANSACTION_OWNED', ownedText)
    this.refused ??= error
    return error
  }
}

const loans = new WeakMap<pg.ClientBase, Loan>()

interface Terms {
  /** How the library reads values, if that is a matter of its connections. */
  readonly types?: pg.CustomTypesConfig | undefined
  /** Its first BEGIN is answered and not sent: the transaction has been begun. */
  readonly begins?: boolean
}

/** A client that is lent, and what stands for the commit and rollback of its borrower. */
export interface Lent {
  readonly client: pg.ClientBase
  /** @throws TransactionError always */
  readonly refuse: () => Promise<never>
}

/**
 * Lends a client to a library. What would begin or end the transaction or the connection is refused and not sent, and so is
 * everything after `takeBack`: by then the client is in another transaction. What the library writes down on the client is kept apart.
 */
export function lend(client: pg.ClientBase, { types, begins = false }: Terms = {}): Lent {
  const loan = loans.get(client) ?? new Loan()
  loans.set(client, loan)
  let begun = !begins
  const refuse = async (): Promise<never> => {
    throw loan.refuse()
  }
  const query = (...given: unknown[]): unknown => {
    const text = textOf(given[0])
    const control = text === null ? null : controlIn(text)
    if (loan.ended || client.getTransactionStatus?.() === 'I')
      return answer(client, given, { error: ended() })
    if (control === 'begin' && !begun) {
      begun = true
      return answer(client, given, { result: { command: 'BEGIN', rowCount: null, rows: [], fields: [] } })
    }
    if (control !== null) return answer(client, given, { error: loan.refuse() })
    return (client.query as (...all: unknown[]) => unknown)(...readAs(types, given))
  }
  const own = new Map<PropertyKey, unknown>([
    ['query', query],
    ['connect', refuse],
    ['end', refuse],
    [
      'release',
      () => {
        throw loan.refuse()
      },
    ],
  ])
  const lent = new Proxy(client, {
    get(target, name) {
      if (own.has(name)) return own.get(name)
      const value: unknown = Reflect.get(target, name, target)
      return typeof value === 'function' && name !== 'constructor' ? value.bind(target) : value
    },
    has: (target, name) => own.has(name) || name in target,
    set: (_, name, value) => own.set(name, value) === own,
    deleteProperty: (_, name) => own.delete(name) || true,
  })
  // What is lent on is on the same loan.
  loans.set(lent, loan)
  return { client: lent, refuse }
}

/**
 * Ends what was lent of the client, if anything was: before its transaction ends, and before one begins, since whoever had the client
 * before may have lent it and never taken it back.
 *
 * @returns the refusal of an attempt at ending its transaction, after which the transaction must not be committed: whoever wanted it
 *   rolled back may have swallowed that it was not
 */
export function takeBack(client: pg.ClientBase): TransactionError | null {
  const loan = loans.get(client)
  if (loan === undefined) return null
  loans.delete(client)
  loan.ended = true
  return loan.refused
}

const ended = (): TransactionError =>
  new TransactionError(
    'TRANSACTION_ENDED',
    'The transaction to which a library was bound has ended. Wait for everything in the handler before it returns.',
  )

function textOf(query: unknown): string | null {
  const text: unknown = typeof query === 'object' && query !== null && 'text' in query ? query.text : query
  return typeof text === 'string' ? text : null
}

/** What runs by itself, such as a cursor, reads as it has been told. */
const isSubmittable = (query: unknown): query is { handleError(error: Error, connection: unknown): void } =>
  typeof query === 'object' && query !== null && 'submit' in query

function readAs(types: Terms['types'], [query, ...rest]: readonly unknown[]): readonly unknown[] {
  if (types === undefined || isSubmittable(query)) return [query, ...rest]
  return [typeof query === 'string' ? { text: query, types } : { types, ...(query as object) }, ...rest]
}

/** In the way in which it was asked: by a callback, by a cursor, or with a promise. */
function answer(
  client: pg.ClientBase,
  given: readonly unknown[],
  { error = null, result }: { readonly error?: Error | null; readonly result?: object },
): unknown {
  const [query] = given
  const inConfig = typeof query === 'object' && query !== null && 'callback' in query ? query.callback : null
  const callback = [...given, inConfig].find((each) => typeof each === 'function') as
    ((error: Error | null, result?: object) => void) | undefined
  if (callback !== undefined) return process.nextTick(callback, error, result)
  if (error !== null && isSubmittable(query)) {
    process.nextTick(() =>
      query.handleError(error, (client as unknown as { connection: unknown }).connection),
    )
    return query
  }
  return error === null ? Promise.resolve(result) : Promise.reject(error)
}
