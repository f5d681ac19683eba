import { openDatabase } from '../database/database.ts'
import { Findings } from './findings.ts'
import { Ring } from './ring.ts'
import { listenerOf, type Listener } from './node.ts'
import { checkOptions, readBasePath, type DashboardOptions } from './options.ts'
import { createReader } from './poll.ts'
import { Poller } from './poller.ts'
import { Router } from './router.ts'
import { viewsOf } from './views.ts'
import type { Shared } from './view.ts'

export type { DashboardOptions, ShownMessage, Viewer } from './options.ts'
export type { Listener } from './node.ts'

/** A dashboard, to be mounted. */
export interface Dashboard {
  /** Answers a request of the Fetch API. Never rejects. */
  readonly fetch: (request: Request) => Promise<Response>
  /** The same for node:http, Express and whatever else has its requests and answers. */
  readonly listener: Listener
  /** Ends its streams and what it runs, and closes its connections. */
  close(): Promise<void>
}

/**
 * Makes the pages on which operators see what waits and why, and act on it. Nothing runs, and nothing is asked of the database, before
 * somebody looks; then one poll serves all viewers. Each page and action asks `authorize` first.
 *
 * @throws OptionError
 */
export function createDashboard(options: DashboardOptions): Dashboard {
  checkOptions(options)
  const basePath = readBasePath(options.basePath)
  const { database, owned } = openDatabase(options.database, { schema: options.schema, poolSize: 2 })
  const ends: (() => Promise<void> | void)[] = []
  const closing = new AbortController()
  const poller = new Poller(createReader(database))
  const findings = new Findings(database, () => poller.now())
  const shared: Shared = {
    database,
    schema: database.schema,
    poller,
    findings,
    ring: new Ring(),
    options: { traceUrl: options.traceUrl, showPayload: options.showPayload },
    onClose: (end) => void ends.push(end),
  }
  const { ring } = shared
  poller.observe(() => {
    if (poller.latest !== null && poller.outage === null) ring.add(poller.latest)
    void findings.refresh()
  })
  const router = new Router(options, shared, viewsOf(shared), closing.signal)
  return {
    fetch: (request) => router.answer(request, basePath),
    listener: listenerOf((request, mountedAt) =>
      router.answer(request, options.basePath === undefined ? (mountedAt ?? '') : basePath),
    ),
    async close() {
      closing.abort()
      for (const end of ends) await end()
      await poller.close()
      await findings.close()
      if (owned) await database.close()
    },
  }
}
