import { planned } from '../src/database/sql/statement.ts'
import { inspect } from 'node:util'
import pg from 'pg'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { kafka } from '../src/brokers/kafka/kafka.ts'
import { postgres } from '../src/brokers/postgres/postgres.ts'
import { rabbitmq } from '../src/brokers/rabbitmq/rabbitmq.ts'
import { openDatabase } from '../src/database/database.ts'
import {
  createClaimer,
  createHealth,
  createOutbox,
  createReceiver,
  createRelay,
  defineConfig,
  logEvents,
  type Broker,
  type Worker,
} from '../src/index.ts'
import { openTelemetry } from '../src/observe/opentelemetry.ts'
import { prometheus } from '../src/observe/prometheus.ts'
import { recordEvents } from './support/events.ts'
import { createTestDatabase, type TestDatabase } from './support/postgres.ts'
import { outgoing } from './support/messages.ts'

/**
 * Canaries where secrets and contents stand: in passwords, payloads, headers. Nothing that a program would log may show
 * one, however hard it looks.
 */
const password = 'canary-password'
const everything = { depth: 12, showHidden: true, maxArrayLength: null, maxStringLength: null } as const

let database: TestDatabase
const role = `canary_${process.pid}_${Date.now() % 100_000}`
let url: string
beforeAll(async () => {
  database = await createTestDatabase()
  await database.query(`create role ${role} superuser login password '${password}'`)
  url = Object.assign(new URL(database.url), { username: role, password }).toString()
})
afterAll(async () => {
  await database.query(`drop owned by ${role}`)
  await database.query(`drop role ${role}`)
  await database.drop()
})

test('no event, log line, metric, error or object shows a password, a payload or a header', async () => {
  const seen = recordEvents()
  const lines: string[] = []
  const log = logEvents(
    {
      debug: (...line) => void lines.push(inspect(line, everything)),
      info: (...line) => void lines.push(inspect(line, everything)),
      warn: (...line) => void lines.push(inspect(line, everything)),
      error: (...line) => void lines.push(inspect(line, everything)),
    },
    { stacks: true },
  )
  const metrics = prometheus({ database: url })
  const health = createHealth(url)
  const onEvent = (event: Parameters<typeof seen.onEvent>[0]): void => {
    for (const observe of [seen.onEvent, log, metrics.onEvent, health.onEvent]) observe(event)
  }
  const own = postgres({ database: url })
  const shared = { database: url, onEvent, telemetry: openTelemetry() }
  const away = [
    rabbitmq({ url: `amqp://me:${password}@127.0.0.1:1/x` }),
    kafka({
      brokers: ['127.0.0.1:1'],
      sasl: { mechanism: 'plain', username: 'me', password },
      insecure: true,
      sendTimeoutMs: 500,
    }),
  ]
  const workers: Worker[] = [
    createReceiver({ ...shared, broker: own, consumer: 'billing', topics: ['#'] }),
    createRelay({ ...shared, broker: own }),
    createClaimer(
      { ...shared, consumer: 'billing', maxAttempts: 1 },
      {
        ok: () => {},
        bad: () => {
          throw new Error('on purpose')
        },
        violates: async (_, { client }) => {
          await client.query(`create table twice (secret text unique)`)
          await client.query(`insert into twice values ('canary-row'), ('canary-row')`)
        },
      },
    ),
  ]
  const outbox = createOutbox({ telemetry: openTelemetry() })
  const errors: unknown[] = []
  const failing = async (work: Promise<unknown>): Promise<void> => {
    await work.then(
      () => expect.fail('It should have failed.'),
      (error: unknown) => errors.push(error),
    )
  }
  try {
    for (const worker of workers) await worker.start()
    const content = { payload: { secret: 'canary-payload' }, headers: { authorization: 'canary-header' } }
    await database.transaction((client) =>
      outbox.publishMany(
        client,
        ['ok', 'bad', 'violates', 'unknown'].map((topic) => ({
          ...content,
          topic,
          dedupeKey: `canary-dedupe-${topic}`,
        })),
      ),
    )
    await seen.next('handled')
    // What nobody has a handler for waits.
    await seen.next('dead_letter', () => true, 2)

    // What is refused, and what cannot be reached.
    const client = await database.pool.connect()
    await client.query('begin')
    for (const message of [
      { topic: 't', payload: { secret: 'canary-payload', much: undefined, big: 1n } },
      { topic: 't', payload: 1, headers: { authorization: 'canary-header\n' } },
      { topic: 't', payload: 1, dedupeKey: 'canary-dedupe'.repeat(100) },
      { topic: 'canary topic!', payload: 1 },
    ]) {
      await failing(outbox.publish(client, message))
    }
    await client.query('rollback')
    client.release()
    for (const target of [`postgres://me:${password}@127.0.0.1:1/x`, `postgres://me:${password}@a:1,b:x/x`]) {
      await failing(
        (async () => {
          const relay = createRelay({ database: target, broker: own })
          await relay.start()
        })(),
      )
    }
    const message = outgoing('t', {
      headers: { authorization: 'canary-header' },
      content: '"canary-payload"',
    })
    for (const broker of away) {
      const [outcome] = await broker.send([message], { signal: AbortSignal.timeout(5000) })
      expect(outcome!.status).toBe('failed')
      errors.push(outcome)
      onEvent({
        type: 'broker_down',
        error: (outcome as Extract<Awaited<ReturnType<Broker['send']>>[number], { status: 'failed' }>).error,
        retryInMs: 1,
        kind: 'relay',
        consumer: null,
        workerId: 1,
      })
    }
    const { database: opened } = openDatabase(url)
    await opened.query(planned({}, 'select 1'))
    const objects = { workers, outbox, own, away, health, metrics, telemetry: shared.telemetry, opened }
    const texts = {
      events: seen.all.map((event) =>
        inspect(event.type === 'message_failed' ? { ...event, error: null } : event, everything),
      ),
      lines,
      errors: errors.map((error) => inspect(error, everything)),
      objects: Object.values(objects).map((object) => inspect(object, everything)),
      json: [JSON.stringify(objects)],
      metrics: [await metrics.text()],
      health: [inspect(await health.check(), everything)],
    }
    await opened.close()
    for (const [where, all] of Object.entries(texts)) {
      expect([where, all.join('\n').match(/.{0,80}canary-(?!dedupe-)\S{0,20}/g)]).toEqual([where, null])
      expect([where, all.join('\n').match(/.{0,80}canary-dedupe.{0,20}/g)]).toEqual([where, null])
    }
    expect(texts.lines.length).toBeGreaterThan(10)
    expect(errors.length).toBe(8)
  } finally {
    for (const worker of workers.toReversed()) await worker.stop()
    for (const broker of [own, ...away]) await broker.close()
    await metrics.close()
    await health.close()
  }
})

test.each([
  ['a URL', () => url, 'postgres://'],
  ['options', () => ({ host: 'db.internal', user: 'app', password }), 'db.internal'],
  ['options with a URL', () => ({ connectionString: url, max: 3 }), '***'],
  ['a pool', () => new pg.Pool({ connectionString: url }), 'Pool'],
])('a configuration with %s can be logged, and is still the one that was given', (_, make, says) => {
  const input = make()
  const config = defineConfig({ database: input, schema: 'twinbox' })
  for (const text of [inspect(config, everything), JSON.stringify(config), inspect({ config }, everything)]) {
    expect(text).not.toContain(password)
    expect(text).toContain(says)
  }
  expect(config.database).toBe(input)
  expect(Object.keys(config)).toEqual(['database', 'schema'])
})
