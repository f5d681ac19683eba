import { describeError, warn, type BrokerError } from './errors.ts'

/**
 * What happened: one typed stream that logs, metrics and tests all read.
 *
 * An event is emitted after the commit that it reports, and is lost if the process dies in between: count on the
 * tables for truth, on events for timeliness. No event carries a payload, a header or a key's messages.
 */
export type WorkerKind = 'relay' | 'receiver' | 'claimer'

/**
 * Who gets what a dead worker leaves: whoever comes first, or the living in turn, at random, the least busy one, or the one to whom a
 * lane always goes.
 */
export type FailoverStrategy = 'first-free' | 'round-robin' | 'random' | 'least-work' | 'sticky'

/** By what a worker is found dead. */
export type DeathSign = 'lock' | 'heartbeat' | 'session'

interface Common {
  readonly kind: WorkerKind
  /** Null for the relay. */
  readonly consumer: string | null
  /** The id in the table `worker`; null until registered. */
  readonly workerId: number | null
}

type Happening =
  | { readonly type: 'started' }
  | { readonly type: 'stopped'; readonly released: number }
  /** The relay had these messages confirmed by the broker and took them out of the outbox. */
  | {
      readonly type: 'sent'
      readonly ids: readonly string[]
      /** How many of each topic. */
      readonly topics: Readonly<Record<string, number>>
      /** The broker's name. */
      readonly broker: string
      /** With fractions; all other times of events are whole milliseconds. */
      readonly durationMs: number
    }
  /** The broker refused a message by itself, or a handler failed. `dead` if it will not be tried again. */
  | {
      readonly type: 'message_failed'
      readonly id: string
      readonly topic: string
      readonly key: string | null
      readonly attempt: number
      readonly error: unknown
      /** By what the failure was noticed; `death` if it had no attempt left that its workers survived. */
      readonly foundBy: 'error' | 'timeout' | 'death' | 'schema'
      /** When it is tried again; null if it is not. */
      readonly retryInMs: number | null
    }
  /** A message will not be tried again. The reason is that of its last error, or `expired`. */
  | {
      readonly type: 'dead_letter'
      readonly id: string
      readonly topic: string
      readonly attempt: number
      readonly reason: string
    }
  /** This claimer has no handler for the topic: these wait apart until a claimer has one. */
  | { readonly type: 'set_aside'; readonly topic: string; readonly ids: readonly string[] }
  /** The same with `unknown: 'drop'`: these are gone. */
  | { readonly type: 'dropped'; readonly topic: string; readonly ids: readonly string[] }
  /** A key is held back: its failed message and all later ones wait, other keys go on. Null means until redriven. */
  | { readonly type: 'parked'; readonly key: string; readonly forMs: number | null }
  | {
      readonly type: 'received'
      readonly fresh: number
      readonly duplicates: number
      /** Dead letters, since another message with another content has had their identity. Each is told by `refused` as well. */
      readonly collisions: number
      /** The broker's name. */
      readonly broker: string
      readonly durationMs: number
    }
  /** No receiver has named these for `unsubscribeAfterMs`, so the consumer no longer receives them. */
  | { readonly type: 'unsubscribed'; readonly topics: readonly string[] }
  /**
   * Records that this consumer had not read are gone: Kafka keeps them for so long only (`retention.ms`, `retention.bytes`), and the
   * consumer was away for longer. It goes on at `to`, the first that is left; nothing brings back those from `from` on.
   */
  | {
      readonly type: 'retention_gap'
      readonly topic: string
      readonly partition: number
      readonly from: number
      readonly to: number
    }
  /** A delivery that is no message: it was stored as a dead letter and acknowledged. */
  | { readonly type: 'refused'; readonly topic: string; readonly reason: string }
  | { readonly type: 'claimed'; readonly ids: readonly string[] }
  | {
      readonly type: 'handled'
      readonly ids: readonly string[]
      readonly topic: string
      readonly attempt: number
      readonly durationMs: number
    }
  /** A handler has run for longer than `stuckAfterMs`, and goes on. Told again each time after twice as long. */
  | {
      readonly type: 'handler_stuck'
      readonly ids: readonly string[]
      readonly topic: string
      readonly forMs: number
    }
  /**
   * Messages of several keys have failed alike, and none has succeeded between: the topic pauses. No attempt is counted, and one
   * message at a time tries, until one succeeds. The reason is the code or the class of the errors.
   */
  | {
      readonly type: 'circuit_opened'
      readonly topic: string
      readonly reason: string
      readonly error: unknown
    }
  /** A message has succeeded, here or at another claimer, and the topic goes on. */
  | { readonly type: 'circuit_closed'; readonly topic: string; readonly pausedMs: number }
  /** This worker's write came too late and changed nothing; somebody else has the messages or lanes now. */
  | {
      readonly type: 'lease_lost'
      readonly ids: readonly string[]
      readonly lanes: readonly number[]
      readonly reason: string
    }
  | { readonly type: 'lanes_taken'; readonly lanes: readonly number[] }
  /**
   * The sequence of this table had gone back, by a restore, a switch to a replica or a truncation, and was set forward to
   * where its numbers had been. All is sent and handled. But of one key, what was written in between may have gone before what
   * is older, or after what is newer; of what was written in between itself, the part beyond where the lane had been read
   * before may have gone first.
   */
  | {
      readonly type: 'sequence_mended'
      readonly table: string
      readonly from: number
      readonly to: number
    }
  /** Messages were found in these lanes below where all were known to be done. They are worked on, late. */
  | { readonly type: 'found_below'; readonly lanes: readonly number[] }
  | { readonly type: 'lanes_released'; readonly lanes: readonly number[] }
  /** A survivor found that a worker is gone. */
  | {
      readonly type: 'worker_dead'
      readonly deadWorkerId: number
      /**
       * Its session's lock is free, so its process is gone; it gave no sign of life for `deadAfterMs`; or its session of ZooKeeper has ended,
       * since its process is gone, frozen or cut off.
       */
      readonly foundBy: DeathSign
      /** How long the dead one had not given a sign of life. */
      readonly silentMs: number
      readonly strategy: FailoverStrategy | 'custom'
    }
  /** This worker now continues what another one held. */
  | {
      readonly type: 'takeover'
      readonly fromWorkerId: number
      /** How the other was found to have failed; `lease` if it was not, and its lease has lapsed. */
      readonly foundBy: DeathSign | 'evict' | 'lease'
      readonly strategy: FailoverStrategy | 'custom'
      readonly lanes: readonly number[]
      readonly rows: number
    }
  /** The broker is out of reach, or back. Nothing is counted against messages meanwhile. */
  | { readonly type: 'broker_down'; readonly error: BrokerError; readonly retryInMs: number }
  | { readonly type: 'broker_up'; readonly downMs: number }
  | { readonly type: 'database_down'; readonly error: unknown; readonly retryInMs: number }
  | { readonly type: 'database_up'; readonly downMs: number }
  /**
   * There is a pooler between this worker and the database, so its session can hold no lock: others will find its death
   * by its heartbeat, after `deadAfterMs`, and not at once.
   */
  | { readonly type: 'lock_unavailable' }
  /**
   * The coordination (ZooKeeper) does not answer, or has ended this worker's session. Until it is back, this worker is judged, and judges
   * others, by heartbeats and locks alone.
   */
  | { readonly type: 'coordination_down'; readonly error: unknown }
  /** It answers, for the first time or again, and ends the session of this worker so long after it has heard of it last. */
  | { readonly type: 'coordination_up'; readonly downMs: number; readonly sessionMs: number }
  /** The event loop stood still for so long; leases may have lapsed meanwhile. */
  | { readonly type: 'stalled'; readonly forMs: number }
  /** A defect or an unforeseen error; the worker goes on. */
  | { readonly type: 'trouble'; readonly error: unknown; readonly doing: string }

export type TwinboxEvent = Happening & Common

/** Its result is not waited for; what it throws, or rejects with, becomes a warning of the process. */
export type OnEvent = (event: TwinboxEvent) => void

export type Emit = (happening: Happening) => void

/** Who is told: the observer of the options, and that of their telemetry. */
interface Observers {
  readonly onEvent?: OnEvent | undefined
  readonly telemetry?: { readonly onEvent?: OnEvent | undefined } | undefined
}

/** Clocks and jitter give fractions of a millisecond, which say nothing of a pause. Of how long something took they do. */
function inWholeMs<Event extends object>(event: Event): Event {
  const fields = event as Record<string, unknown>
  for (const [name, value] of Object.entries(fields))
    if (typeof value === 'number' && name.endsWith('Ms') && name !== 'durationMs')
      fields[name] = Math.round(value)
  return event
}

/**
 * Binds the facts that all events of a worker share. An observer that throws, or rejects, must not hurt the work: an
 * unhandled rejection would end the process.
 */
export function emitter({ onEvent, telemetry }: Observers, common: () => Common): Emit {
  const observers = [onEvent, telemetry?.onEvent].filter((observer) => observer !== undefined)
  if (observers.length === 0) return () => {}
  return (happening) => {
    const event = inWholeMs({ ...happening, ...common() })
    for (const observe of observers) {
      const complain = (error: unknown): void =>
        warn(`An onEvent observer threw on "${happening.type}": ${describeError(error)}`)
      try {
        const ended: unknown = observe(event)
        // A promise of another realm is none of ours, and ends the process all the same.
        if (typeof ended === 'object' && ended !== null && 'then' in ended)
          Promise.resolve(ended).catch(complain)
      } catch (error) {
        complain(error)
      }
    }
  }
}
