import { once } from 'node:events'
import { createServer, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { commit } from '../../src/database/sql/server.ts'
import type { Address } from '../../src/brokers/adapter.ts'
import { startProxy, type Proxy } from './proxy.ts'

/** What can become of a way through the network. All but the first three last until `heal`. */
export type Disturbance =
  | { readonly act: 'reset' }
  | { readonly act: 'cutAtCommit'; readonly deliver: boolean }
  | { readonly act: 'heal' }
  | { readonly act: 'blackHole'; readonly direction: 'both' | 'toServer' | 'toClient' }
  | { readonly act: 'latency'; readonly ms: number }
  | { readonly act: 'refuse' }

/**
 * All ways through the network: one to the database and one to the broker for each process that has its own, and one to the
 * service that handlers call, which says yes to everything.
 */
export class Network {
  readonly #proxies = new Map<string, Proxy>()
  #service: Server | null = null

  /** Returns the port on which the way begins. Without an address it leads to the service. */
  async route({ name, to }: { readonly name: string; readonly to: Address | null }): Promise<number> {
    const proxy = await startProxy(to ?? (await this.#serve()))
    this.#proxies.set(name, proxy)
    return proxy.port
  }

  async disturb(name: string, how: Disturbance): Promise<void> {
    const proxy = this.#proxies.get(name)
    if (proxy === undefined) return
    if (how.act === 'reset') proxy.cut()
    else if (how.act === 'blackHole') proxy.blackHole(how.direction)
    else if (how.act === 'latency') proxy.delay(how.ms)
    else if (how.act === 'refuse') await proxy.refuse()
    else if (how.act === 'heal') await proxy.heal()
    // As a message of the protocol: Query, its length, and the text.
    else void proxy.cutWhenSeen(`${commit}\0`, { deliver: how.deliver })
  }

  async close(): Promise<void> {
    await Promise.all([...this.#proxies.values()].map((proxy) => proxy.close()))
    this.#service?.closeAllConnections()
    this.#service?.close()
  }

  async #serve(): Promise<Address> {
    this.#service = createServer((_request, response) => response.writeHead(204).end())
    this.#service.listen(0, '127.0.0.1')
    await once(this.#service, 'listening')
    return { host: '127.0.0.1', port: (this.#service.address() as AddressInfo).port }
  }
}
