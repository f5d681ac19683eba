import { describeError } from '../base/errors.ts'
import type { Emit } from '../base/events.ts'
import type { Coordination, Entrant, SignOfLife } from './coordination.ts'
import type { RegistrationOptions } from './options.ts'
import { sureShare } from './watchdog.ts'

/** After so long a sign that has ended is given anew, unless the worker itself comes back under a new id. */
const renewMs = 1000

export interface PresenceOptions {
  /** The row has to say something else, or somebody has gone: look at once. */
  readonly onNews: () => void
  /** Others may have seen its sign end: they may take the worker for dead. */
  readonly onLost: (reason: string) => unknown
}

/**
 * The sign of life that a worker gives beside its row, if it has a coordination, and what it sees of others' signs.
 *
 * The row says whether there is a sign to look for, so nobody is judged by the absence of one that he does not give: neither a
 * worker without a coordination, nor one that is cut off from it. Such a one takes its sign out of its row, with a heartbeat,
 * before the other side can have ended it. If it cannot do even that, it must fear that others have taken over.
 */
export class Presence {
  readonly #coordination: Coordination | null
  readonly #circle: Omit<Entrant, 'database' | 'workerId'>
  readonly #emit: Emit
  readonly #options: PresenceOptions
  #sign: SignOfLife | null = null
  /** What the row says, or may say: from when that is sent. */
  #inRow: string | null = null
  #renewal: NodeJS.Timeout | undefined
  /** By the monotonic clock, since when it gives none, and whether that was told. */
  #awaySince: number | null = null
  #toldAway = false

  constructor(
    { database, kind, consumer, coordination, emit }: RegistrationOptions,
    options: PresenceOptions,
  ) {
    this.#coordination = coordination ?? null
    this.#circle = { schema: database.schema, kind, consumer }
    this.#emit = emit
    this.#options = options
  }

  /** What the row has to say. */
  get text(): string | null {
    return this.#sign?.text ?? null
  }

  /** Whether the row says so. */
  get isTold(): boolean {
    return this.#inRow === this.text
  }

  /** By the monotonic clock, until when nobody can have seen the sign in the row end. */
  get sureUntil(): number {
    return this.heardAt + sureShare * (this.#sign?.sessionMs ?? 0)
  }

  /** By the monotonic clock, when the sign in the row was last heard of on the other side. */
  get heardAt(): number {
    return this.#inRow === null ? Infinity : (this.#sign?.heardAt ?? -Infinity)
  }

  /** See `SignOfLife`. */
  get sight(): number | null {
    return this.#sign?.sight ?? null
  }

  misses(text: string | null): boolean {
    return text !== null && this.#sign?.misses(text) === true
  }

  async confirms(text: string | null): Promise<boolean> {
    return text !== null && (await this.#sign?.confirms(text)) === true
  }

  /** Begins to give a sign, as this worker. It is given when others have been told, by the next heartbeat. */
  enter(workerId: number, database: string): void {
    if (this.#coordination === null) return
    this.#awaySince ??= performance.now()
    this.#begin(this.#coordination, { ...this.#circle, database, workerId })
  }

  /** A heartbeat that says so is about to be sent; call what it returns once it is written. */
  telling(text: string | null): () => void {
    this.#inRow ??= text
    return () => void (this.#inRow = text)
  }

  /** Ends the sign, with the life that it was given for. */
  async leave(): Promise<void> {
    clearTimeout(this.#renewal)
    const sign = this.#sign
    this.#sign = null
    this.#inRow = null
    await sign?.leave()
  }

  #begin(coordination: Coordination, entrant: Entrant): void {
    // Of a sign that was left nothing is heard any more.
    const heard = (hear: () => void) => (): void => {
      if (this.#sign === sign) hear()
    }
    const { onNews } = this.#options
    const sign: SignOfLife = coordination.enter(entrant, {
      onGiven: heard(() => this.#onGiven(sign.sessionMs)),
      onAway: (error) => heard(() => this.#onAway(error))(),
      onNews: heard(onNews),
      onEnded: (error) =>
        heard(() => {
          this.#sign = null
          this.#onAway(error)
          if (this.#inRow !== null) {
            this.#options.onLost(`Others may take this worker for dead: ${describeError(error)}`)
          } else this.#renewal = setTimeout(() => this.#begin(coordination, entrant), renewMs)
        })(),
    })
    this.#sign = sign
  }

  #onGiven(sessionMs: number): void {
    const awayMs = performance.now() - (this.#awaySince ?? performance.now())
    this.#awaySince = null
    this.#toldAway = false
    this.#emit({ type: 'coordination_up', downMs: awayMs, sessionMs })
    this.#options.onNews()
  }

  #onAway(error: unknown): void {
    this.#awaySince ??= performance.now()
    if (!this.#toldAway) this.#emit({ type: 'coordination_down', error })
    this.#toldAway = true
    this.#options.onNews()
  }
}
