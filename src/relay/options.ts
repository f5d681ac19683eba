import type { Broker } from '../brokers/broker.ts'
import type { FailoverStrategy } from '../base/events.ts'
import type { FailoverFunction } from '../membership/failover.ts'
import { checkHeartbeat, readNumbers, refuseUnknown, requireOrder } from '../base/options.ts'
import { workerNumbers, workerOptionNames, type WorkerOptions } from '../membership/worker.ts'

export interface RelayOptions extends WorkerOptions {
  readonly broker: Broker
  /** Most messages in one batch. Two batches, of different lanes, are under way at a time. @default 500 */
  readonly batchSize?: number | undefined
  /** How often the broker may refuse a message by itself before it becomes a dead letter. @default 10 */
  readonly maxAttempts?: number | undefined
  /** First pause after a refusal; it doubles, with jitter. In milliseconds. @default 500 */
  readonly backoffMsMin?: number | undefined
  /** Longest pause after a refusal. In milliseconds. @default 300_000 */
  readonly backoffMsMax?: number | undefined
  /**
   * What happens to a key whose message became a dead letter: `park` holds its later messages back until an operator
   * decides, `skip` goes on with the next. @default 'park'
   */
  readonly onDead?: 'park' | 'skip' | undefined
  /**
   * Topics (or patterns) whose messages are sent one at a time per key. Without it, the messages of a key that are
   * behind one that the broker refuses *by itself*, in the same batch, have been sent already. @default none
   */
  readonly strictSend?: boolean | readonly string[] | undefined
  /**
   * Who gets the lanes that a dead relay leaves: whoever comes first, the living in turn, one at random, the one with
   * the least in flight, the one to whom a lane always goes (`sticky`), or whom a function chooses. @default 'first-free'
   */
  readonly failover?: FailoverStrategy | FailoverFunction | undefined
  /** How long what was dealt out is reserved, before anybody may take it. In milliseconds. @default 2000 */
  readonly failoverGraceMs?: number | undefined
  /**
   * How long dead letters are kept; 0 until somebody redrives or skips them. Those behind which a key is held back are
   * kept in any case. In milliseconds. @default 0
   */
  readonly keepDeadMs?: number | undefined
}

/** The relay's options that are numbers. */
const relayNumbers = [
  ...workerNumbers,
  'batchSize',
  'maxAttempts',
  'backoffMsMin',
  'backoffMsMax',
  'failoverGraceMs',
  'keepDeadMs',
] as const
export type RelaySettings = Record<(typeof relayNumbers)[number], number>

/** The numbers, with their defaults. @throws OptionError for an option that is unknown, or a number that cannot be */
export function readSettings(options: RelayOptions): RelaySettings {
  refuseUnknown('createRelay', options, [
    ...workerOptionNames,
    ...relayNumbers,
    'broker',
    'onDead',
    'strictSend',
    'failover',
  ])
  const settings = readNumbers(options, relayNumbers)
  checkHeartbeat(settings)
  requireOrder(settings, 'pollMs', 'pollMsMax', 'the pause grows from one to the other')
  requireOrder(settings, 'backoffMsMin', 'backoffMsMax', 'the pause grows from one to the other')
  return settings
}
