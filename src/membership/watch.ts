import type { Assignee } from './failover.ts'
import type { RegistrationOptions } from './options.ts'
import type { Session } from './session.ts'
import { Sightings } from './sightings.ts'
import type { Peer } from '../database/sql/worker.ts'
import { declareDead } from './verdict.ts'

/** A lock that is missing is looked at again after this, since a lost connection alone is no death. */
const confirmMs = 150

/** A worker's eye on the others of its kind: it finds the dead, and declares them dead. */
export class Watch {
  readonly #options: RegistrationOptions
  readonly #session: Session
  readonly #sightings: Sightings

  constructor(options: RegistrationOptions, session: Session) {
    this.#options = options
    this.#session = session
    this.#sightings = new Sightings({ deadAfterMs: options.deadAfterMs, confirmMs })
  }

  /** Our own view was interrupted. */
  reset(): void {
    this.#sightings.reset()
  }

  /** How long to wait before the next look. */
  pauseMs(isCalm: boolean): number {
    return this.#sightings.pauseMs(isCalm)
  }

  /** Declares dead who is. Returns the others that live, and whether somebody has died. `self` may get what the dead have left. */
  async look(
    peers: readonly Peer[],
    self: () => Assignee | null,
  ): Promise<{ readonly living: readonly Peer[]; readonly died: boolean }> {
    const id = self()?.id
    const living = peers.filter((peer) => peer.ended_by === null && peer.id !== id)
    const found = this.#sightings.look(living)
    for (const { peer, foundBy } of found) {
      const fresh = living.filter((other) => other !== peer && this.#sightings.isFresh(other))
      await declareDead(this.#options, this.#session, peer, foundBy, [
        ...[self() ?? []].flat(),
        ...fresh.map(({ id: other, in_flight: inFlight }) => ({ id: other, inFlight })),
      ])
    }
    return {
      living: living.filter((peer) => !found.some((one) => one.peer === peer)),
      died: found.length > 0,
    }
  }
}
