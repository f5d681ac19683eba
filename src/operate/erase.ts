import type pg from 'pg'
import type { Database, DatabaseInput } from '../database/database.ts'
import { describeBlocker } from '../database/lockwait.ts'
import { erasedTables, privacySql, type ErasedTable } from '../database/sql/privacy.ts'
import { isConflict, sqlstate } from '../database/sqlstate.ts'
import { migrationSql } from '../database/sql/migration.ts'
import { SchemaError } from '../base/errors.ts'
import { refuseUnknown } from '../base/options.ts'
import { pause } from '../base/waiting.ts'
import { sign, type Signature, type Signed } from './filter.ts'
import { withTables } from './tables.ts'
import { readTarget, withIds, type Matching, type Target } from './target.ts'

export interface EraseOptions extends Signature {
  /** Where the tables are. @default 'twinbox' */
  readonly schema?: string | undefined
  /** Only count; nothing is changed. @default false */
  readonly dryRun?: boolean | undefined
  /** Ends it before its next statement, which takes 15 s at most: its reason is thrown, and nothing was erased. */
  readonly signal?: AbortSignal | undefined
}

/** What was erased, and what was not. */
export interface Erased {
  /** Rows by table; with `dryRun`, those that would be. Of `audit` and `circuit` the row stays, without the data. */
  readonly rows: Readonly<Record<ErasedTable, number>>
  /** Recurring messages with this key, by name. They are not deleted: see `createSchedules`. */
  readonly schedules: readonly string[]
  /** Of the messages of the outbox, how many a relay has held: it may have been sending them, and each may arrive all the same. */
  readonly sending: number
  /** Remembered ids that stay for as long as they are kept, so that a copy at the broker does not come back. */
  readonly remembered: number
}

/** So long it is tried again where others are at the same rows. */
const waitMs = 10_000
const retryMs = 50
/** A lane is waited for no longer at a time: its worker waits behind. */
const lockMs = 500

/**
 * Erases all that the tables hold of a key or of a message: waiting, in flight, parked, unhandled, dead, in the history, its
 * dedupe key, its errors. One transaction, while the workers run. A worker that has one of the messages in flight loses it: what
 * its handler wrote in its transaction is rolled back, and so are the others of that lane in flight, which are then handled
 * again. A key that was held back behind what is gone goes on. Who did it, why and how many rows it were is kept in `audit`.
 *
 * Not erased: copies at the broker, in backups and in the WAL; what a relay is just sending, which may arrive afterwards (do it
 * again when nothing is on its way); remembered ids with a hash of the content, until `seen` is pruned; recurring messages. Tables
 * without an index on the key are read through: with tens of millions of rows in `handled` or `deferred` that takes more
 * than the 15 s of a statement, and it fails, nothing changed.
 *
 * @throws OptionError, SchemaError (`SCHEMA_BUSY` if others have had some of the rows for 10 s), the signal's reason, or the
 *   database's error: then nothing was changed
 */
export async function eraseMessages(
  input: DatabaseInput,
  target: Target,
  options: EraseOptions = {},
): Promise<Erased> {
  refuseUnknown('eraseMessages', options, ['by', 'reason', 'schema', 'dryRun', 'signal'])
  const asked = readTarget('eraseMessages', target)
  const signature = sign(options)
  const { signal = new AbortController().signal } = options
  return withTables(input, options.schema, async (database) => {
    if (options.dryRun === true) return count(database, asked)
    const startedAt = performance.now()
    for (;;) {
      try {
        return await database.transaction((client) => {
          const run: Database['query'] = (statement, ...given) => {
            signal.throwIfAborted()
            return database.run(client, statement, ...given)
          }
          return erase(run, client, { schema: database.schema, asked, signature })
        })
      } catch (error) {
        if (!(isConflict(error) || sqlstate(error) === lockNotAvailable)) throw error
        if (performance.now() - startedAt > waitMs) throw await busy(database, asked, error)
        await pause(retryMs, signal)
      }
    }
  })
}

const lockNotAvailable = '55P03'

/** Who has what would have to be erased, in words. */
async function busy(database: Database, asked: Matching, cause: unknown): Promise<SchemaError> {
  const run: Database['query'] = (statement, ...given) => database.query(statement, ...given)
  const { schema } = database
  const held = await withIds(run, schema, asked)
    .then((matching) => run(privacySql(schema).held, matching))
    .catch(() => [])
  const who = held.map(({ table, ...blocker }) => `rows of ${table} by ${describeBlocker(blocker)}`)
  return new SchemaError(
    'SCHEMA_BUSY',
    `Nothing was erased: for ${waitMs / 1000} s, transactions of others have had some of the rows. ${
      who.length === 0 ? 'Whose they are cannot be seen' : `Held are ${who.join('; ')}`
    }. Erase again when these transactions have ended, or end them: select pg_terminate_backend(pid).`,
    { cause },
  )
}

async function erase(
  run: Database['query'],
  client: pg.PoolClient,
  { schema, asked, signature }: { schema: string; asked: Matching; signature: Signed },
): Promise<Erased> {
  const sql = privacySql(schema)
  const rows = Object.fromEntries(erasedTables.map((table) => [table, 0])) as Record<ErasedTable, number>
  let sending = 0
  let matching = await withIds(run, schema, asked)
  await client.query(migrationSql(schema).lockTimeout(lockMs))
  await run(sql.lockLanes, matching)
  // Others move messages between tables. Only if one snapshot of all tables has none of them, there is none.
  for (;;) {
    matching = await withIds(run, schema, { ...matching, dedupeKey: asked.dedupeKey })
    const [found] = await run(sql.erase, matching)
    const { consumers, keys, sending: sent, ...counts } = found!
    sending += sent
    for (const table of erasedTables) rows[table] += counts[table]
    await run(sql.free, { consumers, keys })
    if (erasedTables.every((table) => counts[table] === 0)) break
  }
  const { key, consumer, topic } = matching
  if (key !== null && topic === null) {
    const held = (await run(sql.parkedIn, { key, consumer })).map((row) => row.consumer)
    await run(sql.free, { consumers: held, keys: held.map(() => key) })
  }
  await run(sql.audit, { ...signature, consumer: consumer ?? '', counts: summary(rows) })
  return { rows, sending, ...(await kept(run, schema, matching)) }
}

async function count(database: Database, asked: Matching): Promise<Erased> {
  const run: Database['query'] = (statement, ...given) => database.query(statement, ...given)
  const matching = await withIds(run, database.schema, asked)
  const [rows] = await run(privacySql(database.schema).count, matching)
  return { rows: rows!, sending: 0, ...(await kept(run, database.schema, matching)) }
}

async function kept(
  run: Database['query'],
  schema: string,
  { key, ids, consumer }: Omit<Matching, 'dedupeKey'>,
): Promise<Pick<Erased, 'schedules' | 'remembered'>> {
  const sql = privacySql(schema)
  const schedules = key === null ? [] : await run(sql.schedules, { key })
  const [seen] = await run(sql.seen, { ids, consumer })
  return { schedules: schedules.map(({ name }) => name), remembered: seen!.count }
}

/** How many of each table, for people. */
export function summary(rows: Erased['rows']): string {
  const some = erasedTables.filter((table) => rows[table] > 0)
  return some.length === 0 ? 'nothing' : some.map((table) => `${table} ${rows[table]}`).join(', ')
}
