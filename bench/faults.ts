import { findPgBouncer } from '../test/support/servers/pgbouncer.ts'
import { findZookeeper } from '../test/support/servers/zookeeper.ts'
import { startProxy } from '../proof/stage/proxy.ts'
import { isMissing } from '../test/support/require.ts'
import type { Member } from './crew.ts'

/** How one worker reaches the database. */
export interface Route {
  readonly url: string
  /** Swallows what goes either way from now on, without a sign. */
  readonly cut?: () => void
  readonly close?: () => Promise<void>
}

/** What lies between the workers and the database. */
export interface Network {
  readonly route: () => Promise<Route>
  /** Options that workers need there. */
  readonly options?: Record<string, unknown>
  readonly close?: () => Promise<void>
}

/** A way to lose a worker. */
export interface Fault {
  readonly name: string
  /** In a few words. */
  readonly does: string
  readonly hits: readonly ('claimer' | 'relay')[]
  /** The time within which a survivor must go on: the 99th percentile, or the worst. */
  readonly goal: {
    readonly of: 'p99' | 'max'
    readonly belowMs: number
    readonly noRepeats?: true
    /** The median is at most this share of that of another fault, if that is tried in the same run. */
    readonly share?: { readonly to: string; readonly most: number }
  }
  /** The claimer that is hit is the one that is in a long statement. */
  readonly midStatement?: true
  /** The victim ends by itself and in good order. */
  readonly clean?: true
  /** @returns why there is no such network on this machine, if there is none. */
  readonly network: (databaseUrl: string) => Promise<Network | { readonly missing: string }>
  readonly strike: (victim: Member, route: Route) => void
}

/** The defaults of the workers: what the goals are about. */
export const defaults = { leaseMs: 15_000, deadAfterMs: 5000 } as const

const direct = async (url: string): Promise<Network> => ({ route: async () => ({ url }) })

const proxied = async (url: string): Promise<Network> => ({
  route: async () => {
    const { hostname, port } = new URL(url)
    const proxy = await startProxy({ host: hostname, port: Number(port || 5432) })
    return {
      url: Object.assign(new URL(url), { hostname: '127.0.0.1', port: String(proxy.port) }).toString(),
      cut: () => proxy.blackHole(),
      close: () => proxy.close(),
    }
  },
})

async function pooled(url: string): Promise<Network | { readonly missing: string }> {
  const found = await findPgBouncer()
  if (isMissing(found)) return found
  const pooler = await found.start(url)
  const [major = 0, minor = 0] = found.version.split('.').map(Number)
  return {
    route: async () => ({ url: pooler.url }),
    // It learnt to follow prepared statements from one server connection to the next in 1.21.
    options: { preparedStatements: major * 100 + minor >= 121 },
    close: () => pooler.stop(),
  }
}

/** The pooler, and beside it an ensemble that ends the session of a dead worker after 2 s. */
async function coordinated(url: string): Promise<Network | { readonly missing: string }> {
  const zookeeper = await findZookeeper()
  if (isMissing(zookeeper)) return zookeeper
  const network = await pooled(url)
  if (isMissing(network)) return network
  const ensemble = await zookeeper.start(3)
  return {
    ...network,
    options: { ...network.options, zookeeper: { servers: ensemble.servers, sessionTimeoutMs: 2000 } },
    close: async () => {
      await network.close?.()
      await ensemble.stop()
    },
  }
}

const signal =
  (name: NodeJS.Signals) =>
  (victim: Member): void =>
    void victim.process.kill(name)

const both = ['claimer', 'relay'] as const
const bounded = { of: 'max', belowMs: defaults.leaseMs + 2000 } as const

export const faults: readonly Fault[] = [
  {
    name: 'sigkill',
    does: 'SIGKILL',
    hits: both,
    goal: { of: 'p99', belowMs: 1000 },
    network: direct,
    strike: signal('SIGKILL'),
  },
  {
    name: 'sigkill-statement',
    does: 'SIGKILL while a handler is in a long statement',
    hits: ['claimer'],
    goal: { of: 'p99', belowMs: 1000 },
    midStatement: true,
    network: direct,
    strike: signal('SIGKILL'),
  },
  {
    name: 'sigterm',
    does: 'SIGTERM: a stop in good order',
    hits: both,
    goal: { of: 'max', belowMs: 1000, noRepeats: true },
    clean: true,
    network: direct,
    strike: signal('SIGTERM'),
  },
  {
    name: 'sigstop',
    does: 'SIGSTOP: frozen, its connections open',
    hits: both,
    goal: bounded,
    network: direct,
    strike: signal('SIGSTOP'),
  },
  {
    name: 'cut',
    does: 'its connections swallow everything, both ways',
    hits: both,
    goal: bounded,
    network: proxied,
    strike: (_, route) => route.cut?.(),
  },
  {
    name: 'pgbouncer',
    does: 'SIGKILL, all workers behind PgBouncer in transaction mode',
    hits: both,
    goal: bounded,
    network: pooled,
    strike: signal('SIGKILL'),
  },
  {
    name: 'zookeeper',
    does: 'the same, with sessions of ZooKeeper of 2 s (an ensemble of three)',
    hits: both,
    goal: { ...bounded, share: { to: 'pgbouncer', most: 0.6 } },
    network: coordinated,
    strike: signal('SIGKILL'),
  },
]
