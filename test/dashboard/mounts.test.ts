import { spawn, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { mkdir, readFile, rm, writeFile } from 'node:fs/promises'
import { createServer, type AddressInfo } from 'node:net'
import { dirname, join, relative, resolve } from 'node:path'
import { pathToFileURL } from 'node:url'
import { afterAll, afterEach, beforeAll, expect, test } from 'vitest'
import { createTestDatabase, type TestDatabase } from '../support/postgres.ts'
import { compiled } from '../support/shared.ts'
import { until } from '../support/until.ts'

/** The programs of docs/dashboard.md as they stand there, each beside its framework. */

const root = resolve(import.meta.dirname, '../..')
const folder = join(root, `.build/mounts-${process.pid}`)
const page = await readFile(join(root, 'docs/dashboard.md'), 'utf8')
const programs = [...page.matchAll(/<!-- program: (.*), by .*-->\n\n```js\n([^]*?)\n```/g)].map(
  ([, name, code]) => ({ name: name!, code: code! }),
)
const shared = /```js\n\/\/ dashboard.mjs\n([^]*?)\n```/.exec(page)![1]!
const base = '/ops/twinbox'

let database: TestDatabase
let child: ChildProcess | null = null
beforeAll(async () => {
  database = await createTestDatabase()
  await compiled('build')
  const entry = relative(folder, join(root, '.build/src/dashboard/dashboard.js'))
  const files = {
    'dashboard.mjs': shared.replace("'twinbox/dashboard'", `'./${entry}'`),
    'users.mjs': `export const userOf = (request) => {
      const [, name] = /user=(\\w+)/.exec(request.headers.get('cookie') ?? '') ?? []
      return name === undefined ? null : { name, isOperator: name === 'ada' }
    }`,
    ...Object.fromEntries(programs.map(({ name, code }) => [name, code])),
  }
  for (const [name, code] of Object.entries(files)) {
    await mkdir(dirname(join(folder, name)), { recursive: true })
    await writeFile(join(folder, name), code)
  }
})
afterEach(async () => {
  if (child?.exitCode !== null || child === null) return
  child.kill('SIGKILL')
  await once(child, 'exit')
  child = null
})
afterAll(async () => {
  await rm(folder, { recursive: true, force: true })
  await database.drop()
})

async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as AddressInfo
  server.close()
  await once(server, 'close')
  return port
}

type Send = (path: string, init?: RequestInit) => Promise<Response>

async function start(name: string): Promise<Send> {
  const port = await freePort()
  const env = { ...process.env, DATABASE_URL: database.url, PORT: String(port), NODE_ENV: 'production' }
  child = spawn(process.execPath, [join(folder, name)], { env, stdio: ['ignore', 'ignore', 'pipe'] })
  let errors = ''
  child.stderr!.on('data', (piece: Buffer) => (errors += piece.toString()))
  const send: Send = (path, init) => fetch(`http://127.0.0.1:${port}${path}`, { redirect: 'manual', ...init })
  await until(async () => {
    if (child!.exitCode !== null) throw new Error(errors)
    return send('/').then(
      () => true,
      () => false,
    )
  })
  return send
}

/** What must hold however it is mounted. */
async function expectToWork(send: Send, origin: string): Promise<void> {
  const cookie = 'user=ada'
  const headers = { cookie }
  expect((await send(base)).status).toBe(403)
  const response = await send(base, { headers })
  expect(response.headers.get('content-security-policy')).toContain("frame-ancestors 'none'")
  const text = await response.text()
  expect(text).toContain('<h1>Overview</h1>')
  const asset = /href="([^"]*style\.css)"/.exec(text)![1]!
  expect(asset).toMatch(new RegExp(`^${base}/assets/`))
  expect((await send(asset)).headers.get('content-type')).toContain('text/css')
  const token = /name="token" value="([^"]+)"/.exec(text)![1]!
  const body = () => new URLSearchParams({ token, theme: 'dark', back: `${base}/doctor` })
  const post = (from: string) =>
    send(`${base}/theme`, { method: 'POST', body: body(), headers: { cookie, origin: from } })
  expect((await post('https://evil.example')).status).toBe(403)
  const changed = await post(origin)
  expect([changed.status, changed.headers.get('location')]).toEqual([303, `${base}/doctor`])
  const leaving = new AbortController()
  const stream = await send(`${base}/live?page=%2F`, { headers, signal: leaving.signal })
  const reader = stream.body!.getReader()
  const { value } = await reader.read()
  expect(new TextDecoder().decode(value)).toMatch(/^event: (fragment|poll)\n/)
  leaving.abort()
  await reader.cancel().catch(() => {})
}

const servers = programs.filter(({ name }) => !name.endsWith('/route.mjs'))

// eslint-disable-next-line vitest/expect-expect -- expectToWork asserts.
test.each(servers)('$name', async ({ name }) => {
  const send = await start(name)
  const { url } = await send('/')
  await expectToWork(send, new URL(url).origin)
})

// eslint-disable-next-line vitest/expect-expect -- expectToWork asserts.
test('Next.js gives its route a Request', async () => {
  const { name } = programs.find((each) => each.name.endsWith('/route.mjs'))!
  const env = { ...process.env }
  process.env['DATABASE_URL'] = database.url
  try {
    const route = (await import(pathToFileURL(join(folder, name)).href)) as Record<
      'GET' | 'POST',
      (request: Request) => Promise<Response>
    >
    const origin = 'https://shop.example'
    const send: Send = (path, init) =>
      (init?.method === 'POST' ? route.POST : route.GET)(new Request(`${origin}${path}`, init))
    await expectToWork(send, origin)
    const { dashboard } = (await import(pathToFileURL(join(folder, 'dashboard.mjs')).href)) as {
      dashboard: { close(): Promise<void> }
    }
    await dashboard.close()
  } finally {
    process.env = env
  }
})

test('all of them are named', () => {
  expect(programs.map(({ name }) => name)).toEqual([
    ...['http.mjs', 'express.mjs', 'fastify.mjs', 'hono.mjs', 'nestjs.mjs'],
    'app/ops/twinbox/[[...path]]/route.mjs',
  ])
})
