import { syncBuiltinESMExports } from 'node:module'
import net from 'node:net'

/** Where connections to one address go instead. */
export interface Detour {
  readonly host: string
  readonly port: number
  /** On 127.0.0.1. */
  readonly via: number
}

/**
 * Sends connections of this process through proxies. Some clients, such as Kafka's, learn addresses from the cluster: one of
 * ours in their options would be used for the first connection only.
 */
export function makeDetours(detours: readonly Detour[]): void {
  if (detours.length === 0) return
  const straight = net.connect as (...given: unknown[]) => net.Socket
  const connect = (...given: unknown[]): net.Socket => {
    const [options, ...rest] = given
    if (typeof options !== 'object' || options === null || !('port' in options)) return straight(...given)
    const { host, port } = options as { host?: string; port: number }
    const detour = detours.find((one) => one.port === port && one.host === (host ?? 'localhost'))
    return detour === undefined
      ? straight(...given)
      : straight({ ...options, host: '127.0.0.1', port: detour.via }, ...rest)
  }
  net.connect = connect
  net.createConnection = connect
  syncBuiltinESMExports()
}
