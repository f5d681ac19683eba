import { CloudEvent } from 'cloudevents'
import { expect, it } from 'vitest'
import { fromWireHeaders } from '../../src/brokers/cloudevent.ts'
import type { OutgoingMessage } from '../../src/message/message.ts'
import { rabbitmq as rabbitmqServer } from '../support/servers/rabbitmq.ts'
import { shared } from '../support/shared.ts'
import { describeWith } from '../support/require.ts'
import { collector, errorOf, idOf, outgoing, statuses, subscribe } from './collector.ts'
import { never, useFixture } from './rabbitmq/fixture.ts'

/** How it behaves with a server in good health. What may break stands in `rabbitmq/`. */
describeWith('rabbitmq', await shared(rabbitmqServer), 'The RabbitMQ broker', ({ url }) => {
  const fixture = useFixture(() => url)
  const { make, newTopic, queueOf, admin, exchange } = fixture

  it.each<[string, (url: URL) => void]>([
    ['a wrong password', (to) => (to.password = 'canary')],
    ['an unknown user', (to) => (to.username = 'nobody')],
    ['an unknown virtual host', (to) => (to.pathname = '/no-such-vhost')],
  ])('a probe finds %s, each time it is asked', async (_what, change) => {
    const wrong = new URL(url)
    change(wrong)
    const broker = make({ url: wrong.href })
    for (let time = 0; time < 2; time++) {
      const error = await broker.probe!().catch((thrown: unknown) => thrown)
      expect(error).toMatchObject({ name: 'BrokerError', kind: 'config' })
      expect((error as Error).message).not.toContain('canary')
    }
  })

  it('a probe has nothing against a server that is there, nor against one that is away', async () => {
    for (const broker of [make(), make({ url: 'amqp://127.0.0.1:1' })]) {
      await expect(broker.probe!()).resolves.toBe(undefined)
    }
  })

  it('puts a CloudEvent on the wire that the CloudEvents SDK takes as valid', async () => {
    const topic = newTopic()
    const broker = make({ source: 'https://shop.example/orders' })
    const message = outgoing(topic, { key: 'order-7', headers: { tenant: 'a' }, content: '{"total":12}' })
    const inbox = collector()
    await subscribe(broker, 'billing', [topic], inbox.onBatch)
    await broker.send([message], { signal: never })
    await inbox.until((received) => received.length === 1)

    const { attributes } = fromWireHeaders(inbox.received[0]!)!
    const { body, contentType } = inbox.received[0]!
    const event = new CloudEvent({
      ...Object.fromEntries(attributes),
      datacontenttype: contentType!,
      data: JSON.parse(Buffer.from(body).toString()) as unknown,
    })

    expect(event.validate()).toBe(true)
    expect(event).toMatchObject({
      id: message.id,
      type: topic,
      source: 'https://shop.example/orders',
      partitionkey: 'order-7',
      time: message.publishedAt.toISOString(),
      data: { total: 12 },
    })
    // The SDK does look: without one of these it is none.
    expect(() => new CloudEvent({ ...Object.fromEntries(attributes), type: '' })).toThrow(/invalid payload/)
  })

  it('publishes persistent messages that carry their id, their type and their time as AMQP properties', async () => {
    const topic = newTopic()
    const broker = make()
    const { queue } = await admin().assertQueue('', { exclusive: true })
    await admin().assertExchange(exchange, 'topic', { durable: true })
    await admin().bindQueue(queue, exchange, topic)
    const message = outgoing(topic)

    await broker.send([message], { signal: never })

    expect(await admin().get(queue, { noAck: true })).toMatchObject({
      properties: {
        deliveryMode: 2,
        messageId: message.id,
        contentType: 'application/json',
        timestamp: Math.floor(message.publishedAt.getTime() / 1000),
      },
    })
  })

  it.each(['CC', 'BCC'])('rejects a message with the header %s alone, without sending it', async (name) => {
    const topic = newTopic()
    const broker = make()
    const inbox = collector()
    await subscribe(broker, 'billing', [topic], inbox.onBatch)
    const batch = [{ a: 'b' }, { [name]: 'elsewhere' }, { cc: 'b' }].map((headers) =>
      outgoing(topic, { headers }),
    )

    const outcomes = await broker.send(batch, { signal: never })

    expect(statuses(outcomes)).toEqual(['sent', 'rejected', 'sent'])
    expect(errorOf(outcomes[1]!)).toMatchObject({
      kind: 'poison',
      message: expect.stringContaining(name) as string,
    })
    await inbox.until((received) => received.length === 2)
    // Nothing made the server close the channel, so nothing was sent again.
    expect(inbox.received.map(idOf)).toEqual([batch[0]!.id, batch[2]!.id])
  })

  it('takes what other programs send, with header values of every type as text', async () => {
    const topic = newTopic()
    const broker = make()
    const inbox = collector()
    await subscribe(broker, 'billing', [topic], inbox.onBatch)
    admin().publish(exchange, topic, Buffer.from([0xff, 0x00]), {
      ...{ messageId: 'foreign-1', correlationId: 'c-1', replyTo: 'answers', type: 'order', appId: 'shop' },
      ...{ contentEncoding: 'gzip', timestamp: 1_700_000_000, expiration: '60000', priority: 3 },
      ...{ userId: new URL(url).username, persistent: true },
      headers: {
        text: 'a',
        number: 42,
        fraction: 0.5,
        yes: true,
        nothing: null,
        bytes: Buffer.from('ü'),
        date: { '!': 'timestamp', value: 1_700_000_000 },
        tooLate: { '!': 'timestamp', value: 1_700_000_000_000_000 },
        nested: { list: [1, 'b', Buffer.from('c')] },
      },
    })
    admin().publish(exchange, topic, Buffer.alloc(0))
    await inbox.until((received) => received.length === 2)

    expect(inbox.received[0]).toEqual({
      topic,
      key: null,
      contentType: null,
      position: null,
      redelivered: false,
      body: Buffer.from([0xff, 0x00]),
      headers: {
        text: 'a',
        number: '42',
        fraction: '0.5',
        yes: 'true',
        nothing: 'null',
        bytes: 'ü',
        date: '2023-11-14T22:13:20.000Z',
        tooLate: '1700000000000000',
        nested: '{"list":[1,"b","c"]}',
        'message-id': 'foreign-1',
      },
      properties: {
        ...{ 'amqp-message-id': 'foreign-1', 'amqp-correlation-id': 'c-1', 'amqp-reply-to': 'answers' },
        ...{ 'amqp-type': 'order', 'amqp-app-id': 'shop', 'amqp-content-encoding': 'gzip' },
        ...{ 'amqp-timestamp': '1700000000', 'amqp-expiration': '60000', 'amqp-priority': '3' },
        ...{ 'amqp-user-id': new URL(url).username, 'amqp-delivery-mode': '2' },
      },
    })
    expect(inbox.received[1]!.headers).toEqual({})
  })

  it('binds AMQP patterns as they are', async () => {
    const topic = newTopic()
    const broker = make()
    const inbox = collector()
    await subscribe(broker, 'billing', [`${topic}.*`, `${topic}.deep.#`], inbox.onBatch)
    const topics = [`${topic}.one`, topic, `${topic}.one.two`, `${topic}.deep.a.b`]
    const sent = topics.map((name) => outgoing(name))

    const outcomes = await broker.send(sent, { signal: never })

    expect(statuses(outcomes)).toEqual(['sent', 'rejected', 'rejected', 'sent'])
    await inbox.until((received) => received.length === 2)
    expect(inbox.ids()).toEqual([sent[0]!.id, sent[3]!.id])
  })

  it('sends by the routing key it is told, and drops what nobody takes when told so', async () => {
    const topic = newTopic()
    const broker = make({ unroutable: 'drop', routingKey: (message) => `eu.${message.topic}` })
    const inbox = collector()
    await subscribe(broker, 'billing', [`eu.${topic}`], inbox.onBatch)
    const sent = [outgoing(newTopic()), outgoing(topic)]

    expect(statuses(await broker.send(sent, { signal: never }))).toEqual(['sent', 'sent'])
    await inbox.until((received) => received.length === 1)
    expect(inbox.ids()).toEqual([sent[1]!.id])
    expect(inbox.received[0]!.topic).toBe(`eu.${topic}`)
  })

  it('is not misled when one message is in flight more than once', async () => {
    const outcomes = await make().send(Array<OutgoingMessage>(50).fill(outgoing(newTopic())), {
      signal: never,
    })
    expect(statuses(outcomes)).toEqual(Array<string>(50).fill('rejected'))
  })

  it('refuses by itself what AMQP cannot carry, and sends the neighbours', async () => {
    const topic = newTopic()
    const broker = make({
      routingKey: ({ topic: name, headers }) => {
        if (headers?.['route'] === 'throw') throw new Error('no route')
        return headers?.['route'] === 'long' ? 'x'.repeat(256) : name
      },
    })
    const inbox = collector()
    await subscribe(broker, 'billing', [topic], inbox.onBatch)
    const sent = [
      outgoing(topic),
      outgoing(topic, { headers: { big: 'x'.repeat(70_000) } }),
      outgoing(topic, { headers: { route: 'long' } }),
      outgoing(topic, { headers: { route: 'throw' } }),
      outgoing(topic),
    ]

    const outcomes = await broker.send(sent, { signal: never })

    expect(statuses(outcomes)).toEqual(['sent', 'rejected', 'rejected', 'rejected', 'sent'])
    expect(outcomes.map((outcome) => errorOf(outcome)?.kind)).toEqual([
      undefined,
      'poison',
      'poison',
      'config',
      undefined,
    ])
    await inbox.until((received) => received.length === 2)
    expect(inbox.ids()).toEqual([sent[0]!.id, sent[4]!.id])
  })

  it('declares a queue that never drops a message for being delivered often', async () => {
    const topic = newTopic()
    const broker = make()
    const message = outgoing(topic)
    const redelivered: boolean[] = []
    // More often than the 20 times after which RabbitMQ 4 drops a message by default.
    for (let round = 0; round < 25; round++) {
      let offer = (): void => {}
      const offered = new Promise<void>((resolve) => {
        offer = resolve
      })
      const subscription = await subscribe(broker, 'billing', [topic], async (batch) => {
        redelivered.push(batch[0]!.redelivered)
        offer()
        throw new Error('the database is down')
      })
      if (round === 0) await broker.send([message], { signal: never })
      await offered
      await subscription.stop()
    }
    expect(redelivered[0]).toBe(false)
    expect(redelivered.at(-1)).toBe(true)

    const inbox = collector()
    await subscribe(broker, 'billing', [topic], inbox.onBatch)
    await inbox.until((received) => received.length === 1)
    expect(inbox.ids()).toEqual([message.id])
    // The same arguments are no error; these are what RabbitMQ 4 goes by, which is not at hand here.
    await admin().assertQueue(queueOf('billing', topic), {
      durable: true,
      arguments: {
        'x-queue-type': 'quorum',
        'x-single-active-consumer': true,
        'x-delivery-limit': 2 ** 31 - 1,
      },
    })
  })

  it('works with classic queues, and with a topology that somebody else has made', async () => {
    const topic = newTopic()
    const declaring = make({ queueType: 'classic' })
    const first = await subscribe(declaring, 'billing', [topic], async () => {})
    await first.stop()

    const broker = make({ topology: 'check' })
    const inbox = collector(async (batch) => {
      expect(batch.map(idOf)).toHaveLength(1)
    })
    await subscribe(broker, 'billing', [topic], inbox.onBatch)
    expect(statuses(await broker.send([outgoing(topic)], { signal: never }))).toEqual(['sent'])
    await inbox.until((received) => received.length === 1)
  })
})
