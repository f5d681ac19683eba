import type { Database } from '../database/database.ts'
import type { Emit } from '../base/events.ts'
import type { Lanes } from '../lanes/lanes.ts'
import { circuitSql } from '../database/sql/circuit.ts'
import { codeOf, describeError } from '../base/errors.ts'
import type { Claim, Told } from './claim.ts'
import type { InFlight } from './in-flight.ts'

/** What the database says of a topic that pauses; see `promote`. */
export interface PausedTopic {
  readonly topic: string
  readonly reason: string
  /** In how many milliseconds a message may try; not positive if one may now. */
  readonly dueInMs: number
}

interface Circuit {
  readonly since: number
  readonly reason: string
  readonly error: string
  /** Whether the other claimers can know of it. */
  shared: boolean
}

/** Messages of so many keys have to fail alike, at their first attempt, without a success between. */
const pileMax = 5
const probeMsMin = 1000
const probeMsMax = 60_000
/** Of what pauses, so many messages at most wait in flight; what is too many waits elsewhere, for so long at least. */
const heldMax = 5000
const elsewhereMs = 30_000
/** A few at most are quarantined, and each has the rest of its key wait as well: they look soon whether the pause has ended. */
const quarantinedMs = 2000
/** A topic is told by whoever publishes, and so may be their number. */
const pilesMax = 1000

interface Parts {
  readonly database: Database
  readonly consumer: string
  readonly inFlight: InFlight
  readonly lanes: Lanes
  readonly emit: Emit
  readonly told: Told
  readonly reread: (claims: readonly Claim[]) => void
  readonly dispatch: () => void
  readonly enabled: boolean
  /** Has it wait elsewhere, with what follows of its key. */
  readonly putOff: (claim: Claim, forMs: number) => Promise<void>
}

/**
 * Circuits for what the handlers of this consumer need: a service, a file, another database.
 *
 * If messages of several keys fail alike and none succeeds between, it is not the messages: their topic pauses. What comes of
 * it waits in flight, in order and without attempts; every now and then one message tries, one of all claimers of the
 * consumer; the first that succeeds ends the pause. One bad message opens nothing, since its key is one; nor do a few that fail
 * again and again among others that succeed, since only first attempts count.
 */
export class Circuits {
  readonly #parts: Parts
  readonly #sql: ReturnType<typeof circuitSql>
  /** By topic and kind of error, the keys that failed with it since the last success. */
  readonly #piles = new Map<string, Map<string, Set<string>>>()
  readonly #open = new Map<string, Circuit>()
  /** Closed here, which is still to be said to the others. */
  readonly #closing = new Set<string>()
  readonly #held = new Map<string, Set<Claim>>()
  #measured = { at: -Infinity, total: 0, lanes: new Map<number, number>() }

  constructor(parts: Parts) {
    this.#parts = parts
    this.#sql = circuitSql(parts.database.schema)
  }

  /** Whether it has to wait. A message that tries does not. */
  pauses(claim: Claim): boolean {
    return this.#open.size > 0 && this.#open.has(claim.topic) && !claim.tries
  }

  /** Keeps it, and with it what follows of its key, until its topic goes on. */
  hold(claim: Claim): void {
    claim.tries = false
    // As long as a quarantined message is in flight, others wait for it.
    if (claim.quarantined || this.waiting().total >= heldMax) {
      const forMs = claim.quarantined ? quarantinedMs : elsewhereMs
      const report = (error: unknown): void =>
        this.#parts.emit({ type: 'trouble', error, doing: 'putting off' })
      this.#parts.putOff(claim, forMs).catch(report)
      return
    }
    this.#parts.inFlight.pause(claim)
    let held = this.#held.get(claim.topic)
    if (held === undefined) this.#held.set(claim.topic, (held = new Set()))
    held.add(claim)
  }

  /** How much in flight waits for topics to go on, in all and by lane: it takes nobody's room. */
  waiting(): { readonly total: number; readonly lanes: ReadonlyMap<number, number> } {
    const { inFlight } = this.#parts
    const now = performance.now()
    if (this.#held.size === 0) return nothing
    if (now < this.#measured.at + measureMs) return this.#measured
    const lanes = new Map<number, number>()
    let total = 0
    for (const held of this.#held.values()) {
      for (const claim of held) {
        if (!inFlight.has(claim)) held.delete(claim)
        else {
          const count = claim.keyed ? Math.min(inFlight.countOfKey(claim), ofKeyMax) : 1
          total += count
          lanes.set(claim.lane, (lanes.get(claim.lane) ?? 0) + count)
        }
      }
    }
    this.#measured = { at: now, total, lanes }
    return this.#measured
  }

  /** An attempt has failed. True if that is not the message's fault: then it is not counted, and the message held. */
  failed(claim: Claim, error: unknown): boolean {
    if (!this.#parts.enabled || isVerdict(error)) return false
    if (this.#open.has(claim.topic)) return true
    if (claim.attempt > 1) return false
    const reason = reasonOf(error)
    if (!this.#piles.has(claim.topic) && this.#piles.size >= pilesMax) this.#piles.clear()
    const piles = this.#piles.get(claim.topic) ?? new Map<string, Set<string>>()
    this.#piles.set(claim.topic, piles)
    const pile = piles.get(reason) ?? new Set()
    piles.set(reason, pile.add(claim.keyed ? `${claim.lane} ${claim.key}` : claim.id))
    if (pile.size >= pileMax) {
      this.#piles.delete(claim.topic)
      this.#closing.delete(claim.topic)
      const told = this.#parts.told(error, claim)
      const opened = { since: performance.now(), reason: reasonOf(told), error: describeError(told) }
      this.#open.set(claim.topic, { ...opened, shared: false })
      this.#parts.emit({ type: 'circuit_opened', topic: claim.topic, reason: opened.reason, error: told })
    }
    return false
  }

  /** Messages were handled: their topics go on. */
  succeeded(claims: readonly Claim[]): void {
    if (this.#piles.size === 0 && this.#open.size === 0) return
    for (const { topic } of claims) {
      this.#piles.delete(topic)
      if (!this.#open.has(topic)) continue
      this.#closing.add(topic)
      this.#goOn(topic)
    }
  }

  /** Shares with the other claimers of the consumer what pauses, and has a message try where it is time. */
  async keepHouse(paused: readonly PausedTopic[]): Promise<void> {
    if (!this.#parts.enabled || (paused.length === 0 && this.#open.size === 0 && this.#closing.size === 0))
      return
    const { database, consumer } = this.#parts
    const closed = [...this.#closing]
    for (const topic of closed) {
      await database.keep(this.#sql.close, { consumer, topic })
      this.#closing.delete(topic)
    }
    const known = new Map(
      paused.filter(({ topic }) => !closed.includes(topic)).map((row) => [row.topic, row]),
    )
    for (const [topic, circuit] of this.#open) {
      if (circuit.shared && !known.has(topic)) this.#goOn(topic)
      else if (!circuit.shared) {
        const { reason, error } = circuit
        await database.keep(this.#sql.open, { consumer, topic, reason, error, probeMs: probeMsMin })
        circuit.shared = true
      }
    }
    for (const { topic, reason } of known.values()) {
      if (!this.#open.has(topic) && !this.#closing.has(topic))
        this.#open.set(topic, { since: performance.now(), reason, error: '', shared: true })
    }
    this.#leaveDrainingLanes()
    for (const { topic, dueInMs } of known.values()) if (dueInMs <= 0) await this.#try(topic)
  }

  /**
   * Has a message try, if nobody else has one try. By chance, and not the one that has waited longest: a few bad messages would
   * have their turns first, up to a minute apart, and all good ones would wait for them.
   */
  async #try(topic: string): Promise<void> {
    const { database, consumer, inFlight, dispatch } = this.#parts
    const held = this.#held.get(topic) ?? new Set()
    const mayTry = [...held].filter((claim) => inFlight.has(claim) && inFlight.leads(claim))
    const next = mayTry[Math.floor(Math.random() * mayTry.length)]
    if (next === undefined) return
    const won = await database.keep(this.#sql.probe, {
      consumer,
      topic,
      leastMs: probeMsMin,
      mostMs: probeMsMax,
    })
    if (won.length === 0 || !held.delete(next) || !inFlight.has(next)) return
    next.tries = true
    inFlight.proceed(next)
    dispatch()
  }

  #goOn(topic: string): void {
    const { inFlight, dispatch, emit } = this.#parts
    const circuit = this.#open.get(topic)!
    const held = this.#held.get(topic) ?? new Set()
    this.#open.delete(topic)
    this.#held.delete(topic)
    emit({ type: 'circuit_closed', topic, pausedMs: performance.now() - circuit.since })
    for (const claim of held) inFlight.proceed(claim)
    setImmediate(dispatch)
  }

  /** A lane that another claimer shall have is given back when nothing of it is in flight. */
  #leaveDrainingLanes(): void {
    const { lanes, reread } = this.#parts
    for (const held of this.#held.values()) {
      for (const claim of held) {
        if (!claim.keyed || lanes.held.get(claim.lane)?.draining !== true) continue
        held.delete(claim)
        reread([claim])
      }
    }
  }
}

const measureMs = 20
/** More of one key takes room: it may have 100,000 waiting, and all of them would be read. */
const ofKeyMax = 100
const nothing = { total: 0, lanes: new Map<number, number>() }

/** What a handler decides is no failure of what it needs; nor is it if there is no handler. */
function isVerdict(error: unknown): boolean {
  return /^(DEAD_LETTER|RETRY_LATER|INVALID_OPTION)$/.test(codeOf(error))
}

/** The innermost code, or the class: `fetch failed` says less than the ECONNREFUSED behind it. */
function reasonOf(error: unknown): string {
  let reason = codeOf(error)
  for (let cause = error, depth = 0; cause instanceof Error && depth < 10; cause = cause.cause, depth++) {
    const inner = cause instanceof AggregateError ? (cause.errors as unknown[])[0] : cause
    if (typeof inner === 'object' && inner !== null && 'code' in inner) reason = codeOf(inner)
  }
  return reason.slice(0, 100).replaceAll('\0', '').toWellFormed()
}
