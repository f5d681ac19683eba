import type pg from 'pg'
import { handle as runHandler, type HandlingParts } from '../claimer/handling.ts'
import {
  handlersByTopic,
  noHandlerOf,
  type HandlerEntry,
  type Handlers,
  type LibraryContext,
  type ResolvedHandler,
} from '../claimer/handlers.ts'
import type { Claim } from '../claimer/claim.ts'
import { Conflict, Interrupted } from '../claimer/interruptions.ts'
import type { Opener } from '../claimer/opener.ts'
import { readSettings, unknownPolicies, type ClaimerOptions } from '../claimer/options.ts'
import { Payloads } from '../claimer/payloads.ts'
import { Transactions } from '../claimer/transactions.ts'
import { judge, type FoundBy } from '../claimer/verdict.ts'
import { openDatabase, type Database, type DatabaseInput } from '../database/database.ts'
import { executor } from '../database/executor.ts'
import { loadKysely } from '../database/kysely.ts'
import { checkNow, commit, rollback } from '../database/sql/server.ts'
import { isConflict } from '../database/sqlstate.ts'
import { OptionError } from '../base/errors.ts'
import { noFailpoint } from '../base/failpoint.ts'
import { oneOf, readBoolean, refuseUnknown, whole } from '../base/options.ts'
import { readTopics, type Topics } from '../topics/topics.ts'
import type { RegisteredTopics } from '../topics/types.ts'
import { arrivalOf, type Arriving } from './arriving.ts'
import { claimOf } from './messages.ts'
import { publishedBy, type OutboxMessage } from './published.ts'

type Tried =
  'topics' | 'maxAttempts' | 'backoffMsMin' | 'backoffMsMax' | 'handleTimeoutMs' | 'onDead' | 'unknown'

/** How a handler is tried: the options of `createClaimer` that say what becomes of a message, and what only a test says. */
export interface HandleOptions<Tx = unknown, Defined extends Topics = Topics> extends Pick<
  ClaimerOptions<Defined>,
  Tried
> {
  /** As that of `createClaimer`. @default 'test' */
  readonly consumer?: string | undefined
  /** The how manieth attempt it is, from 1 on and up to `maxAttempts`. @default 1 */
  readonly attempt?: number | undefined
  /** Whether what the handler has written is committed. @default false: all is rolled back */
  readonly keep?: boolean | undefined
  /** As that of `createClaimer`: `inTransaction((run) => prisma.$transaction(run))`. */
  readonly transaction?: Opener<Tx> | undefined
}

/** Where a handler is tried. */
export interface Place {
  readonly database: DatabaseInput
  /** @default 'twinbox' */
  readonly schema?: string | undefined
}

/**
 * What becomes of the message. `completed`: the handler has done its work. `retry`: it is tried again. `dead_letter`: it is not.
 * `unhandled`: no handler takes the topic, and it waits for one. `dropped`: the same with `unknown: 'drop'`.
 */
export type Outcome =
  | { readonly outcome: 'completed' }
  | { readonly outcome: 'retry'; readonly error: unknown; readonly retryInMs: number }
  /** The error is null if the message has expired. The reason is that of the dead letter. */
  | { readonly outcome: 'dead_letter'; readonly error: unknown; readonly reason: string }
  | { readonly outcome: 'unhandled' }
  | { readonly outcome: 'dropped' }

/** What has become of a message, and what its handler has published in its transaction: nothing if that was rolled back by a failure. */
export type Handled = Outcome & { readonly published: readonly OutboxMessage[] }

/**
 * Runs the handler of one message as a claimer would, in a transaction of its own that is rolled back in the end, and tells what would
 * become of the message. With `topics`, the payload is read by its schema before. A handler that takes batches gets a batch of one.
 *
 * It is the claimer's own code, but no message is claimed: nothing of it is read or written in the tables. What fails only at the
 * commit, a deferred constraint, fails here as well. What a handler with `transaction: false` does is not rolled back, and what it
 * has published is not told.
 *
 * @throws OptionError, MessageError for a message that no publisher could send; the database's error if it cannot be used. What the
 *   handler throws is part of the outcome.
 */
export async function handle<Tables = unknown, Defined extends Topics = RegisteredTopics, Tx = never>(
  handlers: [Tx] extends [never] ? Handlers<Tables, Defined> : Handlers<never, Defined, LibraryContext<Tx>>,
  message: Arriving,
  options: Place & HandleOptions<Tx, Defined>,
): Promise<Handled> {
  const { database: input, schema, ...how } = options
  const { database, owned } = openDatabase(input, { schema, poolSize: 1 })
  try {
    return await handleIn(database, handlers, message, how)
  } finally {
    if (owned) await database.close()
  }
}

/** The same in a database that is open. */
export async function handleIn(
  database: Database,
  handlers: object,
  message: Arriving,
  options: HandleOptions,
): Promise<Handled> {
  const known = [
    'consumer',
    'attempt',
    'keep',
    'transaction',
    'topics',
    'maxAttempts',
    'backoffMsMin',
  ] as const
  refuseUnknown('handle', options, [...known, 'backoffMsMax', 'handleTimeoutMs', 'onDead', 'unknown'])
  const { attempt: given, keep: kept, transaction: opener, ...claiming } = options
  const consumer = claiming.consumer ?? 'test'
  const settings = readSettings({ ...claiming, database, consumer, ...(opener && { transaction: opener }) })
  if (typeof handlers !== 'object' || handlers === null)
    throw new OptionError('handlers', 'handle takes an object of handlers by topic as its first argument.')
  const topics = readTopics('handle', options.topics)
  const entries = handlers as Readonly<Record<string, HandlerEntry<never>>>
  const handlerOf = handlersByTopic(entries, { ...settings, onDead: options.onDead ?? 'park' }, topics)
  const unknown = oneOf('unknown', options.unknown, unknownPolicies)
  const keep = readBoolean('keep', kept, false)
  const row = await arrivalOf(message, topics)
  const handler = handlerOf(row.topic)
  const failing = handler ?? { ...settings, onDead: 'park' as const }
  const attempt = whole('attempt', given, 1, 1, failing.maxAttempts)
  if (handler === undefined && unknown !== 'fail')
    return { outcome: unknown === 'drop' ? 'dropped' : 'unhandled', published: [] }
  if (row.expires_in_ms !== null && row.expires_in_ms <= 0)
    return { outcome: 'dead_letter', error: null, reason: 'expired', published: [] }
  const claim = claimOf({ ...row, attempt })
  claim.state = 'handling'
  const failed = (error: unknown, foundBy?: FoundBy): Handled => {
    const { reason, retryInMs } = judge(attempt, error, error, failing, foundBy)
    return retryInMs === null
      ? { outcome: 'dead_letter', error, reason, published: [] }
      : { outcome: 'retry', error, retryInMs, published: [] }
  }
  if (handler === undefined) return failed(noHandlerOf(row.topic))
  if (topics !== null) {
    let misfit: Handled | null = null
    const fail = async (_: Claim, error: unknown, _options: unknown, foundBy?: FoundBy): Promise<boolean> => {
      misfit = failed(error, foundBy)
      return true
    }
    const thrown = await new Payloads(topics, { fail }).read([claim], failing)
    if (thrown !== null) return failed(thrown.error)
    if (misfit !== null) return misfit
  }
  await Promise.all([database.probe(), loadKysely()])
  const trial = new Trial(database, keep)
  try {
    await runHandler(trial.parts(consumer, opener), trial.watched(handler), [claim])
    return { outcome: 'completed', published: trial.published }
  } catch (error) {
    if (trial.done) return { outcome: 'completed', published: trial.published }
    if (error instanceof Interrupted) throw error.cause
    const cause = error instanceof Conflict ? error.cause : error
    // A claimer tries such a message again at once, without counting, and five times at most.
    if (isConflict(cause)) return { outcome: 'retry', error: cause, retryInMs: 0, published: [] }
    return failed(cause)
  }
}

/** One run of a handler, whose transaction ends with nothing completed: with a rollback, or with what the handler has written. */
class Trial {
  readonly #database: Database
  readonly #keep: boolean
  published: readonly OutboxMessage[] = []
  /** A library's transaction has come to its end, and is rolled back since that was wished. */
  done = false

  constructor(database: Database, keep: boolean) {
    this.#database = database
    this.#keep = keep
  }

  /** The handler, after whose work it is looked what was published. */
  watched(handler: ResolvedHandler): ResolvedHandler {
    if (!handler.transaction) return handler
    const { schema } = this.#database
    const watch = async (input: never, context: { readonly client?: pg.ClientBase }): Promise<void> => {
      await (handler.handle(input, context as never) as Promise<unknown>)
      const { client } = context
      // In a transaction that has failed or ended nothing can be asked; what that means is for the claimer's code to say.
      if (client?.getTransactionStatus?.() !== 'T') return
      this.published = await publishedBy(executor('handle', client, false, false), schema)
    }
    return { ...handler, handle: watch }
  }

  parts(consumer: string, opener: Opener<unknown> | undefined): HandlingParts {
    return {
      transactions: new Transactions(this.#database),
      consumer,
      failpoint: noFailpoint,
      complete: async (claims) => claims,
      goesOn: () => {},
      hasNext: () => false,
      theirs: opener === undefined ? null : this.#theirs(opener),
      ending: () => `${checkNow.text};${this.#keep ? commit : rollback}`,
      trace: null,
    }
  }

  #theirs({ open }: Opener<unknown>): NonNullable<HandlingParts['theirs']> {
    let committed = true
    return {
      open: async (run) => {
        try {
          return await open(run)
        } catch (error) {
          committed = false
          throw error
        }
      },
      complete: async (run) => {
        this.published = await publishedBy(run, this.#database.schema)
        if (this.#keep) return
        await run(checkNow, {})
        this.done = true
        throw new Error(
          'The transaction of the handler is rolled back, since its test is to leave nothing behind.',
        )
      },
      left: async () => (committed ? 0 : 1),
    }
  }
}
