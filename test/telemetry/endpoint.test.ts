import { once } from 'node:events'
import { connect, type Socket } from 'node:net'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { createEndpoint, type Endpoint } from '../../src/cli/endpoint.ts'
import { createTestDatabase, type TestDatabase } from '../support/postgres.ts'

/** What strangers can do to the endpoint of a worker, and what they are told. */

let database: TestDatabase
const open: Endpoint[] = []
beforeAll(async () => {
  database = await createTestDatabase()
})
afterAll(async () => {
  for (const endpoint of open) await endpoint.close()
  await database.drop()
})

/** Returns where it listens. */
async function listen(host: string, token?: string): Promise<string> {
  const endpoint = await createEndpoint({
    ...{ database: database.url, schema: 'twinbox', port: 0, host, stuckAfterMs: undefined, token },
  })
  open.push(endpoint)
  const said: string[] = []
  await endpoint.open([], { say: (text: string) => said.push(text) } as never)
  return `http://127.0.0.1:${/:(\d+) has/.exec(said[0]!)![1]}`
}

const socketTo = async (url: string): Promise<Socket> => {
  const socket = connect(Number(new URL(url).port), '127.0.0.1')
  socket.on('error', () => {})
  await once(socket, 'connect')
  return socket
}

test.each([
  ['send nothing', ''],
  ['send half a request', 'GET /metrics HTTP/1.1\r\nHost: '],
  ['have had their answer', 'GET /health/live HTTP/1.1\r\nHost: a\r\n\r\n'],
])('150 sockets that %s keep nobody out', async (_, text) => {
  const url = await listen('127.0.0.1')
  const sockets: Socket[] = []
  for (let index = 0; index < 150; index++) {
    const socket = await socketTo(url)
    socket.write(text)
    sockets.push(socket)
  }
  for (let round = 0; round < 3; round++) {
    const response = await fetch(`${url}/health/live`, { headers: { connection: 'close' } })
    expect(response.status).toBe(200)
  }
  for (const socket of sockets) socket.destroy()
})

test('a stranger is told whether all is well, and who has the token, all', async () => {
  const url = await listen('0.0.0.0', 'secret')
  const get = (path: string, authorization?: string): Promise<Response> =>
    fetch(url + path, { headers: authorization === undefined ? {} : { authorization } })
  for (const wrong of [undefined, '', 'Bearer', 'Bearer secre', 'Bearer secret2', 'Basic secret', 'secret']) {
    const { status, headers } = await get('/metrics', wrong)
    expect([wrong, status, headers.get('www-authenticate')]).toEqual([wrong, 401, 'Bearer'])
    expect(Object.keys((await (await get('/health/ready', wrong)).json()) as object)).toEqual([
      'ok',
      'live',
      'ready',
    ])
  }
  expect(await (await get('/metrics', 'Bearer secret')).text()).toContain('twinbox_')
  expect(await (await get('/health/ready', 'Bearer secret')).json()).toMatchObject({ problems: [] })
})

test('without a token, problems are told on a loopback address only', async () => {
  const health = async (url: string): Promise<unknown> => (await fetch(`${url}/health/ready`)).json()
  expect(await health(await listen('127.0.0.1'))).toMatchObject({ problems: [] })
  const everywhere = await listen('0.0.0.0')
  expect(await health(everywhere)).not.toHaveProperty('problems')
  expect((await fetch(`${everywhere}/metrics`)).status).toBe(200)
})
