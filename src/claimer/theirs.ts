import { joined, type Run } from '../database/executor.ts'
import { claimLost, completionSql } from '../database/sql/completion.ts'
import { isConnectionLost, statesOf } from '../database/sqlstate.ts'
import { TransactionError } from '../base/errors.ts'
import type { Failpoint } from '../base/failpoint.ts'
import type { Abort } from './abort.ts'
import type { Claim } from './claim.ts'
import { completedServer, historian } from './completion.ts'
import type { ClaimerContext } from './context.ts'
import { Conflict, Interrupted, lost, type Phase } from './interruptions.ts'
import type { Opener } from './opener.ts'

/** So long a process may be away between the completion and the commit. The lease has mostly lapsed by then. */
const idleMs = 5000

type Parts = Pick<ClaimerContext, 'database' | 'consumer' | 'settings' | 'lanes' | 'inFlight'>

/** What a claimer does in transactions of a data library: completes claims there, and looks whether that was committed. */
export interface Theirs {
  readonly open: Opener<unknown>['open']
  readonly complete: (run: Run) => Promise<unknown>
  /** How many of the claims were not completed. */
  readonly left: () => Promise<number>
}

/** Null if the claimer opens the transactions of handlers itself. */
export function theirs(
  parts: Parts,
  opener: Opener<unknown> | undefined,
  claims: readonly Claim[],
): Theirs | null {
  if (opener === undefined) return null
  const { database, consumer } = parts
  const sql = completionSql(database.schema)
  const places = {
    lanes: claims.map(({ lane }) => lane),
    seqs: claims.map(({ seq }) => seq),
    ids: claims.map(({ id }) => id),
  }
  return {
    open: opener.open,
    complete: (run) => {
      parts.inFlight.settle(claims)
      return run(sql.completeWithin, {
        ...places,
        idle: `${idleMs}ms`,
        consumer,
        fences: claims.map(({ fence }) => fence),
        attempts: claims.map(({ attempt }) => attempt),
        worker: historian(parts),
        server: completedServer(claims),
      })
    },
    left: async () => (await database.keep(sql.left, { consumer, ...places })).length,
  }
}

/**
 * Runs a handler in a transaction that a data library opens and commits. What the library says of the commit is not believed, since it
 * may have swallowed an error, or never have heard of it: the inbox tells.
 */
export async function inTheirTransaction(
  { failpoint }: { readonly failpoint: Failpoint },
  { open, complete, left }: Theirs,
  run: (tx: unknown) => Promise<unknown>,
  claims: readonly Claim[],
  abort: Abort,
): Promise<void> {
  const since = performance.now()
  const { topic } = claims[0]!
  let phase: Phase = 'before'
  let completed = false
  let isLost = false
  let thrown: unknown
  const work = (tx: unknown): Promise<void> =>
    within(tx).catch((error: unknown) => {
      thrown = error
      throw error
    })
  const within = async (tx: unknown): Promise<void> => {
    // A library may try again a transaction that has lost against another one.
    completed = false
    phase = 'before'
    const execute = await joined('inTransaction', tx)
    await failpoint('claimer.before_handle')
    phase = 'handling'
    await abort.unless(run(tx))
    await failpoint('claimer.before_settle')
    phase = 'ending'
    try {
      await abort.unless(complete(execute))
    } catch (error) {
      isLost = statesOf(error).includes(claimLost)
      throw error
    }
    completed = true
    await failpoint('claimer.before_commit')
  }
  const opening = async (): Promise<unknown> => open(work)
  let failure: unknown
  try {
    await abort.unless(opening())
    if (!completed) {
      failure = new TransactionError(
        'TRANSACTION_ROLLED_BACK',
        `The function given to inTransaction has ended without a run(tx) that did: the message of "${topic}" is not completed. It has to call run in a transaction, wait for it, and let its error pass.`,
        { cause: thrown },
      )
    }
  } catch (error) {
    if (abort.aborted) throw error
    failure = error
    if (!completed) throw judged(error)
  }
  if (!completed) throw failure
  const still = await left().catch((error: unknown) => {
    throw new Interrupted('ending', error, null, since)
  })
  if (still > 0) {
    throw judged(
      failure ??
        new TransactionError(
          'TRANSACTION_ROLLED_BACK',
          `The transaction of the handler of "${topic}" was said to be committed, and was not: the message is still there.`,
        ),
    )
  }
  await failpoint('claimer.after_commit')

  function judged(error: unknown): unknown {
    if (isLost) return lost(claims)
    const states = statesOf(error)
    if (states.some((state) => /^(40001|40P01|P2034)$/.test(state))) return new Conflict(error)
    if (phase === 'before' && !(error instanceof TransactionError))
      return new Interrupted(phase, error, null, since)
    // Its own error or that of its connection: the worker's other connection tells whether the database is away.
    const ended = isConnectionLost(error) || states.some((state) => /^(08|57P0|25P0[34]|P10)/.test(state))
    return ended ? new Interrupted('handling', error, unheard, since) : error
  }
}

/** Of the library's connection nothing is known. */
const unheard = { gone: null, heard: null, spared: false, forget: () => {} }
