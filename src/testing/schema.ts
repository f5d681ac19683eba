import { randomBytes } from 'node:crypto'
import { openDatabase, type Database, type DatabaseInput } from '../database/database.ts'
import type { TransactionInput } from '../database/executor.ts'
import { migrate } from '../database/migrate.ts'
import { testingSql } from '../database/sql/testing.ts'
import type { Handlers, LibraryContext } from '../claimer/handlers.ts'
import { OptionError, TwinboxError } from '../base/errors.ts'
import { checkSchema, limits, refuseUnknown } from '../base/options.ts'
import { readTopics, type Topics } from '../topics/topics.ts'
import type { PatternsOf, RegisteredTopics } from '../topics/types.ts'
import type { Arriving } from './arriving.ts'
import { handleIn, type Handled, type HandleOptions } from './handle.ts'
import { published, type OutboxMessageOf } from './published.ts'
import { refuseUnsafe } from './safety.ts'
import { settleIn, type Settled, type SettleOptions } from './settle.ts'

export interface TestSchemaOptions<Defined extends Topics = Topics> {
  /** A connection string, `pg` options, a pool of yours, or `pglite(db)`. */
  readonly database: DatabaseInput
  /**
   * The schema to be tested in. One that is not there is made, and dropped by `close`; one that is there, stays. @default a new one
   */
  readonly schema?: string | undefined
  /** What `defineTopics` gives, for all that the test schema does. @default any topic, any payload */
  readonly topics?: Defined | undefined
}

/** Twinbox's tables in a schema that is one test's, or one test file's, alone. */
export interface TestSchema<Defined extends Topics = RegisteredTopics> {
  /** For `createOutbox({ schema })` and all else that is tested. */
  readonly schema: string
  /** What this transaction has published so far, see `published`. */
  published<const Pattern extends PatternsOf<Defined> = PatternsOf<Defined>>(
    transaction: TransactionInput,
    topic?: Pattern,
  ): Promise<OutboxMessageOf<Defined, string extends Pattern ? '#' : Pattern>[]>
  /** Runs the handler of one message in a transaction that is rolled back, and tells what becomes of the message, see `handle`. */
  handle<Tables = unknown, Tx = never>(
    handlers: [Tx] extends [never] ? Handlers<Tables, Defined> : Handlers<never, Defined, LibraryContext<Tx>>,
    message: Arriving,
    options?: Omit<HandleOptions<Tx, Defined>, 'topics'>,
  ): Promise<Handled>
  /**
   * Sends, receives and handles all that waits, in this process, until nothing does: by one count of all places in one snapshot, so that
   * nothing that is on its way is missed. What handlers publish is settled too. Each message is attempted once: one that fails waits
   * for its next attempt, see `advance`.
   *
   * Only what has been committed is there to be settled. What waits for later, for an operator, for another consumer or for a handler
   * that there is not, stays where it is, and is told.
   *
   * @throws what a handler threw; AggregateError with each message named, if several did. TwinboxError `NOT_SETTLED` after
   *   `timeoutMs`, which says what still waits, and why.
   */
  settle<Tables = unknown, Tx = unknown>(options: SettleOptions<Tables, Defined, Tx>): Promise<Settled>
  /**
   * Makes it so much later for all that waits for a time: delayed messages, retries, recurring messages. No clock is moved: the times
   * in the tables are, so expiries, leases and the windows of dedupe keys stay. In milliseconds, more than 0, ten years at most.
   */
  advance(ms: number): Promise<void>
  /**
   * Deletes all messages, dead letters, subscriptions and schedules, for the next test in this schema. Unlike TRUNCATE ... RESTART
   * IDENTITY, it leaves sequences and lanes as they are: numbers that begin anew stand below those that workers have read.
   */
  reset(): Promise<void>
  /** Drops the schema if it was made here, and closes what was opened. Idempotent. */
  close(): Promise<void>
  [Symbol.asyncDispose](): Promise<void>
}

/**
 * Makes a schema with Twinbox's tables for a test, or takes one that is for tests: then tests in schemas of their own run in parallel,
 * in one database, and do not meet. `await using kit = await createTestSchema({ database })` drops it in the end.
 *
 * `settle`, `advance` and `reset` work on real tables, so they have to be hard to point at those of a production system. They refuse
 * a schema that is not marked as one for tests, one in which workers live, and a process whose NODE_ENV is `production`. A schema is
 * marked by a comment when it is made here, or when it is empty and has never had a worker.
 *
 * @throws OptionError, TwinboxError `NOT_A_TEST_SCHEMA`; SchemaError or the database's error
 */
export async function createTestSchema<Defined extends Topics = RegisteredTopics>(
  options: TestSchemaOptions<Defined>,
): Promise<TestSchema<Defined>> {
  refuseUnknown('createTestSchema', options, ['database', 'schema', 'topics'])
  if (options.database === undefined)
    throw new OptionError('database', 'database is required: a connection string, a pg pool or pglite(db).')
  const topics = readTopics('createTestSchema', options.topics) as Defined | null
  const schema = checkSchema(options.schema ?? `twinbox_test_${randomBytes(6).toString('hex')}`)
  const { database, owned } = openDatabase(options.database, { schema })
  const sql = testingSql(schema)
  const run = (text: string): Promise<unknown> => database.transaction((client) => client.query(text))
  let made: boolean
  try {
    made = await prepare(database, run)
  } catch (error) {
    if (owned) await database.close()
    throw error
  }
  let closing: Promise<void> | null = null
  const end = async (): Promise<void> => {
    try {
      if (made) await run(sql.drop)
    } finally {
      if (owned) await database.close()
    }
  }
  return {
    schema,
    published: (transaction, topic) => published<Defined, never>(transaction, topic as never, { schema }),
    handle: (handlers, message, how = {}) =>
      handleIn(database, handlers, message, { ...(how as HandleOptions), ...(topics && { topics }) }),
    settle: (how) => settleIn(database, topics, how as SettleOptions),
    async advance(ms) {
      if (!Number.isInteger(ms) || ms <= 0 || ms > limits.aheadMs)
        throw new OptionError(
          'ms',
          `advance takes a whole number of milliseconds from 1 to ${limits.aheadMs}, ten years.`,
        )
      await refuseUnsafe(database, 'advance', false)
      await database.query(sql.advance, { ms })
    },
    async reset() {
      await refuseUnsafe(database, 'reset', true)
      await run(sql.reset)
    },
    close: () => (closing ??= end()),
    [Symbol.asyncDispose]: () => (closing ??= end()),
  }
}

/** Whether the schema was made. */
async function prepare(database: Database, run: (text: string) => Promise<unknown>): Promise<boolean> {
  const { schema } = database
  const sql = testingSql(schema)
  const [{ there, migrated, marked }] = (await database.query(sql.state)) as [
    { there: boolean; migrated: boolean; marked: boolean },
  ]
  if (migrated && !marked) {
    const [{ unused }] = (await database.query(sql.unused)) as [{ unused: boolean }]
    if (!unused) {
      throw new TwinboxError(
        'NOT_A_TEST_SCHEMA',
        `The schema "${schema}" holds messages or has had workers, and is not marked as one for tests. Nothing was changed. Leave schema out to get a new one, or name one that is not there; if it is for tests and all in it may go, mark it: comment on schema "${schema}" is 'twinbox test schema'`,
      )
    }
  }
  await migrate(database)
  if (!marked) await run(sql.mark)
  return !there
}
