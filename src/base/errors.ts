import { printable, printableLabel, printableLine, redactCut } from './printable.ts'

/**
 * What can go wrong, grouped by who has to act.
 *
 * You, before anything runs: `OptionError`, `MessageError`, `TransactionError`, `SchemaError`.
 * You, inside a handler: `DeadLetterError` and `RetryLaterError` are thrown by handlers to say what should happen.
 * Nobody: `LeaseLostError`, `TransactionLostError` and most `BrokerError`s are retried by the worker that met them.
 *
 * A message says what happened, to what, why, and what to do. It never holds a payload, a header's value or a
 * password: errors end up in logs.
 */

/** Every error that Twinbox throws on purpose. `code` is stable; the sentence is not. */
export class TwinboxError extends Error {
  readonly code: string

  constructor(code: string, message: string, options?: ErrorOptions) {
    super(message, options)
    this.name = new.target.name
    this.code = code
  }
}

/** An option has a value that cannot work. Thrown before anything starts; nothing was changed. */
export class OptionError extends TwinboxError {
  readonly option: string

  constructor(option: string, message: string, options?: ErrorOptions) {
    super('INVALID_OPTION', message, options)
    this.option = option
  }
}

/** Which check a message failed; see `message.ts` for the limits. */
export type MessageErrorCode =
  | 'INVALID_MESSAGE'
  | 'INVALID_TOPIC'
  | 'UNKNOWN_TOPIC'
  | 'INVALID_KEY'
  | 'INVALID_DEDUPE_KEY'
  | 'INVALID_TEXT'
  | 'INVALID_DATE'
  | 'INVALID_DURATION'
  | 'INVALID_HEADERS'
  | 'HEADERS_TOO_LARGE'
  | 'HEADER_RESERVED'
  | 'PAYLOAD_REQUIRED'
  | 'PAYLOAD_TYPE'
  | 'PAYLOAD_INVALID'
  | 'PAYLOAD_LOSSY'
  | 'PAYLOAD_CIRCULAR'
  | 'PAYLOAD_TOO_DEEP'
  | 'PAYLOAD_TOO_LARGE'
  | 'PAYLOAD_SERIALIZE'
  | 'OUTBOX_FULL'
  | 'UNKNOWN_OPTION'

/**
 * A message was refused. Thrown by `publish` before any SQL has run, so the caller's transaction is still usable and
 * nothing of this call was written, not even the valid messages of a `publishMany`.
 */
export class MessageError extends TwinboxError {
  /** Where in the message: `topic`, `headers["x"]`, `payload.lines[3].price`. */
  readonly path: string

  constructor(code: MessageErrorCode, path: string, message: string, options?: ErrorOptions) {
    super(code, message, options)
    this.path = path
  }
}

/** Why a transaction could not be used, or what became of it. */
export type TransactionErrorCode =
  | 'NO_TRANSACTION'
  | 'UNKNOWN_RESULT'
  | 'TRANSACTION_ABORTED'
  | 'TRANSACTION_ROLLED_BACK'
  | 'TRANSACTION_OWNED'
  | 'TRANSACTION_ENDED'
  | 'COMMIT_UNKNOWN'
  | 'CONNECTION_ENDED'

/**
 * `NO_TRANSACTION`: `publish` got a pool, or a client that is not in a transaction. Nothing was written.
 * `UNKNOWN_RESULT`: an object with `query` that is no `pg` client answers with something else than rows. The error says
 * whether anything was written.
 * `TRANSACTION_ABORTED`: an earlier statement failed in this transaction; it can only be rolled back.
 * `TRANSACTION_ROLLED_BACK`: the server answered COMMIT with ROLLBACK. Nothing of the transaction exists.
 * `TRANSACTION_OWNED`: a handler was about to begin or end the transaction that it was given, which is Twinbox's to end. Nothing was
 * sent; the attempt fails, also if the handler swallows this error.
 * `TRANSACTION_ENDED`: a handler used its transaction after its end, or has ended it by itself.
 * `COMMIT_UNKNOWN`: the connection broke at COMMIT and the outcome could not be found out. Publish again with the
 * same dedupe key: if the first commit took place, the second is a duplicate.
 * `CONNECTION_ENDED`: the server ended the session of a handler's transaction, and that was the handler's doing. The
 * attempt has failed; nothing was written.
 */
export class TransactionError extends TwinboxError {
  constructor(code: TransactionErrorCode, message: string, options?: ErrorOptions) {
    super(code, message, options)
  }
}

export const ownedText =
  'The transaction belongs to Twinbox: it commits when the handler returns and rolls back when it throws.'

/**
 * The tables are missing, older or newer than this version of Twinbox, or the server is none that it works on. `SCHEMA_UNKNOWN`:
 * the tables were made by migrations that this version does not have, and does not follow from. `ROW_SECURITY`:
 * row-level security hides rows from this user. `SCHEMA_BUSY`: others hold on to tables that a migration has to change, or to
 * rows that are to be erased. `FOREIGN_OWNER`: the schema or something in it belongs to somebody whom this user has no reason
 * to trust.
 * Nothing was started, and nothing changed.
 */
export class SchemaError extends TwinboxError {
  constructor(
    code:
      | 'SCHEMA_MISSING'
      | 'SCHEMA_BEHIND'
      | 'SCHEMA_AHEAD'
      | 'SCHEMA_UNKNOWN'
      | 'SCHEMA_BUSY'
      | 'ROW_SECURITY'
      | 'FOREIGN_OWNER'
      | 'SERVER_UNSUPPORTED',
    message: string,
    options?: ErrorOptions,
  ) {
    super(code, message, options)
  }
}

/**
 * How to go on after a broker's error.
 *
 * `retry`: try again on this connection. `reconnect`: throw the connection away first. `unknown`: the broker may have
 * stored the message; send it again with the same id. `config`: the broker is not set up as needed; retrying helps
 * only after somebody has acted. `poison`: this one message will never be accepted.
 */
export type BrokerErrorKind = 'retry' | 'reconnect' | 'unknown' | 'config' | 'poison'

/** The only error that leaves a broker adapter; the client library's own error is its `cause`. */
export class BrokerError extends TwinboxError {
  readonly kind: BrokerErrorKind

  constructor(kind: BrokerErrorKind, message: string, options?: ErrorOptions) {
    super(`BROKER_${kind.toUpperCase()}`, message, options)
    this.kind = kind
  }
}

/**
 * The worker no longer holds the message that it was handling: its lease lapsed, or it was taken for dead, and
 * another worker has the message now. The handler's transaction has been rolled back.
 */
export class LeaseLostError extends TwinboxError {
  constructor(message: string, options?: ErrorOptions) {
    super('LEASE_LOST', message, options)
  }
}

/** The reason of an `AbortSignal` whose handler ran longer than `handleTimeoutMs`. The attempt has failed. */
export class HandleTimeoutError extends TwinboxError {
  constructor(message: string) {
    super('HANDLE_TIMEOUT', message)
  }
}

/** Throw it in a handler to give the message up now: it becomes a dead letter without further attempts. */
export class DeadLetterError extends TwinboxError {
  constructor(message: string, options?: ErrorOptions) {
    super('DEAD_LETTER', message, options)
  }
}

/**
 * A message whose payload does not fit the schema of its topic: it has become a dead letter, and no handler has seen it. Events tell
 * it; nothing throws it. It says where the payload does not fit, and nothing of what stands there.
 */
export class InvalidPayloadError extends DeadLetterError {
  /** The first place that does not fit: `payload.lines[3].price`. */
  readonly path: string

  constructor(path: string, message: string) {
    super(message)
    this.path = path
  }
}

/** Throw it in a handler to have the message again after `afterMs`, whatever the backoff would have been. */
export class RetryLaterError extends TwinboxError {
  readonly afterMs: number

  constructor(options: { afterMs: number; reason?: string; cause?: unknown }) {
    super('RETRY_LATER', options.reason ?? 'The handler asked for this message later.', {
      cause: options.cause,
    })
    if (!Number.isFinite(options.afterMs) || options.afterMs < 0) {
      throw new OptionError(
        'afterMs',
        `RetryLaterError needs afterMs as a number of milliseconds, at least 0.`,
      )
    }
    this.afterMs = options.afterMs
  }
}

/**
 * Any thrown value as a short text for a table, a trace or a log: handlers throw strings, `undefined`, frozen objects and
 * errors whose getters throw. Cut to 2,000 characters before anything else looks at it, since a message of 10 MB once came out
 * of a driver; without the passwords of URLs; and what commands a terminal is written by its number.
 */
export function describeError(error: unknown): string {
  let text: string
  try {
    if (error instanceof Error) text = error.message === '' ? error.name : `${error.name}: ${error.message}`
    else text = typeof error === 'string' ? error : `thrown: ${String(error)}`
  } catch {
    text = 'an error that cannot be described'
  }
  return clean(redactCut(text, textMax))
}

/** What is kept of an error's text. */
export const textMax = 2000

/** Tells the process what fails nothing and is a defect all the same, such as an observer of the user's that threw. */
export const warn = (text: string): void => process.emitWarning(printableLine(text), 'TwinboxWarning')

/** What kind of error it is, in a word: its code if it has one, else its class. It becomes a label of traces. */
export function codeOf(error: unknown): string {
  try {
    if (!(error instanceof Error)) return typeof error
    const code: unknown = 'code' in error && typeof error.code === 'string' ? error.code : error.name
    return typeof code === 'string' ? printableLabel(code) : 'unknown'
  } catch {
    return 'unknown'
  }
}

/** Postgres takes neither NUL nor lone surrogates in text. */
const clean = (text: string): string => printable(text.replaceAll('\0', '')).slice(0, textMax).toWellFormed()
