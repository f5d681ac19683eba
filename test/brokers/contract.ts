import { randomBytes } from 'node:crypto'
import { afterEach, describe, expect, it } from 'vitest'
import type { Broker } from '../../src/brokers/broker.ts'
import { fromWireHeaders } from '../../src/brokers/cloudevent.ts'
import { BrokerError } from '../../src/base/errors.ts'
import { collector, errorOf, idOf, outgoing, sendAll, statuses, subscribe } from './collector.ts'

export * from './collector.ts'

/** What every broker with a wire has to pass. Nothing in here knows which broker it is. */

export interface BrokerHarness {
  /** A new broker on the same service. The suite closes it. */
  make(): Broker | Promise<Broker>
  /** A topic that nobody has used yet, ready to be sent to. Order holds across all of it, or per key. */
  newTopic(): string | Promise<string>
  /** A topic that nobody takes; null if the service has no such thing. */
  readonly unroutableTopic: (() => string | Promise<string>) | null
  /** A broker and a topic where a payload of so many bytes is too large; null if there is none at hand. */
  readonly tooLarge: (() => Promise<TooLarge>) | null
  /** How long one test may take. Kafka's group membership takes its time. @default 20000 */
  readonly timeoutMs?: number
}

export interface TooLarge {
  readonly broker: Broker
  readonly topic: string
  readonly bytes: number
}

const never = new AbortController().signal

export function brokerContract(name: string, harness: BrokerHarness): void {
  describe(`${name} keeps the promises of a broker`, { timeout: harness.timeoutMs ?? 20_000 }, () => {
    const brokers: Broker[] = []
    const make = async (): Promise<Broker> => {
      const broker = await harness.make()
      brokers.push(broker)
      return broker
    }
    afterEach(async () => {
      await Promise.all(brokers.splice(0).map((broker) => broker.close()))
    })

    it('delivers content byte for byte, with its headers, its key and its identity as a CloudEvent', async () => {
      const broker = await make()
      const topic = await harness.newTopic()
      const everyByte = Uint8Array.from({ length: 256 }, (_, index) => index)
      const sent = [
        outgoing(topic, {
          content: '{ "b":1,  "a": 9007199254740993, "text": "žluť \\u0000 🐎" }',
          headers: { 'x-tenant': 'a b;c', traceparent: '00-ab-cd-01' },
          key: 'Kunde 7/ü',
        }),
        outgoing(topic, { content: everyByte, contentType: 'application/octet-stream', key: 'b' }),
        outgoing(topic, { content: '', contentType: 'text/plain' }),
      ]
      const inbox = collector()
      await subscribe(broker, 'billing', [topic], inbox.onBatch)

      expect(await broker.send(sent, { signal: never })).toEqual(sent.map(() => ({ status: 'sent' })))
      await inbox.untilIds(3)

      for (const message of sent) {
        const received = inbox.byId(message.id)
        expect(Buffer.from(received.body)).toEqual(Buffer.from(message.content))
        expect(received).toMatchObject({ topic, key: message.key, contentType: message.contentType })
        const event = fromWireHeaders(received)!
        expect(event.headers).toMatchObject(message.headers ?? {})
        expect(Object.fromEntries(event.attributes)).toEqual({
          specversion: '1.0',
          id: message.id,
          type: topic,
          source: expect.any(String),
          time: message.publishedAt.toISOString(),
          ...(message.key !== null && { partitionkey: message.key }),
          ...(message.headers?.['traceparent'] !== undefined && {
            traceparent: message.headers['traceparent'],
          }),
        })
      }
    })

    it('keeps the order of every key through a batch of 1,000, in batches no larger than asked, one at a time', async () => {
      const broker = await make()
      const topic = await harness.newTopic()
      const sent = Array.from({ length: 1000 }, (_, index) =>
        outgoing(topic, { key: `key-${index % 7}`, content: String(index) }),
      )
      const sizes: number[] = []
      let running = 0
      let together = 0
      const inbox = collector(async (batch) => {
        sizes.push(batch.length)
        together = Math.max(together, ++running)
        await new Promise(setImmediate)
        running--
      })
      await subscribe(broker, 'billing', [topic], inbox.onBatch, 100)

      expect(statuses(await broker.send(sent, { signal: never }))).toEqual(sent.map(() => 'sent'))
      await inbox.untilIds(1000)

      for (let key = 0; key < 7; key++) {
        const numbers = inbox
          .firsts()
          .filter((message) => message.key === `key-${key}`)
          .map((message) => Number(Buffer.from(message.body).toString()))
        expect(numbers).toEqual(numbers.toSorted((a, b) => a - b))
      }
      expect(inbox.firstIds()).toHaveLength(1000)
      expect(Math.max(...sizes)).toBeLessThanOrEqual(100)
      expect(together).toBe(1)
    })

    it('delivers a batch again, in order and before anything later, until onBatch resolves', async () => {
      const broker = await make()
      const topic = await harness.newTopic()
      const sent = Array.from({ length: 30 }, () => outgoing(topic, { key: 'one' }))
      const ids = sent.map((message) => message.id)
      const attempts: string[][] = []
      const troubles: BrokerError[] = []
      const inbox = collector(async (batch) => {
        attempts.push(batch.map(idOf))
        if (attempts.length <= 3) throw new Error('the database is down')
      })
      await subscribe(broker, 'billing', [topic], inbox.onBatch, 10, (error) => troubles.push(error))

      await broker.send(sent, { signal: never })
      await inbox.untilIds(30)

      // The attempts that failed hold the head of the queue and nothing else.
      for (const attempt of attempts.slice(0, 3)) expect(attempt).toEqual(ids.slice(0, attempt.length))
      expect(inbox.firstIds()).toEqual(ids)
      expect(troubles.length).toBeGreaterThanOrEqual(3)
      for (const error of troubles) expect(error).toBeInstanceOf(BrokerError)
    })

    it('lets two subscribers of one consumer share, without a loss when one of them stops', async () => {
      const broker = await make()
      const topic = await harness.newTopic()
      const sent = Array.from({ length: 200 }, (_, index) => outgoing(topic, { key: `key-${index % 20}` }))
      const inbox = collector()
      const first = await subscribe(broker, 'billing', [topic], inbox.onBatch, 10)
      await subscribe(await make(), 'billing', [topic], inbox.onBatch, 10)

      await broker.send(sent.slice(0, 100), { signal: never })
      await inbox.untilIds(50)
      await first.stop()
      await broker.send(sent.slice(100), { signal: never })
      await inbox.untilIds(200)

      expect(new Set(inbox.firstIds())).toEqual(new Set(sent.map((message) => message.id)))
    })

    it('gives every consumer everything', async () => {
      const broker = await make()
      const topic = await harness.newTopic()
      const sent = Array.from({ length: 50 }, () => outgoing(topic))
      const inboxes = [collector(), collector()]
      await subscribe(broker, 'billing', [topic], inboxes[0]!.onBatch)
      await subscribe(broker, 'shipping', [topic], inboxes[1]!.onBatch)

      await broker.send(sent, { signal: never })
      await Promise.all(inboxes.map((inbox) => inbox.untilIds(50)))

      for (const inbox of inboxes) {
        expect(inbox.firstIds().toSorted()).toEqual(sent.map((message) => message.id).toSorted())
      }
    })

    it('finishes the batch under way when stopped, and goes on later with what was not resolved', async () => {
      const broker = await make()
      const topic = await harness.newTopic()
      const sent = Array.from({ length: 60 }, () => outgoing(topic, { key: 'one' }))
      const ids = sent.map((message) => message.id)
      let finish = (): void => {}
      const finished = new Promise<void>((resolve) => {
        finish = resolve
      })
      let begun = (): void => {}
      const beginning = new Promise<void>((resolve) => {
        begun = resolve
      })
      let resolved: string[] = []
      const subscription = await subscribe(
        broker,
        'billing',
        [topic],
        async (batch) => {
          begun()
          await finished
          resolved = [...resolved, ...batch.map(idOf)]
        },
        20,
      )
      // What a broker without a store has sent stays with the sender until it is acknowledged.
      const sending = sendAll(broker, sent)
      await beginning
      let stopped = false
      const stopping = subscription.stop().finally(() => {
        stopped = true
      })
      await new Promise(setImmediate)
      expect(stopped).toBe(false)
      finish()
      await stopping
      expect([...new Set(resolved)]).toEqual(ids.slice(0, new Set(resolved).size))
      expect(resolved.length).toBeLessThan(60)

      const inbox = collector()
      await subscribe(await make(), 'billing', [topic], inbox.onBatch)
      const rest = ids.slice(resolved.length)
      await inbox.until(() => new Set([...rest, ...inbox.firstIds()]).size === inbox.firstIds().length)
      expect(inbox.firstIds().slice(0, rest.length)).toEqual(rest)
      await sending
    })

    it.skipIf(harness.unroutableTopic === null)(
      'does not call a message sent that nobody takes',
      async () => {
        const broker = await make()
        const topic = await harness.newTopic()
        const nowhere = await harness.unroutableTopic!()
        const inbox = collector()
        await subscribe(broker, 'billing', [topic], inbox.onBatch)
        const sent = [outgoing(topic), outgoing(nowhere), outgoing(topic)]

        const outcomes = await broker.send(sent, { signal: never })

        expect(statuses(outcomes)).toEqual(['sent', expect.stringMatching(/^(rejected|failed)$/), 'sent'])
        expect(errorOf(outcomes[1]!)).toMatchObject({
          kind: 'config',
          message: expect.stringContaining(nowhere),
        })
        await inbox.untilIds(2)
        // They have no key, so their order is the broker's.
        expect(inbox.firstIds().toSorted()).toEqual([sent[0]!.id, sent[2]!.id].toSorted())
      },
    )

    it.skipIf(harness.tooLarge === null)(
      'refuses a message that is too large, and sends its neighbours',
      async () => {
        const { broker, topic, bytes } = await harness.tooLarge!()
        brokers.push(broker)
        const inbox = collector()
        await subscribe(broker, 'billing', [topic], inbox.onBatch)
        const sent = Array.from({ length: 10 }, () => outgoing(topic, { key: 'one' }))
        sent[3] = outgoing(topic, { key: 'one', content: randomBytes(bytes) })
        sent[7] = outgoing(topic, { key: 'one', content: randomBytes(bytes) })

        const outcomes = await broker.send(sent, { signal: never })

        const expected = sent.map((_, index) => (index === 3 || index === 7 ? 'rejected' : 'sent'))
        expect(statuses(outcomes)).toEqual(expected)
        for (const index of [3, 7]) expect(errorOf(outcomes[index]!)).toMatchObject({ kind: 'poison' })
        // Those that were sent twice on the way have the same id; the first of each must be in order.
        const fine = sent.filter((_, index) => expected[index] === 'sent').map((message) => message.id)
        await inbox.untilIds(fine.length)
        expect(inbox.firstIds()).toEqual(fine)
      },
    )

    it('says when it is receiving', async () => {
      const broker = await make()
      const topic = await harness.newTopic()
      let times = 0
      const onReceiving = (): void => void times++
      const options = { consumer: `billing-${topic}`, topics: [topic], batchSize: 10, onReceiving }
      await broker.subscribe(options, async () => {})
      expect(times).toBe(1)
    })

    it('has nothing to do for an empty batch, and settles batches that are sent together', async () => {
      const broker = await make()
      const topic = await harness.newTopic()
      const inbox = collector()
      await subscribe(broker, 'billing', [topic], inbox.onBatch)
      const batches = [0, 1, 2].map(() => Array.from({ length: 20 }, () => outgoing(topic)))

      expect(await broker.send([], { signal: never })).toEqual([])
      const outcomes = await Promise.all(batches.map((batch) => broker.send(batch, { signal: never })))

      expect(statuses(outcomes.flat())).toEqual(batches.flat().map(() => 'sent'))
      await inbox.untilIds(60)
    })

    it('settles at once when its signal has aborted, and calls nothing sent', async () => {
      const broker = await make()
      const topic = await harness.newTopic()
      const outcomes = await broker.send([outgoing(topic), outgoing(topic)], { signal: AbortSignal.abort() })
      expect(outcomes).toHaveLength(2)
      for (const outcome of outcomes) {
        expect(outcome.status).toMatch(/^(failed|unknown)$/)
        expect(errorOf(outcome)).toBeInstanceOf(BrokerError)
      }
    })

    it('can be closed twice, also unused, and refuses to work after that', async () => {
      const broker = await make()
      const topic = await harness.newTopic()
      await Promise.all([broker.close(), broker.close()])
      await broker.close()

      const outcomes = await broker.send([outgoing(topic)], { signal: never })
      expect(statuses(outcomes)).toEqual(['failed'])
      expect(errorOf(outcomes[0]!)).toBeInstanceOf(BrokerError)
      await expect(subscribe(broker, 'billing', [topic], async () => {})).rejects.toBeInstanceOf(BrokerError)
    })
  })
}
