import type { ParkedListRow } from '../database/sql/parked.ts'
import type { DatabaseInput } from '../database/database.ts'
import { parkedSql, type ParkedAction } from '../database/sql/parked.ts'
import { OptionError } from '../base/errors.ts'
import { refuseUnknown, whole } from '../base/options.ts'
import { ageOrNull, consumerColumn, textOrNull } from './filter.ts'
import { carryOut, lookMax, type RedriveOptions } from './steps.ts'
import { withTables } from './tables.ts'

/** Which parked keys are meant: those for which all that is given holds. */
export interface ParkedKeyFilter {
  /** Those of this consumer; null for those of the outbox. @default all */
  readonly consumer?: string | null | undefined
  /** This key. Without one, what changes keys leaves those alone that will go on by themselves. @default all */
  readonly key?: string | undefined
  /** Those that are parked for a reason that contains this text, whatever the case. @default all */
  readonly error?: string | undefined
  /** Those that have been parked for at least so long, in milliseconds. @default all */
  readonly olderThanMs?: number | undefined
  /** Those that have been parked for at most so long, in milliseconds. @default all */
  readonly youngerThanMs?: number | undefined
}

/** A key that is held back: later messages of it wait, other keys go on. */
export interface ParkedKey {
  /** Null for the outbox. */
  readonly consumer: string | null
  readonly key: string
  readonly since: Date
  /** When it goes on by itself; null if it waits for an operator. */
  readonly until: Date | null
  readonly reason: string
  /** Messages that wait; 1001 means more than 1000. */
  readonly waiting: number
  /** The number of the dead letter that it is held back behind, if there is one. */
  readonly letter: number | null
}

export interface ReadParkedKeysOptions {
  /** Where the tables are. @default 'twinbox' */
  readonly schema?: string | undefined
  /** Most that are read, up to 1000. @default 100 */
  readonly limit?: number | undefined
  /** Go on behind an earlier page: what its `next` was. @default from the first on */
  readonly after?: string | undefined
}

/**
 * Reads which keys are held back, by consumer and lane.
 *
 * @throws OptionError, SchemaError, or the database's error
 */
export async function readParkedKeys(
  input: DatabaseInput,
  filter: ParkedKeyFilter = {},
  options: ReadParkedKeysOptions = {},
): Promise<{ readonly keys: readonly ParkedKey[]; readonly next: string | null }> {
  refuseUnknown('readParkedKeys', options, ['schema', 'limit', 'after'])
  const { width, values } = readFilter(filter)
  const limit = whole('limit', options.limit, 100, 1, 1000)
  let at = readCursor(options.after)
  return withTables(input, options.schema, async (database) => {
    const keys: ParkedKey[] = []
    for (;;) {
      const wanted = limit - keys.length
      const rows = await database.query(parkedSql(database.schema).list[width], {
        ...values,
        ...at,
        look: lookMax,
        most: wanted,
      })
      const found = rows.filter(({ consumer }) => consumer !== null)
      keys.push(...found.map(toParkedKey))
      const { looked_at: lookedAt, last_consumer: consumer, last_lane: lane, last_key: key } = rows[0]!
      const last = found.at(-1)
      if (found.length === wanted && last !== undefined)
        return { keys, next: JSON.stringify([last.consumer, last.lane, last.key]) }
      if (lookedAt < lookMax) return { keys, next: null }
      at = { afterConsumer: consumer, afterLane: lane, afterKey: key }
    }
  })
}

/**
 * Lets keys go on with the message that they are held back behind: if that is a dead letter, it is redriven. All of a
 * key follows in order. Returns how many keys there were.
 *
 * @throws OptionError, SchemaError, or the database's error: what was done until then stays done
 */
export function redriveParkedKeys(
  input: DatabaseInput,
  filter: ParkedKeyFilter,
  options: RedriveOptions = {},
): Promise<number> {
  return change('redriveParkedKeys', 'redrive', input, filter, options)
}

/**
 * Lets keys go on without the message that they are held back behind: that one is or becomes a dead letter, where it can
 * still be redriven. Returns how many keys there were.
 *
 * @throws OptionError, SchemaError, or the database's error: what was done until then stays done
 */
export function skipParkedKeys(
  input: DatabaseInput,
  filter: ParkedKeyFilter,
  options: RedriveOptions = {},
): Promise<number> {
  return change('skipParkedKeys', 'skip', input, filter, options)
}

async function change(
  where: string,
  action: Exclude<ParkedAction, 'count'>,
  input: DatabaseInput,
  filter: ParkedKeyFilter,
  options: RedriveOptions,
): Promise<number> {
  const { width, values } = readFilter(filter)
  return carryOut(where, input, options, async (database, dry, signature) => {
    const step = parkedSql(database.schema).step[width]
    let at = readCursor(undefined)
    return async (look, most) => {
      const which = { ...values, ...at, look, most }
      const [row] = dry
        ? await database.query(step.count, which)
        : await database.query(step[action], { ...which, ...signature })
      at = { afterConsumer: row!.consumer, afterLane: row!.lane, afterKey: row!.key }
      return row!
    }
  })
}

function readFilter(filter: ParkedKeyFilter) {
  refuseUnknown('a filter of parked keys', filter, [
    'consumer',
    'key',
    'error',
    'olderThanMs',
    'youngerThanMs',
  ])
  const { consumer, key, error, olderThanMs, youngerThanMs } = filter
  return {
    width: consumer !== undefined && key !== undefined ? ('one' as const) : ('all' as const),
    values: {
      consumer: consumerColumn(consumer),
      key: textOrNull('key', key),
      error: textOrNull('error', error),
      olderThanMs: ageOrNull('olderThanMs', olderThanMs),
      youngerThanMs: ageOrNull('youngerThanMs', youngerThanMs),
    },
  }
}

interface Cursor {
  readonly afterConsumer: string
  readonly afterLane: number
  readonly afterKey: string
}

function readCursor(after: string | undefined): Cursor {
  if (after === undefined) return { afterConsumer: '', afterLane: -1, afterKey: '' }
  try {
    const at = JSON.parse(after) as unknown[]
    if (Array.isArray(at) && at.length === 3 && Number.isInteger(at[1]))
      return { afterConsumer: String(at[0]), afterLane: Number(at[1]), afterKey: String(at[2]) }
  } catch {
    // Said below.
  }
  throw new OptionError('after', 'after must be what an earlier page gave as its next.')
}

const toParkedKey = (row: ParkedListRow): ParkedKey => ({
  consumer: row.consumer === '' ? null : row.consumer,
  key: row.key,
  since: row.since,
  until: row.until,
  reason: row.reason,
  waiting: row.waiting,
  letter: row.letter,
})
