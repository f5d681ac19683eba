import { randomBytes, randomUUID } from 'node:crypto'
import { afterAll, afterEach, beforeAll, expect, test } from 'vitest'
import type { Trial } from '../../src/brokers/adapter.ts'
import type { Broker, SendOutcome } from '../../src/brokers/broker.ts'
import { createReceiver, type Worker } from '../../src/index.ts'
import { newMessageId, type OutgoingMessage } from '../../src/message/message.ts'
import { outgoing } from '../brokers/collector.ts'
import { everyBroker } from '../support/brokers.ts'
import { recordEvents } from '../support/events.ts'
import { createTestDatabase, type TestDatabase } from '../support/postgres.ts'
import { describeWith } from '../support/require.ts'

/** Whoever may send to one topic tries to choose the handler, and to make the messages of others vanish. */

const signal = new AbortController().signal

for (const { adapter, found } of await everyBroker())
  describeWith(adapter.name, found, 'who may send to one topic', ({ url }) => {
    const name = `twinbox.attack.${randomBytes(5).toString('hex')}`
    const [noise, orders] = [`${name}.noise`, `${name}.orders`]
    /** Its `send` writes the inbox: nobody else's words come with a message. */
    const hasWire = adapter.name !== 'postgres'
    /** Nothing but the message says its topic there, and its id stands twice. */
    const isDirect = adapter.name === 'zeromq'
    let database: TestDatabase
    let trial: Trial
    let receiver: Worker
    let broker: Broker
    let events = recordEvents()
    let attacker: Broker
    const consumers: string[] = []

    beforeAll(async () => {
      database = await createTestDatabase()
      const place = { name, schema: 'twinbox', database: () => database.url }
      trial = await adapter.openTrial({ ...place, ...(url !== undefined && { url }) })
      attacker = trial.open()
    })
    afterEach(async () => {
      await receiver.stop()
      await broker.close()
      // Nothing tells it that a consumer will not come back, and what is for all would wait for it.
      if (isDirect) await trial.clear(consumers)
    })
    afterAll(async () => {
      await attacker.close()
      await trial.clear(consumers)
      await database.drop()
    })

    async function start(): Promise<string> {
      const consumer = `c${randomBytes(4).toString('hex')}`
      consumers.push(consumer)
      events = recordEvents()
      broker = trial.open()
      const { onEvent } = events
      receiver = createReceiver({
        database: database.url,
        broker,
        consumer,
        topics: [noise, orders],
        onEvent,
      })
      await receiver.start()
      return consumer
    }

    /** With one key, so that all comes in this order; as another producer would, whose attributes stand on the wire beside ours, and count. */
    const send = async (topic: string, fields: Partial<OutgoingMessage> = {}): Promise<SendOutcome> =>
      (await attacker.send([outgoing(topic, { key: 'k', ...fields })], { signal }))[0]!
    const forge = (
      topic: string,
      content: string,
      attributes: Record<string, string>,
    ): Promise<SendOutcome> =>
      send(topic, {
        ...(isDirect && attributes['ce_id'] !== undefined && { id: attributes['ce_id'] }),
        ...{ content, headers: attributes },
      })

    const inbox = (consumer: string): Promise<Record<string, unknown>[]> =>
      database.query(
        'select id, topic, headers, payload::text from twinbox.inbox where consumer = $1 order by seq',
        [consumer],
      )
    const letters = (consumer: string): Promise<Record<string, unknown>[]> =>
      database.query(
        "select topic, reason, convert_from(body, 'utf8') as body from twinbox.dead_letter where consumer = $1",
        [consumer],
      )
    /** A message behind those that are tried, by which it is known that they have arrived. */
    const untilLast = async (consumer: string, topic = orders): Promise<void> => {
      const id = newMessageId()
      await send(topic, { id })
      await expect
        .poll(async () => (await inbox(consumer)).some((row) => row['id'] === id), { timeout: 20_000 })
        .toBe(true)
    }

    test('does not choose the handler by the type of a CloudEvent', async () => {
      const consumer = await start()
      const forged = await forge(noise, '{}', {
        ...{ ce_type: 'admin.grant', ce_id: randomUUID(), ce_source: 'evil' },
      })
      await untilLast(consumer, noise)
      const [row, ...more] = await inbox(consumer)
      // The type is the topic, and it is none that is taken.
      if (isDirect) return expect([forged.status, more]).toEqual(['rejected', []])
      expect(row!['topic']).toBe(noise)
      // Its handler sees what the sender says.
      expect(row!['headers']).toMatchObject({ ce_type: 'admin.grant' })
    })

    test.skipIf(!hasWire)(
      'does not make a message vanish by sending its id before, or a part of it in the source',
      async () => {
        const consumer = await start()
        const id = newMessageId()
        const uuid = randomUUID()
        await forge(noise, '{"evil":1}', { ce_source: 'evil', ce_id: id })
        await forge(noise, '{"evil":2}', { ce_source: 'evil', ce_id: uuid })
        await forge(noise, '{"evil":3}', { ce_source: 'shop 1', ce_id: '2' })
        await untilLast(consumer, noise)
        await send(orders, { id, content: '{"honest":1}' })
        await forge(orders, '{"honest":2}', { ce_source: 'shop', ce_id: uuid })
        await forge(orders, '{"honest":3}', { ce_source: 'shop', ce_id: '1 2' })
        await untilLast(consumer)
        const honest = (await inbox(consumer)).filter(({ payload }) => String(payload).includes('honest'))
        expect(honest.map(({ payload }) => payload)).toEqual([1, 2, 3].map((n) => `{"honest":${n}}`))
        expect(honest.find(({ payload }) => payload === '{"honest":1}')!['id']).toBe(id)
        expect(await letters(consumer)).toEqual([])
      },
    )

    test('does not pass off another content as a duplicate, and a copy is one whatever its headers are', async () => {
      const consumer = await start()
      const message = { id: newMessageId(), content: '{"n":1}' }
      const outcomes = [
        await send(orders, message),
        await send(orders, { ...message, publishedAt: new Date(0), headers: { traceparent: '00-ab-cd-01' } }),
        await send(orders, { ...message, content: '{"n":2}' }),
      ]
      await untilLast(consumer)
      const collided = (): number =>
        events.of('received').reduce((sum, { collisions }) => sum + collisions, 0)
      if (hasWire) await expect.poll(collided, { timeout: 20_000 }).toBe(1)
      const kept = (await inbox(consumer)).filter(({ id }) => id === message.id)
      expect(kept.map(({ payload }) => payload)).toEqual(['{"n":1}'])
      const buried = await letters(consumer)
      const reason = /^collision: /
      if (hasWire) {
        expect(outcomes.map(({ status }) => status)).toEqual(['sent', 'sent', 'sent'])
        expect(buried).toEqual([
          { topic: orders, body: '{"n":2}', reason: expect.stringMatching(reason) as string },
        ])
      } else {
        // Then it is the relay whose dead letter it becomes.
        expect(outcomes).toMatchObject([
          { status: 'sent' },
          { status: 'sent' },
          { status: 'rejected', error: { kind: 'poison', message: expect.stringMatching(reason) as string } },
        ])
        expect(buried).toEqual([])
      }
    })
  })
