import { TwinboxError } from './errors.ts'

/** For each state, those that may follow it. */
export type Moves<State extends string> = Readonly<Record<State, readonly State[]>>

/**
 * What tests do about an impossible move. A switch and not a guess: neither an environment variable nor a loaded test runner
 * says that this process is a test, and a user's own tests must see what production does.
 */
let tripwire: ((defect: TwinboxError) => never) | null = null

/** Has each impossible move of this process throw, for tests; null lifts it. Nothing in `src` or `proof` calls it. */
export function layTripwire(trip: ((defect: TwinboxError) => never) | null): void {
  tripwire = trip
}

/**
 * Null if something may go from one state to another. Otherwise the defect: who asked has to tell of it, and to give back
 * what it can no longer answer for. A move that is asked for twice is impossible too, unless the moves list it.
 *
 * @throws the defect, in tests
 */
export function defectOf<State extends string>(
  what: string,
  moves: Moves<State>,
  from: State,
  to: State,
): TwinboxError | null {
  if (moves[from].includes(to)) return null
  const defect = new TwinboxError(
    'IMPOSSIBLE_MOVE',
    `${what} cannot go from "${from}" to "${to}". This is a defect of Twinbox: please report it with this stack. What was held is given back, and the work goes on.`,
  )
  return tripwire === null ? defect : tripwire(defect)
}

/** Something that is in one named state at a time. */
export class StateMachine<State extends string> {
  readonly #what: string
  readonly #moves: Moves<State>
  readonly #onDefect: (defect: TwinboxError) => void
  #state: State

  /** @param onDefect told of an impossible move, after which the state is what it was; it gives back what was held */
  constructor(what: string, moves: Moves<State>, state: State, onDefect: (defect: TwinboxError) => void) {
    this.#what = what
    this.#moves = moves
    this.#state = state
    this.#onDefect = onDefect
  }

  get state(): State {
    return this.#state
  }

  is(...states: readonly State[]): boolean {
    return states.includes(this.#state)
  }

  /** Goes to a state. False if that is impossible. */
  go(to: State): boolean {
    const defect = defectOf(this.#what, this.#moves, this.#state, to)
    if (defect === null) this.#state = to
    else this.#onDefect(defect)
    return defect === null
  }
}
