import type pg from 'pg'
import { TwinboxError, describeError } from '../base/errors.ts'

/**
 * What a function for the password throws is an outage, and tried again as one. Its error is not kept as a cause, since it may hold
 * what it was about to give.
 */
export function asking(password: pg.ClientConfig['password']): pg.ClientConfig['password'] {
  if (typeof password !== 'function') return password
  return async function (this: pg.Client, ...given) {
    try {
      const answer: unknown = await password(...given)
      if (typeof answer === 'string') return answer
      throw new TypeError(`it gave no text, but ${typeof answer}`)
    } catch (error) {
      // pg leaves the connection open, and the server holds it against its limit for a minute.
      setImmediate(() => void this.end().catch(() => {}))
      throw new TwinboxError(
        // That of a connection that could not be made.
        '08001',
        `The function password of the database failed, and is asked again: ${describeError(error)}`,
      )
    }
  }
}
