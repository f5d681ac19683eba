import { randomBytes } from 'node:crypto'
import { CloudEvent, Kafka as CloudEventKafka } from 'cloudevents'
import { describe, expect, it } from 'vitest'
import { openClient } from '../../../src/brokers/kafka/clients.ts'
import { checkOptions } from '../../../src/brokers/kafka/options.ts'
import { findTopics } from '../../../src/brokers/kafka/topics.ts'
import { isTombstone, tombstone } from '../../../src/message/tombstone.ts'
import type { BrokerError } from '../../../src/base/errors.ts'
import { collector, errorOf, idOf, outgoing, statuses, subscribe, type Collector } from '../contract.ts'
import { never, sockets, type Fixture } from './fixture.ts'

/** What the contract does not know of: Kafka with nothing broken. */
export function kafkaInGoodHealth(fixture: Fixture): void {
  const { make, newTopic, createTopic, admin, producer, readRecords } = fixture
  const group = (topic: string): string => `twinbox.billing-${topic}`
  const committed = async (topic: string): Promise<bigint> => {
    const [offsets] = await admin().fetchOffsets({ groupId: group(topic), topics: [topic] })
    return offsets!.partitions.reduce((sum, { offset }) => sum + BigInt(Math.max(0, Number(offset))), 0n)
  }

  describe('on the wire', () => {
    it('writes records that the CloudEvents SDK reads', async () => {
      const topic = newTopic()
      const broker = make({ source: 'https://shop.example/orders' })
      const message = outgoing(topic, { key: 'order-7', headers: { tenant: 'a' }, content: '{"total":12}' })
      expect(statuses(await broker.send([message], { signal: never }))).toEqual(['sent'])

      const [record] = await readRecords(topic, 1)
      const headers = Object.fromEntries(
        Object.entries(record!.headers!).map(([name, value]) => [name, String(value)]),
      )
      const event = CloudEventKafka.toEvent({
        ...{ headers, key: String(record!.key), value: record!.value!, body: record!.value! },
      })

      expect(event).toMatchObject({
        specversion: '1.0',
        id: message.id,
        type: topic,
        source: 'https://shop.example/orders',
        time: message.publishedAt.toISOString(),
        partitionkey: 'order-7',
        datacontenttype: 'application/json',
      })
      expect(headers).toMatchObject({ tenant: 'a', 'content-type': 'application/json' })
      expect(JSON.parse(record!.value!.toString())).toEqual({ total: 12 })
    })

    it('reads records that the CloudEvents SDK writes', async () => {
      const topic = await createTopic()
      const event = new CloudEvent({
        ...{ type: 'order.placed', source: '/shop', id: 'e-1', partitionkey: 'order-7' },
        ...{ datacontenttype: 'application/json', data: { total: 12 } },
      })
      const { key, value, headers } = CloudEventKafka.binary(event)
      const given = Object.entries(headers).filter(
        (header): header is [string, string] => header[1] !== undefined,
      )
      await producer().send({
        topic,
        messages: [{ key: String(key), value: JSON.stringify(value), headers: Object.fromEntries(given) }],
      })
      const inbox = collector()
      await subscribe(make(), 'billing', [topic], inbox.onBatch)
      await inbox.until((received) => received.length === 1)

      const [received] = inbox.received
      expect(idOf(received!)).toBe('e-1')
      expect(received).toMatchObject({ topic, key: 'order-7', contentType: 'application/json' })
      expect(JSON.parse(Buffer.from(received!.body).toString())).toEqual({ total: 12 })
    })

    it('takes what other programs send: tombstones, headers of several values or none, any bytes', async () => {
      const topic = await createTopic({ numPartitions: 1 })
      await producer().send({
        topic,
        messages: [
          { key: 'gone', value: null },
          { value: Buffer.from([0xff, 0x00]), headers: { twice: ['a', 'ü'], 'content-type': 'x/y' } },
        ],
      })
      const inbox = collector()
      await subscribe(make(), 'billing', [topic], inbox.onBatch)
      await inbox.until((received) => received.length === 2)

      const place = (offset: number) =>
        expect.stringMatching(new RegExp(`^${topic}/0/${offset}@[\\w-]{22}$`)) as string
      const common = { topic, redelivered: false, placedAt: expect.stringMatching(/^\d{13}$/) as string }
      expect(inbox.received).toEqual([
        {
          ...{ ...common, key: 'gone', headers: {}, contentType: tombstone.contentType },
          ...{ body: Buffer.alloc(0), position: place(0) },
        },
        {
          ...{ ...common, key: null, headers: { twice: 'ü' }, contentType: 'x/y' },
          ...{ body: Buffer.from([0xff, 0x00]), position: place(1) },
        },
      ])
    })

    it('sends a tombstone as a record without a value, and an empty body as one with it', async () => {
      const topic = newTopic()
      const broker = make({ partitions: 1 })
      const inbox = collector()
      const { payload: content, contentType } = tombstone
      const messages = [
        outgoing(topic, { key: 'gone', content, contentType }),
        outgoing(topic, { key: 'gone', content, contentType: 'text/plain' }),
      ]
      expect(statuses(await broker.send(messages, { signal: never }))).toEqual(['sent', 'sent'])
      const records = await readRecords(topic, 2)
      expect(
        records.map(({ key, value, headers }) => [String(key), value, headers!['content-type']]),
      ).toEqual([
        ['gone', null, undefined],
        ['gone', Buffer.alloc(0), Buffer.from('text/plain')],
      ])
      await subscribe(broker, 'billing', [topic], inbox.onBatch)
      await inbox.until((received) => received.length === 2)
      expect(inbox.ids()).toEqual(messages.map(({ id }) => id))
      expect(
        inbox.received.map(({ body, contentType: type }) =>
          isTombstone({ payload: body, contentType: type! }),
        ),
      ).toEqual([true, false])
    })

    it('finds the content type where bridges to HTTP and Spring write it', async () => {
      const topic = await createTopic({ numPartitions: 1 })
      const type = 'application/json'
      const named = [{ 'Content-Type': type }, { contentType: `"${type}"` }, { CONTENT_TYPE: type }]
      const several = { contentType: 'a/b', 'content-type': type }
      await producer().send({
        topic,
        messages: [...named, several, { 'x-content-type': type }].map((headers) => ({ value: '1', headers })),
      })
      const inbox = collector()
      await subscribe(make(), 'billing', [topic], inbox.onBatch)
      await inbox.until((received) => received.length === 5)
      expect(inbox.received.map(({ contentType, headers }) => [contentType, headers])).toEqual([
        ...named.map(() => [type, {}]),
        [type, { contentType: 'a/b' }],
        [null, { 'x-content-type': type }],
      ])
    })

    it('puts a key where the Java client puts it, and messages without a key everywhere', async () => {
      const topic = await createTopic({ numPartitions: 10 })
      // murmur2 of "foobar" is -790332482, by Kafka's own UtilsTest; without its sign bit 1357151166.
      const keyed = outgoing(topic, { key: 'foobar' })
      const keyless = Array.from({ length: 50 }, () => outgoing(topic))
      await make().send([keyed, ...keyless], { signal: never })

      const records = await readRecords(topic, 51)
      expect(records.find(({ key }) => key !== null)!.partition).toBe(1357151166 % 10)
      expect(new Set(records.map(({ partition }) => partition)).size).toBe(10)
    })
  })

  describe('topics', () => {
    it('creates a topic with the partitions it is told, for a sender and for a receiver', async () => {
      const [sentTo, subscribedTo] = [newTopic(), newTopic()]
      const broker = make({ partitions: 5 })
      await broker.send([outgoing(sentTo)], { signal: never })
      await subscribe(broker, 'billing', [subscribedTo], async () => {})

      const { topics } = await admin().fetchTopicMetadata({ topics: [sentTo, subscribedTo] })
      expect(topics.map(({ partitions }) => partitions.length)).toEqual([5, 5])
    })

    it('with topology check creates nothing, and takes up a topic when it is there', async () => {
      const topic = newTopic()
      const broker = make({ topology: 'check', topicRefreshMs: 100 })
      const troubles: BrokerError[] = []
      const inbox = collector()
      await subscribe(broker, 'billing', [topic], inbox.onBatch, 10, (error) => troubles.push(error))
      const other = await createTopic()
      const message = outgoing(topic)

      const outcomes = await broker.send([message, outgoing(other)], { signal: never })
      expect(statuses(outcomes)).toEqual(['rejected', 'sent'])
      expect(errorOf(outcomes[0]!)).toMatchObject({ kind: 'config', message: expect.stringContaining(topic) })
      expect(troubles[0]).toMatchObject({ kind: 'config', message: expect.stringContaining(topic) })
      // The broker itself creates topics that anybody asks for, unless told not to.
      expect(await admin().listTopics()).not.toContain(topic)

      await admin().createTopics({ topics: [{ topic }], waitForLeaders: true })
      await expect
        .poll(async () => statuses(await broker.send([message], { signal: never })))
        .toEqual(['sent'])
      await inbox.until((received) => received.length === 1)
    })

    it('drops messages for a topic that does not exist when told so', async () => {
      const broker = make({ topology: 'check', unroutable: 'drop' })
      const topic = newTopic()
      expect(statuses(await broker.send([outgoing(topic)], { signal: never }))).toEqual(['sent'])
      expect(await admin().listTopics()).not.toContain(topic)
    })

    it('creates a topic again that was deleted under its feet', async () => {
      const topic = newTopic()
      const broker = make()
      await broker.send([outgoing(topic)], { signal: never })
      await admin().deleteTopics({ topics: [topic] })
      await expect.poll(() => admin().listTopics()).not.toContain(topic)

      await expect
        .poll(async () => statuses(await broker.send([outgoing(topic)], { signal: never })), {
          timeout: 15_000,
        })
        .toEqual(['sent'])
    })

    it('matches patterns also against topics that are created later, and never against those of Kafka', async () => {
      const prefix = newTopic()
      const broker = make({ topicRefreshMs: 100 })
      const inbox = collector()
      await subscribe(broker, 'billing', [`${prefix}.*`], inbox.onBatch)
      const early = outgoing(`${prefix}.early`)
      await broker.send([early, outgoing(prefix), outgoing(`${prefix}.not.this`)], { signal: never })
      await inbox.until((received) => received.length >= 1)
      const late = outgoing(`${prefix}.late`)
      await broker.send([late], { signal: never })
      await inbox.until((received) => received.some((one) => idOf(one) === late.id))
      // A new topic may have no leader yet, and then the whole batch is written again.
      expect([...new Set(inbox.ids())]).toEqual([early.id, late.id])

      const settings = checkOptions({ brokers: fixture.service().brokers })
      const client = await openClient(settings, 5000)
      const { topics } = await findTopics(client, ['#'], settings)
      client.retire()
      expect(topics).toContain(prefix)
      expect(topics.filter((topic) => topic.startsWith('__'))).toEqual([])
      expect(await admin().listTopics()).toContain('__consumer_offsets')
    })
  })

  describe('sending', () => {
    it('sends a batch that is larger than Kafka takes in one piece, in order', async () => {
      const topic = newTopic()
      const broker = make()
      const sent = Array.from({ length: 300 }, () =>
        outgoing(topic, { key: 'one', content: randomBytes(10_000) }),
      )
      expect(statuses(await broker.send(sent, { signal: never }))).toEqual(sent.map(() => 'sent'))

      const inbox = collector()
      await subscribe(broker, 'billing', [topic], inbox.onBatch)
      await inbox.until((received) => new Set(received.map(idOf)).size === 300)
      expect([...new Set(inbox.ids())]).toEqual(sent.map(({ id }) => id))
    })

    it('finds the one message that is too large among many partitions, writing no other more than twice', async () => {
      const topic = await createTopic({ configEntries: [{ name: 'max.message.bytes', value: '50000' }] })
      const broker = make()
      // A new topic may have no leader yet, and then the whole batch is written again.
      const first = Array.from({ length: 20 }, (_, index) => outgoing(topic, { key: `key-${index}` }))
      await broker.send(first, { signal: never })
      const sent = Array.from({ length: 200 }, (_, index) => outgoing(topic, { key: `key-${index % 20}` }))
      const guilty = outgoing(topic, { key: 'key-4', content: randomBytes(60_000) })
      sent[104] = guilty

      const outcomes = await broker.send(sent, { signal: never })
      const fine = sent.filter((message) => message !== guilty)
      expect(outcomes.filter(({ status }) => status === 'sent')).toHaveLength(199)
      expect(errorOf(outcomes[104]!)).toMatchObject({ kind: 'poison' })

      const inbox = collector()
      await subscribe(broker, 'billing', [topic], inbox.onBatch)
      await inbox.until((received) => new Set(received.map(idOf)).size === 219)
      for (let key = 0; key < 20; key++) {
        const ofKey = (message: { readonly key: string | null }): boolean => message.key === `key-${key}`
        const firsts = [...new Set(inbox.received.filter(ofKey).map(idOf))]
        expect(firsts).toEqual([...first, ...fine].filter(ofKey).map(({ id }) => id))
      }
      const copies = new Map<string, number>()
      const warmUp = new Set(first.map(({ id }) => id))
      for (const id of inbox.ids()) if (!warmUp.has(id)) copies.set(id, (copies.get(id) ?? 0) + 1)
      expect(Math.max(...copies.values())).toBeLessThanOrEqual(2)
    })

    it('uses the topic it is told, and refuses a message alone for which it gets none', async () => {
      const all = newTopic()
      const broker = make({
        topic: ({ headers }) => {
          if (headers?.['route'] === 'throw') throw new Error('no route')
          return headers?.['route'] === 'empty' ? '' : all
        },
      })
      const routed = (route: string): ReturnType<typeof outgoing> => outgoing('any', { headers: { route } })
      const sent = [routed('a'), routed('throw'), routed('empty'), routed('b')]
      const outcomes = await broker.send(sent, { signal: never })

      expect(statuses(outcomes)).toEqual(['sent', 'rejected', 'rejected', 'sent'])
      expect(errorOf(outcomes[1]!)).toMatchObject({ kind: 'config' })
      const ids = (await readRecords(all, 2)).map(({ headers }) => String(headers!['ce_id']))
      expect(new Set(ids)).toEqual(new Set([sent[0]!.id, sent[3]!.id]))
    })
  })

  describe('receiving', () => {
    it('commits after onBatch has resolved, and no sooner', async () => {
      const topic = await createTopic({ numPartitions: 1 })
      const broker = make()
      let finish = (): void => {}
      const finished = new Promise<void>((resolve) => {
        finish = resolve
      })
      let begun = (): void => {}
      const beginning = new Promise<void>((resolve) => {
        begun = resolve
      })
      await subscribe(broker, 'billing', [topic], async () => {
        begun()
        await finished
      })
      await broker.send([outgoing(topic), outgoing(topic)], { signal: never })
      await beginning
      try {
        expect(await committed(topic)).toBe(0n)
      } finally {
        finish()
      }
      await expect.poll(() => committed(topic)).toBe(2n)
    })

    it('holds back only the partition whose batch was not taken', async () => {
      const topic = await createTopic({ numPartitions: 2 })
      const broker = make()
      let broken = true
      const failedAt: number[] = []
      const inbox: Collector = collector(async (batch) => {
        if (broken && batch.some(({ position }) => position!.startsWith(`${topic}/0/`))) {
          failedAt.push(performance.now())
          throw new Error('only this one')
        }
      })
      await subscribe(broker, 'billing', [topic], inbox.onBatch, 5)
      const send = async (partition: number): Promise<string> => {
        const { id } = outgoing(topic)
        const headers = { ce_specversion: '1.0', ce_id: id }
        await producer().send({ topic, messages: [{ partition, headers, value: '{}' }] })
        return id
      }
      const held = [await send(0), await send(0)]
      await expect.poll(() => failedAt.length, { timeout: 15_000 }).toBeGreaterThanOrEqual(4)
      const others: string[] = []
      for (let round = 0; round < 5; round++) {
        others.push(await send(1))
        await inbox.until((received) => received.length === others.length)
      }
      expect(inbox.ids()).toEqual(others)
      // It rests in between, for 100 ms at least; without that, a database that is down would be stormed.
      expect(failedAt[3]! - failedAt[0]!).toBeGreaterThan(290)

      broken = false
      await inbox.until((received) => received.length === 7)
      expect(inbox.ids()).toEqual([...others, ...held])
    })

    it('keeps its partitions while onBatch takes longer than the session', async () => {
      const topic = await createTopic({ numPartitions: 1 })
      const sessionTimeoutMs = fixture.service().minSessionMs
      const broker = make({ sessionTimeoutMs })
      const inbox = collector(async () => {
        await new Promise((wake) => setTimeout(wake, 2 * sessionTimeoutMs))
      })
      const rival = collector()
      await subscribe(broker, 'billing', [topic], inbox.onBatch)
      const sent = outgoing(topic)
      await broker.send([sent], { signal: never })
      await inbox.until((received) => received.length === 1)
      await expect.poll(() => committed(topic)).toBe(1n)

      // Had it lost its membership, its commit would not have counted and another member would get the message.
      await subscribe(make({ sessionTimeoutMs }), 'billing', [topic], rival.onBatch)
      const next = outgoing(topic)
      await broker.send([next], { signal: never })
      await Promise.race(
        [inbox, rival].map((side) => side.until((all) => all.some((one) => idOf(one) === next.id))),
      )
      expect([...inbox.ids(), ...rival.ids()]).toEqual([sent.id, next.id])
    })

    it('commits past the markers of transactions, which are records that nobody sees', async () => {
      const topic = await createTopic({ numPartitions: 1 })
      const transactional = fixture.transactional()
      await transactional.connect()
      for (const outcome of ['commit', 'abort', 'commit'] as const) {
        const transaction = await transactional.transaction()
        await transaction.send({ topic, messages: [{ value: outcome }] })
        await transaction[outcome]()
      }
      await transactional.disconnect()
      const inbox = collector()
      await subscribe(make(), 'billing', [topic], inbox.onBatch)
      await inbox.until((received) => received.length === 2)

      expect(inbox.received.map(({ body }) => Buffer.from(body).toString())).toEqual(['commit', 'commit'])
      await expect.poll(() => committed(topic)).toBe(6n)
    })

    it('leaves no connection behind', async () => {
      const before = sockets()
      const topic = await createTopic()
      const broker = make()
      const inbox = collector()
      await subscribe(broker, 'billing', [topic], inbox.onBatch)
      await broker.send([outgoing(topic)], { signal: never })
      await inbox.until((received) => received.length === 1)
      expect(sockets()).toBeGreaterThan(before)
      await broker.close()
      await expect.poll(sockets).toBeLessThanOrEqual(before)
    })
  })
}
