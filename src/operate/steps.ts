import type { Statement } from '../database/sql/statement.ts'
import type { Database, DatabaseInput } from '../database/database.ts'
import { refuseUnknown, whole } from '../base/options.ts'
import { pause } from '../base/waiting.ts'
import { sign, type Signature } from './filter.ts'
import { withTables } from './tables.ts'

/** What is done, how fast, and in whose name. */
export interface RedriveOptions extends Signature {
  /** Where the tables are. @default 'twinbox' */
  readonly schema?: string | undefined
  /** Most in all. @default all that match */
  readonly limit?: number | undefined
  /** Most in a second. @default as fast as it goes */
  readonly perSecond?: number | undefined
  /** Only count those that match; nothing is changed. @default false */
  readonly dryRun?: boolean | undefined
  /** Told after each batch how many are done. */
  readonly onProgress?: ((done: number) => void) | undefined
  /** Ends it between two batches. */
  readonly signal?: AbortSignal | undefined
}

/** How many rows one statement looks at. */
export const lookMax = 5000
/** And how many it changes. */
const batch = 500
const limitMax = 1_000_000_000

interface StepRow {
  readonly looked_at: number
  readonly chosen: number
  readonly numbers: readonly (number | string)[]
}

/** A statement that looks at a bounded number of rows from somewhere on, and says where the next one goes on. */
export interface Stepping {
  readonly statement: Statement
  /** Before the place, then the place, then what is between it and the two limits, then what comes after them. */
  readonly values: (at: readonly unknown[], limits: readonly [number, number]) => readonly unknown[]
  readonly start: readonly unknown[]
  /** Its columns that tell the next place. */
  readonly place: readonly string[]
}

/** Runs it from its start to the end, and tells what each step chose. */
export async function* steps(
  database: Database,
  { statement, values, start, place }: Stepping,
  size: () => number,
): AsyncGenerator<readonly number[]> {
  let at = start
  let look = 0
  for (;;) {
    const most = size()
    // No further than it must, where most of them match.
    look = Math.min(Math.max(look, most), lookMax)
    const [row] = await database.query<StepRow & Record<string, unknown>>(statement, values(at, [look, most]))
    if (row!.numbers.length > 0) yield row!.numbers.map(Number)
    if (row!.looked_at < look && row!.chosen < most) return
    look = row!.chosen < most ? look * 2 : 0
    at = place.map((column) => row![column])
  }
}

/** Carries a change out in batches, not faster than was asked for. Returns how many it was done to. @throws OptionError */
export async function carryOut(
  where: string,
  input: DatabaseInput,
  options: RedriveOptions,
  stepping: (database: Database, dry: boolean, signature: readonly unknown[]) => Promise<Stepping>,
): Promise<number> {
  refuseUnknown(where, options, [
    'by',
    'reason',
    'schema',
    'limit',
    'perSecond',
    'dryRun',
    'onProgress',
    'signal',
  ])
  const limit = whole('limit', options.limit, limitMax, 1, limitMax)
  const perSecond = whole('perSecond', options.perSecond, limitMax, 1, limitMax)
  const signature = sign(options)
  const dry = options.dryRun === true
  const { signal = new AbortController().signal } = options
  return withTables(input, options.schema, async (database) => {
    const startedAt = performance.now()
    let count = 0
    const size = (): number => Math.min(limit - count, dry ? lookMax : batch, perSecond)
    for await (const done of steps(database, await stepping(database, dry, signature), size)) {
      count += done.length
      options.onProgress?.(count)
      const aheadMs = (count / perSecond) * 1000 - (performance.now() - startedAt)
      if (!dry && count < limit && aheadMs > 0) await pause(aheadMs, signal)
      if (count >= limit || signal.aborted) break
    }
    return count
  })
}
