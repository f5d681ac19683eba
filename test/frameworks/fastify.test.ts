import type pg from 'pg'
import Fastify, { type FastifyInstance } from 'fastify'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { postgres } from '../../src/brokers/postgres/postgres.ts'
import { twinboxFastify, type TwinboxFastifyOptions } from '../../src/frameworks/fastify/fastify.ts'
import {
  BrokerError,
  defineTopics,
  inTransaction,
  type,
  withTransaction,
  type Broker,
  type LibraryConsumerConfig,
  type Message,
} from '../../src/index.ts'
import { recordEvents, type Recorder } from '../support/events.ts'
import { createTestDatabase, type TestDatabase } from '../support/postgres.ts'

let database: TestDatabase
let events: Recorder
let app: FastifyInstance
beforeAll(async () => {
  database = await createTestDatabase()
})
beforeEach(() => {
  events = recordEvents()
  app = Fastify()
})
afterEach(async () => {
  await app.close()
  await database.query('truncate twinbox.outbox, twinbox.inbox')
})
afterAll(() => database.drop())

const handled: string[] = []
const options = (more: TwinboxFastifyOptions = {}): TwinboxFastifyOptions => ({
  database: database.url,
  broker: postgres({ database: database.url }),
  consumers: {
    billing: {
      topics: ['order.*'],
      handlers: { 'order.placed': ({ key }: Message) => void handled.push(key!) },
    },
  },
  onEvent: events.onEvent,
  ...more,
})
const publish = (key: string) =>
  database.transaction((client) => app.outbox.publish(client, { topic: 'order.placed', key, payload: {} }))

describe('an application', () => {
  test('publishes and handles, and its outbox is there for all of it', async () => {
    await app.register(async (inner) => {
      await inner.register(async (innermost) => {
        innermost.get('/', async () => typeof innermost.outbox.publish)
      })
    })
    app.register(twinboxFastify, options())
    await app.ready()
    expect((await app.inject('/')).body).toBe('function')
    await publish('o1')
    await events.next('handled')
    expect(handled.splice(0)).toEqual(['o1'])
    await app.close()
    expect(await database.query('select from twinbox.worker where ended_by is null')).toEqual([])
  })

  test('handles in the transactions of a library', async () => {
    const consumer: LibraryConsumerConfig<pg.PoolClient> = {
      topics: ['order.*'],
      transaction: inTransaction((run) => withTransaction(database.pool, run)),
      handlers: {
        'order.placed': async ({ key }, { tx }) => {
          const { rows } = await tx.query<{ key: string }>('select $1 as key', [key])
          handled.push(rows[0]!.key)
        },
      },
    }
    await app.register(twinboxFastify, { ...options(), consumers: { billing: consumer } })
    await app.ready()
    await publish('o2')
    await events.next('handled')
    expect(handled.splice(0)).toEqual(['o2'])
  })

  test('that only publishes needs neither database nor broker', async () => {
    await app.register(twinboxFastify, { workers: [], health: true })
    await app.ready()
    await publish('o1')
    expect((await app.inject('/health/ready')).json()).toEqual({ ok: true, live: true, ready: true })
    expect(await database.query('select from twinbox.worker where ended_by is null')).toEqual([])
  })

  test('has handlers with types of defined topics', async () => {
    const topics = defineTopics({ 'order.placed': { schema: type<{ total: number }>() } })
    const totals: number[] = []
    await app.register(twinboxFastify<unknown, typeof topics>, {
      ...{ database: database.url, broker: postgres({ database: database.url }), topics },
      consumers: {
        billing: {
          topics: topics.names,
          handlers: { 'order.placed': ({ payload }) => void totals.push(payload.total) },
        },
      },
      onEvent: events.onEvent,
    })
    await app.ready()
    await database.transaction((client) =>
      app.outbox.publish(client, { topic: 'order.placed', payload: { total: 42 } }),
    )
    await events.next('handled')
    expect(totals).toEqual([42])
  })

  test('ends after its handlers, and before what was registered before it', async () => {
    const order: string[] = []
    let begin = (): void => {}
    let end = (): void => {}
    const begun = new Promise<void>((resolve) => (begin = resolve))
    const ended = new Promise<void>((resolve) => (end = resolve))
    app.addHook('onClose', async () => void order.push('store closed'))
    const slow = async (): Promise<void> => {
      begin()
      await ended
      order.push('handled')
    }
    await app.register(
      twinboxFastify,
      options({ consumers: { billing: { topics: ['#'], handlers: { '#': slow } } } }),
    )
    await app.ready()
    await publish('o1')
    await begun
    const closed = app.close()
    await events.next('stopped', ({ kind }) => kind === 'relay')
    end()
    await closed
    expect(order).toEqual(['handled', 'store closed'])
    expect(await database.query('select from twinbox.inbox')).toEqual([])
  })
})

describe('health', () => {
  test('is told at no address, unless it is asked for', async () => {
    await app.register(twinboxFastify, options())
    expect((await app.inject('/health/live')).statusCode).toBe(404)
  })

  test('names what is wrong to those who have the token, and to nobody without one', async () => {
    await app.register(twinboxFastify, options({ health: { prefix: '/up', token: 'secret' } }))
    const ask = async (path: string, authorization?: string) => {
      const { statusCode, body, headers } = await app.inject({
        url: path,
        headers: { ...(authorization && { authorization }) },
      })
      expect(headers['cache-control']).toBe('no-store')
      return { statusCode, ...(JSON.parse(body) as object) }
    }
    const well = { statusCode: 200, ok: true, live: true, ready: true }
    expect(await ask('/up/ready')).toEqual(well)
    expect(await ask('/up/ready', 'Bearer wrong')).toEqual(well)
    expect(await ask('/up/ready', 'Bearer secret')).toEqual({ ...well, problems: [] })
    const head = await app.inject({ method: 'HEAD', url: '/up/live' })
    expect([head.statusCode, head.body]).toEqual([200, ''])
  })

  test('is 503 while work does not move, and names nothing', async () => {
    const broker = postgres({ database: database.url })
    const away = new BrokerError('reconnect', 'the secret host is away')
    const send: Broker['send'] = async (batch) => batch.map(() => ({ status: 'failed', error: away }))
    await app.register(
      twinboxFastify,
      options({ broker: { ...broker, send }, health: true, workers: ['relay', 'receiver'] }),
    )
    await app.ready()
    await publish('o1')
    await events.next('broker_down')
    const asked = async () => app.inject('/health/ready')
    let answer = await asked()
    while (answer.statusCode === 200) answer = await asked()
    expect(answer.json()).toEqual({ ok: false, live: true, ready: false })
    expect((await app.inject('/health/live')).statusCode).toBe(200)
  })
})

describe('it does not start', () => {
  test.each<[string, RegExp, () => TwinboxFastifyOptions]>([
    ['without a database', /twinboxFastify needs a database/, () => ({})],
    ['without a broker', /twinboxFastify needs a broker/, () => ({ database: database.url })],
    [
      'with a misspelt option',
      /databse is not an option of twinboxFastify/,
      () => ({ databse: 1 }) as object,
    ],
    ['with a prefix that is no path', /prefix of health/, () => options({ health: { prefix: 'health' } })],
    ['with a prefix that is a pattern', /prefix of health/, () => options({ health: { prefix: '/:a*' } })],
    ['with an empty token', /token of health/, () => options({ health: { token: '' } })],
    ['with health of a text', /health is of type string/, () => options({ health: 'false' as never })],
    ['with a misspelt option of health', /tokn is not/, () => options({ health: { tokn: 'x' } as never })],
    [
      'with a consumer without handlers',
      /handlers is empty/,
      () => options({ consumers: { billing: { topics: ['a'], handlers: {} } } }),
    ],
    [
      'with a consumer of nothing',
      /createReceiver|topics/,
      () => options({ consumers: { billing: {} as never } }),
    ],
    ['with consumers that are no object', /consumers/, () => options({ consumers: 'billing' as never })],
    ['with a consumer that is null', /billing/, () => options({ consumers: { billing: null as never } })],
  ])('%s', async (_, says, about) => {
    const started = (async () => {
      await app.register(twinboxFastify, about())
      await app.ready()
    })()
    await expect(started).rejects.toThrow(says)
    expect(await database.query('select from twinbox.worker where ended_by is null')).toEqual([])
  })

  test('where tables are missing; then everything that was opened is closed', async () => {
    const empty = await createTestDatabase({ migrated: false })
    try {
      const broker = postgres({ database: database.url })
      let closed = 0
      const close = async (): Promise<void> => {
        closed++
        await broker.close()
      }
      await app.register(
        twinboxFastify,
        options({ database: empty.url, broker: async () => ({ ...broker, close }) }),
      )
      await expect(app.ready()).rejects.toMatchObject({ code: 'SCHEMA_MISSING' })
      expect(closed).toBe(1)
      await app.close()
      expect(closed).toBe(1)
    } finally {
      await empty.drop()
    }
  })

  test('twice', async () => {
    await app.register(twinboxFastify, options())
    await expect(
      (async () => {
        await app.register(twinboxFastify, options())
      })(),
    ).rejects.toThrow(/outbox/)
  })
})
