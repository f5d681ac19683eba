import type * as Platformatic from '@platformatic/kafka'
import type { Base, BaseOptions, Connection } from '@platformatic/kafka'
import { isIP } from 'node:net'
import { hostsOf, shuffled, type Settings } from '../options.ts'

const connectTimeoutMs = 3000
const keepAliveMs = 5000

/** How each client of the library is made, so that all can be thrown away together. */
export interface Pool {
  readonly library: typeof Platformatic
  make<Made extends Base>(make: (options: BaseOptions) => Made): Made
  /** Destroys its connections, and lets it open no more. */
  discard(made: Base): void
}

export interface MadePool extends Pool {
  retire: () => void
}

export function makePool(
  library: typeof Platformatic,
  settings: Settings,
  requestTimeoutMs: number,
  signing: Pick<BaseOptions, 'sasl'>,
): MadePool {
  const made = new Set<Base>()
  let retired = false
  const options: BaseOptions = {
    ...{ clientId: settings.clientId, bootstrapBrokers: shuffled(settings.brokers) },
    ...tlsOf(settings),
    ...signing,
    connectTimeout: Math.min(connectTimeoutMs, requestTimeoutMs),
    requestTimeout: requestTimeoutMs,
    // The broker gives up a little earlier than we on the broker: then we know why.
    timeout: Math.ceil(requestTimeoutMs * 0.8),
    retries: settings.brokers.length + 2,
    retryDelay: (_client, _operation, attempt) => Math.min(25 * 2 ** attempt, 1000),
    autocreateTopics: false,
  }
  const discard = (client: Base): void => {
    made.delete(client)
    const sockets = [...client.connections].map(([, { socket }]) => socket)
    for (const socket of sockets) socket?.destroy()
    const closing = client instanceof library.Consumer ? client.close(true) : client.close()
    closing.catch(() => {})
  }
  return {
    library,
    discard,
    make: (make) => {
      if (retired) throw new Error('This client has been retired.')
      const client = make(options)
      made.add(client)
      // Without a listener each of their errors would end the process; whoever waits for an answer learns of it.
      client.on('error', () => {})
      client.connections.on('connecting', ({ connection }: { readonly connection: Connection }) => {
        connection.on('error', () => {})
        connection.once('connect', () => connection.socket.setKeepAlive(true, keepAliveMs))
      })
      return client
    },
    retire: () => {
      retired = true
      for (const client of made) discard(client)
    },
  }
}

/** An address has no name that a server could be asked for by SNI. */
function tlsOf({ ssl, brokers }: Settings): Pick<BaseOptions, 'tls' | 'tlsServerName'> {
  if (ssl === false) return {}
  const tls = ssl === true ? {} : ssl
  const named = tls.servername === undefined && !hostsOf(brokers).some((host) => isIP(host))
  return { tls, ...(named && { tlsServerName: true }) }
}
