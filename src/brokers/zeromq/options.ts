import { oneOf, readBoolean, refuseUnknown, text, whole } from '../../base/options.ts'
import { OptionError } from '../../base/errors.ts'
import { askFor, checkAnswer } from '../credentials.ts'
import { checkBind, checkConsumers, type Consumers } from './addresses.ts'
import { checkCurve, type ZeromqCurve } from './curve.ts'

export interface ZeromqOptions {
  /**
   * Who takes what, and where each consumer's receivers listen: what a relay goes by, since no broker keeps it. A message goes to
   * every consumer with a pattern that matches its topic. A receiver listens at the first of its consumer's addresses that
   * is free and belongs to its machine, unless there is `bind`; so relays and receivers may share one configuration.
   *
   * Or a function that gives it, asked every `refreshMs`: receivers may move. What it throws is an outage; until it answers, its
   * last answer stands.
   */
  readonly consumers?: Consumers | (() => Consumers | Promise<Consumers>) | undefined
  /**
   * Where a receiver listens, such as `tcp://0.0.0.0:7301`, or a function that says it for a consumer, asked whenever it begins
   * to listen. @default the first of the consumer's addresses that is free
   */
  readonly bind?: string | ((consumer: string) => string | Promise<string>) | undefined
  /**
   * Encrypts, and lets in nobody else: the key pair of this process and, for receivers, whose keys may send. Or a function that
   * gives it, asked at each connection: keys that have changed need no restart. @default none
   */
  readonly curve?: ZeromqCurve | (() => ZeromqCurve | Promise<ZeromqCurve>) | undefined
  /** Allows to send messages to other machines, and to take them from there, without `curve`. @default false */
  readonly insecure?: boolean | undefined
  /** `source` of the CloudEvents sent: who says this, as a URI reference. @default 'twinbox' */
  readonly source?: string | undefined
  /**
   * What to do with a message that no consumer takes. `fail`: it is tried again with backoff. `drop`: it counts as sent, and
   * nobody will ever see it. @default 'fail'
   */
  readonly unroutable?: 'fail' | 'drop' | undefined
  /** The longest that a `send` may take. From 100 to 600,000. @default 10000 */
  readonly sendTimeoutMs?: number | undefined
  /**
   * A receiver that has acknowledged nothing of what it was sent for so long is left for the next address, where everything is sent
   * again. From 100 to 600,000. @default 5000
   */
  readonly ackTimeoutMs?: number | undefined
  /**
   * How often both ends give a sign of life. One that is silent for three of these is taken for dead, and a connection has as long to
   * come about. From 50 to 60,000. @default 1000
   */
  readonly heartbeatMs?: number | undefined
  /** How often a function `consumers` is asked. From 50 to an hour. @default 5000 */
  readonly refreshMs?: number | undefined
  /** How many messages may wait for their acknowledgement at a time, of each consumer. From 1 to 5,000. @default 1000 */
  readonly maxUnconfirmed?: number | undefined
  /** And how many bytes; a larger message goes alone. From 1 to 1 GiB. @default 8 MiB */
  readonly maxUnconfirmedBytes?: number | undefined
  /**
   * The largest body. A relay refuses a larger one alone, for good; a receiver ends the connection of whoever sends one. Give
   * both ends the same. From 1,000 to 1 GiB. @default 16 MiB
   */
  readonly maxMessageBytes?: number | undefined
}

/** Checked options with every default filled in. */
export interface Settings {
  /** Null if there are none: then there is nothing to send to. @throws BrokerError if a function is asked */
  readonly consumers: (() => Promise<Consumers>) | null
  /** Whether they are asked for again now and then. */
  readonly moving: boolean
  /** Null if the consumers' addresses say it. @throws BrokerError if a function is asked */
  readonly bind: ((consumer: string) => Promise<string>) | null
  /** Null in the clear. @throws BrokerError if a function is asked */
  readonly curve: (() => Promise<ZeromqCurve>) | null
  readonly source: string
  readonly unroutable: 'fail' | 'drop'
  readonly sendTimeoutMs: number
  readonly ackTimeoutMs: number
  readonly heartbeatMs: number
  readonly refreshMs: number
  readonly maxUnconfirmed: number
  readonly maxUnconfirmedBytes: number
  readonly maxMessageBytes: number
}

const mebi = 1024 * 1024

/** @throws OptionError naming the option and what it must be. No key is ever part of the text. */
export function checkOptions(options: ZeromqOptions): Settings {
  if (typeof options !== 'object' || options === null) {
    throw new OptionError('options', 'zeromq() needs an object with consumers, bind, or both.')
  }
  refuseUnknown('zeromq', options, [
    'consumers',
    'bind',
    'curve',
    'insecure',
    'source',
    'unroutable',
    'sendTimeoutMs',
    'ackTimeoutMs',
    'heartbeatMs',
    'refreshMs',
    'maxUnconfirmed',
    'maxUnconfirmedBytes',
    'maxMessageBytes',
  ])
  if (options.consumers === undefined && options.bind === undefined) {
    throw new OptionError(
      'consumers',
      'zeromq() needs consumers (who takes what, and where: for relays), bind (where to listen: for receivers), or both.',
    )
  }
  const sendTimeoutMs = whole('sendTimeoutMs', options.sendTimeoutMs, 10_000, 100, 600_000)
  const way = {
    encrypted: options.curve !== undefined,
    insecure: readBoolean('insecure', options.insecure, false),
  }
  const given = <T, As extends unknown[]>(
    option: string,
    value: T | ((...as: As) => T | Promise<T>) | undefined,
    check: (value: T) => T,
  ): ((...as: As) => Promise<T>) | null => {
    if (value === undefined) return null
    if (typeof value === 'function') {
      const give = value as (...as: As) => T | Promise<T>
      return async (...as) => {
        const answer = await askFor(option, () => give(...as), sendTimeoutMs)
        return checkAnswer(option, () => check(answer))
      }
    }
    const checked = check(value)
    return async () => checked
  }
  return {
    consumers: given('consumers', options.consumers, (consumers) => checkConsumers(consumers, way)),
    moving: typeof options.consumers === 'function',
    bind: given('bind', options.bind, (bind) => checkBind(bind, way)),
    curve: given('curve', options.curve, checkCurve),
    source: text('source', options.source, 'twinbox', /^[!-~]{1,255}$/),
    unroutable: oneOf('unroutable', options.unroutable, ['fail', 'drop']),
    sendTimeoutMs,
    ackTimeoutMs: whole('ackTimeoutMs', options.ackTimeoutMs, 5000, 100, 600_000),
    heartbeatMs: whole('heartbeatMs', options.heartbeatMs, 1000, 50, 60_000),
    refreshMs: whole('refreshMs', options.refreshMs, 5000, 50, 3_600_000),
    maxUnconfirmed: whole('maxUnconfirmed', options.maxUnconfirmed, 1000, 1, 5000),
    maxUnconfirmedBytes: whole('maxUnconfirmedBytes', options.maxUnconfirmedBytes, 8 * mebi, 1, 1024 * mebi),
    maxMessageBytes: whole('maxMessageBytes', options.maxMessageBytes, 16 * mebi, 1000, 1024 * mebi),
  }
}
