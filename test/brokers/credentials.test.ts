import pg from 'pg'
import { afterAll, describe, expect, test } from 'vitest'
import { OptionError } from '../../src/base/errors.ts'
import { isLocal } from '../../src/base/local.ts'
import { kafka } from '../../src/brokers/kafka/kafka.ts'
import { postgres } from '../../src/brokers/postgres/postgres.ts'
import { rabbitmq } from '../../src/brokers/rabbitmq/rabbitmq.ts'
import { Database } from '../../src/database/database.ts'
import { openBroker } from '../../src/terminal/brokers.ts'

/** Which passwords may travel how. Nothing here connects: the hosts do not exist. */

test.each([
  ['localhost', true],
  ['LOCALHOST', true],
  ['127.0.0.1', true],
  ['127.8.9.10', true],
  ['::1', true],
  ['[::1]', true],
  ['::ffff:127.0.0.1', true],
  ['/var/run/postgresql', true],
  ['', true],
  ['db', false],
  ['10.0.0.1', false],
  ['192.168.1.1', false],
  ['0.0.0.0', false],
  ['128.0.0.1', false],
  ['::2', false],
  ['::ffff:10.0.0.1', false],
  ['127.0.0.1.example.com', false],
  ['127.example.com', false],
  ['localhost.example.com', false],
  ['xlocalhost', false],
])('%s is this machine: %s', (host, local) => {
  expect(isLocal(host)).toBe(local)
})

const plain = { mechanism: 'plain', username: 'me', password: 'hunter2' } as const
const scram = { ...plain, mechanism: 'scram-sha-512' } as const
const token = { mechanism: 'oauthbearer', oauthBearerProvider: async () => ({ value: 'hunter2' }) } as const
const unverified = { rejectUnauthorized: false }
const verified = { ca: 'certificate' }
const amqp = 'amqp://me:hunter2@rabbitmq:5672'
const amqps = 'amqps://me:hunter2@rabbitmq:5671'
const database = 'postgres://me:hunter2@db:5432/app'
const options = { host: 'db', user: 'me', password: 'hunter2', database: 'app' }

type Make = () => { close(): Promise<void> }

const refused: [string, string, Make][] = [
  ['url', 'amqp', () => rabbitmq({ url: amqp })],
  [
    'url',
    'amqp, as an object',
    () => rabbitmq({ url: { hostname: 'rabbitmq', username: 'me', password: 'hunter2' } }),
  ],
  ['url', 'amqps to whoever answers', () => rabbitmq({ url: amqps, socket: unverified })],
  ['url', 'amqp with TLS options that it does not use', () => rabbitmq({ url: amqp, socket: { ca: 'c' } })],
  ['url', "guest with a password of one's own", () => rabbitmq({ url: 'amqp://guest:hunter2@rabbitmq' })],
  [
    'url',
    'a name that looks like loopback',
    () => rabbitmq({ url: 'amqp://me:hunter2@127.0.0.1.example.com' }),
  ],
  [
    'url',
    'credentials beside the URL',
    () => {
      const credentials = { mechanism: 'PLAIN', response: () => Buffer.from('\0me\0hunter2') }
      return rabbitmq({ url: 'amqp://rabbitmq', socket: { credentials } })
    },
  ],
  ['sasl', 'plain', () => kafka({ brokers: ['kafka:9092'], sasl: plain })],
  [
    'sasl',
    'plain at one of several',
    () => kafka({ brokers: ['127.0.0.1:9092', 'kafka:9092'], sasl: plain }),
  ],
  ['sasl', 'a token', () => kafka({ brokers: ['kafka:9092'], sasl: token })],
  [
    'sasl',
    'plain with TLS to whoever answers',
    () => kafka({ brokers: ['kafka:9092'], sasl: plain, ssl: unverified }),
  ],
  ['database', 'a URL without TLS', () => postgres({ database })],
  ['database', 'a URL that wants none', () => postgres({ database: `${database}?sslmode=disable` })],
  ['database', 'TLS to whoever answers', () => postgres({ database: `${database}?sslmode=no-verify` })],
  [
    'database',
    'libpq\'s "require"',
    () => postgres({ database: `${database}?uselibpqcompat=true&sslmode=require` }),
  ],
  ['database', 'options without TLS', () => postgres({ database: options })],
  [
    'database',
    'options with TLS to whoever answers',
    () => postgres({ database: { ...options, ssl: unverified } }),
  ],
  [
    'database',
    'a function for the password',
    () => postgres({ database: { ...options, password: () => 'hunter2' } }),
  ],
  ['database', 'several hosts', () => postgres({ database: 'postgres://me:hunter2@127.0.0.1,db/app' })],
  [
    'database',
    'a password beside the URL',
    () => postgres({ database: { connectionString: 'postgres://me@db/app', password: 'hunter2' } }),
  ],
]

const taken: [string, Make][] = [
  ['amqp on this machine', () => rabbitmq({ url: 'amqp://me:hunter2@[::1]:1' })],
  ['amqps', () => rabbitmq({ url: amqps })],
  ['amqps with an authority of its own', () => rabbitmq({ url: amqps, socket: { ca: 'c' } })],
  [
    'amqps, as an object',
    () => rabbitmq({ url: { protocol: 'amqps', hostname: 'r', username: 'me', password: 'x' } }),
  ],
  ['amqp with what everybody knows', () => rabbitmq({ url: 'amqp://guest:guest@rabbitmq' })],
  ['amqp without a word', () => rabbitmq({ url: 'amqp://rabbitmq' })],
  [
    'amqp by certificate',
    () =>
      rabbitmq({
        url: 'amqps://rabbitmq',
        socket: { credentials: { mechanism: 'EXTERNAL', response: () => Buffer.from('') } },
      }),
  ],
  ['amqp that may', () => rabbitmq({ url: amqp, insecure: true })],
  ['a function', () => rabbitmq({ url: () => amqps })],
  ['plain on this machine', () => kafka({ brokers: ['localhost:9092', '127.0.0.1:9092'], sasl: plain })],
  ['plain with TLS', () => kafka({ brokers: ['kafka:9092'], sasl: plain, ssl: true })],
  [
    'plain with an authority of its own',
    () => kafka({ brokers: ['kafka:9092'], sasl: plain, ssl: verified }),
  ],
  ['SCRAM', () => kafka({ brokers: ['kafka:9092'], sasl: scram })],
  ['plain that may', () => kafka({ brokers: ['kafka:9092'], sasl: plain, insecure: true })],
  ['Kafka without a user', () => kafka({ brokers: ['kafka:9092'] })],
  ['a database on this machine', () => postgres({ database: 'postgres://me:hunter2@127.0.0.1:1/app' })],
  ['a Unix socket', () => postgres({ database: 'postgres://me:hunter2@/app?host=/var/run/postgresql' })],
  ['a database with TLS', () => postgres({ database: `${database}?sslmode=verify-full` })],
  ['options with TLS', () => postgres({ database: { ...options, ssl: verified } })],
  ['a database without a password', () => postgres({ database: 'postgres://me@db/app' })],
  ['a database that may', () => postgres({ database, insecure: true })],
  ['a database that somebody else has opened', () => postgres({ database: new Database(database) })],
  ["a pool of the user's own", () => postgres({ database: new pg.Pool({ connectionString: database }) })],
  [
    'the database of the tables, at the command line',
    () => {
      const broker = openBroker('postgres', { database: () => database, schema: 'twinbox' })
      return { close: async () => (await broker).close() }
    },
  ],
]

describe('a password to another machine', () => {
  test.each(refused)('is refused in %s: %s', (option, _, make) => {
    expect(make).toThrow(OptionError)
    expect(make).toThrow(expect.objectContaining({ option }))
    expect(make).toThrow(/insecure: true \(on the command line --insecure or TWINBOX_INSECURE=1\)/)
    expect(make).not.toThrow(/hunter2/)
  })

  test.each(taken)('is taken: %s', async (_, make) => {
    expect(await make().close()).toBe(undefined)
  })

  test.each([
    ['rabbitmq', amqp],
    ['postgres', database],
  ])('is refused at the command line by %s, unless it is said', async (name, url) => {
    const place = { url, database: () => 'postgres://127.0.0.1/app', schema: 'twinbox' }
    await expect(openBroker(name, place)).rejects.toThrow(OptionError)
    await (await openBroker(name, { ...place, insecure: true })).close()
  })

  const environment = process.env['PGSSLMODE']
  afterAll(() => {
    if (environment === undefined) delete process.env['PGSSLMODE']
    else process.env['PGSSLMODE'] = environment
  })
  test('goes by PGSSLMODE too', async () => {
    process.env['PGSSLMODE'] = 'require'
    await postgres({ database }).close()
    process.env['PGSSLMODE'] = 'no-verify'
    expect(() => postgres({ database })).toThrow(OptionError)
  })
})
