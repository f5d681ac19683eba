import type { Evidence } from '../database/evidence.ts'
import { sqlstate } from '../database/sqlstate.ts'
import { LeaseLostError, TransactionError } from '../base/errors.ts'
import type { Membership } from '../membership/membership.ts'
import type { Claim } from './claim.ts'

/** When the connection of a handler's transaction was lost: before the handler was called, while it ran, or at the commit. */
export type Phase = 'before' | 'handling' | 'ending'

/** The connection of a handler's transaction is gone, or none could be had. */
export class Interrupted extends Error {
  readonly phase: Phase
  /** What the connection has told; null if there was none. */
  readonly evidence: Evidence | null
  /** By the monotonic clock, since when the connection was this handler's. */
  readonly since: number

  constructor(phase: Phase, cause: unknown, evidence: Evidence | null, since: number) {
    super('Handling was interrupted.', { cause })
    this.phase = phase
    this.evidence = evidence
    this.since = since
  }

  /** Whether the messages may have been completed all the same, so that they must be read again. */
  get open(): boolean {
    return this.phase === 'ending'
  }
}

/** The handler's transaction lost against another one, and was rolled back. */
export class Conflict extends Error {
  constructor(cause: unknown) {
    super('The transaction of a handler lost against another one.', { cause })
  }
}

/** The claims that a completion has not found are in other hands. */
export function lost(claims: readonly Claim[]): LeaseLostError {
  return new LeaseLostError(
    `The claim on ${claims.length === 1 ? `message ${claims[0]!.id}` : `${claims.length} messages`} was lost while the handler of "${claims[0]!.topic}" was running. Another worker has it. Raise leaseMs, or make the handler stop when its signal aborts.`,
  )
}

/** What has ended the handling: the error itself, without what says in here how it was met. */
export const causeOf = (error: unknown): unknown =>
  error instanceof Interrupted || error instanceof Conflict ? error.cause : error

/** Of all connections that a server's end takes with it, one may be the first to know. */
const graceMs = 100
/** So often in a row a message's connection may be lost together with all others before that counts. */
const innocentMax = 10
const rememberedMax = 1000

/**
 * Whose fault it was that the connection of a handler's transaction was lost: the message's, if it has ended its own
 * session (by standing idle in the transaction, with a statement that crashes its process, by terminating it), or the
 * database's. Only connections tell: what the server said on this one, and whether the worker's other one, open since
 * before, still answers. What is the message's counts as a failed attempt, or it would be repeated for ever.
 *
 * A session that was not told of a crash need not have caused it: whoever was writing just then loses what he was to
 * read, and client_min_messages may forbid it. So it only makes its message suspicious, as a batch that was ended makes
 * all of its messages. Such messages are handled alone and one after the other; whose session crashes then, is to blame.
 */
export class Interruptions {
  readonly #membership: Pick<Membership, 'look'>
  /** Failed attempts that are still to be written down, by message. */
  readonly #owed = new Map<string, unknown>()
  /** How often in a row a message was interrupted when nothing else answered either. */
  readonly #innocent = new Map<string, number>()
  readonly #quarantine = new Map<string, true>()

  constructor(membership: Pick<Membership, 'look'>) {
    this.#membership = membership
  }

  /**
   * Whether the messages are to blame. What is owed for a single one is kept until it is next to be handled, since a
   * crash of the server ends all claims, and a commit of which nothing was heard may have taken place.
   */
  async blames(interrupted: Interrupted, claims: readonly Claim[]): Promise<boolean> {
    const [first, ...others] = claims
    if (first === undefined) return false
    const guilt = await this.#guilt(interrupted, first)
    if (guilt === 'none') return false
    const blamed = guilt === 'sure' || (others.length === 0 && this.quarantines(first))
    if (blamed && others.length === 0) remember(this.#owed, first.id, reasonOf(interrupted, first.topic))
    else for (const { id } of claims) remember(this.#quarantine, id, true)
    return blamed
  }

  /** Whether it may have ended its session or crashed the server, and nobody knows: not to be handled with others. */
  quarantines({ id }: Claim): boolean {
    return this.#quarantine.size > 0 && this.#quarantine.has(id)
  }

  /** The failure of an attempt at this message that was not written down yet; undefined if there is none. */
  owedBy({ id }: Claim): unknown {
    return this.#owed.size === 0 ? undefined : this.#owed.get(id)
  }

  /** It has been written down. */
  settled({ id }: Claim): void {
    this.#owed.delete(id)
  }

  /** These were handled: whatever has happened to their connections, it was not their fault. */
  acquit(claims: readonly Claim[]): void {
    for (const acquitted of [this.#innocent, this.#quarantine]) {
      if (acquitted.size > 0) for (const { id } of claims) acquitted.delete(id)
    }
  }

  async #guilt(
    { phase, evidence, since }: Interrupted,
    { id }: Claim,
  ): Promise<'none' | 'possible' | 'sure'> {
    if (phase === 'before' || evidence === null) return 'none'
    const state = sqlstate(evidence.gone)
    // It stood idle in its transaction for too long, or the transaction took too long.
    if (state === '25P03' || state === '25P04') return 'sure'
    // The server said that something else ends it.
    if (evidence.spared) return 'none'
    await new Promise((resolve) => setTimeout(resolve, graceMs))
    // One that was opened while the handler ran tells nothing: what has cut the worker off may have cut both, and a handler
    // hears of it when it next asks.
    const sight = await this.#membership.look(since)
    if (sight === 'well') return 'sure'
    if (sight === 'read-only') return 'none'
    // A process of the server has crashed, and this session was not told: it may have been the one.
    if (sight === 'crashed' && state === null) return 'possible'
    const times = (this.#innocent.get(id) ?? 0) + 1
    remember(this.#innocent, id, times)
    return times > innocentMax ? 'sure' : 'none'
  }
}

/** The attempt's error: its own, unless its connection was ended from outside. */
function reasonOf({ evidence, cause }: Interrupted, topic: string): unknown {
  const gone = evidence?.gone ?? null
  if (gone === null) return cause
  const state = sqlstate(gone)
  return new TransactionError(
    'CONNECTION_ENDED',
    `The connection of the handler's transaction was ended while "${topic}" was handled: ${gone.message}${state === null ? '' : ` (SQLSTATE ${state})`}. ${adviceOn(state)}`,
    { cause: gone },
  )
}

function adviceOn(state: string | null): string {
  if (state === '25P03') {
    return 'Let the handler do what takes long outside of its transaction (transaction: false), or raise idle_in_transaction_session_timeout.'
  }
  if (state === '25P04') {
    return 'Let the handler do less in its transaction, or raise transaction_timeout.'
  }
  return 'Other connections of the worker live on, so this counts as an attempt.'
}

/** Keeps the latest: what is lost to other workers meanwhile is never asked for again. */
function remember<Value>(map: Map<string, Value>, id: string, value: Value): void {
  map.delete(id)
  map.set(id, value)
  if (map.size > rememberedMax) map.delete(map.keys().next().value!)
}
