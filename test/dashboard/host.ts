import { once } from 'node:events'
import { createServer, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import type { BrowserContext } from 'playwright-core'
import {
  createDashboard,
  type Dashboard,
  type DashboardOptions,
  type Viewer,
} from '../../src/dashboard/dashboard.ts'

/** A site with a dashboard under `/ops`, whose viewers are known by a cookie. */
export class Host {
  readonly origin: string
  readonly url: string
  /** What was answered to requests that are no reading: `POST /ops/workers/evict 403`. */
  readonly answers: string[] = []
  readonly #server: Server
  readonly #dashboard: Dashboard

  private constructor(server: Server, dashboard: Dashboard) {
    this.#server = server
    this.#dashboard = dashboard
    this.origin = `http://127.0.0.1:${(server.address() as AddressInfo).port}`
    this.url = `${this.origin}/ops`
  }

  static async open(
    options: Omit<DashboardOptions, 'authorize'> & Partial<Pick<DashboardOptions, 'authorize'>>,
  ): Promise<Host> {
    const dashboard = createDashboard({ basePath: '/ops', authorize, ...options })
    const server = createServer((request, response) => dashboard.listener(request, response))
    server.listen(0, '127.0.0.1')
    await once(server, 'listening')
    const host = new Host(server, dashboard)
    server.on('request', ({ method, url }, response) =>
      response.once('finish', () => {
        if (method !== 'GET') host.answers.push(`${method} ${url} ${response.statusCode}`)
      }),
    )
    return host
  }

  /** Signs somebody in: `ada` operates, anybody else reads. */
  async signIn(context: BrowserContext, name: 'ada' | 'bob' = 'ada'): Promise<void> {
    await context.addCookies([{ name: 'viewer', value: name, url: this.origin }])
  }

  /** A page as ada sees it, by its path below the mount. */
  async read(path: string): Promise<{ readonly status: number; readonly text: string }> {
    const response = await fetch(`${this.url}${path}`, { headers: { cookie: 'viewer=ada' } })
    return { status: response.status, text: await response.text() }
  }

  /** Starts a job as ada does: by the page's form, filled in. Returns the path of the job's page, below the mount. */
  async startJob(change: string, given: Readonly<Record<string, string>>): Promise<string> {
    const { text } = await this.read(change)
    const form = text.split('<form').find((each) => each.includes('name="reason"'))!
    const body = new URLSearchParams(given)
    for (const [, name, value] of form.matchAll(/type="hidden" name="([^"]*)" value="([^"]*)"/g))
      body.append(name!, value!)
    const [action] = `${this.url}${change}`.split('?')
    const headers = { cookie: 'viewer=ada', origin: this.origin }
    const answer = await fetch(action!, { method: 'POST', headers, body, redirect: 'manual' })
    return answer.headers.get('location')!.slice('/ops'.length)
  }

  async close(): Promise<void> {
    await this.#dashboard.close()
    this.#server.closeAllConnections()
    this.#server.close()
    await once(this.#server, 'close')
  }
}

function authorize(request: Request): Viewer | null {
  const name = /(?:^|; )viewer=(\w+)/.exec(request.headers.get('cookie') ?? '')?.[1]
  if (name === undefined) return null
  return { name, access: name === 'ada' ? 'operate' : 'read' }
}

/** Another site, with a page that tries something. */
export async function foreignSite(page: string): Promise<{ url: string; close(): Promise<void> }> {
  const server = createServer((_, response) =>
    response.writeHead(200, { 'content-type': 'text/html; charset=utf-8' }).end(page),
  )
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  return {
    // Another name of this machine is another site to the browser.
    url: `http://localhost:${(server.address() as AddressInfo).port}/`,
    async close() {
      server.closeAllConnections()
      server.close()
      await once(server, 'close')
    },
  }
}
