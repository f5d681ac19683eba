import type { Database, DatabaseInput } from '../database/database.ts'
import { refuseUnknown, whole } from '../base/options.ts'
import { pause } from '../base/waiting.ts'
import { sign, type Signature, type Signed } from './filter.ts'
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

/** What a step has looked at, and what it has chosen of that. */
interface Step {
  readonly looked_at: number
  readonly chosen: number
  readonly numbers: readonly number[]
}

/** Looks at so many rows at most, from where the last step ended, and does it to so many of them at most. */
export type Stepping = (look: number, most: number) => Promise<Step>

/** Takes steps from the start to the end, and tells what each one chose. */
export async function* steps(step: Stepping, size: () => number): AsyncGenerator<readonly number[]> {
  let look = 0
  for (;;) {
    const most = size()
    // No further than it must, where most of them match.
    look = Math.min(Math.max(look, most), lookMax)
    const { looked_at: lookedAt, chosen, numbers } = await step(look, most)
    if (numbers.length > 0) yield numbers
    if (lookedAt < look && chosen < most) return
    look = chosen < most ? look * 2 : 0
  }
}

/** Carries a change out in batches, not faster than was asked for. Returns how many it was done to. @throws OptionError */
export async function carryOut(
  where: string,
  input: DatabaseInput,
  options: RedriveOptions,
  stepping: (database: Database, dry: boolean, signature: Signed) => Promise<Stepping>,
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
    for await (const done of steps(await stepping(database, dry, signature), size)) {
      count += done.length
      options.onProgress?.(count)
      const aheadMs = (count / perSecond) * 1000 - (performance.now() - startedAt)
      if (!dry && count < limit && aheadMs > 0) await pause(aheadMs, signal)
      if (count >= limit || signal.aborted) break
    }
    return count
  })
}
