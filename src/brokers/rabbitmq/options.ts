import type { Options, SocketOptions } from 'amqplib'
import { OptionError } from '../../base/errors.ts'
import type { OutgoingMessage } from '../../message/message.ts'
import { callable, oneOf, readBoolean, refuseUnknown, text, whole } from '../../base/options.ts'
import { askFor, checkAnswer, refusePlaintext } from '../credentials.ts'

export interface RabbitmqOptions {
  /**
   * `amqp://` or `amqps://`, or the object that amqplib's `connect` takes. A heartbeat in it is overridden by
   * `heartbeatSeconds`. It never appears in an error or a log.
   *
   * Or a function that gives it, asked at each connect: a password or a token that has changed needs no restart. On a
   * connection that is open it is asked every `renewMs`. What it throws is an outage: the worker waits and asks again.
   */
  readonly url:
    string | Options.Connect | (() => string | Options.Connect | Promise<string | Options.Connect>)
  /** Allows to send a password without TLS, or without verifying the server, to another machine. @default false */
  readonly insecure?: boolean | undefined
  /**
   * How often a function `url` is asked while a connection is open. A password that is another one is handed to the server,
   * which refuses what comes over a connection whose token has expired: it has to be good for longer than this. From 1,000 to a day. @default 60000
   */
  readonly renewMs?: number | undefined
  /** Goes to amqplib as it is: `ca`, `cert`, `key`, `servername` and the like for TLS. */
  readonly socket?: SocketOptions | undefined
  /** The durable topic exchange that all messages go through. @default 'twinbox' */
  readonly exchange?: string | undefined
  /** `source` of the CloudEvents sent: who says this, as a URI reference. @default 'twinbox' */
  readonly source?: string | undefined
  /**
   * What to do with a message that no queue takes. `fail`: it is tried again with backoff. `drop`: it counts as
   * sent, and nobody will ever see it. @default 'fail'
   */
  readonly unroutable?: 'fail' | 'drop' | undefined
  /** The name of a consumer's queue. @default `twinbox.<consumer>` */
  readonly queue?: ((consumer: string) => string) | undefined
  /** Classic queues are not replicated: they lose their messages with their node. @default 'quorum' */
  readonly queueType?: 'quorum' | 'classic' | undefined
  /**
   * `declare`: exchange, queues and bindings are created when missing. A binding that is no longer wanted is not
   * removed: unbind it by hand. `check`: they must exist, and an operator keeps their settings right.
   * @default 'declare'
   */
  readonly topology?: 'declare' | 'check' | undefined
  /**
   * The routing key of a message, up to 255 bytes. It is the topic of a delivery, unless the receiver has `topicOf`.
   * @default its topic
   */
  readonly routingKey?: ((message: OutgoingMessage) => string) | undefined
  /**
   * A dead connection is noticed after two to three of these. Less than 5 takes a busy process for a dead one. From
   * 1 to 60; cannot be turned off. @default 5
   */
  readonly heartbeatSeconds?: number | undefined
  /** The longest that a `send`, or one attempt to connect, may take. From 100 to 600,000. @default 10000 */
  readonly sendTimeoutMs?: number | undefined
  /** How many messages may wait for their confirmation at a time. From 1 to 100,000. @default 1000 */
  readonly maxUnconfirmed?: number | undefined
  /** And how many bytes; a larger message goes alone. From 1 to 1 GiB. @default 8 MiB */
  readonly maxUnconfirmedBytes?: number | undefined
  /**
   * How many deliveries a receiver holds unacknowledged; fewer while they are large, so that it holds 32 MiB at most.
   * From 1 to 65,535. @default twice its batchSize
   */
  readonly prefetch?: number | undefined
}

/** Where to connect, and as whom. */
export interface Target {
  /** For amqplib. */
  readonly url: string | Options.Connect
  readonly host: string
  readonly encrypted: boolean
  readonly user: string
  /** As it stands in the URL. */
  readonly password: string
}

/** Checked options with every default filled in. */
export interface Settings {
  /** Where to connect, and as whom. @throws BrokerError if a function is asked for it */
  readonly target: () => Promise<Target>
  /** How often the connection that is open is told what `url` says by now; null if that is always the same. */
  readonly renewMs: number | null
  readonly socket: SocketOptions
  readonly exchange: string
  readonly source: string
  readonly unroutable: 'fail' | 'drop'
  readonly queue: (consumer: string) => string
  readonly queueType: 'quorum' | 'classic'
  readonly topology: 'declare' | 'check'
  readonly routingKey: (message: OutgoingMessage) => string
  readonly sendTimeoutMs: number
  readonly maxUnconfirmed: number
  readonly maxUnconfirmedBytes: number
  readonly prefetch: number | null
}

/** @throws OptionError naming the option and what it must be. The URL is never part of the text. */
export function checkOptions(options: RabbitmqOptions): Settings {
  if (typeof options !== 'object' || options === null) {
    throw new OptionError('options', 'rabbitmq() needs an object with at least a url.')
  }
  refuseUnknown('rabbitmq', options, [
    'url',
    'insecure',
    'renewMs',
    'socket',
    'exchange',
    'source',
    'unroutable',
    'queue',
    'queueType',
    'topology',
    'routingKey',
    'heartbeatSeconds',
    'sendTimeoutMs',
    'maxUnconfirmed',
    'maxUnconfirmedBytes',
    'prefetch',
  ])
  const sendTimeoutMs = whole('sendTimeoutMs', options.sendTimeoutMs, 10_000, 100, 600_000)
  const renewMs = whole('renewMs', options.renewMs, 60_000, 1000, 86_400_000)
  const { url } = options
  const check = urlCheck(options)
  return {
    ...(typeof url === 'function'
      ? {
          target: async () => {
            const given = await askFor('url', url, sendTimeoutMs)
            return checkAnswer('url', () => check(given))
          },
          renewMs,
        }
      : constant(check(url))),
    socket: options.socket ?? {},
    exchange: text('exchange', options.exchange, 'twinbox', /^[A-Za-z0-9._:-]{1,255}$/),
    source: text('source', options.source, 'twinbox', /^[!-~]{1,255}$/),
    unroutable: oneOf('unroutable', options.unroutable, ['fail', 'drop']),
    queue: callable('queue', options.queue) ?? ((consumer) => `twinbox.${consumer}`),
    queueType: oneOf('queueType', options.queueType, ['quorum', 'classic']),
    topology: oneOf('topology', options.topology, ['declare', 'check']),
    routingKey: callable('routingKey', options.routingKey) ?? ((message) => message.topic),
    sendTimeoutMs,
    maxUnconfirmed: whole('maxUnconfirmed', options.maxUnconfirmed, 1000, 1, 100_000),
    maxUnconfirmedBytes: whole('maxUnconfirmedBytes', options.maxUnconfirmedBytes, 8 * mebi, 1, 1024 * mebi),
    prefetch: options.prefetch === undefined ? null : whole('prefetch', options.prefetch, 1, 1, 65_535),
  }
}

const mebi = 1024 * 1024

const constant = (target: Target): Pick<Settings, 'target' | 'renewMs'> => ({
  target: async () => target,
  renewMs: null,
})

/** A check of what `url` is or gives: with our heartbeat, and only where its password may go. */
function urlCheck({ heartbeatSeconds, insecure, socket = {} }: RabbitmqOptions): (url: unknown) => Target {
  const heartbeat = whole('heartbeatSeconds', heartbeatSeconds, 5, 1, 60)
  const mayShow = readBoolean('insecure', insecure, false)
  return (url) => {
    const target = readUrl(url, heartbeat)
    if (mayShow || !showsSecret(target, socket)) return target
    const tls = target.encrypted && { rejectUnauthorized: socket.rejectUnauthorized }
    refusePlaintext('url', [target.host], tls, 'use amqps:// with a certificate that is verified')
    return target
  }
}

function readUrl(url: unknown, heartbeat: number): Target {
  // `new URL` puts the whole URL, password included, on the error that it throws.
  if (typeof url === 'string' && URL.canParse(url)) {
    const parsed = new URL(url)
    const { protocol, hostname: host, username: user, password } = parsed
    if (protocol === 'amqp:' || protocol === 'amqps:') {
      parsed.searchParams.set('heartbeat', String(heartbeat))
      return { url: parsed.href, host, encrypted: protocol === 'amqps:', user, password }
    }
  } else if (typeof url === 'object' && url !== null) {
    const { hostname: host = '', protocol, username: user = '', password = '' }: Options.Connect = url
    return { url: { ...url, heartbeat }, host, encrypted: protocol === 'amqps', user, password }
  }
  throw new OptionError(
    'url',
    'url must be an amqp:// or amqps:// URL, the object that the connect of amqplib takes, or a function that gives one.',
  )
}

/** What everybody knows is no secret: amqplib says guest:guest if it is told nothing. Nor is a certificate of ours. */
function showsSecret({ user, password }: Target, { credentials }: SocketOptions): boolean {
  if (credentials !== undefined) return credentials.mechanism !== 'EXTERNAL'
  return password !== '' && !(user === 'guest' && password === 'guest')
}
