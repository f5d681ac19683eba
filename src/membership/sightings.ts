import type { DeathSign } from '../base/events.ts'
import type { Peer } from '../database/sql/worker.ts'
import type { SignOfLife } from './coordination.ts'

export interface Verdict {
  readonly peer: Peer
  readonly foundBy: DeathSign
}

/** What is seen of the signs that peers give beside their rows, see `SignOfLife`. */
export interface Signs {
  readonly sight: SignOfLife['sight']
  misses(text: string | null): boolean
}

const noSigns: Signs = { sight: null, misses: () => false }

interface Sighting {
  beat: string
  /** By the monotonic clock, since when this beat has been the last. */
  since: number
  unlockedSince: number | null
  /** False from a break in our own watch until it has beaten. */
  lockCounts: boolean
  signCounts: boolean
  isMissed: boolean
}

/**
 * How often the living look for the dead. Each look reads all of them, so a fleet takes turns: the more there are, the
 * more seldom each one looks, and the first of them looks as soon as ever. Alone, there is nobody to watch.
 */
const lookMs = 200
const lookMsPerPeer = 40
const lookMsAlone = 1000
/** Looks are a fifth of a second apart or a tenth of `deadAfterMs`, on a busy machine twice that: more than this is a break. */
const breakMsMin = 600

/**
 * What a worker has seen of its peers, and whom it therefore believes dead.
 *
 * Silence counts only as far as it was watched: after an outage of the database, or a jump of its clock, everybody's
 * last heartbeat is old, and a worker that judged by its age would give up the whole fleet. For the same reason a
 * missing lock or sign counts only if the peer has been heard since our own connection was lost: what broke ours, broke theirs.
 */
export class Sightings {
  /** Whether somebody's lock is missing and it is too early to judge. */
  isSuspicious = false
  readonly #deadAfterMs: number
  readonly #confirmMs: number
  readonly #now: () => number
  #seen = new Map<number, Sighting>()
  #lookedAt: number
  #interrupted = false
  #sight: number | null = null

  constructor(options: { deadAfterMs: number; confirmMs: number; now?: () => number }) {
    this.#deadAfterMs = options.deadAfterMs
    this.#confirmMs = options.confirmMs
    this.#now = options.now ?? (() => performance.now())
    this.#lookedAt = this.#now()
  }

  /** How long to wait before the next look. `expectsNobody`: nobody has come or gone lately. `isTold`: of a death we would hear. */
  pauseMs(expectsNobody: boolean, isTold = false): number {
    if (this.isSuspicious) return this.#confirmMs
    if (this.#seen.size === 0 && expectsNobody) return lookMsAlone
    // More seldom, the silence of others would count as our own blindness.
    const most = Math.max(lookMs, this.#deadAfterMs / 10)
    return isTold ? most : Math.min(Math.max(lookMs, lookMsPerPeer * this.#seen.size), most)
  }

  /** Our own view was interrupted. */
  reset(): void {
    this.#seen.clear()
    this.#interrupted = true
  }

  /** Takes note of who has beaten, who holds a lock and whose sign is seen, as it was read at that moment. Returns those who are dead. */
  look(peers: readonly Peer[], signs: Signs = noSigns, now = this.#now()): Verdict[] {
    const sight = signs.sight ?? this.#sight
    // The first one has come after no break.
    const isBroken = this.#sight !== null && sight !== this.#sight
    this.#sight = sight
    // For so long we have not looked ourselves: the silence of that time was nobody's fault.
    const blind = now - this.#lookedAt
    if (blind > Math.max(this.#deadAfterMs / 4, breakMsMin))
      for (const sighting of this.#seen.values()) sighting.since += blind
    this.#lookedAt = now
    const verdicts: Verdict[] = []
    const seen = new Map<number, Sighting>()
    this.isSuspicious = false
    for (const peer of peers) {
      const sighting = this.#noteOf(peer, now)
      seen.set(peer.id, sighting)
      if (isBroken) sighting.signCounts = false
      sighting.isMissed = sighting.signCounts && signs.misses(peer.sign)
      const { unlockedSince } = sighting
      if (unlockedSince !== null && now - unlockedSince >= this.#confirmMs) {
        verdicts.push({ peer, foundBy: 'lock' })
      } else if (sighting.isMissed) verdicts.push({ peer, foundBy: 'session' })
      else if (now - sighting.since > this.#deadAfterMs) verdicts.push({ peer, foundBy: 'heartbeat' })
      else if (unlockedSince !== null) this.isSuspicious = true
    }
    this.#seen = seen
    this.#interrupted = false
    return verdicts
  }

  /** Whether it was heard of lately: fit to take over from another. */
  isFresh(peer: Peer): boolean {
    const sighting = this.#seen.get(peer.id)
    return (
      sighting !== undefined &&
      sighting.unlockedSince === null &&
      !sighting.isMissed &&
      this.#now() - sighting.since < this.#deadAfterMs / 2
    )
  }

  #noteOf(peer: Peer, now: number): Sighting {
    const known = this.#seen.get(peer.id)
    if (known === undefined) {
      return {
        beat: peer.beat,
        since: now,
        lockCounts: !this.#interrupted,
        signCounts: true,
        isMissed: false,
        unlockedSince: peer.unlocked && !this.#interrupted ? now : null,
      }
    }
    if (known.beat !== peer.beat)
      Object.assign(known, { beat: peer.beat, since: now, lockCounts: true, signCounts: true })
    if (!peer.unlocked || !known.lockCounts) known.unlockedSince = null
    else known.unlockedSince ??= now
    return known
  }
}
