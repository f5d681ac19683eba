import type { DatabaseInput } from '../database/database.ts'
import { pruneKinds, upkeepSql, type PruneKind } from '../database/sql/upkeep.ts'
import { OptionError } from '../base/errors.ts'
import { oneOf, refuseUnknown } from '../base/options.ts'
import { pruneAll } from '../upkeep/prune.ts'
import { ageOrNull, consumerColumn, sign, type Signature } from './filter.ts'
import { withTables } from './tables.ts'

/** What to prune, and how old it has to be. */
export interface PruneOptions extends Signature {
  /** Where the tables are. @default 'twinbox' */
  readonly schema?: string | undefined
  /** Only that of this consumer; null for that of the outbox. @default all */
  readonly consumer?: string | null | undefined
  /** How old it has to be, in milliseconds. Needed for all but `dedupe`, whose keys say themselves when they end. */
  readonly olderThanMs?: number | undefined
  /** Only count; nothing is deleted. @default false */
  readonly dryRun?: boolean | undefined
  /** Told after each batch how many are gone. */
  readonly onProgress?: ((done: number) => void) | undefined
  /** Ends it between two batches. */
  readonly signal?: AbortSignal | undefined
}

/** Where counting ends. */
const countMax = 1_000_000

/**
 * Deletes what has outlived its use, in bounded batches, as workers do once a minute for what they are told to keep:
 * `dedupe` (keys past their window), `seen` (ids of received messages: a redelivery of one that is pruned is handled
 * again), `workers` (that have ended), `handled` (the history of `keepHandledMs`), `audit` (what operators did) and
 * `dead` (dead letters, except those behind which a key is held back). What has not been handled and is no dead letter
 * cannot be pruned. Each batch leaves a row in the audit, of `dead` each letter. Returns how many are gone; with `dryRun` how many would be, counted up to 1,000,000.
 *
 * @throws OptionError, SchemaError, or the database's error: what was done until then stays done
 */
export async function prune(
  input: DatabaseInput,
  kind: PruneKind,
  options: PruneOptions = {},
): Promise<number> {
  refuseUnknown('prune', options, [
    'by',
    'reason',
    'schema',
    'consumer',
    'olderThanMs',
    'dryRun',
    'onProgress',
    'signal',
  ])
  const what = oneOf('kind', kind, pruneKinds)
  if (kind === undefined) throw new OptionError('kind', `kind is required, one of: ${pruneKinds.join(', ')}.`)
  const consumer = consumerColumn(options.consumer)
  const olderThanMs = ageOrNull('olderThanMs', options.olderThanMs)
  if (what === 'dedupe' && olderThanMs !== null)
    throw new OptionError(
      'olderThanMs',
      'olderThanMs is not for dedupe: its keys say themselves when they end.',
    )
  if (what !== 'dedupe' && olderThanMs === null)
    throw new OptionError('olderThanMs', `olderThanMs is required for ${what}.`)
  if (consumer !== null && (what === 'dedupe' || what === 'workers'))
    throw new OptionError('consumer', `consumer is not for ${what}.`)
  const signature = sign(options)
  const { signal = new AbortController().signal } = options
  return withTables(input, options.schema, async (database) => {
    if (options.dryRun !== true)
      return pruneAll(database, { kind: what, consumer, olderThanMs }, signature, signal, options.onProgress)
    const [found] = await database.query(upkeepSql(database.schema).count[what], {
      most: countMax,
      consumer,
      olderThanMs,
    })
    return found!.count
  })
}
