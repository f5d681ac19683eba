import { types } from 'node:util'
import { codeOf, OptionError, TwinboxError } from './errors.ts'
import type { Emit } from './events.ts'

/** The message that an error is about. Its payload is not told, nor are its headers. */
export interface FailedMessage {
  /** Null for the outbox. */
  readonly consumer: string | null
  /** Null for a delivery that is no message. */
  readonly id: string | null
  readonly topic: string
  readonly key: string | null
  /** Which attempt has failed, from 1 on; 0 for a delivery. */
  readonly attempt: number
}

/**
 * Says what is told of an error instead of what it says itself: stored with the message, in events, logs and traces. Text stands
 * behind the error's class, without a stack. An `Error` is told in the other one's place as it is, with class, text, frames and
 * causes; it may be the one that was given.
 *
 * May be called more than once for an error, so it should do nothing else. If it throws, or gives neither text nor an `Error`,
 * class and code alone are told, and an event says so: `trouble`, code `REDACTION_FAILED`.
 */
export type RedactError = (error: unknown, message: FailedMessage) => string | Error

/** What is to be told of an error. Retries, dead letters and circuits are decided by the error itself. */
export type Redact = (error: unknown, message: FailedMessage) => unknown

export const plain: Redact = (error) => error

/** @throws OptionError */
export function checkRedaction(redactError: unknown): void {
  if (redactError === undefined || typeof redactError === 'function') return
  throw new OptionError(
    'redactError',
    'redactError must be a function that returns a text, or an error to tell instead.',
  )
}

/** Without a hook, errors are told as they are. */
export function redaction(redactError: RedactError | undefined, emit: Emit): Redact {
  if (redactError === undefined) return plain
  return (error, message) => {
    let why: string
    try {
      const given: unknown = redactError(error, message)
      if (typeof given === 'string') return instead(error, given)
      if (given instanceof Error && !types.isProxy(given)) return given
      if (types.isPromise(given)) forget(given)
      why = `gave ${types.isPromise(given) ? 'a promise' : 'neither text nor an error'}`
    } catch (thrown) {
      // Not what it says: it may quote what it was given.
      why = `threw ${wordOf(thrown)}`
    }
    const text = `redactError ${why} for an error of ${message.id === null ? 'a delivery' : `message ${message.id}`}, so only the class and the code of that are told.`
    emit({
      type: 'trouble',
      error: new TwinboxError('REDACTION_FAILED', text),
      doing: 'redacting an error',
    })
    return instead(error, `Its text is not told: redactError ${why}.`)
  }
}

/** If the hook is async, nobody waits for it, and what it rejects with would end the process. */
const forget = (promise: Promise<unknown>): void => void promise.catch(() => {})

/** An error of the same class and code, which says something else. */
function instead(error: unknown, text: string): Error {
  const told = new Error(text)
  // Of its stack nothing is kept: a handler can have written what it likes there.
  Object.defineProperty(told, 'stack', { value: '', enumerable: false })
  const code = codeOf(error)
  const name = classOf(error)
  return Object.assign(told, { name: word.test(name) ? name : 'Error' }, word.test(code) && { code })
}

function classOf(error: unknown): string {
  try {
    return error instanceof Error ? error.name : typeof error
  } catch {
    return 'Error'
  }
}

const wordOf = (thrown: unknown): string => (word.test(classOf(thrown)) ? classOf(thrown) : 'something')

/** Also a class and a code can be made of what somebody has sent. */
const word = /^[A-Za-z_$][\w$.-]{0,60}$|^[0-9A-Z]{5}$/
