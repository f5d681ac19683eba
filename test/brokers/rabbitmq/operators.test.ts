import { expect, it } from 'vitest'
import type { Broker, SendOutcome } from '../../../src/brokers/broker.ts'
import type { BrokerError } from '../../../src/base/errors.ts'
import { rabbitmq as rabbitmqServer } from '../../support/servers/rabbitmq.ts'
import { shared } from '../../support/shared.ts'
import { describeWith } from '../../support/require.ts'
import { collector, errorOf, outgoing, statuses, subscribe } from '../collector.ts'
import { never, useFixture } from './fixture.ts'

/** What a careless operator can do. */
describeWith('rabbitmq', await shared(rabbitmqServer), 'The RabbitMQ broker and its operators', ({ url }) => {
  const { make, newTopic, queueOf, admin, exchange } = useFixture(() => url)
  const send = (broker: Broker, topic: string, count = 1): Promise<readonly SendOutcome[]> =>
    broker.send(
      Array.from({ length: count }, () => outgoing(topic)),
      { signal: never },
    )

  it('subscribes again when its queue was deleted, and survives an observer that throws', async () => {
    const topic = newTopic()
    const broker = make()
    const inbox = collector()
    const troubles: BrokerError[] = []
    let told = (): void => {}
    const cancelled = new Promise<void>((resolve) => {
      told = resolve
    })
    await subscribe(broker, 'billing', [topic], inbox.onBatch, 10, (error) => {
      troubles.push(error)
      told()
      throw new Error('an observer with a defect')
    })
    expect(statuses(await send(broker, topic))).toEqual(['sent'])
    await inbox.until((received) => received.length === 1)

    await admin().deleteQueue(queueOf('billing', topic))
    await cancelled
    expect(troubles).toMatchObject([{ kind: 'retry', message: expect.stringContaining('cancelled') }])

    while (statuses(await send(broker, topic))[0] !== 'sent') await new Promise(setImmediate)
    await inbox.until((received) => received.length === 2)
  })

  it.each(['a binding', 'the exchange'])('binds again when %s was deleted', async (what) => {
    const topic = newTopic()
    const broker = make({ exchange: `${exchange}.${what.length}` })
    const inbox = collector()
    await subscribe(broker, 'rebound', [topic], inbox.onBatch)
    expect(statuses(await send(broker, topic))).toEqual(['sent'])
    if (what === 'a binding')
      await admin().unbindQueue(queueOf('rebound', topic), `${exchange}.${what.length}`, topic)
    else await admin().deleteExchange(`${exchange}.${what.length}`)
    expect(statuses(await send(broker, topic))).not.toEqual(['sent'])
    await expect
      .poll(async () => statuses(await send(broker, topic)), { timeout: 30_000, interval: 100 })
      .toEqual(['sent'])
    await inbox.until((received) => received.length === 2)
    await admin().deleteExchange(`${exchange}.${what.length}`)
  })

  it('unbinds what a consumer has unsubscribed from, and minds neither a missing binding nor a missing queue', async () => {
    const [wanted, unwanted] = [newTopic(), newTopic()]
    const broker = make()
    const inbox = collector()
    const subscription = await subscribe(broker, 'narrowed', [wanted, unwanted], inbox.onBatch)
    const consumer = `narrowed-${wanted}`
    expect(statuses([...(await send(broker, wanted)), ...(await send(broker, unwanted))])).toEqual([
      'sent',
      'sent',
    ])
    await subscription.stop()
    for (let times = 0; times < 2; times++) await broker.unsubscribe!({ consumer, topics: [unwanted] })
    expect(statuses([...(await send(broker, wanted)), ...(await send(broker, unwanted))])).toEqual([
      'sent',
      'rejected',
    ])
    await broker.unsubscribe!({ consumer: 'nobody', topics: [unwanted] })
  })

  it('holds nothing against messages that a full queue refuses', async () => {
    const topic = newTopic()
    const broker = make()
    const queue = queueOf('full', topic)
    await admin().assertExchange(exchange, 'topic', { durable: true })
    await admin().assertQueue(queue, {
      exclusive: true,
      durable: false,
      maxLength: 2,
      overflow: 'reject-publish',
    })
    await admin().bindQueue(queue, exchange, topic)

    const outcomes = await send(broker, topic, 5)
    expect(statuses(outcomes)).toEqual(['sent', 'sent', 'failed', 'failed', 'failed'])
    expect(errorOf(outcomes[4]!)).toMatchObject({ kind: 'retry', message: expect.stringContaining('full') })

    await admin().purgeQueue(queue)
    expect(statuses(await send(broker, topic))).toEqual(['sent'])
  })

  it('makes its exchange again when it was deleted, and says what is missing', async () => {
    const topic = newTopic()
    const lost = `${exchange}.lost`
    const broker = make({ exchange: lost })
    const inbox = collector()
    const subscription = await subscribe(broker, 'billing', [topic], inbox.onBatch)
    expect(statuses(await send(broker, topic))).toEqual(['sent'])
    await inbox.until((received) => received.length === 1)

    await admin().deleteExchange(lost)
    const outcomes = await send(broker, topic, 2)
    expect(statuses(outcomes)).toEqual(['rejected', 'rejected'])
    expect(errorOf(outcomes[0]!)).toMatchObject({
      kind: 'config',
      message: expect.stringContaining('No queue'),
    })

    await subscription.stop()
    await subscribe(broker, 'billing', [topic], inbox.onBatch)
    expect(statuses(await send(broker, topic))).toEqual(['sent'])
    await inbox.until((received) => received.length === 2)
    await admin().deleteExchange(lost)
  })

  it('says what is missing when it may only check', async () => {
    const topic = newTopic()
    const broker = make({ topology: 'check', exchange: `${exchange}.absent` })
    const outcomes = await send(broker, topic, 2)
    expect(statuses(outcomes)).toEqual(['failed', 'failed'])
    expect(errorOf(outcomes[0]!)).toMatchObject({
      kind: 'config',
      message: expect.stringContaining('does not exist'),
    })

    const troubles: BrokerError[] = []
    await admin().assertExchange(exchange, 'topic', { durable: true })
    await subscribe(
      make({ topology: 'check' }),
      'billing',
      [topic],
      async () => {},
      10,
      (error) => troubles.push(error),
    )
    expect(troubles).toMatchObject([{ kind: 'config', message: expect.stringContaining('does not exist') }])
  })

  it('says what to do when the exchange or the queue exists with other settings', async () => {
    const topic = newTopic()
    const fanout = `${exchange}.fanout`
    await admin().assertExchange(fanout, 'fanout', { durable: true, autoDelete: true })
    const outcomes = await send(make({ exchange: fanout }), topic)
    await admin().deleteExchange(fanout)
    expect(statuses(outcomes)).toEqual(['failed'])
    expect(errorOf(outcomes[0]!)).toMatchObject({
      kind: 'config',
      message: expect.stringContaining("'check'"),
    })

    await admin().assertQueue(queueOf('billing', topic), { durable: true })
    const troubles: BrokerError[] = []
    await subscribe(
      make(),
      'billing',
      [topic],
      async () => {},
      10,
      (error) => troubles.push(error),
    )
    expect(troubles).toMatchObject([
      { kind: 'config', message: expect.stringContaining('Delete it once it is empty') },
    ])
  })

  it('calls a wrong password and a missing virtual host what they are, and shows no password', async () => {
    const wrong = new URL(url)
    wrong.password = 's3cret'
    const nowhere = new URL(url)
    nowhere.pathname = '/no-such-host'
    for (const { href } of [wrong, nowhere]) {
      const outcomes = await send(make({ url: href }), newTopic())
      expect(outcomes).toMatchObject([{ status: 'failed', error: { kind: 'config' } }])
      expect(String(errorOf(outcomes[0]!)?.stack)).not.toContain('s3cret')
    }
  })
})
