import type { Circle, Look } from './circle.ts'
import type { Assignee } from './failover.ts'
import type { RegistrationOptions } from './options.ts'
import type { Presence } from './presence.ts'
import type { Session } from './session.ts'
import { Sightings, type Verdict } from './sightings.ts'
import type { Peer } from '../database/sql/worker.ts'
import { declareDead } from './verdict.ts'

/** A lock that is missing is looked at again after this, since a lost connection alone is no death. */
const confirmMs = 150

/** A worker's eye on the others of its kind: it finds the dead, and declares them dead. */
export class Watch {
  readonly #options: RegistrationOptions
  readonly #session: Session
  readonly #sightings: Sightings
  readonly #presence: Presence
  readonly #circle: Circle
  /** Whether each of the living gives a sign whose end we would hear of. */
  #allGive = false

  constructor(options: RegistrationOptions, session: Session, presence: Presence, circle: Circle) {
    this.#options = options
    this.#session = session
    this.#presence = presence
    this.#circle = circle
    this.#sightings = new Sightings({ deadAfterMs: options.deadAfterMs, confirmMs })
  }

  /** Our own view was interrupted. */
  reset(): void {
    this.#sightings.reset()
  }

  /** Whether somebody may be dead, which the next look tells if it is not too young. */
  get isSuspicious(): boolean {
    return this.#sightings.isSuspicious
  }

  /** How long to wait before the next look. */
  pauseMs(isCalm: boolean): number {
    // Locks are freed sooner than sessions end, and nobody tells of it.
    const isTold = this.#allGive && this.#presence.sight !== null && !this.#session.locked
    return this.#sightings.pauseMs(isCalm, isTold)
  }

  /** Declares dead who is. Returns the others that live, and whether somebody has died. `self` may get what the dead have left. */
  async look(
    { peers, at }: Look,
    self: () => Assignee | null,
  ): Promise<{ readonly living: readonly Peer[]; readonly died: boolean }> {
    const id = self()?.id
    const living = peers.filter((peer) => peer.ended_by === null && peer.id !== id)
    const found: Verdict[] = []
    for (const verdict of this.#sightings.look(living, this.#presence, at)) {
      // What we see may be older than the row that we compare it with.
      if (verdict.foundBy !== 'session' || (await this.#presence.confirms(verdict.peer.sign)))
        found.push(verdict)
    }
    this.#allGive = living.every(({ sign }) => sign !== null)
    for (const { peer, foundBy } of found) {
      const fresh = living.filter((other) => other !== peer && this.#sightings.isFresh(other))
      const assignees = [
        ...[self() ?? []].flat(),
        ...fresh.map(({ id: other, host, in_flight: inFlight }) => ({ id: other, host, inFlight })),
      ]
      await this.#circle.carryOut(`${peer.id} ${peer.beat}`, () =>
        declareDead(this.#options, this.#session, peer, foundBy, assignees),
      )
    }
    return {
      living: living.filter((peer) => !found.some((one) => one.peer === peer)),
      died: found.length > 0,
    }
  }
}
