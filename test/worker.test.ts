import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { kafka } from '../src/brokers/kafka/kafka.ts'
import { postgres } from '../src/brokers/postgres/postgres.ts'
import { rabbitmq } from '../src/brokers/rabbitmq/rabbitmq.ts'
import {
  createClaimer,
  createReceiver,
  createRelay,
  migrate,
  type Broker,
  type TwinboxEvent,
  type Worker,
} from '../src/index.ts'
import { createTestDatabase, type TestDatabase } from './support/postgres.ts'

let database: TestDatabase
beforeAll(async () => {
  database = await createTestDatabase()
})
afterAll(() => database.drop())

const errorOf = (work: Promise<unknown>): Promise<unknown> =>
  work.then(
    () => null,
    (error: unknown) => error,
  )
/** Those that are registered, and the sessions of ours. */
const leftovers = async (tables: TestDatabase): Promise<unknown[]> => [
  ...(await tables.query('select id from twinbox.worker where ended_at is null')),
  ...(await tables.query(
    `select application_name from pg_stat_activity
    where datname = current_database() and application_name like '%twinbox%'`,
  )),
]

describe('a start that failed', () => {
  test.each<[string, (url: string, broker: Broker) => Worker]>([
    ['relay', (url, broker) => createRelay({ database: url, broker })],
    ['receiver', (url, broker) => createReceiver({ database: url, broker, consumer: 'c', topics: ['#'] })],
    ['claimer', (url) => createClaimer({ database: url, consumer: 'c' }, { t: () => {} })],
  ])('of a %s may be called again, once somebody has mended the cause', async (_kind, create) => {
    const empty = await createTestDatabase({ migrated: false })
    const broker = postgres({ database: empty.url })
    const worker = create(empty.url, broker)
    for (let time = 0; time < 2; time++) {
      expect(await errorOf(worker.start())).toMatchObject({ code: 'SCHEMA_MISSING' })
      expect(worker.id).toBe(null)
    }
    await migrate(empty.url)
    await Promise.all([worker.start(), worker.start()])
    expect(await empty.query('select id from twinbox.worker where ended_at is null')).toEqual([
      { id: worker.id },
    ])
    await worker.stop()
    await broker.close()
    await expect.poll(() => leftovers(empty)).toEqual([])
    await empty.drop()
  })

  test('may be left at that: nothing is left to be stopped', async () => {
    const broker = postgres({ database: database.url })
    const worker = createRelay({ database: database.url, schema: 'nowhere', broker })
    expect(await errorOf(worker.start())).toMatchObject({ code: 'SCHEMA_MISSING' })
    await expect.poll(() => leftovers(database)).toEqual([])
    await worker.stop()
    await broker.close()
  })
})

describe('what no waiting mends keeps a worker from starting', () => {
  /** How often it was refused: two workers, twice each. */
  const refused = async (broker: Broker): Promise<number> => {
    let count = 0
    const workers = [
      createRelay({ database: database.url, broker }),
      createReceiver({ database: database.url, broker, consumer: 'c', topics: ['#'] }),
    ]
    for (const worker of workers) {
      // The second time it is asked again, and not remembered.
      for (let time = 0; time < 2; time++) {
        expect(await errorOf(worker.start())).toMatchObject({ name: 'BrokerError', kind: 'config' })
        count++
      }
    }
    await expect.poll(() => leftovers(database)).toEqual([])
    await broker.close()
    return count
  }

  test('inboxes in a database without tables', async () => {
    const empty = await createTestDatabase({ migrated: false })
    expect(await refused(postgres({ database: empty.url }))).toBe(4)
    await empty.drop()
  })

  test('inboxes in a database that is not there', async () => {
    const url = Object.assign(new URL(database.url), { pathname: '/no_such_database' })
    expect(await refused(postgres({ database: url.href }))).toBe(4)
  })

  test.each<[string, Partial<URL>, RegExp]>([
    // By the way it asks for passwords.
    ['a user whom its database does not know', { username: 'no_such_user' }, /^28(000|P01)$/],
    ['a database that is not there', { pathname: '/no_such_database' }, /^3D000$/],
  ])('%s, each time', async (_what, wrong, code) => {
    const url = Object.assign(new URL(database.url), wrong).href
    const relay = createRelay({ database: url, broker: postgres({ database: database.url }) })
    for (let time = 0; time < 2; time++)
      expect(await errorOf(relay.start())).toMatchObject({ code: expect.stringMatching(code) as string })
    await relay.stop()
  })

  test.each<[string, () => Broker]>([
    ['RabbitMQ', () => rabbitmq({ url: 'amqp://127.0.0.1:1' })],
    ['Kafka', () => kafka({ brokers: ['127.0.0.1:1'], sendTimeoutMs: 500 })],
    ['a database', () => postgres({ database: 'postgres://127.0.0.1:1/x' })],
  ])('%s that is away is no such thing', async (_what, create) => {
    const broker = create()
    const relay = createRelay({ database: database.url, broker })
    await relay.start()
    expect(relay.id).not.toBe(null)
    await relay.stop()
    await broker.close()
  })
})

test.each<[string, (event: TwinboxEvent) => unknown]>([
  [
    'throws',
    () => {
      throw new Error('an observer with a defect')
    },
  ],
  ['rejects', () => Promise.reject(new Error('an observer with a defect'))],
])('an observer that %s is a warning, and the work goes on', async (_how, observe) => {
  const warnings: string[] = []
  const unhandled: unknown[] = []
  const onWarning = ({ message }: Error): void => void warnings.push(message)
  const onUnhandled = (error: unknown): void => void unhandled.push(error)
  process.on('warning', onWarning)
  process.on('unhandledRejection', onUnhandled)
  const broker = postgres({ database: database.url })
  const relay = createRelay({ database: database.url, broker, onEvent: observe })
  try {
    await relay.start()
    await relay.stop()
  } finally {
    process.off('warning', onWarning)
    process.off('unhandledRejection', onUnhandled)
    await broker.close()
  }
  const said = 'An onEvent observer threw on "started": Error: an observer with a defect'
  expect(warnings).toContain(said)
  expect(unhandled).toEqual([])
})
