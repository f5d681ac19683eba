import { CompressionTypes, type Message } from 'kafkajs'
import { expect, test } from 'vitest'
import { createReceiver } from '../../src/index.ts'
import { useFixture, useReceiver } from '../brokers/kafka/fixture.ts'
import { recordEvents, type Recorder } from '../support/events.ts'
import type { KafkaSource } from '../support/kafka.ts'
import { describeWith } from '../support/require.ts'
import { kafka } from '../support/servers/kafka.ts'
import { shared } from '../support/shared.ts'

/** Broker → receiver, over Kafka: records that Kafka takes and that mean something to it, or to other programs, or nothing. */
describeWith('kafka', await shared(kafka), 'who may write to a topic', ({ brokers }) => {
  const source: KafkaSource = {
    ...{ version: 'shared', ours: false },
    start: async () => ({
      ...{ brokers, version: 'shared', minSessionMs: 6000, nodes: [] },
      stop: async () => {},
    }),
  }
  const { make, admin, producer, transactional, createTopic } = useFixture(source)
  const receiving = useReceiver()
  let events: Recorder

  function receive(topic: string): Promise<void> {
    events = recordEvents()
    return receiving.receive(topic, make(), events.onEvent)
  }

  interface Row {
    readonly key: string | null
    readonly headers: Record<string, string> | null
    readonly text: string | null
    readonly size: number | null
    readonly published_at: Date | null
    readonly reason: string | null
  }

  const rows = (topic: string): Promise<Row[]> =>
    receiving.database().query<Row>(
      `select seq, key, headers, coalesce(payload::text, encode(body, 'escape')) as text, length(body) as size, published_at, null as reason
      from twinbox.inbox where consumer = $1
      union all select seq, key, headers, coalesce(payload::text, encode(body, 'escape')), length(body), published_at, reason
      from twinbox.dead_letter where consumer = $1 order by 1`,
      [topic],
    )

  /** What became of so many records. None makes the receiver stumble, or comes a second time. */
  async function arrived(topic: string, count: number): Promise<Row[]> {
    await expect.poll(async () => (await rows(topic)).length, { timeout: 40_000 }).toBe(count)
    // A Kafka that has just been started loads its groups.
    const down = events.of('broker_down').filter(({ error }) => !String(error).includes('GROUP_LOAD'))
    expect([...down, ...events.of('trouble')]).toEqual([])
    return rows(topic)
  }

  const send = (topic: string, messages: Message[], compression = CompressionTypes.None): Promise<unknown> =>
    producer().send({ topic, messages, compression })
  const one = { numPartitions: 1 }

  test('no key, an empty one, none of text; no value, an empty one', async () => {
    const topic = await createTopic(one)
    await receive(topic)
    const keys = [null, Buffer.alloc(0), Buffer.from([0xff, 0xfe]), Buffer.from('k\0l'), Buffer.from('k')]
    const values = [null, Buffer.alloc(0), Buffer.from('1')]
    await send(
      topic,
      keys.flatMap((key) => values.map((value) => ({ key, value }))),
    )
    const found = await arrived(topic, 15)
    // A tombstone has a body without bytes, as the one that is empty.
    expect(found.filter(({ size }) => size === 0)).toHaveLength(10)
    expect(found.map(({ reason }) => reason)).toEqual(found.map(() => null))
    const kinds = [null, 'base64,//4=', 'base64,awBs', 'k']
    expect(kinds.map((kind) => found.filter(({ key }) => key === kind).length)).toEqual([6, 3, 3, 3])
  })

  test('a time before 1970, at its beginning, in the far future, and of the largest number', async () => {
    const topic = await createTopic(one)
    await receive(topic)
    const times = [
      '0',
      '1',
      '-2',
      '-62135596800001',
      '253402300800000',
      '9007199254740993',
      '9223372036854775807',
    ]
    let taken = 0
    // Kafka itself refuses some of them.
    for (const timestamp of times)
      taken += await send(topic, [{ value: timestamp, timestamp }]).then(
        () => 1,
        () => 0,
      )
    await send(topic, [{ value: 'good' }])
    expect(taken).toBeGreaterThan(3)
    const found = await arrived(topic, taken + 1)
    expect(found.map(({ reason }) => reason)).toEqual(found.map(() => null))
    for (const { published_at: at } of found) expect(Number.isNaN(at?.getTime())).toBe(false)
  })

  test('headers of any bytes, of one name, and of 900 kB: what is too much is set aside alone', async () => {
    const topic = await createTopic(one)
    await receive(topic)
    await send(topic, [
      { value: '1', headers: { bytes: Buffer.from([0x80, 0xff, 0xfe]), '': 'no name' } },
      { value: '2', headers: { twice: ['first', Buffer.from([0xff]), 'last'], ce_id: ['a', 'b'] } },
      { value: '3', headers: { __proto__x: 'x', constructor: 'c', toString: 't' } },
    ])
    await send(topic, [{ value: '4', headers: { large: Buffer.alloc(900_000, 'x') } }])
    await send(topic, [{ value: '5', headers: { ['n'.repeat(900_000)]: 'large' } }])
    await send(topic, [{ value: '6' }, { value: '7', headers: { '\0': '\0' } }])
    const found = await arrived(topic, 7)
    const of = (text: string): Row => found.find((row) => row.text === text)!
    expect(['1', '2', '3', '4', '5', '6', '7'].filter((text) => of(text).reason !== null)).toEqual(['4', '5'])
    expect(of('1').headers).toEqual({ 'bytes;base64': 'gP/+', '': 'no name' })
    expect(of('2').headers).toMatchObject({ twice: 'last' })
    expect(of('7').headers).toEqual({ 'base64,AA==;base64': 'AA==' })
  })

  test('keys, names and values that differ in a byte stay different, and the same text stays text', async () => {
    const topic = await createTopic(one)
    await receive(topic)
    const long = (value: number): Buffer => {
      const bytes = Buffer.alloc(8)
      bytes.writeBigInt64BE(BigInt(value))
      return bytes
    }
    // Twice five by Java's LongSerializer, another long, two UTF-16 marks, texts, and the texts that the bytes become.
    const all = [
      long(5),
      long(6),
      Buffer.from([0xfe, 0xfd]),
      Buffer.from([0xff, 0xfe]),
      Buffer.from('5'),
      'ü',
    ]
    const kinds = [...all, `base64,${long(5).toString('base64')}`, 'a;base64', ''].map((kind) =>
      Buffer.from(kind),
    )
    await send(
      topic,
      [...kinds, long(5)].map((bytes) => ({
        key: bytes,
        value: bytes,
        headers: { [`h${bytes.toString()}`]: bytes },
      })),
    )
    const found = await arrived(topic, kinds.length + 1)
    expect(found.map(({ reason }) => reason)).toEqual(found.map(() => null))
    expect(new Set(found.map(({ key }) => key)).size).toBe(kinds.length)
    expect(found.filter(({ key }) => key === found[0]!.key)).toHaveLength(2)
    expect(found.find(({ text }) => text === '5')).toMatchObject({ key: '5', headers: { h5: '5' } })
    // Each can be had again as it was sent.
    const values = found.map(({ headers }) => Object.entries(headers!)[0]!)
    expect(
      values.map(([name, value]) => Buffer.from(value, name.endsWith(';base64') ? 'base64' : 'utf8')),
    ).toEqual([...kinds, long(5)])
  })

  test.each([
    ['', /topic/],
    ['.', /topic/],
    ['a..b', /topic/],
    [' ', /topic/],
    ['#.#.\n', /topic/],
  ])('a pattern %j with an empty name is refused before anything connects', (pattern, why) => {
    const options = { database: receiving.database().url, broker: make(), consumer: 'c', topics: [pattern] }
    expect(() => createReceiver(options)).toThrow(why)
  })

  test('packed together: what cannot be taken is set aside alone, and each other one comes once', async () => {
    const topic = await createTopic(one)
    await receive(topic)
    const messages = Array.from({ length: 300 }, (_, n) => ({
      value: String(n),
      key: 'k',
      headers: n % 100 === 50 ? { large: 'x'.repeat(200_000) } : {},
    }))
    await send(topic, messages, CompressionTypes.GZIP)
    const found = await arrived(topic, 300)
    const good = found.filter(({ reason }) => reason === null).map(({ text }) => Number(text))
    expect(good).toEqual(messages.flatMap((_, n) => (n % 100 === 50 ? [] : [n])))
  })

  test('a transaction that is given up is not received, and its marks are no messages', async () => {
    const topic = await createTopic(one)
    await receive(topic)
    for (let round = 0; round < 3; round++) {
      const other = transactional()
      await other.connect()
      const given = await other.transaction()
      await given.send({ topic, messages: [{ value: `given up ${round}` }] })
      await given.abort()
      const kept = await other.transaction()
      await kept.send({ topic, messages: [{ value: `kept ${round}` }] })
      await kept.commit()
      await other.disconnect()
    }
    await send(topic, [{ value: 'last' }])
    const found = await arrived(topic, 4)
    expect(found.map(({ text }) => text)).toEqual(['kept 0', 'kept 1', 'kept 2', 'last'])
    // Its position is behind the marks: nothing is said to be waiting.
    expect(events.of('refused')).toEqual([])
  })

  test('a log with holes: what was deleted is passed, the rest comes in order', async () => {
    const topic = await createTopic(one)
    await send(
      topic,
      Array.from({ length: 50 }, (_, n) => ({ key: 'k', value: String(n) })),
    )
    await receive(topic)
    await arrived(topic, 50)
    await receiving.stop()
    await send(
      topic,
      Array.from({ length: 50 }, (_, n) => ({ key: 'k', value: String(50 + n) })),
    )
    // As retention does, beyond where the group stands.
    await admin().deleteTopicRecords({ topic, partitions: [{ partition: 0, offset: '80' }] })
    await receive(topic)
    const found = await arrived(topic, 70)
    expect(found.map(({ text }) => Number(text))).toEqual([
      ...Array.from({ length: 50 }, (_, n) => n),
      ...Array.from({ length: 20 }, (_, n) => 80 + n),
    ])
  })

  test('partitions that are added while it runs: all arrives once, and a key keeps its order within each', async () => {
    const topic = await createTopic(one)
    await receive(topic)
    const keys = Array.from({ length: 16 }, (_, n) => `k${n}`)
    const round = (n: number): Message[] => keys.map((key) => ({ key, value: String(n) }))
    for (let n = 0; n < 5; n++) await send(topic, round(n))
    await arrived(topic, 80)
    await admin().createPartitions({ topicPartitions: [{ topic, count: 6 }] })
    const partitions = async (): Promise<number> =>
      (await admin().fetchTopicMetadata({ topics: [topic] })).topics[0]!.partitions.filter(
        ({ leader }) => leader >= 0,
      ).length
    await expect.poll(partitions, { timeout: 20_000 }).toBe(6)
    // One that knows of them.
    const other = transactional()
    await other.connect()
    for (let n = 5; n < 10; n++) await other.send({ topic, messages: round(n) })
    await other.disconnect()
    const found = await arrived(topic, 160)
    for (const key of keys) {
      const order = found.filter((row) => row.key === key).map(({ text }) => Number(text))
      // What had been received before is before; in one partition, nothing goes before what stands before it.
      expect(order).toEqual([0, 1, 2, 3, 4, 5, 6, 7, 8, 9])
    }
  })
})
