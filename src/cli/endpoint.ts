import { once } from 'node:events'
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import { isIP } from 'node:net'
import { openDatabase, type DatabaseInput } from '../database/database.ts'
import type { OnEvent } from '../base/events.ts'
import { createHealth, type Health } from '../observe/health.ts'
import { answerProbe, isToken } from '../observe/probe.ts'
import type { prometheus, PrometheusMetrics } from '../observe/prometheus.ts'
import type { Worker } from '../membership/worker.ts'
import { printable } from '../base/printable.ts'
import { UsageError } from '../terminal/failure.ts'
import type { Log } from './log.ts'
import { endOldest } from './sockets.ts'

export interface EndpointOptions {
  readonly database: DatabaseInput
  readonly schema: string
  readonly port: number
  readonly host: string
  readonly stuckAfterMs: number | undefined
  /** What /metrics and the problems of /health ask for, as `Authorization: Bearer …`. Undefined asks for nothing. */
  readonly token: string | undefined
}

const connectionsMax = 100

/** Metrics and health of this process over HTTP. */
export interface Endpoint {
  readonly onEvent: OnEvent
  /** Begins to listen. @throws UsageError if the address cannot be had */
  open(workers: readonly Worker[], log: Log): Promise<void>
  close(): Promise<void>
}

/** @throws OptionError */
export async function createEndpoint(options: EndpointOptions): Promise<Endpoint> {
  const { schema, port, host, stuckAfterMs, token } = options
  const { database, owned } = openDatabase(options.database, { schema, poolSize: 2 })
  const health = createHealth(database, { stuckAfterMs })
  const metrics = await loadPrometheus().then((load) => load?.({ database }) ?? null)
  // Node looks for requests that are too slow every 30 seconds by itself.
  const limits = { headersTimeout: 5000, requestTimeout: 5000, connectionsCheckingInterval: 1000 }
  const server = createServer(limits, (request, response) => {
    const known = token === undefined ? null : isToken(request.headers.authorization, token)
    const trust = { metrics: known ?? true, problems: known ?? isLoopback(host) }
    void answer(request, response, health, metrics, trust).catch(() => response.destroy())
  })
  endOldest(server, connectionsMax)
  return {
    onEvent(event) {
      health.onEvent(event)
      metrics?.onEvent(event)
    },
    async open(workers, log) {
      for (const worker of workers) health.watch(worker)
      server.listen(port, host)
      await once(server, 'listening').catch((error: unknown) => {
        const why = error instanceof Error && 'code' in error ? String(error.code) : 'unknown'
        throw new UsageError(`Cannot listen on ${host}:${port} for metrics and health: ${why}.`)
      })
      const address = server.address()
      const at = typeof address === 'object' && address !== null ? address.port : port
      log.say(
        `http://${host.includes(':') ? `[${host}]` : host}:${at} has /health/live, /health/ready and /metrics`,
      )
      if (metrics === null) log.say('There are no metrics without prom-client: npm install prom-client')
    },
    async close() {
      server.closeAllConnections()
      server.close()
      await Promise.all([health.close(), metrics?.close()])
      if (owned) await database.close()
    },
  }
}

/** prom-client is an optional peer dependency; health needs none. */
async function loadPrometheus(): Promise<typeof prometheus | null> {
  try {
    return (await import('../observe/prometheus.ts')).prometheus
  } catch {
    return null
  }
}

/** Whether only this machine reaches an address. */
export const isLoopback = (host: string): boolean =>
  host === 'localhost' || host === '::1' || (isIP(host) === 4 && host.startsWith('127.'))

async function answer(
  request: IncomingMessage,
  response: ServerResponse,
  health: Health,
  metrics: PrometheusMetrics | null,
  trust: { readonly metrics: boolean; readonly problems: boolean },
): Promise<void> {
  const say = (status: number, type: string, text: string): void => {
    response.writeHead(status, { 'content-type': type, 'cache-control': 'no-store' })
    response.end(request.method === 'HEAD' ? undefined : printable(text))
  }
  const json = (status: number, value: object): void =>
    say(status, 'application/json', `${JSON.stringify(value)}\n`)
  if (request.method !== 'GET' && request.method !== 'HEAD') return json(405, { error: 'Only GET and HEAD.' })
  const { pathname } = new URL(request.url ?? '/', 'http://localhost')
  if (pathname === '/health/live' || pathname === '/health/ready') {
    const probe = pathname === '/health/live' ? 'live' : 'ready'
    const { status, body } = answerProbe(probe, await health.check(), trust.problems)
    return say(status, 'application/json', body)
  }
  if (pathname === '/metrics' && !trust.metrics) {
    response.setHeader('www-authenticate', 'Bearer')
    return json(401, { error: 'Metrics need the token of TWINBOX_METRICS_TOKEN, as Authorization: Bearer.' })
  }
  if (pathname === '/metrics' && metrics !== null) return say(200, metrics.contentType, await metrics.text())
  const error = pathname === '/metrics' ? 'Metrics need: npm install prom-client' : 'There is nothing here.'
  return json(404, { error })
}
