import { execFile, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { freePort } from '../../proof/stage/postgres.ts'
import { makeProject, userEnv } from '../support/packed.ts'
import { createTestDatabase, type TestDatabase } from '../support/postgres.ts'

/**
 * A route of Next that migrates, publishes and handles, built by each of its bundlers, with a configuration that says nothing of
 * Twinbox. A build takes minutes on two busy cores, and the packages 400 MB; `test/runtimes.test.ts` has the cheap bundler.
 */
const run = promisify(execFile)
const packages = ['next@16.4.6', 'react@19.2.0', 'react-dom@19.2.0']

const route = `
import pg from 'pg'
import { createClaimer, createOutbox, createReceiver, createRelay, migrate, withTransaction } from 'twinbox'
import { postgres } from 'twinbox/postgres'

export async function POST() {
  const database = process.env.DATABASE_URL
  await migrate(database)
  const broker = postgres({ database })
  const relay = createRelay({ database, broker })
  const receiver = createReceiver({ database, broker, consumer: 'billing', topics: ['order.*'] })
  let resolve
  const done = new Promise((first) => (resolve = first))
  const claimer = createClaimer({ database, consumer: 'billing' }, {
    'order.placed': { transaction: false, handle: (message) => resolve(message.payload) },
  })
  for (const worker of [receiver, relay, claimer]) await worker.start()
  const pool = new pg.Pool({ connectionString: database })
  await withTransaction(pool, (client) => createOutbox().publish(client, { topic: 'order.placed', payload: { total: 42 } }))
  const handled = await done
  for (const worker of [relay, receiver, claimer]) await worker.stop()
  await broker.close()
  await pool.end()
  return Response.json(handled)
}
`
const layout = `export default function Layout({ children }) { return <html><body>{children}</body></html> }`

let folder: string
let project: string
let database: TestDatabase
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'twinbox-next-'))
  project = await makeProject(folder)
  const quiet = ['--no-audit', '--no-fund', '--prefer-offline', '--ignore-scripts']
  await run('npm', ['install', ...packages, ...quiet], { cwd: project })
  await mkdir(join(project, 'app/order'), { recursive: true })
  await writeFile(join(project, 'app/layout.js'), layout)
  await writeFile(join(project, 'app/order/route.js'), route)
  database = await createTestDatabase({ migrated: false })
}, 600_000)
afterAll(async () => {
  await database?.drop()
  await rm(folder, { recursive: true, force: true })
})

test.each(['turbopack', 'webpack'])(
  'built by %s, the route migrates, publishes and handles',
  async (bundler) => {
    const env = { ...userEnv(), NEXT_TELEMETRY_DISABLED: '1', DATABASE_URL: database.url }
    const next = join(project, 'node_modules/next/dist/bin/next')
    await run(process.execPath, [next, 'build', `--${bundler}`], { cwd: project, env })
    const port = await freePort()
    // A group of its own, since it starts another process.
    const server = spawn(process.execPath, [next, 'start', '-p', String(port)], {
      ...{ cwd: project, env, detached: true },
      stdio: ['ignore', 'pipe', 'pipe'],
    })
    const closed = once(server, 'close')
    try {
      let told = ''
      await new Promise<void>((resolve, reject) => {
        for (const stream of [server.stdout, server.stderr])
          stream.on('data', (chunk: Buffer) => {
            told += chunk.toString()
            if (told.includes('Ready')) resolve()
          })
        server.once('exit', () => reject(new Error(`It ended: ${told}`)))
      })
      const response = await fetch(`http://127.0.0.1:${port}/order`, { method: 'POST' })
      expect({ status: response.status, body: await response.text(), told }).toMatchObject({
        status: 200,
        body: '{"total":42}',
      })
    } finally {
      process.kill(-server.pid!, 'SIGTERM')
      await closed
    }
  },
)
