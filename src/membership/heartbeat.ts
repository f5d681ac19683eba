import type { Beat } from '../database/sql/worker.ts'
import type { Look, Voice, Words } from './circle.ts'
import { noFlow } from './flow.ts'
import type { Holder, Member, RegistrationOptions } from './options.ts'
import type { Presence } from './presence.ts'
import type { Session } from './session.ts'

/** A worker as its heartbeat knows it. */
export interface Beating {
  /** Null while it is not registered. */
  readonly id: number | null
  /** On which it is registered. */
  readonly server: string
  readonly session: Session
}

/** What has come of a heartbeat: whether the worker lives, and on which server; and whether the sequence that numbers what it reads has gone back. */
export interface Answer {
  readonly lives: boolean
  readonly server: string
  readonly isBehind: boolean
  /** Remembers where the sequence stood, once that was acted upon. */
  readonly accept: () => void
}

/** What a worker says, by the statement of its circle, and what has come of it. */
export class Heartbeat {
  /** By the monotonic clock, when it was last asked for what it then was. */
  at = -Infinity
  readonly #beating: Beating
  readonly #options: RegistrationOptions
  readonly #member: Member & Partial<Holder>
  readonly #presence: Presence
  #said: { readonly id: number; readonly highest: number; readonly told: () => void } | null = null
  #heard: { readonly look: Look; readonly id: number; readonly highest: number } | null = null
  #numbered: Pick<Beat, 'file' | 'position'> | null = null
  readonly voice: Voice

  constructor(
    options: RegistrationOptions,
    parts: {
      readonly beating: Beating
      readonly member: Member & Partial<Holder>
      readonly presence: Presence
      readonly onNews: () => void
    },
  ) {
    this.#options = options
    this.#beating = parts.beating
    this.#member = parts.member
    this.#presence = parts.presence
    this.voice = {
      speak: (isDue) => this.#speak(isDue),
      heard: (look) => this.#hear(look),
      onNews: parts.onNews,
    }
  }

  get isDue(): boolean {
    return performance.now() - this.at >= this.#options.heartbeatMs || !this.#presence.isTold
  }

  /** Others have to be told of something. */
  hurry(): void {
    this.at = Math.min(this.at, performance.now() - this.#options.heartbeatMs)
  }

  /** What has come of the last one, once; null if nothing is known of it that still counts. */
  takeAnswer(): Answer | null {
    const heard = this.#heard
    this.#heard = null
    // It has let go of all meanwhile.
    if (heard === null || this.#beating.id !== heard.id) return null
    const { peers, beat } = heard.look
    const lives = peers.some((peer) => peer.id === heard.id && peer.ended_by === null)
    const { server, file, position } = beat!
    const before = this.#numbered ?? { file, position }
    const isBehind =
      file !== before.file || (position ?? Infinity) < Math.max(heard.highest, before.position ?? 0)
    return { lives, server, isBehind, accept: () => void (this.#numbered = { file, position }) }
  }

  #speak(isDue: boolean): Words | null {
    const { id, session } = this.#beating
    const { database, heartbeatMs, flow = noFlow } = this.#options
    if (id === null || !session.isOpen) return null
    const isSoon = session.locked === database.sessions && performance.now() - this.at >= heartbeatMs / 2
    if (!isDue && !isSoon) return null
    const { text: sign } = this.#presence
    // Before it is asked where the sequence stands: afterwards, more may have been read.
    this.#said = { id, highest: this.#member.highest ?? 0, told: this.#presence.telling(sign) }
    return { id, inFlight: this.#member.inFlight, ...flow.tell(), locked: session.locked, sign }
  }

  #hear(look: Look): void {
    const said = this.#said
    if (said === null || said.id !== this.#beating.id) return
    this.#heard = { look, id: said.id, highest: said.highest }
    if (!look.beaten.has(said.id) || look.beat?.server !== this.#beating.server) return
    this.at = look.at
    said.told()
  }
}
