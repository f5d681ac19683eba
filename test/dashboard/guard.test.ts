import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { createDashboard, type DashboardOptions, type Viewer } from '../../src/dashboard/dashboard.ts'
import { createOutbox } from '../../src/index.ts'
import { createTestDatabase, type TestDatabase } from '../support/postgres.ts'

/** Who may see the dashboard, which requests it takes, and what every answer forbids the browser. */

let database: TestDatabase
const ends: (() => Promise<unknown>)[] = []
beforeAll(async () => {
  database = await createTestDatabase()
})
afterAll(async () => {
  for (const end of ends) await end()
  await database.drop()
})

const origin = 'https://ops.example'
const operator: Viewer = { name: 'ada', access: 'operate' }
const reader: Viewer = { name: 'bob', access: 'read' }

function mount(viewer: Viewer | null = operator, more: Partial<DashboardOptions> = {}) {
  const dashboard = createDashboard({ database: database.url, authorize: () => viewer, ...more })
  ends.push(() => dashboard.close())
  return dashboard
}

type Mounted = ReturnType<typeof mount>

const get = (dashboard: Mounted, path: string, init: RequestInit = {}) =>
  dashboard.fetch(new Request(`${origin}${path}`, init))

async function tokenOf(dashboard: Mounted, path = '/'): Promise<string> {
  const text = await (await get(dashboard, path)).text()
  return /name="token" value="([^"]+)"/.exec(text)![1]!
}

const post = (
  dashboard: Mounted,
  path: string,
  fields: Record<string, string>,
  headers: Record<string, string>,
) => get(dashboard, path, { method: 'POST', body: new URLSearchParams(fields), headers })

const own = { 'sec-fetch-site': 'same-origin', origin }

describe('a page', () => {
  test('is for those whom authorize knows', async () => {
    const response = await get(mount(null), '/')
    expect(response.status).toBe(403)
    expect(await response.text()).not.toContain('<nav')
  })

  test('is for nobody if authorize says nonsense or throws', async () => {
    for (const authorize of [() => ({ name: 'eve', access: 'admin' }) as never, () => true as never])
      expect((await get(mount(operator, { authorize }), '/')).status).toBe(403)
    const failing = mount(operator, {
      authorize: () => {
        throw new Error('no session store')
      },
    })
    const response = await get(failing, '/')
    expect(response.status).toBe(500)
    expect(await response.text()).not.toContain('session store')
  })

  test('forbids frames, foreign and inline code, and being stored', async () => {
    const { headers, status } = await get(mount(), '/')
    expect(status).toBe(200)
    const policy = headers.get('content-security-policy')!
    expect(policy).toContain("default-src 'none'")
    expect(policy).toContain("frame-ancestors 'none'")
    expect(policy).not.toContain('unsafe')
    expect(headers.get('cache-control')).toBe('no-store')
    expect(headers.get('referrer-policy')).toBe('same-origin')
    expect(headers.get('x-content-type-options')).toBe('nosniff')
  })

  test('shows what strangers wrote as text', async () => {
    const name = '<script>alert(1)</script>"\''
    const text = await (await get(mount({ name, access: 'read' }), '/')).text()
    expect(text).not.toContain('<script>alert')
    expect(text).toContain('&lt;script&gt;alert(1)&lt;/script&gt;&quot;&#39;')
  })

  test('has its links below the mount, which the request may have or not', async () => {
    const dashboard = mount(operator, { basePath: '/ops/box/' })
    for (const path of ['/ops/box', '/ops/box/', '/']) {
      const response = await get(dashboard, path)
      expect([path, response.status]).toEqual([path, 200])
      expect(await response.text()).toContain('href="/ops/box/"')
    }
    expect((await get(dashboard, '/ops/box/nothing')).status).toBe(404)
  })
})

describe('a form', () => {
  test('is taken from a page of ours', async () => {
    const dashboard = mount()
    const token = await tokenOf(dashboard)
    const response = await post(dashboard, '/theme', { token, theme: 'dark', back: '/?a=1' }, own)
    expect([response.status, response.headers.get('location')]).toEqual([303, '/?a=1'])
    const cookie = response.headers.get('set-cookie')!.split(';')[0]!
    const page = await (await get(dashboard, '/', { headers: { cookie } })).text()
    expect(page).toContain('data-theme="dark"')
  })

  test.each([
    ['of another site', { 'sec-fetch-site': 'cross-site', origin }],
    ['of another host of the same site', { 'sec-fetch-site': 'same-site', origin }],
    ['of an old browser, with another origin', { origin: 'https://evil.example' }],
    ['of a sandboxed frame', { origin: 'null' }],
    ['that says nothing of where it comes from', {}],
  ])('%s is refused', async (_, headers) => {
    const dashboard = mount()
    const token = await tokenOf(dashboard)
    const response = await post(dashboard, '/theme', { token, theme: 'dark' }, headers)
    expect(response.status).toBe(403)
    expect(response.headers.get('set-cookie')).toBeNull()
  })

  test('is refused without the token of its viewer', async () => {
    const secret = 'x'.repeat(32)
    const [hers, his] = [mount(operator, { secret }), mount(reader, { secret })]
    expect((await post(hers, '/theme', { theme: 'dark' }, own)).status).toBe(403)
    const token = await tokenOf(his)
    expect((await post(hers, '/theme', { theme: 'dark', token }, own)).status).toBe(403)
    expect((await post(his, '/theme', { theme: 'dark', token }, own)).status).toBe(303)
    // Another process behind the same address takes it.
    expect((await post(mount(reader, { secret }), '/theme', { theme: 'dark', token }, own)).status).toBe(303)
  })

  test('leads to no other site', async () => {
    const dashboard = mount()
    const token = await tokenOf(dashboard)
    for (const back of [
      'https://evil.example/',
      '//evil.example/',
      '/\\evil.example',
      'javascript:alert(1)',
    ]) {
      const { headers } = await post(dashboard, '/theme', { token, theme: 'dark', back }, own)
      expect([back, headers.get('location')]).toEqual([back, '/'])
    }
  })

  test('is a form: JSON is refused, from wherever it comes', async () => {
    const dashboard = mount()
    const token = await tokenOf(dashboard)
    const body = JSON.stringify({ token, theme: 'dark' })
    const json = { 'content-type': 'application/json' }
    const foreign = await get(dashboard, '/theme', {
      method: 'POST',
      body,
      headers: { ...json, origin: 'https://evil.example' },
    })
    expect(foreign.status).toBe(403)
    const near = await get(dashboard, '/theme', { method: 'POST', body, headers: { ...json, ...own } })
    expect(near.status).toBe(415)
  })
})

describe('assets', () => {
  test('are kept for good, under the hash of their content', async () => {
    const dashboard = mount(null)
    const page = await (await get(dashboard, '/')).text()
    const paths = [...page.matchAll(/="([^"]*\/assets\/[^"]+)"/g)].map(([, path]) => path!)
    expect(paths).toHaveLength(3)
    let size = 0
    for (const path of paths) {
      const response = await get(dashboard, path)
      expect([path, response.status]).toEqual([path, 200])
      expect(response.headers.get('cache-control')).toContain('immutable')
      size += (await response.arrayBuffer()).byteLength
    }
    expect(size).toBeLessThanOrEqual(150_000)
    expect((await get(dashboard, paths[0]!.replace(/assets\/[^/]+/, 'assets/another'))).status).toBe(404)
    expect((await get(dashboard, '/assets/x/__proto__')).status).toBe(404)
  })
})

describe('the overview', () => {
  test('shows the boxes, and streams what changes in them', async () => {
    const dashboard = mount()
    const stream = await get(dashboard, '/live?page=%2F')
    expect(stream.headers.get('content-type')).toBe('text/event-stream')
    const reading = stream.body!.pipeThrough(new TextDecoderStream()).getReader()
    let seen = ''
    const sees = async (wanted: string): Promise<void> => {
      while (!seen.includes(wanted)) seen += (await reading.read()).value ?? ''
    }
    await sees('event: poll')
    await database.transaction((client) =>
      createOutbox().publishMany(
        client,
        [1, 2, 3].map((n) => ({ topic: 'order.placed', payload: n })),
      ),
    )
    await sees('data-head=\\"Depth\\">3')
    await reading.cancel()
  })

  test('ends its streams when the dashboard is closed', async () => {
    const dashboard = createDashboard({ database: database.url, authorize: () => operator })
    const stream = await get(dashboard, '/live?page=%2F')
    const text = stream.text()
    await dashboard.close()
    expect(await text).toContain('event: poll')
  })
})

test('options are refused before anything is asked of the database', () => {
  const make = (options: object) => () =>
    createDashboard({ database: 'postgres://nowhere/', ...options } as DashboardOptions)
  expect(make({})).toThrow(/authorize must be a function/)
  const authorize = () => operator
  expect(make({ authorize, base: '/' })).toThrow(/base is not an option/)
  expect(make({ authorize, basePath: 'ops' })).toThrow(/basePath must be a path/)
  expect(make({ authorize, traceUrl: 'javascript:{traceId}' })).toThrow(/traceUrl must be/)
  expect(make({ authorize, secret: 'short' })).toThrow(/secret must be/)
  expect(make({ authorize, showPayload: true })).toThrow(/showPayload/)
})
