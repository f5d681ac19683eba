import { adapters } from '../../src/brokers/registry.ts'
import type { Adapter } from '../../src/brokers/adapter.ts'
import { isMissing, type Found } from './require.ts'
import { allServers } from './servers/server.ts'
import { shared } from './shared.ts'

/** A broker of the registry, and where `--url` finds its server; without a URL if there is none beside Postgres. */
export interface Reachable {
  readonly adapter: Adapter
  readonly found: Found<{ readonly url?: string }>
}

/** Every broker of the registry, with the server of its name that the test run shares. */
export async function everyBroker(): Promise<readonly Reachable[]> {
  const servers = await allServers()
  return Promise.all(
    adapters.map(async (adapter) => {
      if (!adapter.trialNeedsUrl) return { adapter, found: {} }
      const server = servers.find(({ name }) => name === adapter.name)
      if (server?.brokerUrl === undefined)
        throw new Error(`No file of test/support/servers says how to reach ${adapter.name}.`)
      const found = await shared(server)
      return { adapter, found: isMissing(found) ? found : { url: server.brokerUrl(found) } }
    }),
  )
}
