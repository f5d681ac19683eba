import { context, SpanStatusCode, trace } from '@opentelemetry/api'
import { InMemorySpanExporter, type ReadableSpan } from '@opentelemetry/sdk-trace-base'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { fromWireHeaders, toWireHeaders } from '../../src/brokers/cloudevent.ts'
import { postgres } from '../../src/brokers/postgres/postgres.ts'
import {
  createClaimer,
  createOutbox,
  createReceiver,
  createRelay,
  DeadLetterError,
  type Broker,
  type Handlers,
  type NewMessage,
  type Worker,
} from '../../src/index.ts'
import { openTelemetry } from '../../src/observe/opentelemetry.ts'
import { recordEvents } from '../support/events.ts'
import { startSdk } from '../support/otlp.ts'
import { createTestDatabase, type TestDatabase } from '../support/postgres.ts'
import { until } from '../support/until.ts'
import { outgoing } from '../support/messages.ts'

const exporter = new InMemorySpanExporter()
const tracerProvider = startSdk('test', exporter)
const telemetry = openTelemetry({ tracerProvider })
const tracer = tracerProvider.getTracer('test')

let database: TestDatabase
const stops: (() => Promise<void>)[] = []
beforeAll(async () => {
  database = await createTestDatabase()
})
beforeEach(() => exporter.reset())
afterEach(async () => {
  for (const stop of stops.splice(0).toReversed()) await stop()
  await database.query('truncate twinbox.outbox, twinbox.inbox, twinbox.dead_letter, twinbox.parked')
})
afterAll(() => database.drop())

const spansOf = (name: string): ReadableSpan[] =>
  exporter.getFinishedSpans().filter((span) => span.name.startsWith(`${name} `))

/** Waits for something that happens outside of any event. */
async function start(handlers: Handlers<unknown>, broker?: Broker): Promise<ReturnType<typeof recordEvents>> {
  const seen = recordEvents()
  const own = postgres({ database: database.url })
  stops.push(() => own.close())
  const shared = { database: database.url, telemetry, onEvent: seen.onEvent, pollMs: 2 }
  const workers: Worker[] = [
    createReceiver({ ...shared, broker: own, consumer: 'billing', topics: ['#'] }),
    createRelay({ ...shared, broker: broker ?? own }),
    createClaimer({ ...shared, consumer: 'billing', maxAttempts: 1, onDead: 'skip' }, handlers),
  ]
  for (const worker of workers) {
    stops.push(() => worker.stop())
    await worker.start()
  }
  return seen
}

const publish = (...messages: NewMessage[]) =>
  database.transaction((client) => createOutbox({ telemetry }).publishMany(client, messages))

const parentOf = (span: ReadableSpan): string | undefined => span.parentSpanContext?.spanId

describe('a trace', () => {
  test('begins inside what publishes, and the handler runs inside of it', async () => {
    const seen = await start({
      'order.placed': async () => {
        await Promise.resolve()
        tracer.startSpan('inner work').end()
      },
    })
    const request = tracer.startSpan('outer request')
    await context.with(trace.setSpan(context.active(), request), () =>
      publish({ topic: 'order.placed', payload: {} }),
    )
    request.end()
    await seen.next('handled')
    await until(() => spansOf('handle').length === 1)
    const [published] = spansOf('publish')
    expect(parentOf(published!)).toBe(request.spanContext().spanId)
    const [handled] = spansOf('handle')
    expect(parentOf(spansOf('inner')[0]!)).toBe(handled!.spanContext().spanId)
    const all = exporter.getFinishedSpans().map((span) => span.spanContext().traceId)
    expect(new Set(all)).toEqual(new Set([request.spanContext().traceId]))
  })

  test('goes on from the trace that a message brings along', async () => {
    const traceId = '0af7651916cd43dd8448eb211c80319c'
    const traceparent = `00-${traceId}-b7ad6b7169203331-01`
    await publish({ topic: 't', payload: 1, headers: { traceparent, tracestate: 'vendor=1' } })
    const [published] = spansOf('publish')
    expect(published!.spanContext().traceId).toBe(traceId)
    expect(parentOf(published!)).toBe('b7ad6b7169203331')
    const [row] = await database.query<{ headers: Record<string, string> }>(
      'select headers from twinbox.outbox',
    )
    expect(row!.headers).toEqual({
      traceparent: `00-${traceId}-${published!.spanContext().spanId}-01`,
      tracestate: 'vendor=1',
    })
  })

  test('of a publisher that traces nothing begins with the relay', async () => {
    const seen = await start({ '#': () => {} })
    await database.query(`select twinbox.publish('order.placed', '{}')`)
    await seen.next('handled')
    await until(() => spansOf('handle').length === 1)
    expect(parentOf(spansOf('send')[0]!)).toBeUndefined()
    expect(parentOf(spansOf('receive')[0]!)).toBe(spansOf('send')[0]!.spanContext().spanId)
  })

  test('passes through workers that trace nothing', async () => {
    const seen = recordEvents()
    const broker = postgres({ database: database.url })
    const shared = { database: database.url, onEvent: seen.onEvent }
    const relay = createRelay({ ...shared, broker })
    const claimer = createClaimer({ ...shared, telemetry, consumer: 'billing' }, { '#': () => {} })
    stops.push(
      () => broker.close(),
      () => relay.stop(),
      () => claimer.stop(),
    )
    await database.query(`insert into twinbox.subscription values ('billing', '#') on conflict do nothing`)
    await relay.start()
    await claimer.start()
    await publish({ topic: 'order.placed', payload: {} })
    await seen.next('handled')
    await until(() => spansOf('handle').length === 1)
    expect(spansOf('send')).toEqual([])
    expect(parentOf(spansOf('handle')[0]!)).toBe(spansOf('publish')[0]!.spanContext().spanId)
  })

  test('of a batch is one span with a link to each message', async () => {
    await publish(...[1, 2, 3].map((n) => ({ topic: 'stats', key: 'k', payload: n })))
    const sizes: number[] = []
    await start({ stats: { batch: true, handle: (messages) => void sizes.push(messages.length) } })
    await until(() => sizes.reduce((sum, size) => sum + size, 0) === 3)
    await until(() => spansOf('handle').length === sizes.length)
    const received = spansOf('receive').map((span) => span.spanContext().spanId)
    const linked = spansOf('handle').flatMap((span) =>
      span.links.length > 0 ? span.links.map((link) => link.context.spanId) : [parentOf(span)!],
    )
    expect(linked.toSorted()).toEqual(received.toSorted())
    const batched = spansOf('handle').find((span) => span.links.length > 1)
    expect(batched!.attributes['messaging.batch.message_count']).toBe(batched!.links.length)
    expect(batched!.attributes).not.toHaveProperty('messaging.message.id')
  })

  test('shows what failed, and neither payload nor password', async () => {
    const seen = await start({
      bad: () => {
        throw new DeadLetterError('cannot reach https://user:hunter2@partner.example')
      },
    })
    await publish({ topic: 'bad', payload: { secret: 'canary' } })
    await seen.next('dead_letter')
    await until(() => spansOf('handle').length === 1)
    const [{ status, attributes }] = spansOf('handle') as [ReadableSpan]
    expect(status.code).toBe(SpanStatusCode.ERROR)
    expect(status.message).toBe('DeadLetterError: cannot reach https://user:***@partner.example')
    expect(attributes['error.type']).toBe('DEAD_LETTER')
  })

  test('a publish that is refused has failed too', async () => {
    await database.transaction(async (client) => {
      await client.query('savepoint before')
      await client.query('set local statement_timeout = 1')
      const slow = createOutbox({ telemetry }).publish(
        { query: () => client.query('select pg_sleep(1)') },
        { topic: 't', payload: 1 },
      )
      await expect(slow).rejects.toThrow(/timeout/)
      await client.query('rollback to before')
    })
    expect(spansOf('publish')[0]!.attributes['error.type']).toBe('57014')
  })
})

describe('telemetry that is broken', () => {
  test('hurts nothing', async () => {
    const warnings: string[] = []
    const listener = (warning: Error): void => void warnings.push(warning.message)
    process.on('warning', listener)
    const broken = {
      onEvent: () => {
        throw new Error('observer')
      },
      begin: () => {
        throw new Error('tracer')
      },
    }
    try {
      const published = await database.transaction((client) =>
        createOutbox({ telemetry: broken }).publish(client, { topic: 't', payload: 1 }),
      )
      expect(published.duplicate).toBe(false)
      await until(() => warnings.length > 0)
      expect(warnings[0]).toBe('Telemetry threw at "publish": Error: tracer')
    } finally {
      process.off('warning', listener)
    }
  })
})

describe('on the wire', () => {
  const message = outgoing('t')
  const traceparent = '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01'

  test('the context is a header and an attribute of the CloudEvent', () => {
    const wire = toWireHeaders({ ...message, headers: { traceparent } }, 'ce_', 'test')
    expect(wire).toMatchObject({ traceparent, ce_traceparent: traceparent })
    expect(wire).not.toHaveProperty('ce_tracestate')
    expect(toWireHeaders({ ...message, headers: null }, 'ce_', 'test')).not.toHaveProperty('ce_traceparent')
  })

  test('of another sender the attribute counts if there is no header', () => {
    const event = { ce_id: '1', ce_specversion: '1.0', ce_traceparent: traceparent, ce_tracestate: 'a=b' }
    expect(fromWireHeaders({ headers: event })!.headers).toEqual({ traceparent, tracestate: 'a=b' })
    const nearer = fromWireHeaders({ headers: { ...event, traceparent: 'other' } })
    expect(nearer!.headers).toEqual({ traceparent: 'other' })
  })
})
