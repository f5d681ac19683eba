import { isOutage } from '../database/evidence.ts'
import { BrokerError, codeOf, describeError, textMax, TwinboxError } from '../base/errors.ts'
import type { OnEvent, TwinboxEvent } from '../base/events.ts'
import { printableLine, redactCut } from '../base/printable.ts'
import { framesOf } from '../base/record.ts'
import { ms } from '../base/times.ts'

/** The one place that decides with which words and how loudly an event is told. */

export type LogLevel = 'debug' | 'info' | 'warn' | 'error'

/** pino, `console`, or anything else with these four: each takes the facts as an object, then a sentence. */
export type Logger = Readonly<Record<LogLevel, (facts: object, text: string) => void>>

export interface LogOptions {
  /** Whether errors are told with their stacks and causes. @default false */
  readonly stacks?: boolean | undefined
}

/**
 * An `onEvent` that tells a logger: every message at `debug`, workers and lanes at `info`, what was repeated or taken
 * over at `warn`, what needs somebody at `error`. The facts are the event's own; no payload, header or password is
 * among them. What a handler's own error says is told as it is, but for passwords in URLs.
 */
export function logEvents(logger: Logger, options: LogOptions = {}): OnEvent {
  const stacks = options.stacks === true
  return (event) => {
    const { level, text } = tell(event)
    const why = 'error' in event ? `: ${report(event.error, stacks)}` : ''
    logger[level](facts(event, stacks), printableLine(text.slice(0, textMax)) + why)
  }
}

/** An error as an object would show whatever a driver has put on it: values of a row, a connection's password. */
function facts(event: TwinboxEvent, stacks: boolean): object {
  if (!('error' in event)) return event
  return { ...event, error: report(event.error, stacks), code: codeOf(event.error) }
}

/** Without its error, which stands behind it. */
function tell(event: TwinboxEvent): { level: LogLevel; text: string } {
  const say = (level: LogLevel, text: string) => ({ level, text })
  switch (event.type) {
    case 'started':
      return say('info', 'started')
    case 'stopped':
      return say('info', event.released === 0 ? 'stopped' : `stopped; gave back ${event.released}`)
    case 'sent':
      return say('debug', `sent ${count(event.ids, 'message')} in ${ms(event.durationMs)}`)
    case 'received':
      return say('debug', `received ${event.fresh} new, ${event.duplicates} seen before`)
    case 'claimed':
      return say('debug', `claimed ${count(event.ids, 'message')}`)
    case 'handled':
      return say(
        'debug',
        `handled ${count(event.ids, 'message')} of ${event.topic} in ${ms(event.durationMs)}`,
      )
    case 'message_failed': {
      const next = event.retryInMs === null ? 'not tried again' : `again in ${ms(event.retryInMs)}`
      const of = `message ${event.id} of ${event.topic}`
      return say('warn', `attempt ${event.attempt} at ${of} failed, ${next}`)
    }
    case 'dead_letter':
      return say(
        'error',
        event.reason === 'expired'
          ? `message ${event.id} of ${event.topic} has expired and is a dead letter`
          : `message ${event.id} of ${event.topic} is a dead letter after attempt ${event.attempt}`,
      )
    case 'parked':
      return say(
        'warn',
        `the key ${event.key} is held back ${event.forMs === null ? 'until redriven' : `for ${ms(event.forMs)}`}`,
      )
    case 'set_aside':
      return say(
        'warn',
        `no handler for ${event.topic} here: ${count(event.ids, 'message')} set aside until a claimer has one`,
      )
    case 'dropped':
      return say('warn', `no handler for ${event.topic}: dropped ${count(event.ids, 'message')}`)
    case 'unsubscribed':
      return say('warn', `unsubscribed from ${event.topics.join(', ')}: no receiver has named that for long`)
    case 'handler_stuck':
      return say('warn', `the handler of ${event.topic} has not ended for ${ms(event.forMs)}`)
    case 'circuit_opened':
      return say('error', `${event.consumer} pauses ${event.topic}, one message at a time tries`)
    case 'circuit_closed':
      return say('info', `${event.consumer} goes on with ${event.topic} after ${ms(event.pausedMs)}`)
    case 'refused':
      return say(
        'error',
        `a delivery from ${event.topic} is no message and became a dead letter: ${event.reason}`,
      )
    case 'retention_gap':
      return say(
        'error',
        `${event.to - event.from} offsets of ${event.topic}, partition ${event.partition}, from ${event.from} on were deleted before ${event.consumer} had read them`,
      )
    case 'lease_lost': {
      const what = event.ids.length > 0 ? count(event.ids, 'message') : count(event.lanes, 'lane')
      return say('warn', `lost ${what}: ${event.reason}`)
    }
    case 'lanes_taken':
      return say('info', `took ${count(event.lanes, 'lane')}`)
    case 'lanes_released':
      return say('info', `gave back ${count(event.lanes, 'lane')}`)
    case 'sequence_mended':
      return say(
        'error',
        `the sequence of ${event.table} had gone back to ${event.from} and was set to ${event.to}: of one key, what was written in between may go before what is older, or after what is newer`,
      )
    case 'found_below':
      return say(
        'error',
        `messages were found in ${count(event.lanes, 'lane')} below where all were known to be done; they are worked on now`,
      )
    case 'worker_dead': {
      const how = signs[event.foundBy]
      return say('warn', `worker ${event.deadWorkerId} is dead: ${how}, silent for ${ms(event.silentMs)}`)
    }
    case 'takeover': {
      const what = event.lanes.length > 0 ? count(event.lanes, 'lane') : `${event.rows} messages`
      const how = event.foundBy === 'lease' ? 'its lease has lapsed' : `found by ${event.foundBy}`
      return say('warn', `took over ${what} of worker ${event.fromWorkerId} (${how}, ${event.strategy})`)
    }
    case 'broker_down':
      return say('error', `the broker is out of reach, again in ${ms(event.retryInMs)}`)
    case 'broker_up':
      return say('info', `the broker is back after ${ms(event.downMs)}`)
    case 'database_down':
      return say('error', `the database is out of reach, again in ${ms(event.retryInMs)}`)
    case 'database_up':
      return say('info', `the database is back after ${ms(event.downMs)}`)
    case 'lock_unavailable':
      return say(
        'warn',
        'no session lock behind this pooler: a killed worker is noticed by its heartbeat only, after deadAfterMs',
      )
    case 'coordination_down':
      return say('warn', 'ZooKeeper does not know that this worker lives: its heartbeats count alone')
    case 'coordination_up':
      return say('info', `ZooKeeper knows that this worker lives, by a session of ${ms(event.sessionMs)}`)
    case 'stalled':
      return say('warn', `the event loop stood still for ${ms(event.forMs)}`)
    case 'trouble':
      return say('error', `trouble with ${event.doing}`)
    default:
      // An event of a later version than this switch.
      return say('info', (event satisfies never as TwinboxEvent).type)
  }
}

const signs = {
  lock: 'its process is gone',
  session: 'its session of ZooKeeper has ended',
  heartbeat: 'it gives no sign of life',
} as const

const count = (things: readonly unknown[], noun: string): string =>
  `${things.length} ${noun}${things.length === 1 ? '' : 's'}`

/** What went wrong in one line, without a stack and without a password. Cut first: it may quote megabytes. */
export const sentence = (error: unknown): string => printableLine(redactCut(plain(error), textMax))

/** The sentence, or with `stacks` everything that is known: no line of it begins with what somebody has sent. */
export function report(error: unknown, stacks: boolean): string {
  if (!stacks || !(error instanceof Error)) return sentence(error)
  const causes: string[] = []
  // Counted, since an error may be its own cause's cause.
  for (let cause: unknown = error; cause instanceof Error && causes.length < 10; cause = cause.cause)
    causes.push([printableLine(describeError(cause)), ...framesOf(cause, framesMax)].join('\n'))
  return causes.join('\ncaused by ')
}

const framesMax = 50

function plain(error: unknown): string {
  if (isInvalidUrl(error)) return 'The database URL is not a valid URL. Percent-encode what is special in it.'
  const said = words(error)
  if (!(error instanceof TwinboxError) && isOutage(error)) return `The database cannot be used: ${said}`
  if (error instanceof BrokerError && error.cause !== undefined) {
    return `${said.replace(/\.$/, '')}: ${words(error.cause)}`
  }
  return said
}

function words(error: unknown): string {
  // Of several addresses that were tried in vain, Node reports an error without any text.
  if (error instanceof AggregateError && error.message === '') return words(error.errors[0])
  return error instanceof Error && error.message !== '' ? error.message : describeError(error)
}

/** `new URL` says so, and `pg` of a connection string that it cannot read. */
export const isInvalidUrl = (error: unknown): boolean =>
  error instanceof Error && 'code' in error && error.code === 'ERR_INVALID_URL'
