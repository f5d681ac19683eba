import type { Promoted } from '../database/sql/waiting.ts'

export interface Due {
  /** Puts deferred messages back that are due. */
  readonly promote: () => Promise<readonly Promoted[]>
  /** Lets parked keys go on that are due. Returns in which lanes. */
  readonly release: () => Promise<readonly unknown[]>
  /** Told which topics pause, as JSON. */
  readonly share?: (paused: string | null) => Promise<void>
  /** Whether anything else has come back. */
  readonly comeBack?: () => Promise<boolean>
  /** There is more to work on. */
  readonly onFound: () => void
}

/**
 * What comes due: deferred messages, parked keys, and what else may come back. Each has its turn whatever becomes of the
 * others: one message that cannot be put back may not hold up what has nothing to do with it. Returns whether anything
 * was found, and in how long the next message is due.
 *
 * @throws the database's error, once all have had their turn
 */
export async function promoteDue({
  promote,
  release,
  share = async () => {},
  comeBack = async () => false,
  onFound,
}: Due): Promise<{ found: boolean; dueInMs: number | null }> {
  const failures: unknown[] = []
  const attempt = <Result>(work: Promise<Result>): Promise<Result | null> =>
    work.catch((error: unknown) => (failures.push(error), null))
  const promoted = (await attempt(promote()))?.[0]
  if (promoted !== undefined) await attempt(share(promoted.paused ?? null))
  const released = promoted?.parks === false ? [] : await attempt(release())
  const back = await attempt(comeBack())
  const found = (promoted?.count ?? 0) > 0 || (released ?? []).length > 0 || back === true
  if (found) onFound()
  if (failures.length > 0) throw failures[0]
  return { found, dueInMs: promoted!.due_in_ms }
}
