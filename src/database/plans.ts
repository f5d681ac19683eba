import type pg from 'pg'

/**
 * A statement of bookkeeping that takes longer may have a plan that was made while its table was empty, and is kept until
 * somebody has analyzed that, a minute later: a burst of messages comes sooner. Planning anew takes some milliseconds.
 */
const slowMs = 50
/** Plans that are younger are not made anew. */
const youngMs = 1000
/** The same where it was in vain to make them anew, again and again. */
const youngMsMax = 60_000

interface Age {
  /** By the monotonic clock, when the plans of a connection were thrown away. */
  readonly since: number
  /** How old they have to be before they are thrown away again. */
  readonly youngMs: number
  /** Whether a statement was slow since, by a plan that was made anew: then it was no plan that was to blame. */
  inVain: boolean
}

/**
 * On which connections the plans may be out of date. Where the server or the machine is slow, every statement is, and to plan
 * each of them anew would make it slower still: each time that a new plan was as slow, it has to be twice as old.
 */
export class Plans {
  readonly #doubtful = new WeakSet<pg.ClientBase>()
  readonly #ages = new WeakMap<pg.ClientBase, Age>()

  /** Whether those of a connection are to be thrown away before its next statement, which counts as done. */
  forget(client: pg.ClientBase): boolean {
    if (!this.#doubtful.delete(client)) return false
    const { inVain = false, youngMs: before = youngMs } = this.#ages.get(client) ?? {}
    const next = inVain ? Math.min(2 * before, youngMsMax) : youngMs
    this.#ages.set(client, { since: performance.now(), youngMs: next, inVain: false })
    return true
  }

  /** A statement was answered. */
  answered(client: pg.ClientBase, startedAt: number): void {
    const now = performance.now()
    if (now - startedAt <= slowMs) return
    const age = this.#ages.get(client)
    if (age === undefined || now - age.since >= age.youngMs) this.#doubtful.add(client)
    else age.inVain = true
  }
}
