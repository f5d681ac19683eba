import { workerSql } from '../database/sql/worker.ts'
import type { Claim } from './claim.ts'
import type { ClaimerContext } from './context.ts'

interface Handling {
  readonly claims: readonly Claim[]
  readonly startedAt: number
  /** After how long it is told of next. */
  tellMs: number
}

type Parts = Pick<ClaimerContext, 'database' | 'membership' | 'settings' | 'emit'>

/** Handlers that do not end, and have no `handleTimeoutMs`: nobody would see why their keys stand still. */
export class Stuck {
  readonly #parts: Parts
  readonly #handlings = new Set<Handling>()
  /** What the table says. */
  #written: Handling | null = null

  constructor(parts: Parts) {
    this.#parts = parts
  }

  /** A handler is about to be called. Call what this returns when it has ended. */
  begin(claims: readonly Claim[]): () => void {
    const tellMs = this.#parts.settings.stuckAfterMs
    const handling: Handling = { claims, startedAt: performance.now(), tellMs }
    this.#handlings.add(handling)
    return () => this.#handlings.delete(handling)
  }

  /** The next handler of a run is about to be called, after one for which `begin` gave this. */
  goOn(ended: () => void, claims: readonly Claim[]): () => void {
    ended()
    return this.begin(claims)
  }

  /** Tells of those that take too long, each time after twice as long, and writes down the oldest for others to see. */
  async keepHouse(): Promise<void> {
    const { database, membership, settings, emit } = this.#parts
    const now = performance.now()
    // In the order in which they began.
    const [oldest] = this.#handlings
    const stuck = oldest !== undefined && now - oldest.startedAt >= settings.stuckAfterMs ? oldest : null
    if (stuck === null && this.#written === null) return
    for (const handling of this.#handlings) {
      const forMs = now - handling.startedAt
      if (forMs < handling.tellMs) continue
      handling.tellMs = forMs * 2
      const ids = handling.claims.map(({ id }) => id)
      emit({ type: 'handler_stuck', ids, topic: handling.claims[0]!.topic, forMs })
    }
    if (stuck === this.#written || membership.id === null) return
    const topic = stuck?.claims[0]!.topic ?? null
    const sinceMs = stuck === null ? null : now - stuck.startedAt
    await database.keep(workerSql(database.schema).stuck, { id: membership.id, topic, sinceMs })
    this.#written = stuck
  }
}
