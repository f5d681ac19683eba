import { randomBytes } from 'node:crypto'
import { Socket } from 'node:net'
import { Kafka, logLevel, type Admin } from 'kafkajs'
import { afterAll, afterEach, beforeAll, expect, test, vi } from 'vitest'
import type { Broker } from '../../src/brokers/broker.ts'
import { kafka, type KafkaOptions } from '../../src/brokers/kafka/kafka.ts'
import { quotaPerHour } from '../../src/brokers/kafka/topics.ts'
import { createOutbox, createRelay } from '../../src/index.ts'
import { errorOf, outgoing, statuses } from '../brokers/collector.ts'
import { recordEvents } from '../support/events.ts'
import { createTestDatabase } from '../support/postgres.ts'
import { describeWith } from '../support/require.ts'
import { kafka as kafkaServer } from '../support/servers/kafka.ts'
import { shared } from '../support/shared.ts'

/** Whoever may publish tries to fill Kafka with topics, and to have others wait for them. */

const signal = new AbortController().signal
const [produce, createTopics] = [0, 19]

test('a quota counts what was taken within an hour, and takes back what came to nothing', () => {
  const quota = quotaPerHour(5)
  expect(quota.take(3)).toBe(3)
  expect(quota.take(3)).toBe(2)
  expect(quota.take(1)).toBe(0)
  quota.giveBack(2)
  quota.giveBack(0)
  expect(quota.take(9)).toBe(2)
  expect(quota.take(1)).toBe(0)
})

describeWith('kafka', await shared(kafkaServer), 'topics of Kafka', ({ brokers }) => {
  let admin: Admin
  const open: Broker[] = []
  const spy = vi.spyOn(Socket.prototype, 'write')
  /** What was asked of Kafka since the last `mockClear`, by the keys of its protocol. */
  const requests = (): number[] =>
    (spy.mock.calls as unknown[][]).flatMap(([data]) =>
      Buffer.isBuffer(data) && data.length > 6 ? [data.readInt16BE(4)] : [],
    )

  beforeAll(async () => {
    admin = new Kafka({ brokers, logLevel: logLevel.NOTHING, retry: { retries: 20 } }).admin()
    await admin.connect()
  })
  afterEach(async () => {
    await Promise.all(open.splice(0).map((broker) => broker.close()))
  })
  afterAll(async () => {
    spy.mockRestore()
    await admin.disconnect()
  })

  const newName = (): string => `attack.${randomBytes(5).toString('hex')}`
  const make = (options: Partial<KafkaOptions> = {}): Broker => {
    const broker = kafka({ brokers, partitions: 1, ...options })
    open.push(broker)
    return broker
  }
  const createTopic = async (): Promise<string> => {
    const topic = newName()
    await admin.createTopics({ topics: [{ topic, numPartitions: 1 }], waitForLeaders: false })
    await expect
      .poll(async () => statuses(await make().send([outgoing(topic)], { signal })), { timeout: 30_000 })
      .toEqual(['sent'])
    return topic
  }
  const made = async (prefix: string): Promise<string[]> =>
    (await admin.listTopics()).filter((topic) => topic.startsWith(prefix))

  test('200 new ones in one publishMany are not made, and nobody waits for them', async () => {
    const database = await createTestDatabase()
    const known = await createTopic()
    spy.mockClear()
    const prefix = newName()
    const events = recordEvents()
    const broker = make()
    const relay = createRelay({ database: database.url, broker, onEvent: events.onEvent, maxAttempts: 2 })
    const outbox = createOutbox()
    try {
      await relay.start()
      await database.transaction((client) =>
        outbox.publishMany(client, [
          ...Array.from({ length: 200 }, (_, index) => ({ topic: `${prefix}.${index}`, payload: index })),
          ...Array.from({ length: 20 }, (_, index) => ({ topic: known, key: `k${index}`, payload: index })),
        ]),
      )
      await events.next('sent', ({ topics }) => JSON.stringify(topics).includes(known))
      const dead = await events.next('dead_letter', ({ topic }) => topic.startsWith(prefix), 1)
      expect(JSON.stringify(dead)).toMatch(/Kafka has no topic .*topology: 'declare'/)
      await events.next('dead_letter', ({ topic }) => topic.startsWith(prefix), 200)
      expect(await made(prefix)).toEqual([])
      expect(requests()).toContain(produce)
      expect(requests()).not.toContain(createTopics)
    } finally {
      await relay.stop()
      await database.drop()
    }
  })

  test('when asked for, they are made in one request, as many as are allowed, after what need not wait', async () => {
    const known = await createTopic()
    const prefix = newName()
    const broker = make({ topology: 'declare', maxNewTopics: 10 })
    spy.mockClear()
    const news = Array.from({ length: 12 }, (_, index) =>
      outgoing(`${prefix}.${index}`, { key: `n${index}` }),
    )
    // Behind the first of the new ones under its key.
    const behind = outgoing(known, { key: 'n0' })
    const outcomes = await broker.send([...news, behind, outgoing(known)], { signal })
    expect(requests().filter((request) => request === createTopics)).toHaveLength(1)
    expect(requests().indexOf(produce)).toBeLessThan(requests().indexOf(createTopics))
    expect(requests().lastIndexOf(produce)).toBeGreaterThan(requests().indexOf(createTopics))
    expect(statuses(outcomes)).toEqual([
      ...Array.from({ length: 10 }, () => 'sent'),
      ...['rejected', 'rejected', 'sent', 'sent'],
    ])
    expect(await made(prefix)).toHaveLength(10)
    for (const index of [10, 11]) {
      expect(errorOf(outcomes[index]!)).toMatchObject({
        kind: 'config',
        message: expect.stringMatching(new RegExp(`no topic "${prefix}.${index}", and 10 .*maxNewTopics`)),
      })
    }
    // Topics that a receiver names are its application's.
    const own = newName()
    const subscription = await broker.subscribe(
      { consumer: own, topics: [own], batchSize: 10 },
      async () => {},
    )
    expect(await made(own)).toEqual([own])
    await subscription.stop()
  })

  test('one that Kafka refuses takes no other along, and counts for nothing', async () => {
    const prefix = newName()
    const broker = make({ topology: 'declare', maxNewTopics: 2, topic: ({ topic }) => topic })
    const bad = 'not/a/topic'
    for (let times = 0; times < 3; times++) {
      const [outcome] = await broker.send([outgoing(bad)], { signal })
      expect(errorOf(outcome!)).toMatchObject({ kind: 'config', message: expect.stringContaining(bad) })
    }
    const both = await broker.send([outgoing(bad), outgoing(`${prefix}.1`), outgoing(`${prefix}.2`)], {
      signal,
    })
    expect(statuses(both).slice(1).toSorted()).toContain('sent')
    await expect
      .poll(async () =>
        statuses(await broker.send([outgoing(`${prefix}.1`), outgoing(`${prefix}.2`)], { signal })),
      )
      .toEqual(['sent', 'sent'])
  })

  test('several relays that make the same one at once all get it', async () => {
    const topic = newName()
    const all = await Promise.all(
      Array.from({ length: 4 }, () => make({ topology: 'declare' }).send([outgoing(topic)], { signal })),
    )
    expect(all.flatMap(statuses)).toEqual(['sent', 'sent', 'sent', 'sent'])
  })
})
