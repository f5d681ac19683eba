import { readFilter, type DeadLetterFilter, type Signed } from './filter.ts'
import type { Database, DatabaseInput } from '../database/database.ts'
import { auditSql } from '../database/sql/audit.ts'
import { deadSql, type DeadAction } from '../database/sql/dead.ts'
import { OptionError } from '../base/errors.ts'
import { refuseUnknown, whole } from '../base/options.ts'
import { contentOf, toDeadLetter, toHistory, type DeadLetter, type DeadLetterDetails } from './letter.ts'
import { carryOut, lookMax, type RedriveOptions, type Stepping } from './steps.ts'
import { withTables } from './tables.ts'

export interface DeadLetterPage {
  /** The latest first. */
  readonly letters: readonly DeadLetter[]
  /** Give it as `after` to get those that follow; null if there are none. */
  readonly next: string | null
}

export interface ReadDeadLettersOptions {
  /** Where the tables are. @default 'twinbox' */
  readonly schema?: string | undefined
  /** Most that are read, up to 1000. @default 100 */
  readonly limit?: number | undefined
  /** Go on behind an earlier page: what its `next` was. @default from the latest on */
  readonly after?: string | undefined
  /** Most that are looked at, matching or not: then the page ends, and `next` goes on from there. @default as many as it takes */
  readonly lookMax?: number | undefined
}

export interface Redriven {
  /** How many it was done to; with `dryRun`, how many match. */
  readonly count: number
  /** Of the numbers and ids that were asked for, those of no such dead letter. */
  readonly unknown: readonly (number | string)[]
}

/**
 * Reads dead letters, the latest first. Each statement looks at a bounded number, so a filter that few match takes
 * several. No payload is read.
 *
 * @throws OptionError, SchemaError, or the database's error
 */
export async function readDeadLetters(
  input: DatabaseInput,
  filter: DeadLetterFilter = {},
  options: ReadDeadLettersOptions = {},
): Promise<DeadLetterPage> {
  refuseUnknown('readDeadLetters', options, ['schema', 'limit', 'after', 'lookMax'])
  const { scope, values } = readFilter(filter)
  const limit = whole('limit', options.limit, 100, 1, 1000)
  let left = whole('lookMax', options.lookMax, Number.MAX_SAFE_INTEGER, 1, Number.MAX_SAFE_INTEGER)
  let below = readCursor(options.after)
  return withTables(input, options.schema, async (database) => {
    const letters: DeadLetter[] = []
    for (;;) {
      const wanted = limit - letters.length
      const look = Math.min(lookMax, left)
      const rows = await database.query(deadSql(database.schema).list[scope], {
        ...values,
        ...below,
        ...{ look, limit: wanted },
      })
      const found = rows.filter((row) => row.number !== null)
      letters.push(...found.map(toDeadLetter))
      const { looked_at: lookedAt, last_seq: seq, last_number: number } = rows[0]!
      if (found.length === wanted) {
        const last = found.at(-1)!
        return { letters, next: `${last.seq}.${last.number}` }
      }
      if (lookedAt < look) return { letters, next: null }
      left -= lookedAt
      if (left === 0) return { letters, next: `${seq}.${number}` }
      below = { belowSeq: seq!, belowNumber: number! }
    }
  })
}

/**
 * Puts dead letters back, in the order in which they arrived, as messages that have not been attempted yet.
 *
 * One with a key goes before all messages of its key that nobody has in flight, and the key goes on; only if the key is
 * held back behind another dead letter, it stays so until that one is redriven or skipped as well. Works on the outbox
 * (`consumer: null`) as on inboxes, while the workers run. Each batch of up to 500 is a transaction of its own, in which
 * it is also written down who did it and why.
 *
 * @throws OptionError, SchemaError, or the database's error: what was done until then stays done
 */
export function redriveDeadLetters(
  input: DatabaseInput,
  filter: DeadLetterFilter,
  options: RedriveOptions = {},
): Promise<Redriven> {
  return change('redriveDeadLetters', 'redrive', input, filter, options)
}

/**
 * Gives dead letters up for good: they are deleted, and a key that was held back behind one goes on with its next
 * message. Who did it and why is kept, with the error history and without the payload; see `exportDeadLetters` for that.
 *
 * @throws OptionError, SchemaError, or the database's error: what was done until then stays done
 */
export function skipDeadLetters(
  input: DatabaseInput,
  filter: DeadLetterFilter,
  options: RedriveOptions = {},
): Promise<Redriven> {
  return change('skipDeadLetters', 'skip', input, filter, options)
}

async function change(
  where: string,
  action: Exclude<DeadAction, 'count'>,
  input: DatabaseInput,
  filter: DeadLetterFilter,
  options: RedriveOptions,
): Promise<Redriven> {
  readFilter(filter)
  let unknown: readonly (number | string)[] = []
  const count = await carryOut(where, input, options, async (database, dry, signature) => {
    unknown = await unknownOf(database, filter)
    return stepping(database, filter, dry ? null : { action, signature })
  })
  return { count, unknown }
}

/** In the order in which the messages arrived, and none that died later than now. */
export async function stepping(
  database: Database,
  filter: DeadLetterFilter,
  what: { action: Exclude<DeadAction, 'count'>; signature: Signed } | null = null,
): Promise<Stepping> {
  const { scope, values } = readFilter(filter)
  const sql = deadSql(database.schema)
  const [newest] = await database.query(sql.newest)
  let at = { afterConsumer: '', afterSeq: -1, afterNumber: 0 }
  return async (look, most) => {
    const which = { ...values, ...at, newest: newest!.number, look, most }
    const [row] =
      what === null
        ? await database.query(sql.step[scope].count, which)
        : await database.query(sql.step[scope][what.action], { ...which, ...what.signature })
    at = { afterConsumer: row!.consumer, afterSeq: row!.seq, afterNumber: row!.number }
    return row!
  }
}

/**
 * Reads all that is known of a dead letter, by its number or by the id of its message, which several consumers may have
 * given up on.
 *
 * @throws OptionError, SchemaError, or the database's error
 */
export async function showDeadLetter(
  input: DatabaseInput,
  which: number | string,
  options: {
    readonly schema?: string | undefined
    /** Whether the payload is read. @default false */
    readonly payload?: boolean | undefined
  } = {},
): Promise<DeadLetterDetails[]> {
  refuseUnknown('showDeadLetter', options, ['schema', 'payload'])
  readFilter(typeof which === 'number' ? { numbers: [which] } : { ids: [which] })
  const asked = typeof which === 'number' ? { number: which, id: null } : { number: null, id: which }
  return withTables(input, options.schema, async (database) => {
    const rows = await database.query(deadSql(database.schema).show, {
      ...asked,
      payload: options.payload === true,
    })
    const details: DeadLetterDetails[] = []
    for (const row of rows) {
      const audit = await database.query(auditSql(database.schema).ofMessage, {
        id: row.id,
        consumer: row.consumer,
      })
      const { payload, ...content } = contentOf(row)
      details.push({
        ...toDeadLetter(row),
        ...content,
        ...(payload === undefined ? {} : { payload }),
        holdsKey: row.holds_key === true,
        interventions: audit.map(toHistory),
      })
    }
    return details
  })
}

async function unknownOf(database: Database, filter: DeadLetterFilter): Promise<(number | string)[]> {
  const unknown: (number | string)[] = []
  const { known } = deadSql(database.schema)
  const { numbers = [], ids = [] } = filter
  if (numbers.length + ids.length === 0) return []
  const rows = await database.query(known, { numbers, ids })
  const found = new Set<number | string>(rows.flatMap(({ number, id }) => [number, id]))
  unknown.push(...numbers.filter((number) => !found.has(number)))
  unknown.push(...ids.filter((id) => !found.has(id.toLowerCase())))
  return unknown
}

function readCursor(after: string | undefined): { belowSeq: number; belowNumber: number } {
  if (after === undefined) {
    return { belowSeq: Number.MAX_SAFE_INTEGER, belowNumber: Number.MAX_SAFE_INTEGER }
  }
  const found = /^(\d{1,16})\.(\d{1,16})$/.exec(after)
  if (found === null) throw new OptionError('after', 'after must be what an earlier page gave as its next.')
  return { belowSeq: Number(found[1]), belowNumber: Number(found[2]) }
}
