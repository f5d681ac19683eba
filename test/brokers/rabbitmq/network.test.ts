import { expect, it } from 'vitest'
import type { Broker, IncomingMessage } from '../../../src/brokers/broker.ts'
import type { BrokerError } from '../../../src/base/errors.ts'
import { rabbitmq as rabbitmqServer } from '../../support/servers/rabbitmq.ts'
import { shared } from '../../support/shared.ts'
import { describeWith } from '../../support/require.ts'
import { collector, errorOf, idOf, outgoing, statuses, subscribe } from '../collector.ts'
import { never, useFixture } from './fixture.ts'

/** `basic.ack` as the server sends it: class 60, method 80. */
const confirmation = Uint8Array.of(0, 60, 0, 80)

/** What a network can do. */
describeWith('rabbitmq', await shared(rabbitmqServer), 'The RabbitMQ broker on a bad network', ({ url }) => {
  const { make, makeBehindProxy, newTopic, admin, exchange } = useFixture(() => url)
  const send = (broker: Broker, topic: string, count = 1) =>
    broker.send(
      Array.from({ length: count }, () => outgoing(topic)),
      { signal: never },
    )
  /** A queue that keeps what is sent, so that something can be sent at all. */
  const someQueue = async (topic: string): Promise<string> => {
    const { queue } = await admin().assertQueue('', { exclusive: true })
    await admin().assertExchange(exchange, 'topic', { durable: true })
    await admin().bindQueue(queue, exchange, topic)
    return queue
  }

  it('sends and receives again after its connections were cut', async () => {
    const topic = newTopic()
    const { broker, proxy } = await makeBehindProxy()
    const inbox = collector()
    const troubles: BrokerError[] = []
    await subscribe(broker, 'billing', [topic], inbox.onBatch, 10, (error) => troubles.push(error))
    expect(statuses(await send(broker, topic, 3))).toEqual(['sent', 'sent', 'sent'])
    await inbox.until((received) => received.length === 3)

    proxy.cut()
    // At once, the client may not have noticed yet; but it never throws, and never calls it sent when it was not.
    const during = statuses(await send(broker, topic))
    expect(during[0]).toMatch(/^(unknown|failed|sent)$/)
    expect(statuses(await send(broker, topic, 2))).toEqual(['sent', 'sent'])

    await inbox.until((received) => received.length >= 5)
    expect(troubles.map(({ kind }) => kind)).toContain('reconnect')
  })

  it('says when it receives again', async () => {
    const topic = newTopic()
    const { broker, proxy } = await makeBehindProxy()
    const said: string[] = []
    await new Promise<void>((twice) => {
      const options = {
        consumer: `billing-${topic}`,
        topics: [topic],
        batchSize: 10,
        onTrouble: () => void said.push('trouble'),
        onReceiving: () => {
          said.push('receiving')
          if (said.includes('trouble')) twice()
          else proxy.cut()
        },
      }
      void broker.subscribe(options, async () => {})
    })
    expect(said[0]).toBe('receiving')
    expect(said.at(-1)).toBe('receiving')
  })

  it('fails fast while the server is down, and works again when it is back', async () => {
    const topic = newTopic()
    const { broker, proxy } = await makeBehindProxy()
    const inbox = collector()
    await subscribe(broker, 'billing', [topic], inbox.onBatch)
    await proxy.refuse()

    const startedAt = performance.now()
    const outcomes = await send(broker, topic, 2)
    expect(performance.now() - startedAt).toBeLessThan(1000)
    expect(statuses(outcomes)).toEqual(['failed', 'failed'])
    expect(errorOf(outcomes[0]!)).toMatchObject({ kind: 'reconnect', cause: { code: 'ECONNREFUSED' } })

    await proxy.heal()
    expect(statuses(await send(broker, topic))).toEqual(['sent'])
    await inbox.until((received) => received.length >= 1)
  })

  it('subscribes while the server is down, and receives when it is there', async () => {
    const topic = newTopic()
    const { broker, proxy } = await makeBehindProxy()
    await proxy.refuse()
    const inbox = collector()
    const troubles: BrokerError[] = []
    await subscribe(broker, 'billing', [topic], inbox.onBatch, 10, (error) => troubles.push(error))
    expect(troubles).toMatchObject([{ kind: 'reconnect' }])

    const connected = proxy.nextConnection()
    await proxy.heal()
    await connected
    // Only now is its queue there.
    while (statuses(await send(broker, topic))[0] !== 'sent') await new Promise(setImmediate)
    await inbox.until((received) => received.length >= 1)
  })

  it('says unknown for what it had written, and failed for what it had not, when the connection breaks', async () => {
    const topic = newTopic()
    await someQueue(topic)
    const { broker, proxy } = await makeBehindProxy({ maxUnconfirmed: 10 })
    await send(broker, topic)
    proxy.blackHole('toClient')
    const sending = send(broker, topic, 30)
    await new Promise((resolve) => setTimeout(resolve, 200))
    proxy.cut()

    const outcomes = await sending
    expect(statuses(outcomes)).toEqual([
      ...Array<string>(10).fill('unknown'),
      ...Array<string>(20).fill('failed'),
    ])
    expect(errorOf(outcomes[0]!)?.kind).toBe('unknown')
    expect(errorOf(outcomes[29]!)?.kind).toBe('reconnect')
  })

  it('says unknown when only the confirmation is lost: the message is there, and comes again under its id', async () => {
    const topic = newTopic()
    const queue = await someQueue(topic)
    const { broker, proxy } = await makeBehindProxy()
    await send(broker, topic)
    const message = outgoing(topic)

    const cut = proxy.cutWhenSeen(confirmation, { direction: 'toClient' })
    const outcomes = await broker.send([message], { signal: never })
    await cut
    expect(statuses(outcomes)).toEqual(['unknown'])
    expect(statuses(await broker.send([message], { signal: never }))).toEqual(['sent'])

    await admin().get(queue, { noAck: true })
    for (const _ of ['first', 'again']) {
      expect(await admin().get(queue, { noAck: true })).toMatchObject({
        properties: { messageId: message.id },
      })
    }
    expect(await admin().get(queue)).toBe(false)
  })

  it('says sent when the confirmation has come before the cut', async () => {
    const topic = newTopic()
    await someQueue(topic)
    const { broker, proxy } = await makeBehindProxy()
    await send(broker, topic)
    const cut = proxy.cutWhenSeen(confirmation, { direction: 'toClient', deliver: true })
    expect(statuses(await send(broker, topic))).toEqual(['sent'])
    await cut
  })

  it('settles within its deadline when the network goes silent, and holds no more than its bound', async () => {
    const topic = newTopic()
    await someQueue(topic)
    const { broker, proxy } = await makeBehindProxy({
      sendTimeoutMs: 400,
      heartbeatSeconds: 60,
      maxUnconfirmed: 50,
      maxUnconfirmedBytes: 100_000,
    })
    await send(broker, topic)
    proxy.blackHole()
    const batch = Array.from({ length: 100 }, () => outgoing(topic, { content: Buffer.alloc(10_000) }))
    const startedAt = performance.now()

    const outcomes = await broker.send(batch, { signal: never })

    expect(performance.now() - startedAt).toBeLessThan(1500)
    expect(statuses(outcomes)).toEqual([
      ...Array<string>(10).fill('unknown'),
      ...Array<string>(90).fill('failed'),
    ])
    // The bound is full: the next batch is not even begun.
    expect(statuses(await broker.send(batch.slice(0, 2), { signal: never }))).toEqual(['failed', 'failed'])
  })

  it('waits for drain or the deadline when the socket takes no more', { timeout: 20_000 }, async () => {
    const topic = newTopic()
    const { broker, proxy } = await makeBehindProxy({
      sendTimeoutMs: 3000,
      maxUnconfirmed: 100_000,
      maxUnconfirmedBytes: 1024 ** 3,
      unroutable: 'drop',
    })
    await send(broker, topic)
    // More than amqplib's buffer takes at once; all of it goes through while the network is well.
    const batch = Array.from({ length: 10_000 }, () => outgoing(topic, { content: 'x'.repeat(4000) }))
    const healthy = await broker.send(batch.slice(0, 2000), { signal: never })
    expect(new Set(statuses(healthy))).toEqual(new Set(['sent']))

    proxy.stall()
    const outcomes = statuses(await broker.send(batch, { signal: never }))
    // It stops when amqplib's buffer is full, which is long before the bounds are.
    expect(outcomes).toEqual(outcomes.toSorted().toReversed())
    expect(new Set(outcomes)).toEqual(new Set(['unknown', 'failed']))
  })

  it('gives up soon when its caller does', async () => {
    const topic = newTopic()
    await someQueue(topic)
    const { broker, proxy } = await makeBehindProxy()
    await send(broker, topic)
    proxy.blackHole()
    const controller = new AbortController()
    const sending = broker.send([outgoing(topic)], { signal: controller.signal })
    setTimeout(() => controller.abort(), 50)
    expect(statuses(await sending)).toEqual(['unknown'])
  })

  it(
    'notices by its heartbeat that a connection is half open, and makes a new one',
    { timeout: 20_000 },
    async () => {
      const topic = newTopic()
      const { broker, proxy } = await makeBehindProxy({ heartbeatSeconds: 1, sendTimeoutMs: 6000 })
      const inbox = collector()
      await subscribe(broker, 'billing', [topic], inbox.onBatch)
      expect(statuses(await send(broker, topic))).toEqual(['sent'])
      await inbox.until((received) => received.length === 1)
      proxy.blackHole()
      const startedAt = performance.now()

      const outcomes = await send(broker, topic)

      expect(statuses(outcomes)).toEqual(['unknown'])
      // The server looks as well: if it is the first to give up, it resets the connection, and no cable keeps that back.
      expect(errorOf(outcomes[0]!)?.message).toMatch(
        /lost while sending: .*(Heartbeat timeout|Unexpected close)/,
      )
      expect(performance.now() - startedAt).toBeLessThan(5000)
      await proxy.heal()
      const last = outgoing(topic)
      expect(statuses(await broker.send([last], { signal: never }))).toEqual(['sent'])
      // The first may come again: its acknowledgement may have been swallowed.
      await inbox.until((received) => received.map(idOf).includes(last.id))
    },
  )

  it(
    'receives what was swallowed, though the network was away for less than a heartbeat',
    { timeout: 20_000 },
    async () => {
      const topic = newTopic()
      const { broker: cutOff, proxy } = await makeBehindProxy({ heartbeatSeconds: 1 })
      const inbox = collector()
      await subscribe(cutOff, 'billing', [topic], inbox.onBatch)
      const broker = make()
      const sent = Array.from({ length: 20 }, () => outgoing(topic, { key: 'one' }))
      proxy.blackHole()
      expect(statuses(await broker.send(sent, { signal: never }))).not.toContain('failed')
      await new Promise((resolve) => setTimeout(resolve, 300))
      await proxy.heal()
      await inbox.until((received) => received.length === sent.length)
      expect(inbox.ids()).toEqual(sent.map((message) => message.id))
    },
  )

  it(
    'hands the turn to the next receiver, in order, when the active one goes silent',
    { timeout: 20_000 },
    async () => {
      const topic = newTopic()
      const { broker: silent, proxy } = await makeBehindProxy({ heartbeatSeconds: 1 })
      const held: IncomingMessage[] = []
      let holding = (): void => {}
      const holds = new Promise<void>((resolve) => {
        holding = resolve
      })
      await subscribe(silent, 'billing', [topic], async (batch) => {
        held.push(...batch)
        holding()
        throw new Error('its database is gone as well')
      })
      const inbox = collector()
      const broker = make()
      await subscribe(broker, 'billing', [topic], inbox.onBatch)
      const sent = Array.from({ length: 100 }, () => outgoing(topic, { key: 'one' }))
      await broker.send(sent, { signal: never })
      await holds
      expect(inbox.received).toEqual([])

      proxy.blackHole()
      await inbox.until((received) => received.length === 100)

      expect(inbox.ids()).toEqual(sent.map((message) => message.id))
      expect(idOf(held[0]!)).toBe(sent[0]!.id)
    },
  )

  it('keeps the order through two cuts while messages are held', async () => {
    const topic = newTopic()
    const { broker, proxy } = await makeBehindProxy()
    let refuse = true
    let seen = (): void => {}
    const inbox = collector(async () => {
      seen()
      if (refuse) throw new Error('the database is down')
    })
    await subscribe(broker, 'billing', [topic], inbox.onBatch, 10)
    const sent = Array.from({ length: 100 }, () => outgoing(topic, { key: 'one' }))
    await broker.send(sent, { signal: never })
    for (let round = 0; round < 2; round++) {
      const reconnected = proxy.nextConnection()
      proxy.cut()
      await reconnected
      await new Promise<void>((resolve) => {
        seen = resolve
      })
    }
    refuse = false
    await inbox.until((received) => new Set(received.map(idOf)).size === 100)
    expect([...new Set(inbox.ids())]).toEqual(sent.map((message) => message.id))
  })

  it(
    'closes soon though nobody answers, and what was in flight is unknown',
    { timeout: 20_000 },
    async () => {
      const topic = newTopic()
      await someQueue(topic)
      const { broker, proxy } = await makeBehindProxy({ heartbeatSeconds: 60 })
      await subscribe(broker, 'billing', [topic], async () => {})
      await send(broker, topic)
      expect(proxy.connections()).toEqual({ open: 2, ever: 2 })
      proxy.blackHole()
      const sending = send(broker, topic)
      await new Promise(setImmediate)

      const startedAt = performance.now()
      await broker.close()

      expect(performance.now() - startedAt).toBeLessThan(6000)
      expect(statuses(await sending)).toEqual(['unknown'])
      await expect.poll(() => proxy.connections().open).toBe(0)
    },
  )
})
