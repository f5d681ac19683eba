import type pg from 'pg'

/**
 * A statement of bookkeeping that takes longer may have a plan that was made while its table was empty, and is kept until
 * somebody has analyzed that, a minute later: a burst of messages comes sooner. Planning anew takes some milliseconds.
 */
const slowMs = 50
/** Not more often: where the machine is slow, every statement is, and planning each of them anew would make it slower still. */
const oftenMs = 1000

/** On which connections the plans may be out of date. */
export class Plans {
  readonly #doubtful = new WeakSet<pg.ClientBase>()
  /** By the monotonic clock, when those of a connection were thrown away. */
  readonly #forgottenAt = new WeakMap<pg.ClientBase, number>()

  /** Whether those of a connection are to be thrown away before its next statement, which counts as done. */
  forget(client: pg.ClientBase): boolean {
    if (!this.#doubtful.delete(client)) return false
    this.#forgottenAt.set(client, performance.now())
    return true
  }

  /** A statement was answered. */
  answered(client: pg.ClientBase, startedAt: number): void {
    const now = performance.now()
    if (now - startedAt <= slowMs || now - (this.#forgottenAt.get(client) ?? -Infinity) < oftenMs) return
    this.#doubtful.add(client)
  }
}
