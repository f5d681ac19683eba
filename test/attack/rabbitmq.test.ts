import { randomUUID } from 'node:crypto'
import { gzipSync } from 'node:zlib'
import type { Options } from 'amqplib'
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from 'vitest'
import { createReceiver, type Worker } from '../../src/index.ts'
import { publishBytes, table, text, type Properties } from '../brokers/rabbitmq/bytes.ts'
import { useFixture } from '../brokers/rabbitmq/fixture.ts'
import { recordEvents, type Recorder } from '../support/events.ts'
import { createTestDatabase, type TestDatabase } from '../support/postgres.ts'
import { describeWith } from '../support/require.ts'
import { rabbitmq } from '../support/servers/rabbitmq.ts'
import { shared } from '../support/shared.ts'

/** Broker → receiver, over RabbitMQ: properties and headers that mean something to the server, or to other programs, and lie. */
describeWith('rabbitmq', await shared(rabbitmq), 'who may publish to an exchange', (server) => {
  let database: TestDatabase
  beforeAll(async () => {
    database = await createTestDatabase()
  })
  const { make, admin, exchange } = useFixture(() => server.url)
  afterAll(() => database.drop())
  let consumer: string
  let events: Recorder
  let receiver: Worker
  beforeEach(async () => {
    consumer = `w${randomUUID().slice(0, 8)}`
    events = recordEvents()
    const broker = make({ queueType: 'classic' })
    const { onEvent } = events
    receiver = createReceiver({ database: database.url, broker, consumer, topics: ['#'], onEvent })
    await receiver.start()
  })
  afterEach(() => receiver.stop())

  /** What became of what was published before: it has all arrived when a good one has. */
  async function arrived(): Promise<Record<string, unknown>[]> {
    const headers = { ce_specversion: '1.0', ce_id: randomUUID() }
    admin().publish(exchange, 'good', Buffer.from('1'), { headers, contentType: 'application/json' })
    const rows = (): Promise<Record<string, unknown>[]> =>
      database.query(
        `select seq, topic, key, headers, payload::text as payload, body, attempt, null as reason from twinbox.inbox where consumer = $1
        union all select seq, topic, key, headers, payload::text, body, attempt, reason from twinbox.dead_letter where consumer = $1
        order by seq`,
        [consumer],
      )
    await expect
      .poll(async () => (await rows()).some(({ topic }) => topic === 'good'), { timeout: 20_000 })
      .toBe(true)
    expect(events.of('broker_down')).toEqual([])
    return (await rows()).filter(({ topic }) => topic !== 'good')
  }
  const publish = (properties: Options.Publish, body = Buffer.from('{"n":1}'), topic = 'bad'): void =>
    void admin().publish(exchange, topic, body, { contentType: 'application/json', ...properties })
  const raw = (properties: Properties, body = Buffer.from('1')): void =>
    publishBytes(admin(), { exchange, routingKey: Buffer.from('bad') }, properties, body)

  test('a forged history of deaths and deliveries counts as no attempt', async () => {
    const death = {
      count: 99_999,
      reason: 'rejected',
      queue: 'q',
      exchange: 'e',
      'routing-keys': ['admin.grant'],
    }
    publish({
      messageId: 'm1',
      headers: {
        'x-death': [death],
        'x-delivery-count': 99_999,
        'x-first-death-exchange': 'e',
        'x-delay': -1,
      },
    })
    expect(await arrived()).toMatchObject([{ topic: 'bad', attempt: 0, reason: null }])
  })

  test('priority, expiration, delivery mode, reply-to, user and type change neither topic nor key nor order', async () => {
    for (const [n, more] of (
      [{ priority: 255 }, { deliveryMode: 1 }, { replyTo: 'evil' }, { type: 'admin.grant' }] as const
    ).entries())
      publish(
        { messageId: `p${n}`, expiration: '600000', appId: '\u202e', correlationId: 'c', ...more },
        Buffer.from(String(n)),
      )
    const rows = await arrived()
    expect(rows.map(({ topic, key, payload }) => [topic, key, payload])).toEqual(
      ['0', '1', '2', '3'].map((n) => ['bad', null, n]),
    )
  })

  test('an encoding and a type that are not those of the body: it is kept as bytes', async () => {
    const packed = gzipSync('{"n":1}')
    publish({ messageId: 'g', contentEncoding: 'gzip' }, packed)
    publish({ messageId: 'i', contentEncoding: 'identity, br' }, packed)
    expect((await arrived()).map(({ body, payload }) => [body, payload])).toEqual([
      [packed, null],
      [packed, null],
    ])
  })

  test('an attribute in two spellings, and one of ours among others of other cases, is one message', async () => {
    publish({
      headers: {
        ...{ ce_specversion: '1.0', ce_id: 'a', 'cloudEvents:id': 'b', cloudEvents_id: 'c', CE_ID: 'd' },
        ...{ 'cloudEvents:partitionkey': 'k', ce_partitionkey: 'l', Ce_Partitionkey: 'm' },
      },
    })
    const rows = await arrived()
    expect(rows).toHaveLength(1)
    expect(rows[0]).toMatchObject({ reason: null, headers: { CE_ID: 'd' } })
  })

  test('names of ids that are no text are not taken for one and the same', async () => {
    for (const byte of [0x80, 0x81, 0xfe, 0xff]) raw({ messageId: Buffer.from([0x61, byte]) })
    for (const byte of [0x80, 0x81])
      raw({
        headers: table([
          [Buffer.from('ce_specversion'), text('1.0')],
          [Buffer.from('ce_id'), ['S', Buffer.from([0, 0, 0, 1, byte])]],
        ]),
      })
    expect(await arrived()).toHaveLength(6)
  })

  test('copies to other routing keys are one message of the queue', async () => {
    publish({ messageId: 'cc', headers: { CC: ['admin.grant', 'bad.too'], BCC: ['hidden'] } })
    const rows = await arrived()
    expect(rows).toHaveLength(1)
    expect(rows).toMatchObject([{ topic: 'bad' }])
  })
})
