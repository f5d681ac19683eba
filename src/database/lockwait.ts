import type pg from 'pg'
import { SchemaError } from '../base/errors.ts'
import { reconnectMs } from '../base/loop.ts'
import { printableLine } from '../base/printable.ts'
import { pause } from '../base/waiting.ts'
import type { Database } from './database.ts'
import type { Read } from './rowsecurity.ts'
import { migrationSql } from './sql/migration.ts'
import { sqlstate } from './sqlstate.ts'

/** Who keeps a migration waiting: a session that has a lock that it needs, or waits for one before it. */
export interface Blocker {
  /** 0 for a prepared transaction, which has no process. */
  readonly pid: number
  /** Its `application_name`. */
  readonly application: string | null
  readonly user: string | null
  /** `active`, `idle in transaction`, … This and the rest is null of other roles' sessions, without `pg_read_all_stats`. */
  readonly state: string | null
  /** How long ago its last statement began. In milliseconds. */
  readonly queryMs: number | null
  /** How long ago its transaction began. In milliseconds. */
  readonly transactionMs: number | null
}

/** A try of a migration that has ended without the locks that it needs. */
export interface LockWait {
  /** How many tries there have been. */
  readonly tries: number
  /** How long it has been going on. In milliseconds. */
  readonly waitedMs: number
  /** When the next try begins. In milliseconds. */
  readonly retryInMs: number
  /** Who was in the way, those with the oldest transaction first; at most five. */
  readonly blockers: readonly Blocker[]
}

/**
 * A lock that a migration waits for lets nobody past who comes later, publishers included. So a try may take so long, all
 * waiting and all work together; then it has to be done or is rolled back, and the others go ahead. Less than
 * `deadlock_timeout`: otherwise a publisher that waits for what a try has, and has what it waits for, would be ended.
 */
const tryMs = 800
/** After that, a statement waits no longer than this: what is free it gets at once. */
const leastMs = 100
/** So often it is looked who is in the way. */
const lookMs = 300

export type RunText = (text: string) => Promise<unknown>

/** Runs files of migrations in an open transaction, statement by statement, within the time of one try. */
export async function runWithinTry(schema: string, files: readonly string[], run: RunText): Promise<void> {
  const { lockTimeout } = migrationSql(schema)
  const until = performance.now() + tryMs
  for (const statement of files.flatMap(statementsOf)) {
    await run(`${lockTimeout(Math.max(leastMs, until - performance.now()))};\n${statement}`)
  }
}

/** The statements of a file with their comments; what follows the last semicolon says nothing. */
export function statementsOf(file: string): string[] {
  const statements: string[] = []
  let statement = ''
  // A semicolon in a comment, in a text or in the body of a function ends nothing.
  for (const [token] of file.matchAll(/--.*|'(?:[^']|'')*'|\$(\w*)\$[\s\S]*?\$\1\$|[^;'$-]+|[\s\S]/g)) {
    statement += token
    if (token !== ';') continue
    statements.push(statement)
    statement = ''
  }
  return statements
}

/** So long it is waited for others who migrate, inside of a transaction of the user's. Each has the lock for less than a second. */
const turnMs = 5000

/**
 * Takes the lock by which migrations take turns, in the open transaction. @throws SchemaError `SCHEMA_BUSY` if somebody else does
 * not let go of it
 */
export async function takeTurn(schema: string, read: Read): Promise<void> {
  const { tryLock, migrating } = migrationSql(schema)
  const until = performance.now() + turnMs
  for (;;) {
    const [{ ours }] = (await read(tryLock)) as [{ ours: boolean }]
    if (ours) return
    const blockers = (await read(migrating)) as readonly Blocker[]
    if (performance.now() > until) throw busy(schema, blockers)
    await pause(lookMs, new AbortController().signal)
  }
}

/**
 * Runs `work` in transactions of its own, until one of them gets all locks that it needs.
 *
 * @throws SchemaError `SCHEMA_BUSY` if none does within `waitMs`; the signal's reason. Then nothing was changed.
 */
export async function insistOnLocks<Result>(
  database: Database,
  work: (client: pg.PoolClient) => Promise<Result>,
  { waitMs, onWait, signal }: { waitMs: number; onWait: (wait: LockWait) => void; signal: AbortSignal },
): Promise<Result> {
  const sql = migrationSql(database.schema)
  const startedAt = performance.now()
  for (let tries = 1; ; tries++) {
    signal.throwIfAborted()
    let blockers: readonly Blocker[] = []
    try {
      return await database.transaction(async (client) => {
        const [backend] = await database.run(client, sql.backend)
        await client.query(sql.lockTimeout(tryMs))
        const look = async (): Promise<void> => {
          const found = await database.keep(sql.blockers, { pid: backend!.pid })
          if (found.length > 0) blockers = found
        }
        return whileLooking(look, () => work(client))
      })
    } catch (error) {
      if (!isInTheWay(error)) throw error
      const waitedMs = Math.round(performance.now() - startedAt)
      const retryInMs = Math.round(reconnectMs(tries, 250, 2000))
      if (waitedMs + retryInMs > waitMs) throw busy(database.schema, blockers, error)
      onWait({ tries, waitedMs, retryInMs, blockers })
      await pause(retryInMs, signal)
    }
  }
}

/** `lock_not_available`, and `deadlock_detected`: with somebody else's DDL. */
const inTheWay = ['55P03', '40P01']

/** Whether others have locks that it needs. */
export const isInTheWay = (error: unknown): boolean => inTheWay.includes(sqlstate(error) ?? '')

/** Looks now and then while the work goes on. That it cannot look is no reason to end the work. */
async function whileLooking<Result>(look: () => Promise<void>, work: () => Promise<Result>): Promise<Result> {
  const done = new AbortController()
  const looking = (async () => {
    for (;;) {
      await pause(lookMs, done.signal)
      if (done.signal.aborted) return
      await look().catch(() => {})
    }
  })()
  try {
    return await work()
  } finally {
    done.abort()
    await looking
  }
}

export function busy(schema: string, blockers: readonly Blocker[], cause?: unknown): SchemaError {
  const who = blockers.length === 0 ? '' : ` In the way: ${blockers.map(describeBlocker).join('; ')}.`
  return new SchemaError(
    'SCHEMA_BUSY',
    `The locks that a migration of the schema "${schema}" needs could not be had in time; nothing was changed.${who} Migrate again when none of them holds on, or try for longer (waitMs, --wait). A session that has no business here an administrator ends with pg_terminate_backend.`,
    { cause },
  )
}

/** For people: who it is, and how long it has been at it. */
export function describeBlocker(blocker: Blocker): string {
  const { pid, application, user, state, queryMs, transactionMs } = blocker
  if (pid === 0) return 'a prepared transaction (see pg_prepared_xacts)'
  const facts = [
    ...(application === null ? [] : [`application ${JSON.stringify(application)}`]),
    ...(user === null ? [] : [`user ${user}`]),
    ...(state === null ? ['the rest is for members of pg_read_all_stats to see'] : [state]),
    ...(transactionMs === null ? [] : [`its transaction began ${seconds(transactionMs)} ago`]),
    ...(queryMs === null ? [] : [`its last statement ${seconds(queryMs)} ago`]),
  ]
  return printableLine(`pid ${pid} (${facts.join(', ')})`)
}

const seconds = (ms: number): string => `${(ms / 1000).toFixed(ms < 10_000 ? 1 : 0)} s`
