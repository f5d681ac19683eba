import { afterEach, beforeEach, expect, test } from 'vitest'
import type { BrokerSpec } from '../crash/worker.ts'
import { Stage, unique } from '../crash/stage.ts'
import { kafka as kafkaServer } from '../support/servers/kafka.ts'
import { startCollector, type Collector, type SeenSpan } from '../support/otlp.ts'
import { rabbitmq as rabbitmqServer } from '../support/servers/rabbitmq.ts'
import { shared } from '../support/shared.ts'
import { describeWith } from '../support/require.ts'

/**
 * A message's way over four processes, each with an OpenTelemetry SDK of its own that exports to one collector, is one
 * trace there.
 */
const rabbit = await shared(rabbitmqServer)
const kafka = await shared(kafkaServer)

const [internal, client, producer, consumer] = [1, 3, 4, 5]

function suite(spec: () => BrokerSpec, system: string): void {
  let stage: Stage
  let collector: Collector
  beforeEach(async () => {
    stage = await Stage.open(spec())
    collector = await startCollector()
  })
  afterEach(async () => {
    await stage.close()
    await collector.stop()
  })

  test('publish, send, receive and handle are one trace, whatever process they are in', async () => {
    const otlp = collector.url
    const start = (role: 'publisher' | 'relay' | 'receiver' | 'claimer', more = {}) =>
      stage.start({ role, otlp, ...more })
    const workers = [start('receiver'), start('relay'), start('claimer')]
    for (const worker of workers) await worker.started
    const messages = ['a', 'b', null].map((key, n) => ({
      topic: stage.topic,
      ...(key === null ? {} : { key }),
      payload: { n, secret: 'canary-payload' },
      headers: { authorization: 'canary-header' },
    }))
    expect(await start('publisher', { messages }).ended).toBe(0)
    await stage.drained()
    // Each process exports on its own: the receiver's spans may come after those of the claimer that it fed.
    for (const name of ['publish', 'send', 'receive'].map((step) => `${step} ${stage.topic}`).concat('work'))
      await collector.until((span) => span.name === name, messages.length)
    const handled = await collector.until(({ name }) => name === `handle ${stage.topic}`, messages.length)

    const traces = new Set(handled.map(({ traceId }) => traceId))
    expect(traces.size).toBe(messages.length)
    for (const { traceId, attributes } of handled) {
      const spans = collector.spans.filter((span) => span.traceId === traceId)
      const by = (name: string): SeenSpan => {
        const found = spans.filter((span) => span.name === name)
        expect([name, found.length]).toEqual([name, 1])
        return found[0]!
      }
      const way = ['publish', 'send', 'receive', 'handle'].map((name) => by(`${name} ${stage.topic}`))
      expect(spans).toHaveLength(5)
      // Each is the child of the one before; what the handler traces itself is the child of the last.
      const parents = [...way, by('work')].map(({ parentSpanId }) => parentSpanId ?? '')
      expect(parents).toEqual(['', ...way.map(({ spanId }) => spanId)])
      expect(way.map(({ kind }) => kind)).toEqual([producer, client, client, consumer])
      expect(by('work').kind).toBe(internal)
      expect(way.map(({ service }) => service)).toEqual([
        'publisher',
        'relay',
        // Without a broker it is the relay that writes to the inbox.
        system === 'postgres' ? 'relay' : 'receiver',
        'claimer',
      ])
      expect(way.map((span) => span.attributes['messaging.operation.type'])).toEqual([
        'create',
        'send',
        'receive',
        'process',
      ])
      expect(way.map((span) => span.attributes['messaging.system'])).toEqual([
        'twinbox',
        system,
        system,
        'twinbox',
      ])
      for (const span of way) {
        expect(span.attributes).toMatchObject({
          'messaging.destination.name': stage.topic,
          'messaging.message.id': attributes['messaging.message.id'],
        })
        expect(span.status.code ?? 0).toBe(0)
      }
      expect(attributes['messaging.consumer.group.name']).toBe('crash')
    }
    expect(collector.bodies.join()).not.toContain('canary')
  })
}

describeWith('postgres', {}, 'a trace', () => suite(() => ({ kind: 'postgres' }), 'postgres'))

describeWith('rabbitmq', rabbit, 'a trace', ({ url }) =>
  suite(
    () => ({ kind: 'rabbitmq', url, exchange: unique('twinbox.trace'), queue: unique('twinbox.trace') }),
    'rabbitmq',
  ),
)

describeWith('kafka', kafka, 'a trace', ({ brokers }) =>
  suite(() => ({ kind: 'kafka', brokers, group: unique('trace') }), 'kafka'),
)
