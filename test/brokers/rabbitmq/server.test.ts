import { expect, it } from 'vitest'
import type { BrokerError } from '../../../src/base/errors.ts'
import { ownMaxMessageBytes, startRabbitmq } from '../../support/servers/rabbitmq.ts'
import { describeWith } from '../../support/require.ts'
import { collector, errorOf, idOf, outgoing, statuses, subscribe } from '../collector.ts'
import { brokerContract } from '../contract.ts'
import { never, useFixture } from './fixture.ts'

/** Each command of rabbitmqctl starts a virtual machine, for which a busy machine takes ten seconds. */
const patience = 120_000

/**
 * What takes a node of our own: alarms, limits, rights and restarts would hurt others on a shared one. So it is a
 * service of its own in `TWINBOX_TEST_REQUIRE`: a RabbitMQ in Docker is none that we can start and stop.
 */
describeWith(
  'rabbitmq-server',
  await startRabbitmq(),
  'The RabbitMQ broker and a server of its own',
  (server) => {
    const { make, newTopic, exchange } = useFixture(() => server.url)

    brokerContract('rabbitmq with a low limit', {
      make: () => make(),
      newTopic,
      unroutableTopic: newTopic,
      tooLarge: async () => ({ broker: make(), topic: newTopic(), bytes: ownMaxMessageBytes + 1 }),
    })

    it('does not let one bad message take down what another caller has in flight', async () => {
      const topic = newTopic()
      const broker = make()
      const inbox = collector()
      await subscribe(broker, 'billing', [topic], inbox.onBatch)
      const innocent = Array.from({ length: 300 }, () => outgoing(topic))
      const guilty = outgoing(topic, { content: Buffer.alloc(ownMaxMessageBytes + 1) })

      const [first, second, third] = await Promise.all([
        broker.send(innocent.slice(0, 200), { signal: never }),
        broker.send([guilty], { signal: never }),
        broker.send(innocent.slice(200), { signal: never }),
      ])

      expect(statuses(second)).toEqual(['rejected'])
      expect(errorOf(second[0]!)?.kind).toBe('poison')
      expect(new Set([...statuses(first), ...statuses(third)])).toEqual(new Set(['sent']))
      await inbox.until((received) => new Set(received.map(idOf)).size === innocent.length)
    })

    it('refuses one topic for want of rights, and sends the others', async () => {
      await server.ctl('add_user', 'limited', 'pw')
      await server.ctl('set_permissions', 'limited', '.*', '.*', '.*')
      await server.ctl('set_topic_permissions', 'limited', exchange, String.raw`^.*\.allowed$`, '.*')
      const topic = newTopic()
      const url = new URL(server.url)
      url.username = 'limited'
      url.password = 'pw'
      const broker = make({ url: url.href, unroutable: 'drop' })
      const topics = [`${topic}.allowed`, `${topic}.secret`, `${topic}.allowed`]

      const outcomes = await broker.send(
        topics.map((name) => outgoing(name)),
        { signal: never },
      )

      expect(statuses(outcomes)).toEqual(['sent', 'rejected', 'sent'])
      expect(errorOf(outcomes[1]!)?.kind).toBe('config')
    })

    it(
      'stops sending while the server has a memory alarm, says so, and goes on after it',
      { timeout: patience },
      async () => {
        const topic = newTopic()
        const broker = make({ sendTimeoutMs: 1500 })
        const inbox = collector()
        await subscribe(broker, 'billing', [topic], inbox.onBatch)
        expect(statuses(await broker.send([outgoing(topic)], { signal: never }))).toEqual(['sent'])

        await server.ctl('set_vm_memory_high_watermark', '0.00001')
        // The server says that it is blocked when it is next sent something; that one may or may not arrive.
        const during = outgoing(topic)
        expect(statuses(await broker.send([during], { signal: never }))[0]).toMatch(/^(unknown|sent)$/)
        const startedAt = performance.now()
        const outcomes = await broker.send([outgoing(topic), outgoing(topic)], { signal: never })
        expect(performance.now() - startedAt).toBeLessThan(1000)
        expect(statuses(outcomes)).toEqual(['failed', 'failed'])
        expect(errorOf(outcomes[0]!)).toMatchObject({
          kind: 'retry',
          message: expect.stringContaining('memory'),
        })

        await server.ctl('set_vm_memory_high_watermark', '0.4')
        const last = outgoing(topic)
        await expect
          .poll(async () => statuses(await broker.send([last], { signal: never })), { timeout: 10_000 })
          .toEqual(['sent'])
        await inbox.until((received) => received.map(idOf).includes(last.id))
      },
    )

    it('acknowledges and closes during an alarm', { timeout: patience }, async () => {
      const topic = newTopic()
      const broker = make({ sendTimeoutMs: 1000 })
      let release = (): void => {}
      const released = new Promise<void>((resolve) => {
        release = resolve
      })
      const inbox = collector(() => released)
      await subscribe(broker, 'billing', [topic], inbox.onBatch)
      const message = outgoing(topic)
      await broker.send([message], { signal: never })
      await server.ctl('set_vm_memory_high_watermark', '0.00001')
      await broker.send([outgoing(topic)], { signal: never })

      release()
      await inbox.until((received) => received.map(idOf).includes(message.id))
      const startedAt = performance.now()
      await broker.close()
      expect(performance.now() - startedAt).toBeLessThan(3000)

      await server.ctl('set_vm_memory_high_watermark', '0.4')
      const again = collector()
      await subscribe(make(), 'billing', [topic], again.onBatch)
      const end = outgoing(topic)
      await expect
        .poll(async () => statuses(await make().send([end], { signal: never })), { timeout: 10_000 })
        .toEqual(['sent'])
      await again.until((received) => received.map(idOf).includes(end.id))
      expect(again.ids()).not.toContain(message.id)
    })

    it('receives again what it held for longer than the server allows', { timeout: patience }, async () => {
      await server.ctl('eval', 'application:set_env(rabbit, consumer_timeout, 1000).')
      const topic = newTopic()
      const broker = make()
      const troubles: BrokerError[] = []
      let told = (): void => {}
      const closed = new Promise<void>((resolve) => {
        told = resolve
      })
      let calls = 0
      const inbox = collector(async () => {
        if (++calls === 1) await closed
      })
      await subscribe(broker, 'billing', [topic], inbox.onBatch, 10, (error) => {
        troubles.push(error)
        told()
      })
      const message = outgoing(topic)
      await broker.send([message], { signal: never })
      await inbox.until((received) => received.length === 2)
      expect(inbox.ids()).toEqual([message.id, message.id])
      expect(inbox.received.map(({ redelivered }) => redelivered)).toEqual([false, true])
      expect(troubles).toMatchObject([{ kind: 'reconnect' }])
      await server.ctl('eval', 'application:set_env(rabbit, consumer_timeout, 1800000).')
    })

    it('loses nothing when the server restarts', { timeout: patience }, async () => {
      const topic = newTopic()
      const broker = make()
      let refuse = true
      const inbox = collector(async () => {
        if (refuse) throw new Error('the database is down')
      })
      await subscribe(broker, 'billing', [topic], inbox.onBatch)
      const sent = Array.from({ length: 100 }, () => outgoing(topic, { key: 'one' }))
      expect(new Set(statuses(await broker.send(sent, { signal: never })))).toEqual(new Set(['sent']))

      await server.ctl('stop_app')
      const down = await broker.send([outgoing(topic)], { signal: never })
      expect(statuses(down)[0]).toMatch(/^(failed|unknown)$/)
      await server.ctl('start_app')
      refuse = false

      await inbox.until((received) => new Set(received.map(idOf)).size === 100)
      expect([...new Set(inbox.ids())]).toEqual(sent.map((message) => message.id))
      const last = outgoing(topic)
      expect(statuses(await broker.send([last], { signal: never }))).toEqual(['sent'])
      await inbox.until((received) => received.map(idOf).includes(last.id))
    })
  },
)
