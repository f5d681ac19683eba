import { BrokerError, describeError, type BrokerErrorKind } from '../../base/errors.ts'

/** What amqplib puts on an error when the server closed a channel or a connection, or Node when a socket failed. */
interface Fault {
  readonly code?: unknown
  readonly classId?: unknown
  readonly methodId?: unknown
}

type KnownKind = Exclude<BrokerErrorKind, 'unknown'>

/** The reply codes of AMQP 0-9-1, with what RabbitMQ makes of them. */
const kindOfReply: Readonly<Record<number, KnownKind>> = {
  311: 'poison', // CONTENT_TOO_LARGE
  312: 'config', // NO_ROUTE: no queue is bound for this topic
  313: 'retry', // NO_CONSUMERS
  320: 'reconnect', // CONNECTION_FORCED: the node is being shut down
  402: 'config', // INVALID_PATH: no such virtual host
  403: 'config', // ACCESS_REFUSED
  404: 'config', // NOT_FOUND: the exchange or the queue
  405: 'config', // RESOURCE_LOCKED: another connection has the queue for itself
  501: 'reconnect', // FRAME_ERROR
  502: 'reconnect', // SYNTAX_ERROR
  503: 'reconnect', // COMMAND_INVALID
  504: 'reconnect', // CHANNEL_ERROR
  505: 'reconnect', // UNEXPECTED_FRAME
  506: 'retry', // RESOURCE_ERROR
  530: 'config', // NOT_ALLOWED
  540: 'config', // NOT_IMPLEMENTED
  541: 'reconnect', // INTERNAL_ERROR
}

const exchangeClass = 40
const queueClass = 50
const basicClass = 60
const publishMethod = 40

/** Certificates do not get better by retrying. */
const kindOfTlsError = /^(CERT_|ERR_TLS_|ERR_SSL_|DEPTH_ZERO_|SELF_SIGNED_|UNABLE_TO_)/

/**
 * What to do about an error of amqplib, by its codes. `unknown` is not among the answers: whether a message may have
 * arrived depends on what was in flight, not on the error.
 */
export function classify(error: unknown): KnownKind {
  const { code, classId } = faultOf(error)
  if (code === 406) {
    // One code for three things: arguments that differ from those of what exists, a message that is too large, and
    // an acknowledgement that came too late or for a delivery that the server does not know.
    if (isAboutPublishing(error)) return 'poison'
    return classId === exchangeClass || classId === queueClass ? 'config' : 'reconnect'
  }
  if (typeof code === 'number') return kindOfReply[code] ?? 'reconnect'
  if (typeof code === 'string' && kindOfTlsError.test(code)) return 'config'
  return 'reconnect'
}

/** True if the server closed the channel because of a message that was published on it; it never says which. */
export function isAboutPublishing(error: unknown): boolean {
  const { classId, methodId } = faultOf(error)
  return classId === basicClass && methodId === publishMethod
}

/** The only way for an error to leave the adapter. One that is a `BrokerError` already stays as it is. */
export function toBrokerError(doing: string, error: unknown, kind = classify(error)): BrokerError {
  if (error instanceof BrokerError) return error
  return new BrokerError(kind, `${doing}: ${describeError(error)}`, { cause: error })
}

/** For whoever loses a channel with its connection. */
export function connectionLost(when: string, failure: Error | null): BrokerError {
  return toBrokerError(
    `The connection to RabbitMQ was lost ${when}`,
    failure ?? new Error('closed'),
    'reconnect',
  )
}

function faultOf(error: unknown): Fault {
  if (!(error instanceof Error)) return {}
  const fault: Fault = { ...(error as object) }
  return fault.code === undefined ? handshakeFault(error.message) : fault
}

/** While connecting, amqplib gives no code: a wrong password and a missing virtual host are told by the text only. */
function handshakeFault(message: string): Fault {
  const refused = /^Handshake terminated by server: (\d{3})/.exec(message)
  if (refused) return { code: Number(refused[1]) }
  return message.startsWith('Expected ConnectionOpenOk; got <ConnectionClose') ? { code: 530 } : {}
}
