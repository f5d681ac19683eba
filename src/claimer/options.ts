import type { FailoverStrategy } from '../base/events.ts'
import type { FailoverFunction } from '../membership/failover.ts'
import { OptionError } from '../base/errors.ts'
import { checkConsumer, checkHeartbeat, readNumbers, refuseUnknown, requireOrder } from '../base/options.ts'
import type { Opener } from './opener.ts'
import type { Topics } from '../topics/topics.ts'
import { workerNumbers, workerOptionNames, type WorkerOptions } from '../membership/worker.ts'

/** What becomes of a message for whose topic a claimer has no handler; the first is the default. */
export const unknownPolicies = ['wait', 'fail', 'drop'] as const
export type UnknownPolicy = (typeof unknownPolicies)[number]

export interface ClaimerOptions<Defined extends Topics = Topics> extends WorkerOptions {
  /**
   * What `defineTopics` gives: handlers get the payload that the schema of a topic gives, and a message that does not fit becomes
   * a dead letter. Messages of other topics wait as those without a handler do, see `unknown`. @default any topic, any payload
   */
  readonly topics?: Defined | undefined
  /** The name under which claimers share an inbox. */
  readonly consumer: string
  /**
   * How many handlers run at a time; each one with a transaction takes a connection. @default 10
   */
  readonly concurrency?: number | undefined
  /**
   * How many messages of a key may be handled and not completed yet, for handlers without a transaction that take one message at a time.
   * With 1 the next of a key starts when the one before is completed. With more it starts when that one's handler has returned,
   * and the completions follow in order: a key with a backlog is handled many times faster. The price: after a crash, up to so many
   * messages of the key are handled again, in order, and with 1 one. It is read ahead of a key no further than a lane gives, so more
   * than 100 adds little. @default 1
   */
  readonly keyWindow?: number | undefined
  /**
   * How many messages that wait are handled one after the other in one transaction and committed together, for handlers with a
   * transaction of the claimer's that take one message at a time. Each handler is awaited before the next is called, and has its own
   * context and its own time. If one fails, all of the run is rolled back, and each is repeated alone, in a transaction of its own, with
   * no attempt counted for the others. It pays where the commit costs more than the handler. Price: what handlers lock stays locked
   * until the run has been committed, `now()` is the same for all, and what they do outside of the transaction is repeated more often.
   * A connection that is free gets its part, so a run is longer than one only with a backlog. @default 1
   */
  readonly runSize?: number | undefined
  /** Most messages in one claim. How many are claimed ahead follows from how fast they are handled. @default 500 */
  readonly batchSize?: number | undefined
  /** How often a message is attempted before it becomes a dead letter. @default 10 */
  readonly maxAttempts?: number | undefined
  /** First pause after a failure; it doubles, with jitter. In milliseconds. @default 500 */
  readonly backoffMsMin?: number | undefined
  /** Longest pause after a failure. In milliseconds. @default 300_000 */
  readonly backoffMsMax?: number | undefined
  /** How long a handler may run, from when it is called; 0 for ever. In milliseconds. @default 0 */
  readonly handleTimeoutMs?: number | undefined
  /**
   * After how long a handler that has not ended is told of, by the event `handler_stuck` and by `twinbox doctor`. It goes on; to end
   * it, set `handleTimeoutMs`. In milliseconds. @default 60_000
   */
  readonly stuckAfterMs?: number | undefined
  /**
   * What becomes of a key whose message became a dead letter: `park` holds its later messages back until an operator
   * decides, `skip` goes on with the next. @default 'park'
   */
  readonly onDead?: 'park' | 'skip' | undefined
  /**
   * What becomes of a message for whose topic this claimer has no handler. `wait`: it waits apart, without an attempt, until
   * a living claimer of the consumer has one; what follows of its key and has a handler goes on. `fail`: a failed attempt.
   * `drop`: it is gone as if it had been handled, also if another claimer has a handler. @default 'wait'
   */
  readonly unknown?: UnknownPolicy | undefined
  /**
   * Whether a topic pauses while what its handler needs is away: when five messages with different keys, or without, have
   * failed alike at their first attempt and none has succeeded between. Then no attempt is counted, one message of the consumer
   * at a time tries, after 1 s and up to 60 s, and the first success ends the pause. @default true
   */
  readonly circuit?: boolean | undefined
  /**
   * Who gets what a dead claimer of this consumer leaves: whoever comes first, the living in turn, one at random, the one
   * with the least in flight, the one to whom a lane always goes (`sticky`), or whom a function chooses. Alike in all claimers of a consumer, since the one that finds the death decides.
   * @default 'first-free'
   */
  readonly failover?: FailoverStrategy | FailoverFunction | undefined
  /** How long what was dealt out is reserved, before anybody may take it. In milliseconds. @default 2000 */
  readonly failoverGraceMs?: number | undefined
  /**
   * Gives a failed message without a key to another claimer, if there is one that takes it within `failoverGraceMs`.
   * A message with a key stays with the holder of its lane. @default false
   */
  readonly avoidLastHolder?: boolean | undefined
  /**
   * How long it is kept which messages were handled, when, by whom and at which attempt, without their payload; 0 not at
   * all. It costs each message a row more. In milliseconds. @default 0
   */
  readonly keepHandledMs?: number | undefined
  /**
   * How long dead letters are kept; 0 until somebody redrives or skips them. Those behind which a key is held back are
   * kept in any case. In milliseconds. @default 0
   */
  readonly keepDeadMs?: number | undefined
}

/** With handlers in the transactions of a data library. */
export interface LibraryClaimerOptions<Tx, Defined extends Topics = Topics> extends ClaimerOptions<Defined> {
  /**
   * Who opens the transactions of handlers: `inTransaction((run) => prisma.$transaction(run))`. Handlers then get what it calls
   * `run` with as `tx`, instead of `trx` and `client`. Without it, the claimer does, on connections of its own.
   */
  readonly transaction: Opener<Tx>
}
export type AnyClaimerOptions = ClaimerOptions & Partial<LibraryClaimerOptions<unknown>>

/** The claimer's options that are numbers. */
const claimerNumbers = [
  ...workerNumbers,
  'batchSize',
  'concurrency',
  'keyWindow',
  'runSize',
  'maxAttempts',
  'backoffMsMin',
  'backoffMsMax',
  'handleTimeoutMs',
  'stuckAfterMs',
  'failoverGraceMs',
  'keepHandledMs',
  'keepDeadMs',
] as const
export type ClaimerSettings = Readonly<Record<(typeof claimerNumbers)[number], number>>

/** The numbers, with their defaults. @throws OptionError for an option that is unknown, or a number that cannot be */
export function readSettings(options: AnyClaimerOptions): ClaimerSettings {
  refuseUnknown('createClaimer', options, [
    ...workerOptionNames,
    ...claimerNumbers,
    'consumer',
    'topics',
    'onDead',
    'unknown',
    'circuit',
    'failover',
    'avoidLastHolder',
    'transaction',
  ])
  checkConsumer(options.consumer)
  const { transaction } = options
  if (transaction !== undefined && typeof transaction?.open !== 'function') {
    throw new OptionError('transaction', 'transaction must be what inTransaction((run) => …) gives.')
  }
  const settings = readNumbers(options, claimerNumbers)
  checkHeartbeat(settings)
  requireOrder(settings, 'pollMs', 'pollMsMax', 'the pause grows from one to the other')
  requireOrder(settings, 'backoffMsMin', 'backoffMsMax', 'the pause grows from one to the other')
  return settings
}
