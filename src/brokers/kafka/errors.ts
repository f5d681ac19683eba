import { BrokerError, describeError, type BrokerErrorKind } from '../../base/errors.ts'

/** What client libraries put on their errors: the name of the error code that the broker sent, or the code of a socket. */
interface Fault {
  readonly name: string
  /** The broker's name for it, as kafkajs and as @platformatic/kafka call that. */
  readonly type?: unknown
  readonly apiId?: unknown
  readonly code?: unknown
  readonly cause?: unknown
  readonly errors?: unknown
}

/** https://kafka.apache.org/protocol#protocol_error_codes by their names. What is not here may be tried again. */
const kindOfType: Readonly<Record<string, BrokerErrorKind>> = {
  // The append may have happened, its replication was not seen.
  REQUEST_TIMED_OUT: 'unknown',
  NOT_ENOUGH_REPLICAS_AFTER_APPEND: 'unknown',
  NETWORK_EXCEPTION: 'unknown',

  MESSAGE_TOO_LARGE: 'poison',
  RECORD_LIST_TOO_LARGE: 'poison',
  INVALID_RECORD: 'poison',
  INVALID_TIMESTAMP: 'poison',

  UNKNOWN_TOPIC_OR_PARTITION: 'config',
  INVALID_TOPIC_EXCEPTION: 'config',
  TOPIC_AUTHORIZATION_FAILED: 'config',
  GROUP_AUTHORIZATION_FAILED: 'config',
  CLUSTER_AUTHORIZATION_FAILED: 'config',
  SASL_AUTHENTICATION_FAILED: 'config',
  UNSUPPORTED_SASL_MECHANISM: 'config',
  ILLEGAL_SASL_STATE: 'config',
  SECURITY_DISABLED: 'config',
  POLICY_VIOLATION: 'config',
  INVALID_PARTITIONS: 'config',
  INVALID_REPLICATION_FACTOR: 'config',
  INVALID_CONFIG: 'config',
  INVALID_GROUP_ID: 'config',
  INVALID_SESSION_TIMEOUT: 'config',
  INCONSISTENT_GROUP_PROTOCOL: 'config',
  UNSUPPORTED_VERSION: 'config',
  UNSUPPORTED_FOR_MESSAGE_FORMAT: 'config',
}

/** By the name of the error, or its code. */
const kindOfName: Readonly<Record<string, BrokerErrorKind>> = {
  KafkaJSSASLAuthenticationError: 'config',
  KafkaJSServerDoesNotSupportApiKey: 'config',
  KafkaJSNotImplemented: 'config',
  KafkaJSProtocolError: 'retry',
  KafkaJSMetadataNotLoaded: 'retry',
  KafkaJSTopicMetadataNotLoaded: 'retry',
  KafkaJSRequestTimeoutError: 'unknown',
  KafkaJSConnectionClosedError: 'unknown',
  KafkaJSConnectionError: 'unknown',

  PLT_KFK_AUTHENTICATION: 'config',
  PLT_KFK_UNSUPPORTED_API: 'config',
  PLT_KFK_UNEXPECTED_CORRELATION_ID: 'unknown',
  PLT_KFK_NETWORK: 'unknown',
  PLT_KFK_TIMEOUT: 'unknown',
}

/** A connection that never was cannot have carried anything. */
const neverConnected = new Set(['ECONNREFUSED', 'ENOTFOUND', 'EAI_AGAIN', 'EHOSTUNREACH', 'ENETUNREACH'])
/** Certificates do not get better by retrying. */
const tlsError = /^(CERT_|ERR_TLS_|ERR_SSL_|DEPTH_ZERO_|SELF_SIGNED_|UNABLE_TO_)/

/**
 * What to do about an error of a client library while something was in flight, by its codes and names, never by its text.
 * `unknown` is about messages: for an error from anything but sending them, read it as `reconnect`.
 */
export function classify(error: unknown): BrokerErrorKind {
  const root = rootOf(error)
  if (root instanceof BrokerError) return root.kind
  const { name, code } = root
  const type = typeOf(root)
  if (typeof code === 'string' && neverConnected.has(code)) return 'reconnect'
  if (typeof code === 'string' && tlsError.test(code)) return 'config'
  if (type !== null) return kindOfType[type] ?? 'retry'
  return kindOfName[typeof code === 'string' && code in kindOfName ? code : name] ?? 'reconnect'
}

/** The broker's name for what is wrong, such as `MESSAGE_TOO_LARGE`; null if it was not the broker that said it. */
export function typeOf(error: unknown): string | null {
  const { type, apiId } = rootOf(error)
  if (typeof type === 'string') return type
  return typeof apiId === 'string' ? apiId : null
}

const aboutTopic = new Set(['INVALID_TOPIC_EXCEPTION', 'TOPIC_AUTHORIZATION_FAILED'])

/** Whether one topic is at fault, and the others of the request are not. */
export function isAboutTopic(error: unknown): boolean {
  return aboutTopic.has(typeOf(error) ?? '')
}

/** The only way for an error to leave the adapter. One that is a `BrokerError` already stays as it is. */
export function toBrokerError(doing: string, error: unknown, kind = classify(error)): BrokerError {
  const root = rootOf(error)
  // Ours may come back out of a library.
  if (root instanceof BrokerError) return root
  const type = typeOf(error)
  const text = type === null ? describeError(root) : `${type}: ${root.message}`
  return new BrokerError(kind, `${doing}: ${text}`, { cause: error })
}

/** As `toBrokerError`, for everything but sending messages. */
export function toTrouble(doing: string, error: unknown): BrokerError {
  const kind = classify(error)
  return toBrokerError(doing, error, kind === 'unknown' ? 'reconnect' : kind)
}

/** Libraries wrap errors, such as in "retries exceeded", and collect those of several topics. */
function rootOf(error: unknown): Error & Fault {
  if (!(error instanceof Error)) return new Error(describeError(error))
  const fault: Error & Fault = error
  if (fault instanceof BrokerError) return fault
  if (Array.isArray(fault.errors) && fault.errors[0] instanceof Error) return rootOf(fault.errors[0])
  if (fault.type === undefined && fault.apiId === undefined && fault.cause instanceof Error)
    return rootOf(fault.cause)
  return fault
}
