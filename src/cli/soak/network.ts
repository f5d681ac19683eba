import { commit } from '../../database/sql/server.ts'
import { startProxy, type Proxy } from './proxy.ts'

/** What can become of a way through the network. All but the first three last until `heal`. */
export type Disturbance =
  | { readonly act: 'reset' }
  | { readonly act: 'cutAtCommit'; readonly deliver: boolean }
  | { readonly act: 'heal' }
  | { readonly act: 'blackHole'; readonly direction: 'both' | 'toServer' | 'toClient' }
  | { readonly act: 'latency'; readonly ms: number }
  | { readonly act: 'refuse' }

/** All ways through the network: one to the database and one to the broker for each process that has its own. */
export class Network {
  readonly #proxies = new Map<string, Proxy>()

  /** Returns the port on which the way begins. */
  async route({ name, host, port }: { name: string; host: string; port: number }): Promise<number> {
    const proxy = await startProxy({ host, port })
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
  }
}
