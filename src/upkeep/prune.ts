import type { Database } from '../database/database.ts'
import { upkeepSql, type PruneKind } from '../database/sql/upkeep.ts'
import type { Emit } from '../base/events.ts'
import { pause } from '../base/waiting.ts'
import { everyMinute } from './clock.ts'

export const pruneBatch = 5000
const pauseMs = 50
/** A run that hangs may not keep the next one from running for ever. */
const runMsMax = 50_000
const endedWorkersMs = 24 * 3_600_000

/** What to prune: of a consumer or of all, what is older than so long. */
export interface PruneTask {
  readonly kind: PruneKind
  readonly consumer: string | null
  /** Null if the rows say themselves when they end. */
  readonly olderThanMs: number | null
}

/** What every relay prunes: dedupe keys past their window, and workers that ended a day ago. */
export const relayTasks: readonly PruneTask[] = [
  { kind: 'dedupe', consumer: null, olderThanMs: null },
  { kind: 'workers', consumer: null, olderThanMs: endedWorkersMs },
]

/** Which operator deletes, and why, as it is written down. */
export interface PruneSignature {
  readonly who: string
  readonly why: string | null
}
/** Who a worker is, which deletes what it is told to. Of dead letters alone it is written down: all else is what it is for. */
const upkeep: PruneSignature = { who: 'upkeep', why: 'retention' }

/**
 * Prunes one kind to the end, in bounded batches with a pause: a window's worth at once would hold up the work and the
 * vacuum. Another one that prunes the same at this moment has the turn, and this one ends. Returns how many are gone.
 */
export async function pruneAll(
  database: Database,
  task: PruneTask,
  signature: PruneSignature,
  signal: AbortSignal,
  onProgress: (count: number) => void = () => {},
): Promise<number> {
  let total = 0
  for (let last = pruneBatch; last === pruneBatch && !signal.aborted;) {
    last = await pruneOnce(database, task, signature)
    total += last
    onProgress(total)
    if (last === pruneBatch) await pause(pauseMs, signal)
  }
  return total
}

/** One batch, of an operator or, with null, of a worker. Returns how many that were; fewer than `pruneBatch` if nothing is left, or somebody else has the turn. */
async function pruneOnce(
  database: Database,
  { kind, consumer, olderThanMs }: PruneTask,
  by: PruneSignature | null,
): Promise<number> {
  const { prune, pruneNoted, pruneDead, pruneAudit } = upkeepSql(database.schema)
  const which = { most: pruneBatch, consumer, olderThanMs }
  const noted = { dead: pruneDead, audit: pruneAudit, ...pruneNoted }[kind]
  const [gone] =
    by === null && kind !== 'dead' && kind !== 'audit'
      ? await database.query(prune[kind], which)
      : await database.query(noted, { ...which, ...(by ?? upkeep) })
  return gone!.count
}

export interface Pruning {
  /** What is called once a minute. */
  run(): Promise<void>
  /** Ends it; what is being deleted at this moment is. */
  stop(): Promise<void>
}

/**
 * Prunes once a minute. The clock only wakes it up; what is due, and whose turn it is, the database decides.
 *
 * Nothing that has not been handled is ever pruned, dead letters only if somebody says after how long. The tasks take
 * turns, a batch each: neither one that fails nor one with much to delete keeps the others from theirs. A run ends
 * after `runMs`, or is given up on: the next one does not wait for it.
 */
export function startPruning(
  database: Database,
  tasks: readonly PruneTask[],
  emit: Emit,
  runMs = runMsMax,
): Pruning {
  const stop = new AbortController()
  let running: AbortController | null = null

  /** A batch of each. Returns those that are not done. */
  const inTurns = async (left: readonly PruneTask[], signal: AbortSignal): Promise<readonly PruneTask[]> => {
    const more: PruneTask[] = []
    for (const task of left) {
      if (signal.aborted) return []
      try {
        if ((await pruneOnce(database, task, null)) === pruneBatch) more.push(task)
      } catch (error) {
        if (!stop.signal.aborted) emit({ type: 'trouble', error, doing: `pruning ${task.kind}` })
      }
    }
    return more
  }
  const run = async (): Promise<void> => {
    if (stop.signal.aborted || running !== null) return
    const own = new AbortController()
    running = own
    const end = (): void => {
      own.abort()
      if (running === own) running = null
    }
    const timer = setTimeout(end, runMs)
    stop.signal.addEventListener('abort', end, { once: true })
    try {
      for (let left = tasks; left.length > 0 && !own.signal.aborted;) {
        left = await inTurns(left, own.signal)
        if (left.length > 0) await pause(pauseMs, own.signal)
      }
    } finally {
      clearTimeout(timer)
      stop.signal.removeEventListener('abort', end)
      end()
    }
  }
  // Not all at the first second of the minute.
  const second = Math.floor(Math.random() * 60)
  const clock = everyMinute(second, run)
  return {
    run,
    stop: async () => {
      stop.abort()
      await clock.stop()
    },
  }
}
