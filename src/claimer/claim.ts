import type pg from 'pg'
import { Abort } from './abort.ts'
import type { Moves } from '../base/state.ts'
import { attributePrefix, attributesOf } from '../message/attributes.ts'
import type { Message } from '../message/message.ts'
import { withFields } from '../message/row.ts'
import { parseHeaders, type Trace, type TracedMessage } from '../base/telemetry.ts'
import type { ClaimedRow } from '../database/sql/inbox.ts'

/** Those of one key wait for each other. */
export const queueOf = ({ lane, key }: Pick<ClaimedRow, 'lane' | 'key'>): string => `${lane} ${key}`

/**
 * Where a message in flight is. `InFlight` alone moves it, along these arrows:
 *
 * - `waiting`: it may be handled, those with a key when it is their turn. Read or claimed; or its pause is over.
 * - `handling`: it was given out. Its handler runs, or has ended and it is being decided what becomes of it.
 * - `handled`: its handler has returned, it is being completed, and the next of its key need not wait for that.
 * - `settling`: what becomes of it is on the way to the database. If that fails, it is decided anew.
 * - `pausing`: it waits in flight for its next attempt, or for its topic to go on. What is behind it in its key waits
 * with it.
 * - `gone`: it has ended, was given back, or was lost. A lease may be lost at any moment, so whatever is asked of one that
 *   is gone does nothing; all else that no arrow allows is a defect.
 */
export type ClaimState = 'waiting' | 'handling' | 'handled' | 'settling' | 'pausing' | 'gone'

export const claimMoves: Moves<ClaimState> = {
  waiting: ['handling', 'gone'],
  handling: ['handled', 'settling', 'pausing', 'waiting', 'gone'],
  handled: ['gone'],
  settling: ['handling', 'pausing', 'waiting', 'gone'],
  pausing: ['waiting', 'gone'],
  gone: [],
}

/** What may be told of an error of a message. */
export type Told = (error: unknown, claim: Claim) => unknown

/** A message that this claimer holds, from the claim to the settlement. */
export class Claim {
  state: ClaimState = 'waiting'
  readonly lane: number
  readonly seq: number
  readonly fence: number
  readonly keyed: boolean
  /** It was read past a hot key of its lane, and stands beyond where the lane is read in order. */
  readonly past: boolean
  readonly bytes: number
  /** A dead claimer had it in flight, and it may be why. */
  readonly quarantined: boolean
  attempt: number
  /** On which it was claimed: it is held there and nowhere else. */
  readonly server: string
  /** By the monotonic clock, until when the lease on the row is sure to run. Lanes keep their own. */
  leasedUntil = Infinity
  /** By the monotonic clock, until when it may be handled. */
  readonly expiresAt: number
  /** The connection on which its handler's transaction is open. */
  transaction: pg.ClientBase | null = null
  /** Not to be handled in a batch: the last batch that it was in has failed. */
  alone = false
  /** Its topic pauses, and it is the one that tries whether that must go on. */
  tries = false
  /** What the schema of its topic has made of the payload, for the handler that is called next; null without a schema. */
  read: { readonly value: unknown } | null = null
  /** Of a handler that was called at once, what is traced of it. */
  trace: Trace | null = null
  /** How often its handler's transaction has lost against another one and was repeated without counting. */
  conflicts = 0
  /** Aborted when the claim is lost, when its handler runs too long, and when the claimer stops. */
  abort = new Abort()
  readonly id: string
  readonly topic: string
  readonly key: string | null
  #row: ClaimedRow | null
  /** Its times as they were read, once their dates have been handed out. */
  #published: number | null = null
  #received: number | null = null
  #expires: number | null = null

  constructor(row: ClaimedRow, server: string, keyed: boolean, past = false) {
    this.#row = row
    this.server = server
    this.past = past
    this.id = row.id
    this.topic = row.topic
    this.key = row.key
    this.lane = row.lane
    this.seq = row.seq
    this.fence = row.fence
    this.keyed = keyed
    this.quarantined = row.crashes > 0
    this.expiresAt = row.expires_in_ms === null ? Infinity : performance.now() + row.expires_in_ms
    this.attempt = keyed ? row.attempt + 1 : row.attempt
    this.bytes = (row.payload?.length ?? row.body?.length ?? 0) + 500
  }

  /** For the next attempt under the same claim. */
  renewAbort(): void {
    this.abort = new Abort()
  }

  /** It was handled and will not be again: its content need not wait for the completion, among what is long-lived. */
  forgetContent(): void {
    this.#row = null
  }

  get #content(): ClaimedRow {
    if (this.#row === null) throw new Error('The message was handled before.')
    return this.#row
  }

  /** As a tracer sees it. */
  traced(consumer: string): TracedMessage {
    const { id, topic, headers, payload, body } = this.#content
    return { consumer, id, topic, headers: parseHeaders(headers), bytes: (payload ?? body)?.length ?? 0 }
  }

  /** Parsed anew each time. */
  get payload(): unknown {
    return parse(this.#content)
  }

  /** One of its headers, or an attribute of that name. */
  said(name: string): string | undefined {
    const headers = parseHeaders(this.#content.headers)
    return headers?.[name] ?? headers?.[`${attributePrefix}${name}`]
  }

  /**
   * Parsed only when a handler is to have it, and anew for each attempt: a handler may change what it is given and then fail,
   * and the next attempt has to see what was published. The dates of the row are given to the first attempt, which is mostly
   * the only one.
   */
  get message(): Message {
    const row = this.#content
    const headers = parseHeaders(row.headers)
    const first = this.#received === null
    if (first) {
      this.#published = row.published_at && row.published_at.getTime()
      this.#received = row.received_at.getTime()
      this.#expires = row.expires_at && row.expires_at.getTime()
    }
    const { read } = this
    if (read !== null) this.read = null
    return withFields(row, {
      headers: headers ?? {},
      attributes: attributesOf(headers),
      payload: read === null ? parse(row) : read.value,
      publishedAt: first ? row.published_at : dateOf(this.#published),
      receivedAt: first ? row.received_at : new Date(this.#received!),
      expiresAt: first ? row.expires_at : dateOf(this.#expires),
    })
  }
}

const parse = ({ payload, body }: ClaimedRow): unknown =>
  payload === null ? body && Buffer.from(body) : (JSON.parse(payload) as unknown)

const dateOf = (ms: number | null): Date | null => (ms === null ? null : new Date(ms))
