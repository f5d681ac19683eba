import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { Client, Pool } from 'pg'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { placeOf } from '../src/database/place.ts'
import { migrationSql } from '../src/database/sql/migration.ts'
import { createOutbox } from '../src/index.ts'
import type { Status } from '../src/status/status.ts'
import { Command, type Output } from './support/command.ts'
import { createTestDatabase, type TestDatabase } from './support/postgres.ts'
import { columns } from '../src/terminal/prose.ts'
import { frames, inTerminal } from './support/pty.ts'

let folder: string
let database: TestDatabase
let empty: TestDatabase

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'twinbox-cli-'))
  database = await createTestDatabase()
  empty = await createTestDatabase({ migrated: false })
})
afterAll(async () => {
  await Promise.all([database.drop(), empty.drop(), rm(folder, { recursive: true, force: true })])
})

const twinbox = (args: readonly string[], env?: NodeJS.ProcessEnv): Promise<Output> => start(args, env).done
const start = (args: readonly string[], env?: NodeJS.ProcessEnv): Command => new Command(folder, args, env)
const config = async (name: string, text: string): Promise<string> => {
  const path = join(folder, name)
  await writeFile(path, text)
  return path
}

/** Every time in milliseconds, however deep; there has to be one. */
function expectWholeMs(json: string): void {
  const fractions: string[] = []
  let times = 0
  JSON.parse(json, (name, value: unknown) => {
    if (!name.endsWith('Ms') || value === null) return value
    times++
    if (!Number.isInteger(value)) fractions.push(`${name}: ${JSON.stringify(value)}`)
    return value
  })
  expect(fractions).toEqual([])
  expect(times).toBeGreaterThan(0)
}

/** A command that shows a password to everybody on the machine. */
const withPassword = /^ *\$?.*(twinbox|npm run) .*:\/\/[^\s/:@]*:[^\s@]+@/m

describe('what it is told', () => {
  test('--help names every command, and every command has help with examples', async () => {
    const { code, stdout } = await twinbox(['--help'])
    expect(code).toBe(0)
    for (const command of [
      ...['migrate', 'relay', 'receive', 'claim', 'work', 'status', 'workers', 'demo'],
      ...['dead', 'parked', 'messages', 'schedules', 'prune'],
    ]) {
      expect(stdout).toMatch(new RegExp(`^ +${command} `, 'm'))
      const help = await twinbox([command, '--help'])
      expect(help).toMatchObject({ code: 0, stderr: '' })
      expect(help.stdout).toContain(`$ twinbox ${command}`)
      // What no terminal says is as wide as a terminal.
      expect(help.stdout.split('\n').filter((line) => columns(line) > 80)).toEqual([])
    }
  })

  test('help names the environment before the flag of whatever may hold a password, and shows none in a flag', async () => {
    const commands = ['migrate', 'relay', 'receive', 'claim', 'work', 'unsubscribe', 'roles', 'demo', 'soak']
    for (const command of commands) {
      const { stdout } = await twinbox([command, '--help'])
      // A soak is a load: its database has to be named.
      if (command !== 'soak') expect(stdout).toMatch(/--database <url>\s+(TWINBOX_)?DATABASE_URL, or this/)
      if (stdout.includes('--url <url>')) {
        expect(stdout).toMatch(/--url <url>\s+TWINBOX_BROKER_URL, or this/)
        expect(stdout).toMatch(/--insecure\s+TWINBOX_INSECURE=1, or this/)
      }
      expect(stdout).not.toMatch(withPassword)
    }
    expect((await twinbox(['--help'])).stdout).not.toMatch(withPassword)
    expect('  $ twinbox migrate -d postgres://me:secret@db/x').toMatch(withPassword)
  })

  test('--version is that of the package', async () => {
    const { version } = JSON.parse(await readFile('package.json', 'utf8')) as { version: string }
    for (const before of [[], ['work'], ['schedules', 'add']])
      expect(await twinbox([...before, '--version'])).toEqual({
        code: 0,
        stdout: `${version}\n`,
        stderr: '',
      })
  })

  test.each([
    { args: [], says: /Usage: twinbox/ },
    { args: ['migrat'], says: /unknown command 'migrat'\n\(Did you mean migrate\?\)/ },
    {
      args: ['dead', 'lst'],
      says: /unknown command 'lst'\n\(Did you mean list\?\)\nSee twinbox dead --help/,
    },
    // These do something by themselves too.
    { args: ['demo', 'shoop'], says: /unknown command 'shoop'\n\(Did you mean shop\?\)/ },
    { args: ['workers', 'evct', '7'], says: /unknown command 'evct'\n\(Did you mean evict\?\)/ },
    { args: ['help', 'statu'], says: /unknown command 'statu'\n\(Did you mean status\?\)/ },
    { args: ['help', 'dead', 'lst'], says: /unknown command 'lst'\n\(Did you mean list\?\)/ },
    { args: ['dead', 'help', 'lst'], says: /unknown command 'lst'\n\(Did you mean list\?\)/ },
    { args: ['dead', 'list', '--topc', 'x'], says: /unknown option '--topc'\n\(Did you mean --topic\?\)/ },
    { args: ['prune', 'ded'], says: /'ded' is invalid .*Allowed choices are dedupe, seen/ },
    {
      args: ['migrate', '--databse', 'x'],
      says: /unknown option '--databse'\n\(Did you mean --database\?\)/,
    },
    { args: ['migrate'], says: /^No database: set TWINBOX_DATABASE_URL, give --database URL/ },
    { args: ['migrate', '-d', 'http://u:hidden@h/x'], says: /postgres:\/\// },
    { args: ['migrate', '-d', 'postgres://u:hid den@h:port/x'], says: /URL/ },
    { args: ['status', '--schema', 'No Good'], says: /^schema must be/ },
    { args: ['workers', 'bogus'], says: /unknown command 'bogus'\nSee twinbox workers --help\./ },
    { args: ['workers', '--kind', 'pigeon'], says: /Allowed choices are relay, receiver, claimer/ },
    { args: ['workers', 'evict'], says: /missing required argument 'id'/ },
    // Found before it is known that nobody is at the other end.
    { args: ['workers', 'evict', '7', 'x', '-d', 'postgres://127.0.0.1:1/x'], says: /whole number from 1/ },
    { args: ['workers', 'evict', '1.5', '-d', 'postgres://127.0.0.1:1/x'], says: /whole number from 1/ },
    {
      args: ['workers', 'evict', '2147483648', '-d', 'postgres://127.0.0.1:1/x'],
      says: /whole number from 1/,
    },
    { args: ['relay', '-d', 'postgres://h/x'], says: /^No broker/ },
    {
      args: ['relay', '-d', 'postgres://h/x', '-b', 'pigeon'],
      says: /Allowed choices are postgres, rabbitmq, kafka/,
    },
    { args: ['relay', '-d', 'postgres://h/x', '-b', 'rabbitmq'], says: /needs TWINBOX_BROKER_URL or --url/ },
    { args: ['relay', '-d', 'postgres://h/x', '-b', 'rabbitmq', '-u', 'pigeon://u:hidden@h'], says: /amqp/ },
    {
      args: ['relay', '-d', 'postgres://h/x', '-b', 'rabbitmq', '-u', 'amqp://u:hidden@mq'],
      says: /on the way to mq.*insecure: true .*--insecure or TWINBOX_INSECURE=1/,
    },
    {
      args: ['relay', '-d', 'postgres://h/x', '-b', 'postgres', '-u', 'postgres://u:hidden@db/x'],
      says: /on the way to db/,
    },
    { args: ['work', '-d', 'postgres://h/x', '-b', 'postgres'], says: /^No consumer to work for/ },
    {
      args: ['claim', '-d', 'postgres://h/x', '--zookeeper', 'zk1:2181'],
      says: /^servers names zk1, .*insecure: true \(on the command line --insecure or TWINBOX_INSECURE=1\)/,
    },
    {
      args: ['claim', '-d', 'postgres://h/x', '--zookeeper', 'zk1:x', '--insecure'],
      says: /^servers must be/,
    },
    {
      args: ['claim', '--config', 'missing.ts', '-d', 'postgres://h/x'],
      says: /^There is no configuration file/,
    },
    { args: ['demo', '--messages', '9'], says: /whole number from 10 to 100000/ },
    { args: ['demo', '--messages', '2e3'], says: /whole number from 10 to 100000/ },
    { args: ['demo', '--broker', 'kafka'], says: /needs TWINBOX_BROKER_URL or --url/ },
  ])('used wrongly, it says so and exits with 2: $args', async ({ args, says }) => {
    const { code, stdout, stderr } = await twinbox(args)
    expect(code).toBe(2)
    expect(stdout).toBe('')
    expect(stderr).toMatch(says)
    expect(stderr).not.toMatch(/hidden|hid den|^ +at /m)
  })

  test('a failure is one sentence without a stack or a password, and exit code 1', async () => {
    const url = 'postgres://someone:hid@den@127.0.0.1:1/x'
    const plain = await twinbox(['migrate', '--database', url])
    expect(plain).toEqual({
      code: 1,
      stdout: '',
      stderr: 'The database cannot be used: connect ECONNREFUSED 127.0.0.1:1\n',
    })
    const verbose = await twinbox(['status', '--verbose'], { TWINBOX_DATABASE_URL: url })
    expect(verbose.code).toBe(1)
    expect(verbose.stderr).toMatch(/^ +at /m)
    expect(verbose.stderr).not.toMatch(/hid|den@/)
  })

  test('flags beat TWINBOX_… of the environment, that beats the configuration, and all of them DATABASE_URL', async () => {
    const path = await config(
      'layers.config.mjs',
      `export default { database: 'postgres://h:1/x', schema: 'from_config' }`,
    )
    const schemaOf = async (args: string[], env?: NodeJS.ProcessEnv): Promise<string> =>
      /create schema if not exists "(\w+)"/.exec(
        (await twinbox(['migrate', '--print', ...args], env)).stdout,
      )![1]!
    expect(await schemaOf(['--config', path])).toBe('from_config')
    expect(await schemaOf(['--config', path], { TWINBOX_SCHEMA: 'from_env' })).toBe('from_env')
    expect(await schemaOf(['--config', path, '--schema', 'from_flag'], { TWINBOX_SCHEMA: 'from_env' })).toBe(
      'from_flag',
    )
    const ambient = { DATABASE_URL: 'postgres://127.0.0.1:4/ambient' }
    const named = { ...ambient, TWINBOX_DATABASE_URL: 'postgres://127.0.0.1:3/named' }
    const configured = await config(
      'ambient.config.mjs',
      `export default { database: 'postgres://127.0.0.1:2/configured' }`,
    )
    const told = async (args: string[], env: NodeJS.ProcessEnv): Promise<string> => {
      const command = start(['status', ...args], env)
      await command.done
      return command.stderr
    }
    const flag = 'postgres://127.0.0.1:5/flag'
    expect(await told(['-c', configured, '-d', flag], named)).toMatch(
      /^Database "flag" on 127.0.0.1:5.*\(by --database\)\.\n.*ECONNREFUSED 127.0.0.1:5/,
    )
    expect(await told(['-c', configured], named)).toMatch(
      /^Database "named".*\(by TWINBOX_DATABASE_URL\)\.\n.*ECONNREFUSED 127.0.0.1:3/,
    )
    expect(await told(['-c', configured], ambient)).toMatch(
      /^Database "configured".*\(by .*ambient\.config\.mjs\)\.\n.*ECONNREFUSED 127.0.0.1:2/,
    )
    expect(await told([], ambient)).toMatch(
      /^Database "ambient".*\(by DATABASE_URL\)\.\n.*ECONNREFUSED 127.0.0.1:4/,
    )
  })

  test.each([
    ...[['migrate'], ['doctor'], ['roles'], ['workers', '--watch'], ['dead', 'list'], ['schedules', 'list']],
    ...[
      ['prune', 'workers', '--older-than', '1d', '--yes'],
      ['relay', '-b', 'postgres'],
    ],
  ])('%s %s says on which database it works, to people', async (...args) => {
    // Nobody listens there: what is said is said before anything is done.
    const command = start([...args, '-d', 'postgres://someone:hid@den@127.0.0.1:1/x'])
    expect(await command.done).toMatchObject({ code: 1, stdout: '' })
    expect(command.stderr.match(/Database .*/g)).toEqual([
      'Database "x" on 127.0.0.1:1 as someone, schema "twinbox" (by --database).',
    ])
    expect(command.stderr).not.toMatch(/hid|den@/)
  })

  test('where a database is, is told of a URL, of options, of a pool and of several hosts', () => {
    const pool = new Pool({ host: 'db', port: 6432, user: 'me', password: 'hidden', database: 'shop' })
    expect(placeOf('postgres://me:hidden@db1,db2:5433/shop?sslmode=disable')).toBe(
      '"shop" on db1:5432, db2:5433 as me',
    )
    expect(placeOf({ host: '/run/postgresql', user: 'me', database: 'a\u001bb' })).toBe(
      '"a\\u001bb" on /run/postgresql:5432 as me',
    )
    expect(placeOf(pool)).toBe('"shop" on db:6432 as me')
  })

  test('a configuration with a misspelt option is refused', async () => {
    const path = await config('misspelt.config.mjs', `export default { databse: 'postgres://h/x' }`)
    const { code, stderr } = await twinbox(['work', '--config', path])
    expect(code).toBe(2)
    expect(stderr).toContain('databse is not an option')
    const inner = await config(
      'inner.config.mjs',
      `export default { database: 'postgres://h/x', broker: { send() {}, subscribe() {}, close() {} },
        consumers: { billing: { topics: ['a'], handlers: { a() {} }, concurency: 3 } } }`,
    )
    const second = await twinbox(['work', '--config', inner])
    expect(second.code).toBe(2)
    expect(second.stderr).toContain('concurency is not an option')
  })
})

describe('migrate', () => {
  test('two at once create the tables once, and a third finds nothing to do', async () => {
    const fresh = await createTestDatabase({ migrated: false })
    const both = await Promise.all([1, 2].map(() => twinbox(['migrate', '--json', '--database', fresh.url])))
    expect(both.map(({ code }) => code)).toEqual([0, 0])
    const applied = both.map(({ stdout }) => (JSON.parse(stdout) as { applied: string[] }).applied)
    expect(applied.flat()).toContain('0001_outbox')
    expect(new Set(applied.flat()).size).toBe(applied.flat().length)
    const third = await twinbox(['migrate'], { TWINBOX_DATABASE_URL: fresh.url })
    expect(third).toEqual({ code: 0, stdout: 'The schema "twinbox" is up to date.\n', stderr: '' })
    await fresh.drop()
  })

  test.each(['twinbox', 'messaging'])(
    '--print needs no database, and its SQL makes the schema %s as it is',
    async (schema) => {
      const { code, stdout } = await twinbox(['migrate', '--print', '--schema', schema])
      expect(code).toBe(0)
      const client = new Client({ connectionString: empty.url })
      await client.connect()
      await client.query(stdout)
      const { rows } = await client.query(
        `select (${schema}.publish('order.placed', '{"total": 42}')).duplicate`,
      )
      expect(rows).toEqual([{ duplicate: false }])
      await client.end()
      const after = await twinbox(['migrate', '--schema', schema, '--database', empty.url])
      expect(after.stdout).toBe(`The schema "${schema}" is up to date.\n`)
    },
  )
})

describe('status', () => {
  test('shows what waits by topic and consumer, and who works', async () => {
    await database.transaction((client) =>
      createOutbox().publishMany(client, [
        { topic: 'order.placed', key: 'o1', payload: 1 },
        { topic: 'order.placed', payload: 2 },
        { topic: 'order.paid', key: 'o1', payload: 3 },
      ]),
    )
    const { code, stdout, stderr } = await twinbox(['status', '--json', '--database', database.url])
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' })
    const status = JSON.parse(stdout) as Status
    expect(status).toMatchObject({
      schema: 'twinbox',
      outbox: {
        depth: 3,
        more: false,
        lagMs: expect.any(Number) as number,
        topics: [
          { topic: 'order.placed', depth: 2 },
          { topic: 'order.paid', depth: 1 },
        ],
        deferred: { count: 0, more: false },
        parkedKeys: { count: 0, more: false },
        parkedMessages: { count: 0, more: false },
        deadLetters: { count: 0, more: false },
      },
      consumers: [],
      workers: [],
      deadLetters: [],
    })
    expect(status.outbox.lagMs).toBeGreaterThan(0)
    const people = await twinbox(['status', '--database', database.url])
    expect(people.stdout).toMatch(/^outbox +3 +\d/m)
    expect(people.stdout).toMatch(/^outbox +order\.placed +2 /m)
    expect(people.stdout).not.toContain('\u001b')
    await database.query('delete from twinbox.outbox')
  })

  test('does not count for ever', async () => {
    await database.query(`insert into twinbox.outbox (lane, id, topic, payload)
      select n % 64, gen_random_uuid(), 'many', '1' from generate_series(1, 100500) as n`)
    const { stdout } = await twinbox(['status', '--json', '--database', database.url])
    expect(JSON.parse(stdout)).toMatchObject({ outbox: { depth: 100_000, more: true } })
    expect((await twinbox(['status', '--database', database.url])).stdout).toMatch(/^outbox +100000\+ /m)
    await database.query('truncate twinbox.outbox')
  })

  test('of 200,000 topics it shows the largest and counts the others', async () => {
    // A status counts no further than 100,000: the large ones are in the lane that it looks at first.
    await database.query(`insert into twinbox.outbox (lane, id, topic, payload)
      select case when n > 1000 then n % 64 else 0 end, gen_random_uuid(),
        case when n > 1000 then 'topic.' || n else 'big.' || n % 40 end, '1'
      from generate_series(1, 200000) as n`)
    const { code, stdout } = await twinbox(['status', '--json', '--database', database.url])
    expect(code).toBe(0)
    expect(stdout.length).toBeLessThan(10_000)
    const { outbox } = JSON.parse(stdout) as Status
    expect(outbox).toMatchObject({ depth: 100_000, more: true })
    expectWholeMs(stdout)
    expect(outbox.topics).toHaveLength(20)
    for (const { topic, depth } of outbox.topics) expect([topic.slice(0, 4), depth]).toEqual(['big.', 25])
    expect(outbox.topicCount).toBe(100_001 - 1000 + 40)
    const people = await twinbox(['status', '--database', database.url])
    expect(people.stdout.match(/^outbox +big\./gm)).toHaveLength(20)
    expect(people.stdout).toMatch(/^These are the largest; 99021\+ more have messages\.$/m)
    await database.query('truncate twinbox.outbox')
  })

  test('without tables it says what to do', async () => {
    const { code, stderr } = await twinbox(['status', '--schema', 'nowhere', '--database', database.url])
    expect(code).toBe(1)
    expect(stderr).toMatch(/^There are no Twinbox tables .* Run "npx twinbox migrate" first\.\n$/)
  })
})

describe('workers', () => {
  const workConfig = (handler: string): string => `
    import { DeadLetterError, defineConfig } from 'twinbox'
    import { postgres } from 'twinbox/postgres'

    const database: string = process.env.TWINBOX_DATABASE_URL!
    export default defineConfig({
      broker: () => postgres({ database }),
      consumers: {
        billing: { topics: ['order.*'], concurrency: 2, handlers: { 'order.*': ${handler} } },
      },
    })
    export const unused = DeadLetterError
  `
  const publish = (topic: string, key = 'k'): Promise<unknown> =>
    database.transaction((client) => createOutbox().publish(client, { topic, key, payload: { topic } }))

  test('work relays, receives and claims by a configuration in TypeScript, and stops in good order', async () => {
    await database.query('create table if not exists done (topic text)')
    const path = await config(
      'work.config.ts',
      workConfig(`async (message, { client }) => {
        if (message.topic === 'order.bad') throw new DeadLetterError('never again')
        await client.query('insert into done values ($1)', [message.topic])
      }`),
    )
    const command = start(['work', '--config', path, '--json', '--verbose'], {
      TWINBOX_DATABASE_URL: database.url,
    })
    await command.shows(/"type":"started","kind":"relay"/)
    await publish('order.good')
    await command.shows(/"type":"handled"/)
    // The class of the configuration's error is the one that the claimer knows.
    await publish('order.bad')
    await command.shows(/"type":"dead_letter"/)

    const status = JSON.parse(
      (await twinbox(['status', '--json', '--database', database.url])).stdout,
    ) as Status
    expect(status.workers.map(({ kind, consumer, alive }) => ({ kind, consumer, alive }))).toEqual([
      { kind: 'claimer', consumer: 'billing', alive: true },
      { kind: 'receiver', consumer: 'billing', alive: true },
      { kind: 'relay', consumer: null, alive: true },
    ])
    expect(status.workers[0]!.lanes).toHaveLength(72)
    expect(status.consumers).toMatchObject([
      { consumer: 'billing', subscriptions: ['order.*'], depth: 0, deadLetters: { count: 1, more: false } },
    ])
    expect(status.deadLetters).toMatchObject([{ topic: 'order.bad', consumer: 'billing', attempt: 1 }])

    command.process.kill('SIGTERM')
    const { code, stdout, stderr } = await command.done
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' })
    const events = stdout
      .trimEnd()
      .split('\n')
      .map((line) => JSON.parse(line) as { type: string; kind?: string })
    expect(events.filter(({ type }) => type === 'stopped').length).toBe(3)
    expect(await database.query('select topic from done')).toEqual([{ topic: 'order.good' }])
    expect(await database.query(`select from twinbox.worker where ended_at is null`)).toEqual([])
  })

  test('work handles in transactions that the configuration opens, and refuses what opens none', async () => {
    await database.query('create table if not exists opened (topic text)')
    const opening = (transaction: string): Promise<string> =>
      config(
        'opening.config.ts',
        `import pg from '${resolve('node_modules/pg/lib/index.js')}'
        import { defineConfig, inTransaction, withTransaction } from 'twinbox'
        import { postgres } from 'twinbox/postgres'

        const database: string = process.env.TWINBOX_DATABASE_URL!
        const pool = new pg.Pool({ connectionString: database, allowExitOnIdle: true })
        export default defineConfig({
          broker: () => postgres({ database }),
          consumers: {
            opening: {
              topics: ['opened'],
              transaction: ${transaction},
              handlers: {
                opened: async (message, { tx }) => {
                  await tx.query('insert into opened values ($1)', [message.topic])
                },
              },
            },
          },
        })
        export const unused = [pool, inTransaction, withTransaction]`,
      )
    const environment = { TWINBOX_DATABASE_URL: database.url }
    const path = await opening('inTransaction<pg.ClientBase>((run) => withTransaction(pool, run))')
    const command = start(['work', '--config', path, '--json', '--verbose'], environment)
    await command.shows(/"type":"started","kind":"relay"/)
    await publish('opened')
    await command.shows(/"type":"handled"/)
    command.process.kill('SIGTERM')
    expect(await command.done).toMatchObject({ code: 0, stderr: '' })
    expect(await database.query('select topic from opened')).toEqual([{ topic: 'opened' }])

    const wrong = start(
      ['work', '--config', await opening('(run) => withTransaction(pool, run)')],
      environment,
    )
    const { code, stderr } = await wrong.done
    expect({ code, stderr }).toEqual({
      code: 2,
      stderr: expect.stringContaining('transaction must be what inTransaction((run) => …) gives') as string,
    })
  })

  test('a second signal ends it at once, with 1', async () => {
    const path = await config('hang.config.ts', workConfig(`() => new Promise(() => {})`))
    const env = { TWINBOX_DATABASE_URL: database.url }
    const command = start(['work', '--config', path, '--verbose'], env)
    await command.shows(/relay \d+: started/)
    // Not of the key that a dead letter holds back. And before it is in flight, a stop has nothing to wait for.
    await publish('order.stuck', 'other')
    await command.shows(/claimer billing \d+: claimed 1 message/)
    command.process.kill('SIGINT')
    await command.shows(/SIGINT: stopping .* Once more to stop at once\./)
    command.process.kill('SIGINT')
    const { code, stdout } = await command.done
    expect({ code, stdout }).toEqual({ code: 1, stdout: '' })
    await database.query(`delete from twinbox.inbox`)
  })

  test('a relay and a receiver need no configuration file', async () => {
    const env = { TWINBOX_DATABASE_URL: database.url, TWINBOX_BROKER: 'postgres' }
    const receiver = start(['receive', '--consumer', 'plain', '--topic', 'plain.#'], env)
    await receiver.shows(/receiver plain \d+: started/)
    const relay = start(['relay'], env)
    await relay.shows(/relay \d+: started/)
    await publish('plain.one')
    while ((await database.query(`select from twinbox.inbox where consumer = 'plain'`)).length === 0) continue
    for (const { process } of [receiver, relay]) process.kill('SIGTERM')
    expect((await receiver.done).code).toBe(0)
    expect((await relay.done).code).toBe(0)
  })
})

describe('the roster of workers', () => {
  const register = async (ended: string | null = null): Promise<number> => {
    const [row] = await database.query<{ id: number }>(
      `insert into twinbox.worker (kind, consumer, host, pid, version, application, ended_at, ended_by, beat_at)
      values ('claimer', 'roster', 'h', 7, '0.1.0', 'test', case when $1::text is not null then now() end, $1,
        now() + interval '10 minutes')
      returning id`,
      [ended],
    )
    return row!.id
  }
  const shown = (text: string): { id: number; state: string }[] =>
    (JSON.parse(text) as { workers: { id: number; state: string }[] }).workers
  const env = (): NodeJS.ProcessEnv => ({ TWINBOX_DATABASE_URL: database.url })

  test('workers shows them as a table, or as one object for programs', async () => {
    const alive = await register()
    const died = await register('heartbeat')
    const args = ['workers', '--consumer', 'roster']
    const people = await twinbox(args, env())
    expect(people).toMatchObject({ code: 0, stderr: '' })
    expect(people.stdout).toMatch(
      /^id +kind +consumer +state +up +beat +lanes +since +in flight +lock +host +pid +version\n/,
    )
    expect(people.stdout).toMatch(new RegExp(`^${alive} +claimer +roster +alive `, 'm'))
    expect(people.stdout).toContain('\n1 ended in the last ten minutes: 1 died: heartbeat. ')
    const whole = await twinbox([...args, '--ended'], env())
    expect(whole.stdout).toMatch(new RegExp(`^${died} +claimer +roster +died: heartbeat `, 'm'))
    const programs = await twinbox([...args, '--json'], env())
    expectWholeMs(programs.stdout)
    expect(JSON.parse(programs.stdout)).toMatchObject({ schema: 'twinbox', at: expect.any(String) as string })
    expect(shown(programs.stdout)).toMatchObject([
      {
        id: alive,
        kind: 'claimer',
        consumer: 'roster',
        state: 'alive',
        locked: false,
        session: false,
        endedBy: null,
        lanes: [],
      },
      { id: died, state: 'died', endedBy: 'heartbeat' },
    ])
    expect((await twinbox([...args, '--kind', 'relay'], env())).stdout).toBe('No such worker is running.\n')
    expect((await twinbox(['status'], env())).stdout).toMatch(
      / ended in the last ten minutes: .*died: heartbeat/,
    )
  })

  test('evict tells what became of each id, and fails if it could not evict one', async () => {
    const [first, second, third] = [await register(), await register(), await register()]
    const stopped = await register('stop')
    expect(await twinbox(['workers', 'evict', String(first)], env())).toEqual({
      code: 0,
      stdout: `Evicted worker ${first}.\nOthers of its kind take its work over now. If its process lives, it comes back under a new id.\n`,
      stderr: '',
    })
    const ids = [second, stopped, 999_999].map(String)
    const people = await twinbox(['workers', 'evict', ...ids], env())
    expect(people.code).toBe(1)
    expect(people.stdout).toContain(`Evicted worker ${second}.\n`)
    expect(people.stderr).toBe(
      `There is no worker 999999 in the schema "twinbox".\nWorker ${stopped} had already ended, so there is nothing to take from it.\n`,
    )
    // Options of "workers" that stand before "evict" count as well.
    const programs = await twinbox([
      'workers',
      '--database',
      database.url,
      'evict',
      ...ids.slice(1),
      String(third),
      '--json',
    ])
    expect(programs).toMatchObject({ code: 1, stderr: '' })
    expect(JSON.parse(programs.stdout)).toEqual({ evicted: [third], unknown: [999_999], ended: [stopped] })
    const { stdout } = await twinbox(['workers', '--json', '--consumer', 'roster'], env())
    expect(shown(stdout).find(({ id }) => id === third)).toMatchObject({ state: 'evicted' })
  })

  test('--watch draws again every second, until a signal ends it with 0', async () => {
    const command = start(['workers', '--watch', '--json'], env())
    await command.shows(/\n.*\n.*\n/)
    command.process.kill('SIGINT')
    const { code, stdout, stderr } = await command.done
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' })
    const pictures = stdout.trimEnd().split('\n')
    for (const picture of pictures) expect(shown(picture).length).toBeGreaterThan(0)
    expect(pictures.length).toBeGreaterThanOrEqual(3)
    const plain = start(['workers', '--watch'], env())
    await plain.shows(/^id +kind [^]*\n\nid +kind /m)
    plain.process.kill('SIGTERM')
    expect(await plain.done).toMatchObject({ code: 0, stderr: '' })
    expect(plain.stdout).not.toContain('\u001b')
    const unreachable = await twinbox(['workers', '--watch', '--database', 'postgres://127.0.0.1:1/x'])
    expect(unreachable).toMatchObject({ code: 1, stdout: '' })
  })
})

test('migrate says who is in the way, for people and for programs, and Ctrl-C leaves all as it was', async () => {
  const other = await createTestDatabase({ migrated: false })
  const holder = await other.pool.connect()
  try {
    await holder.query('begin')
    await holder.query(migrationSql('twinbox').lock)
    const args = ['migrate', '--database', other.url]
    const command = start(args)
    await command.shows(/Waiting for locks since .* in the way: pid \d+ \(.*idle in transaction/)
    command.process.kill('SIGINT')
    expect(await command.done).toMatchObject({
      code: 1,
      stdout: '',
      stderr: expect.stringContaining('Stopped. Nothing was changed.') as string,
    })
    const program = start([...args, '--json'])
    await program.shows(/"waiting"/)
    const [line] = program.stderr.split('\n')
    expectWholeMs(line!)
    expect(JSON.parse(line!)).toMatchObject({
      schema: 'twinbox',
      waiting: { tries: 1, blockers: [{ pid: expect.any(Number) as number }] },
    })
    await holder.query('rollback')
    const { code, stdout } = await program.done
    expect({ code, ...(JSON.parse(stdout) as object) }).toMatchObject({ code: 0, schema: 'twinbox' })
    expect(await twinbox([...args, '--wait', 'soon'])).toMatchObject({ code: 2 })
  } finally {
    holder.release()
    await other.drop()
  }
})

describe.skipIf(inTerminal === null)('in a terminal of 80 columns and 24 rows', () => {
  const long = 'a-topic.with-a-very-long-name.that-somebody-has-chosen.for-reasons-of-their-own'
  let crowded: TestDatabase
  beforeAll(async () => {
    crowded = await createTestDatabase()
    const [columnsOf, content] = [
      'id, topic, key, payload, errors',
      `gen_random_uuid(), '${long}.' || n, '客户-👨‍👩‍👧-' || n, '1', '[]'`,
    ]
    await crowded.query(`insert into twinbox.worker
        (kind, consumer, host, pid, version, application, started_at, beat_at, ended_at, ended_by)
      select 'claimer', '倉庫-' || n, 'ip-10-0-0-' || n || '.eu-central-1.compute.internal', 4194304, '10.11.12', '',
        now() - interval '3 days', now() + interval '10 minutes', case when n > 20 then now() end,
        case when n > 20 then 'heartbeat' end
      from generate_series(1, 30) as n`)
    await crowded.query(`insert into twinbox.dead_letter (consumer, seq, attempt, reason, ${columnsOf})
      select 'billing', n, 10, repeat('支付失败 💥 ', 20), ${content} from generate_series(1, 40) as n`)
    await crowded.query(`insert into twinbox.outbox (lane, id, topic, key, payload)
      select n % 64, gen_random_uuid(), '${long}.' || n, 'k' || n, '1' from generate_series(1, 40) as n`)
    await crowded.query(`insert into twinbox.parked (until, blocker, consumer, lane, key, reason)
      select 'infinity', n, 'billing', 1, '客户-' || n || repeat('x', 60), 'Error: ' || repeat('y ', 200)
      from generate_series(1, 9) as n`)
    await crowded.query(`insert into twinbox.schedule (name, cron, time_zone, catch_up, topic, key, payload)
      select 'a-schedule-with-a-very-long-name-' || n, '0 6 * * 1-5', 'Europe/Berlin', 'one', '${long}', 'k', 'null'
      from generate_series(1, 3) as n`)
    await crowded.query(`insert into twinbox.audit (action, who, why, consumer, topic, key, id)
      select 'redrive', 'somebody-with-a-long-name@host', repeat('why ', 50), 'billing', '${long}', 'k', gen_random_uuid()`)
  })
  afterAll(() => crowded.drop())
  const env = (): NodeJS.ProcessEnv => ({ TWINBOX_DATABASE_URL: crowded.url })

  test('no screen is wider', async () => {
    const screens = [
      ...[
        ['status'],
        ['workers'],
        ['workers', '--ended'],
        ['dead', 'list'],
        ['dead', 'show', '1'],
        ['parked', 'list'],
      ],
      ...[
        ['messages', 'list'],
        ['messages', 'list', '--payload'],
        ['schedules', 'list'],
        ['audit'],
        ['roles'],
        ['doctor'],
      ],
      ...[['--help'], ['soak', '--help'], ['prune', 'nothing'], ['dead', 'list', '--after', 'x'], ['work']],
    ]
    const json = inTerminal!(folder, ['workers', '--json'], env()).done
    const shown = await Promise.all(screens.map((args) => inTerminal!(folder, args, env()).done))
    for (const [nr, { stdout }] of shown.entries()) {
      const lines = stdout.replaceAll('\r', '').split('\n')
      // A word that is wider is a name, a URL or a place in a file, to be copied.
      const wide = lines.filter(
        (line) => columns(line) > 80 && line.trim().includes(' ') && !/^ +at |--after/.test(line),
      )
      expect([screens[nr], wide]).toEqual([screens[nr], []])
      expect(lines.length).toBeGreaterThan(2)
    }
    expect(shown[1]!.stdout).toMatch(/^10 ended in the last ten minutes: 10 died: heartbeat\. /m)
    expect(shown[1]!.stdout).toMatch(/^id +kind +consumer +state .*\(no room for .*version\)/ms)
    expect(shown[2]!.stdout.match(/died: heartbeat/g)).toHaveLength(10)
    // For programs it is what it is anywhere.
    expect((JSON.parse((await json).stdout) as { workers: unknown[] }).workers).toHaveLength(30)
  })

  test('a picture that is drawn again and again fits it, also after it has become smaller', async () => {
    const command = inTerminal!(folder, ['status', '--watch'], env())
    const drawn = (count: number): Promise<void> => command.until(() => frames(command.stdout).length > count)
    await drawn(1)
    const before = frames(command.stdout).at(-2)!
    await command.resize(60, 12)
    const seen = frames(command.stdout).length
    await drawn(seen + 1)
    command.type('\u0003')
    expect((await command.done).code).toBe(0)
    const after = frames(command.stdout)[seen + 1]!
    for (const [frame, width, height] of [
      [before, 80, 24],
      [after, 60, 12],
    ] as const) {
      expect(frame.length).toBeLessThanOrEqual(height)
      expect(frame.filter((line) => columns(line) > width)).toEqual([])
      expect(frame[0]).toMatch(/^Database /)
      expect(frame.join('\n')).toMatch(/… \d+ more lines/)
    }
    for (const head of [
      /^box +depth /m,
      /^box +topic /m,
      /^id +kind /m,
      /^Latest dead letters\nnumber /m,
      /^10 ended /m,
    ])
      expect(before.join('\n')).toMatch(head)
  })
})
