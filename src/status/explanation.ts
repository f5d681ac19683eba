import type { WorkerKind } from '../base/events.ts'
import type { MessageState } from '../database/sql/placed.ts'
import type { Intervention } from '../operate/letter.ts'
import type { WorkerStatus } from '../operate/workers.ts'
import type { PausedTopic } from './paused.ts'

/**
 * Why a message is where it is.
 *
 * It waits: `delayed` (published for a later time), `retry` (for its next attempt), `put_off` (its topic pauses), `behind_parked` (its key is held
 * back behind another one), `behind` (an earlier one of its key), `in_flight` (a worker has it), `paused` (its topic), `no_worker`, `no_handler`,
 * `dead_holder` (whoever holds it or its lane is dead, and nobody has taken over yet), `free` (nobody holds it or its lane, and somebody
 * living will), `broker_down` (whoever holds its lane cannot reach the broker), `below` (its lane
 * is read from behind it, since a sequence has gone back: it is found within minutes), `queued` (others of its lane go first, or it is next).
 *
 * It does not: `dead` (a dead letter), `handled`, `gone` (received and no longer there), `removed` (by an operator), `unknown`.
 */
export type Why =
  | 'delayed'
  | 'retry'
  | 'put_off'
  | 'behind_parked'
  | 'behind'
  | 'in_flight'
  | 'paused'
  | 'no_worker'
  | 'no_handler'
  | 'dead_holder'
  | 'free'
  | 'queued'
  | 'below'
  | 'broker_down'
  | 'dead'
  | 'handled'
  | 'gone'
  | 'removed'
  | 'unknown'

/** A worker that has a message in flight, holds its lane, or has handled it. */
export interface ExplainedWorker {
  readonly id: number
  /** Null of a worker that ended so long ago that it is forgotten; so are the others. */
  readonly kind: WorkerKind | null
  readonly host: string | null
  readonly pid: number | null
  /** `forgotten`: it ended more than ten minutes ago. */
  readonly state: WorkerStatus['state'] | 'forgotten'
  /** Age of its last heartbeat; null once it is forgotten. */
  readonly lastBeatMs: number | null
  readonly endedAt: Date | null
  readonly endedBy: WorkerStatus['endedBy']
  /** Since when it has held the lane, and until when its right lasts; null if that is not about a lane. */
  readonly laneSince: Date | null
  readonly leaseUntil: Date | null
  /** A handler of this message's topic there that does not end, and since when. */
  readonly stuckSince: Date | null
  /** Of a relay whose broker is out of reach: why, and since when. */
  readonly brokerError: string | null
  readonly brokerDownSince: Date | null
}

/** What a message waits behind. */
export interface ExplainedBlocker {
  /** Null if it is among those that were not looked at. */
  readonly id: string | null
  /** The number, if it is a dead letter. */
  readonly letter: number | null
  readonly inFlight: boolean
  /** Of a parked key's message: how often it was tried, and how that failed. */
  readonly attempt: number | null
  readonly error: string | null
}

/** A transaction that may have published a message and has not ended. */
export interface OpenTransaction {
  readonly pid: number
  readonly application: string
  readonly user: string
  /** Since when it runs; null if this user may not see that. */
  readonly since: Date | null
}

/** A message in one place, with the evidence for why it is there. */
export interface ExplainedPlace {
  /** All that stands below, in one sentence. Times are UTC. */
  readonly sentence: string
  readonly why: Why
  /** Where it is; null if it is nowhere any more. */
  readonly state: MessageState | null
  /** Null for the outbox, and if nothing is known. */
  readonly consumer: string | null
  readonly topic: string | null
  readonly key: string | null
  readonly lane: number | null
  /** When it came there; of what was handled or removed, when that was. */
  readonly since: Date | null
  /** When it, or its key, goes on; null if that is not known, or an operator's to say. */
  readonly until: Date | null
  readonly expiresAt: Date | null
  readonly attempt: number | null
  /** How its last attempt failed; of a dead letter, why it is one. */
  readonly error: string | null
  /** The number, of a dead letter. */
  readonly letter: number | null
  readonly behind: ExplainedBlocker | null
  /** How many messages stand before it in its lane, and how many of them are of its key; `more` if there are more than were counted. */
  readonly ahead: { readonly lane: number; readonly key: number; readonly more: boolean } | null
  readonly worker: ExplainedWorker | null
  /** How many living workers could do it: relays of the outbox, claimers of an inbox. */
  readonly workers: number | null
  readonly paused: PausedTopic | null
  /** Of the outbox: whether no consumer of this schema wants the topic, while they want others. */
  readonly unwanted: boolean
  /** What an operator did last. */
  readonly intervention: Intervention | null
  /** If nothing is known of it. */
  readonly transactions: readonly OpenTransaction[]
}

/** What a sentence is made of. */
export type Evidence = Omit<ExplainedPlace, 'sentence'>

export interface Explanation {
  readonly id: string
  /** When this was so, by the database's clock. */
  readonly at: Date
  /** Whether anything is known of it. */
  readonly known: boolean
  /** Whether all was looked at where it could be; otherwise it may be in a place that is not told. See `all`. */
  readonly complete: boolean
  /** At least one. In several inboxes, it is there once for each. */
  readonly places: readonly ExplainedPlace[]
}

export const nothing: Evidence = {
  ...{ why: 'unknown', state: null, consumer: null, topic: null, key: null, lane: null, since: null },
  ...{ until: null, expiresAt: null, attempt: null, error: null, letter: null, behind: null, ahead: null },
  ...{ worker: null, workers: null, paused: null, unwanted: false, intervention: null, transactions: [] },
}
