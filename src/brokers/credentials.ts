import { BrokerError, OptionError, describeError } from '../base/errors.ts'
import { isLocal } from '../base/local.ts'
import { within } from '../base/waiting.ts'

/** What a TLS option may be: on, off, or what `tls.connect` takes. */
type Tls = boolean | object | null | undefined

/** Whether the other end has to show who it is. TLS without that is given to whoever answers. */
const verifies = (tls: Tls): boolean =>
  tls === true ||
  (typeof tls === 'object' &&
    tls !== null &&
    !('rejectUnauthorized' in tls && tls.rejectUnauthorized === false))

/**
 * Refuses to send a secret where others could read it. @throws OptionError for the first host that is not this machine,
 * unless TLS verifies it
 * @param remedy what to do instead
 */
export function refusePlaintext(option: string, hosts: readonly string[], tls: Tls, remedy: string): void {
  const host = hosts.find((each) => !isLocal(each))
  if (host === undefined || verifies(tls)) return
  throw new OptionError(
    option,
    `${option} would show its secret to whoever listens on the way to ${host}, or answers in its place: ${remedy}, or allow ` +
      'it with insecure: true (on the command line --insecure or TWINBOX_INSECURE=1).',
  )
}

/**
 * Asks a function of the user's for credentials, or for what holds them. What it throws is an outage as any other: whoever asks
 * comes again. Its error is told and not kept as a cause, since it may hold what it was about to give.
 * @throws BrokerError
 */
export async function askFor<T>(option: string, give: () => T | Promise<T>, timeoutMs: number): Promise<T> {
  const late = new AbortController()
  const timer = setTimeout(() => late.abort(new Error(`no answer within ${timeoutMs} ms`)), timeoutMs)
  try {
    return await within(late.signal, Promise.resolve().then(give))
  } catch (error) {
    throw new BrokerError(
      'reconnect',
      `The function ${option} failed, and is asked again: ${describeError(error)}`,
    )
  } finally {
    clearTimeout(timer)
  }
}

/** Checks what such a function gave, as the option itself is checked. @throws BrokerError */
export function checkAnswer<T>(option: string, check: () => T): T {
  try {
    return check()
  } catch (error) {
    if (!(error instanceof OptionError)) throw error
    throw new BrokerError('config', `The function ${option} gave what cannot be used: ${error.message}`)
  }
}
