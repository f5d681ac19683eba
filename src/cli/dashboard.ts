import { once } from 'node:events'
import { createServer } from 'node:http'
import { hostname, userInfo } from 'node:os'
import { createDashboard, type ShownMessage } from '../dashboard/dashboard.ts'
import { listenerOf } from '../dashboard/node.ts'
import { readBasePath } from '../dashboard/options.ts'
import { SignIn, type Password } from '../dashboard/signin.ts'
import { UsageError } from '../terminal/failure.ts'
import type { CommonFlags } from '../terminal/flags.ts'
import { say } from '../terminal/output.ts'
import { isLoopback } from './endpoint.ts'
import { readSettings } from './settings.ts'
import { endOldest } from './sockets.ts'

export interface DashboardFlags extends CommonFlags {
  readonly host?: string
  readonly port?: number
  readonly basePath?: string
  readonly readOnly?: boolean
  readonly payloads?: boolean
  readonly traceUrl?: string
}

const standardPort = 8460
/** Each viewer has a stream and up to five more. */
const connectionsMax = 200
const passwordMin = 12

/** Serves the dashboard until a signal. @throws UsageError before anything is listened to */
export async function serveDashboard(flags: DashboardFlags): Promise<void> {
  const { host = '127.0.0.1', port = standardPort, traceUrl } = flags
  const password = readPassword()
  if (!isLoopback(host) && password === null) {
    throw new UsageError(
      `Others may reach ${host}: set TWINBOX_DASHBOARD_USER and TWINBOX_DASHBOARD_PASSWORD, or leave --host out.`,
    )
  }
  const base = readBasePath(flags.basePath)
  const { schema, database } = await readSettings(flags)
  const viewer = {
    name: `${userInfo().username}@${hostname()}`,
    access: flags.readOnly === true ? 'read' : 'operate',
  } as const
  const signIn = new SignIn(viewer, password, base)
  const dashboard = createDashboard({
    ...{ database: database(), schema, traceUrl, basePath: base, authorize: signIn.authorize },
    showPayload: flags.payloads === true ? toText : undefined,
  })
  const { fetch: answer } = dashboard
  const server = createServer(
    { headersTimeout: 5000, requestTimeout: 15_000, connectionsCheckingInterval: 1000 },
    (req, res) => {
      const address = req.socket.remoteAddress ?? ''
      listenerOf(async (request) => (await signIn.answer(request, address)) ?? answer(request))(req, res)
    },
  )
  endOldest(server, connectionsMax)
  server.listen(port, host)
  try {
    await once(server, 'listening').catch((error: unknown) => {
      const why = error instanceof Error && 'code' in error ? String(error.code) : 'unknown'
      throw new UsageError(`Cannot listen on ${host}:${port} for the dashboard: ${why}.`)
    })
    const address = server.address()
    const at = typeof address === 'object' && address !== null ? address.port : port
    const url = `http://${host.includes(':') ? `[${host}]` : host}:${at}`
    const link = password === null ? signIn.link() : `${base}/`
    if (flags.json === true) say(JSON.stringify({ url: url + link }))
    else say(`The dashboard is at ${url}${link}\n${told(password)} Ctrl-C ends it.`)
    await signalled()
  } finally {
    await dashboard.close()
    server.closeAllConnections()
    server.close()
  }
}

const told = (password: Password | null): string =>
  password === null
    ? 'The link signs in one browser, once, within a quarter of an hour.'
    : `Sign in as ${password.user}. Put TLS in front before others use it.`

function readPassword(): Password | null {
  const { TWINBOX_DASHBOARD_USER: user = '', TWINBOX_DASHBOARD_PASSWORD: password = '' } = process.env
  if (user === '' && password === '') return null
  if (user === '' || password.length < passwordMin) {
    throw new UsageError(
      `TWINBOX_DASHBOARD_USER must be a name, and TWINBOX_DASHBOARD_PASSWORD have at least ${passwordMin} characters.`,
    )
  }
  return { user, password }
}

const toText = ({ payload }: ShownMessage): string =>
  typeof payload === 'string' ? payload : Buffer.from(payload).toString('utf8')

const signalled = (): Promise<void> =>
  new Promise((resolve) => {
    for (const name of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.once(name, () => resolve())
  })
