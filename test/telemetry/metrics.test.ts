import { AggregationTemporality, InMemoryMetricExporter, MeterProvider } from '@opentelemetry/sdk-metrics'
import { PeriodicExportingMetricReader } from '@opentelemetry/sdk-metrics'
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest'
import { postgres } from '../../src/brokers/postgres/postgres.ts'
import {
  createClaimer,
  createOutbox,
  createReceiver,
  createRelay,
  DeadLetterError,
  type Worker,
} from '../../src/index.ts'
import { measure, metrics, boundedLabels } from '../../src/observe/metrics.ts'
import { observeDatabase, openTelemetry } from '../../src/observe/opentelemetry.ts'
import { prometheus } from '../../src/observe/prometheus.ts'
import { recordEvents } from '../support/events.ts'
import { createTestDatabase, type TestDatabase } from '../support/postgres.ts'

let database: TestDatabase
const stops: (() => Promise<unknown>)[] = []
beforeAll(async () => {
  database = await createTestDatabase()
})
afterEach(async () => {
  for (const stop of stops.splice(0).toReversed()) await stop()
})
afterAll(() => database.drop())

const values = (text: string): Map<string, number> =>
  new Map(
    [...text.matchAll(/^(\w+(?:\{[^}]*\})?) (\S+)$/gm)].map(([, series, value]) => [series!, Number(value)]),
  )

test('what the workers do and what the database holds are in the text for Prometheus, and in OpenTelemetry by its conventions', async () => {
  const exporter = new InMemoryMetricExporter(AggregationTemporality.CUMULATIVE)
  const reader = new PeriodicExportingMetricReader({ exporter, exportIntervalMillis: 3_600_000 })
  const meterProvider = new MeterProvider({ readers: [reader] })
  stops.push(() => meterProvider.shutdown())
  const scraped = prometheus({ database: database.url })
  stops.push(() => scraped.close())
  const seen = recordEvents()
  const onEvent = (event: Parameters<typeof seen.onEvent>[0]): void => {
    scraped.onEvent(event)
    seen.onEvent(event)
  }
  const broker = postgres({ database: database.url })
  stops.push(() => broker.close())
  const shared = { database: database.url, onEvent, telemetry: openTelemetry({ meterProvider }) }
  const workers: Worker[] = [
    createReceiver({ ...shared, broker, consumer: 'billing', topics: ['#'] }),
    createRelay({ ...shared, broker }),
    createClaimer(
      { ...shared, consumer: 'billing' },
      {
        'order.placed': () => {},
        'order.broken': () => {
          throw new DeadLetterError('on purpose')
        },
      },
    ),
  ]
  for (const worker of workers) {
    stops.push(() => worker.stop())
    await worker.start()
  }
  await database.transaction((client) =>
    createOutbox().publishMany(client, [
      { topic: 'order.placed', key: 'a', payload: 1 },
      { topic: 'order.placed', key: 'b', payload: 2 },
      { topic: 'order.broken', key: 'c', payload: 3 },
      { topic: 'order.broken', key: 'c', payload: 4 },
    ]),
  )
  await seen.next('handled', () => true, 2)
  await seen.next('dead_letter')

  const text = values(await scraped.text())
  expect(Object.fromEntries(text)).toMatchObject({
    'twinbox_sent_messages_total{broker="postgres",topic="order.placed"}': 2,
    'twinbox_sent_messages_total{broker="postgres",topic="order.broken"}': 2,
    'twinbox_handled_messages_total{consumer="billing",topic="order.placed"}': 2,
    'twinbox_handle_duration_seconds_count{consumer="billing",topic="order.placed"}': 2,
    'twinbox_failed_attempts_total{kind="claimer",consumer="billing",topic="order.broken",found_by="error"}': 1,
    'twinbox_buried_messages_total{kind="claimer",consumer="billing",topic="order.broken"}': 1,
    'twinbox_parkings_total{kind="claimer",consumer="billing"}': 1,
    'twinbox_dead_letters{consumer="billing"}': 1,
    'twinbox_parked_keys{consumer="billing"}': 1,
    'twinbox_workers{kind="claimer",consumer="billing",state="alive"}': 1,
    'twinbox_workers{kind="relay",consumer="",state="alive"}': 1,
    'twinbox_lag_seconds{consumer=""}': expect.any(Number) as number,
    'twinbox_depth{consumer="",topic=""}': 0,
    twinbox_database_up: 1,
  })

  const stopObserving = observeDatabase(database.url, { meterProvider })
  await reader.forceFlush()
  await stopObserving()
  const found = exporter
    .getMetrics()
    .at(-1)!
    .scopeMetrics.flatMap((scope) => scope.metrics)
  const points = (name: string) =>
    found
      .filter(({ descriptor }) => descriptor.name === name)
      .flatMap(({ dataPoints }) => dataPoints.map(({ attributes, value }) => ({ attributes, value })))
  const unitOf = (name: string) => found.find(({ descriptor }) => descriptor.name === name)?.descriptor.unit
  expect(points('messaging.client.sent.messages')).toContainEqual({
    attributes: {
      'messaging.operation.name': 'send',
      'messaging.system': 'postgres',
      'messaging.destination.name': 'order.placed',
    },
    value: 2,
  })
  expect(points('messaging.process.duration')).toMatchObject([
    {
      attributes: {
        'messaging.operation.name': 'handle',
        'messaging.system': 'twinbox',
        'messaging.consumer.group.name': 'billing',
        'messaging.destination.name': 'order.placed',
      },
      value: { count: 2 },
    },
  ])
  expect(points('messaging.client.operation.duration')[0]).toMatchObject({
    attributes: { 'messaging.operation.name': 'send', 'messaging.operation.type': 'send' },
  })
  expect(unitOf('messaging.process.duration')).toBe('s')
  expect(points('twinbox.dead.letters')).toContainEqual({
    attributes: { 'messaging.consumer.group.name': 'billing' },
    value: 1,
  })
  expect(points('twinbox.database.up')).toEqual([{ attributes: {}, value: 1 }])
})

test('who holds back vacuum, and for how long', async () => {
  const scraped = prometheus({ database: database.url })
  stops.push(() => scraped.close())
  const client = await database.pool.connect()
  try {
    await client.query('begin isolation level repeatable read; select 1')
    await database.query('select pg_current_xact_id()')
    const text = values(await scraped.text())
    const [{ me }] = (await database.query<{ me: string }>('select current_user as me')) as [{ me: string }]
    expect(text.get(`twinbox_xmin_age_transactions{source="session",holder="${me}"}`)).toBeGreaterThan(0)
    expect(text.get(`twinbox_xmin_age_seconds{source="session",holder="${me}"}`)).toBeGreaterThan(0)
  } finally {
    await client.query('rollback')
    client.release()
  }
})

test('a database that is away is said to be away, and its gauges are gone', async () => {
  const scraped = prometheus({ database: 'postgres://nobody@127.0.0.1:1/none' })
  stops.push(() => scraped.close())
  const text = values(await scraped.text())
  expect(text.get('twinbox_database_up')).toBe(0)
  expect([...text.keys()].filter((series) => series.startsWith('twinbox_lag'))).toEqual([])
})

test('a gauge that cannot be read keeps the others from nothing', async () => {
  const scraped = prometheus({ database: database.url })
  stops.push(() => scraped.close())
  const client = await database.pool.connect()
  try {
    await client.query('begin isolation level repeatable read; select 1')
    await database.query('alter table twinbox.worker rename to gone')
    const text = values(await scraped.text())
    expect(text.get('twinbox_database_up')).toBe(0)
    expect([...text.keys()].some((series) => series.startsWith('twinbox_xmin_age_seconds{'))).toBe(true)
  } finally {
    await database.query('alter table twinbox.gone rename to worker')
    await client.query('rollback')
    client.release()
  }
})

describe('the catalogue', () => {
  const common = { kind: 'claimer', consumer: 'billing', workerId: 1 } as const

  test('has every metric that an event is counted in, with its labels', () => {
    const label = boundedLabels()
    const events = [
      { type: 'sent', ids: ['1'], topics: { t: 1 }, broker: 'kafka', durationMs: 1 },
      { type: 'received', fresh: 1, duplicates: 1, collisions: 1, broker: 'kafka', durationMs: 1 },
      { type: 'refused', topic: 't', reason: 'x' },
      { type: 'retention_gap', topic: 't', partition: 0, from: 3, to: 7 },
      { type: 'claimed', ids: ['1'] },
      { type: 'set_aside', ids: ['1'], topic: 't' },
      { type: 'handled', ids: ['1'], topic: 't', attempt: 1, durationMs: 1 },
      { type: 'message_failed', topic: 't', foundBy: 'error' },
      { type: 'dead_letter', topic: 't' },
      { type: 'parked', key: 'k', forMs: null },
      { type: 'set_aside', topic: 't', ids: ['a'] },
      { type: 'circuit_opened', topic: 't', reason: 'x' },
      { type: 'handler_stuck', ids: ['1'], topic: 't', forMs: 1 },
      { type: 'lease_lost', ids: ['1'], lanes: [1], reason: 'x' },
      { type: 'takeover', foundBy: 'lock' },
      { type: 'worker_dead', foundBy: 'lock' },
      { type: 'broker_down' },
      { type: 'database_down' },
      { type: 'stalled', forMs: 1 },
      { type: 'trouble' },
    ].flatMap((event) => measure({ ...common, ...event } as Parameters<typeof measure>[0], label))
    for (const { name, labels } of events) {
      expect([name, Object.keys(labels).toSorted()]).toEqual([name, [...metrics[name].labels].toSorted()])
    }
    const counted = new Set<string>(events.map(({ name }) => name))
    const countable = Object.entries(metrics).filter(([, { kind }]) => kind !== 'gauge')
    expect(countable.map(([name]) => name).filter((name) => !counted.has(name))).toEqual([])
  })

  test('follows the naming of Prometheus', () => {
    for (const [name, { kind, help }] of Object.entries(metrics)) {
      expect(name).toMatch(/^twinbox_[a-z_]+$/)
      expect([name, name.endsWith('_total')]).toEqual([name, kind === 'counter'])
      expect(help).not.toBe('')
    }
  })

  test('has no more than two hundred topics as labels', () => {
    const label = boundedLabels()
    const labels = Array.from({ length: 1000 }, (_, n) => label(`t${n}`))
    expect(new Set(labels).size).toBe(201)
    expect(label('t0')).toBe('t0')
    expect(label('t999')).toBe('other')
  })
})
