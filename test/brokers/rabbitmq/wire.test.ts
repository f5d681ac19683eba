import { randomUUID } from 'node:crypto'
import fc from 'fast-check'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import type { RabbitmqOptions } from '../../../src/brokers/rabbitmq/rabbitmq.ts'
import { createReceiver, type Worker } from '../../../src/index.ts'
import { recordEvents, type Recorder } from '../../support/events.ts'
import { anyBody, anyText, fuzzDeliveries, fuzzed, fuzzSeed } from '../../support/fuzz.ts'
import { createTestDatabase, type TestDatabase } from '../../support/postgres.ts'
import { describeWith } from '../../support/require.ts'
import { rabbitmq } from '../../support/servers/rabbitmq.ts'
import { shared } from '../../support/shared.ts'
import { list, long, publishBytes, table, text, type Field, type Properties } from './bytes.ts'
import { useFixture } from './fixture.ts'

/** What any program may publish, byte by byte, and that a sound message behind it arrives. */
describeWith('rabbitmq', await shared(rabbitmq), 'What comes off the wire', (server) => {
  let database: TestDatabase
  beforeAll(async () => {
    database = await createTestDatabase()
  })
  const { make, admin, exchange } = useFixture(() => server.url)
  afterAll(() => database.drop())

  let consumer: string
  let events: Recorder
  let receiver: Worker | null = null
  beforeEach(() => {
    consumer = `w${randomUUID().slice(0, 8)}`
    events = recordEvents()
  })
  afterEach(async () => {
    await receiver?.stop()
    receiver = null
  })

  async function start(options: Partial<RabbitmqOptions> = {}): Promise<void> {
    receiver = createReceiver({
      database: database.url,
      broker: make({ queueType: 'classic', ...options }),
      consumer,
      topics: ['#'],
      onEvent: events.onEvent,
    })
    await receiver.start()
  }

  const publish = (properties: Properties, body: Uint8Array = Buffer.from('1'), routingKey = 'bad'): void =>
    publishBytes(admin(), { exchange, routingKey: Buffer.from(routingKey) }, properties, body)

  const event = (more: readonly (readonly [string, Field])[] = [], id: string = randomUUID()): Field =>
    table(
      [['ce_specversion', text('1.0')] as const, ['ce_id', text(id)] as const, ...more].map(
        ([name, field]) => [Buffer.from(name), field],
      ),
    )

  const sound = (): void =>
    publish(
      { contentType: Buffer.from('application/json'), headers: event() },
      Buffer.from('{"n":1}'),
      'good',
    )

  /** Waits until so many deliveries have been taken in, in whatever way. */
  async function taken(count: number): Promise<{ fresh: number; duplicates: number; refused: number }> {
    const sums = () => ({
      fresh: events.of('received').reduce((sum, { fresh }) => sum + fresh, 0),
      duplicates: events.of('received').reduce((sum, { duplicates }) => sum + duplicates, 0),
      refused: events.of('refused').length,
    })
    const total = ({ fresh, duplicates, refused }: ReturnType<typeof sums>): number =>
      fresh + duplicates + refused
    // Not an event's own count: a refusal is told before or after its neighbours are received.
    await expect.poll(() => total(sums()), { timeout: 60_000, interval: 5 }).toBeGreaterThanOrEqual(count)
    return sums()
  }

  const nested = (depth: number): Field => {
    let field: Field = ['V', Buffer.alloc(0)]
    for (let level = 0; level < depth; level++)
      field = level % 2 === 0 ? list([field]) : table([[Buffer.from('a'), field]])
    return field
  }

  describe('what amqplib cannot decode is a dead letter, and the connection holds', () => {
    const bad: Record<string, Field> = {
      'lists and tables nested 65 deep': event([['deep', nested(65)]]),
      'lists nested 8,000 deep': event([['deep', nested(8000)]]),
    }
    test.each(Object.keys(bad))('%s', async (name) => {
      await start()
      publish(
        { contentType: Buffer.from('a/b'), headers: bad[name]!, messageId: Buffer.from('m1') },
        Buffer.from('kept'),
      )
      sound()
      expect(await taken(2)).toEqual({ fresh: 1, duplicates: 0, refused: 1 })
      const [letter] = await database.query(
        'select topic, body, content_type, reason from twinbox.dead_letter where consumer = $1',
        [consumer],
      )
      expect(letter).toMatchObject({ topic: 'bad', body: Buffer.from('kept'), content_type: 'a/b' })
      expect(letter!['reason']).toMatch(/nested deeper than 64 levels/)
      expect(events.of('broker_down')).toEqual([])
    })
  })

  test('a header of each type arrives, nested 64 deep, and 64 bits without a sign', async () => {
    await start()
    const number = (bytes: number): Buffer => Buffer.alloc(bytes, 1)
    const double = Buffer.alloc(8)
    double.writeDoubleBE(1.5)
    const float = Buffer.alloc(4)
    float.writeFloatBE(1.5)
    const types: Field[] = [
      ...'bBt'.split('').map((type): Field => [type, number(1)]),
      ...'su'.split('').map((type): Field => [type, number(2)]),
      ...'Ii'.split('').map((type): Field => [type, number(4)]),
      ...'lT'.split('').map((type): Field => [type, number(8)]),
      ['L', Buffer.from('0000000000000005', 'hex')],
      ['D', number(5)],
      ['d', double],
      ['f', float],
      ['V', Buffer.alloc(0)],
      ['x', long(Buffer.from('bytes'))],
      nested(63),
    ]
    publish({ headers: event(types.map((field, index) => [`${field[0]}${index}`, field] as const)) })
    sound()
    expect(await taken(2)).toEqual({ fresh: 2, duplicates: 0, refused: 0 })
    const [row] = await database.query<{ headers: Record<string, string> }>(
      `select headers from twinbox.inbox where consumer = $1 and topic = 'bad'`,
      [consumer],
    )
    expect(Object.keys(row!.headers).filter((name) => name !== 'ce_id')).toHaveLength(types.length)
    expect(row!.headers).toMatchObject({ L9: '5', d11: '1.5', x14: 'bytes' })
  })

  test('headers that differ in a byte stay different, whatever type their sender gave them', async () => {
    await start()
    const fields: [string, Field][] = [
      ['a', ['S', long(Buffer.from([0x80]))]],
      ['b', ['S', long(Buffer.from([0x81]))]],
      ['c', ['x', long(Buffer.from([0x80]))]],
      ['d', ['S', long(Buffer.from('e\0f'))]],
      ['g', ['x', long(Buffer.from('ü'))]],
      ['h;base64', text('plain')],
      ['i', list([['S', long(Buffer.from([0xff]))], text('in')])],
    ]
    publish({ headers: event(fields) })
    publish({ headers: event([['cloudEvents:partitionkey', ['S', long(Buffer.from([0x80]))]]]) })
    sound()
    expect(await taken(3)).toEqual({ fresh: 3, duplicates: 0, refused: 0 })
    const [first, second] = await database.query<{ key: string; headers: Record<string, string> }>(
      `select key, headers from twinbox.inbox where consumer = $1 and topic = 'bad' order by body, seq`,
      [consumer],
    )
    const headers = [first!, second!].map((row) => row.headers)
    expect(headers.find((found) => 'a;base64' in found)).toMatchObject({
      ...{ 'a;base64': 'gA==', 'b;base64': 'gQ==', 'c;base64': 'gA==', 'd;base64': 'ZQBm', g: 'ü' },
      ...{ 'h;base64;base64': 'cGxhaW4=', i: '["base64,/w==","in"]' },
    })
    expect([first!.key, second!.key]).toContain('base64,gA==')
  })

  test('what is called __proto__ arrives like any other header, at whatever depth', async () => {
    await start()
    const named = (field: Field): Field => table([[Buffer.from('__proto__'), field]])
    const fields: Field[] = [
      text('plain'),
      ['x', long(Buffer.from('bytes'))],
      named(['x', long(Buffer.from('inner'))]),
      list([named(text('in a list'))]),
    ]
    for (const field of fields) publish({ headers: event([['__proto__', field]]) })
    publish({ headers: event([['table', named(['x', long(Buffer.from('bytes'))])]]) })
    sound()
    expect(await taken(6)).toEqual({ fresh: 6, duplicates: 0, refused: 0 })
    const rows = await database.query<{ headers: string }>(
      `select headers::text from twinbox.inbox where consumer = $1 and topic = 'bad' order by seq`,
      [consumer],
    )
    expect(
      rows.map(({ headers }) => headers.replaceAll(String.raw`\"`, '"').replace(/,"ce_id":"[^"]*"/, '')),
    ).toEqual([
      '{"__proto__":"plain"}',
      '{"__proto__":"bytes"}',
      '{"__proto__":"{"__proto__":"inner"}"}',
      '{"__proto__":"[{"__proto__":"in a list"}]"}',
      '{"table":"{"__proto__":"bytes"}"}',
    ])
    expect(events.of('broker_down')).toEqual([])
  })

  test('a backlog of large messages is taken in with few at a time, and small ones go fast again', async () => {
    let queue = ''
    const broker = make({ queueType: 'classic', queue: (name) => (queue = `${exchange}.${name}`) })
    const sizes: { count: number; bytes: number }[] = []
    const ids = new Set<string>()
    let open = (): void => {}
    const opened = new Promise<void>((resolve) => (open = resolve))
    let finish = (): void => {}
    const done = new Promise<void>((resolve) => (finish = resolve))
    const subscription = await broker.subscribe(
      { consumer, topics: ['#'], batchSize: 500 },
      async (batch) => {
        await opened
        sizes.push({ count: batch.length, bytes: batch.reduce((sum, { body }) => sum + body.byteLength, 0) })
        for (const { headers } of batch) ids.add(headers['message-id']!)
        if (ids.size === 2080) finish()
      },
    )
    try {
      for (let n = 0; n < 80; n++) publish({ messageId: Buffer.from(`large ${n}`) }, Buffer.alloc(1 << 20))
      // None is under way to us any more: all of them were too much, and were given back.
      await expect
        .poll(async () => (await admin().checkQueue(queue)).messageCount, { timeout: 30_000 })
        .toBe(80)
      open()
      for (let n = 0; n < 2000; n++) publish({ messageId: Buffer.from(`small ${n}`) }, Buffer.from('1'))
      await done
      expect(Math.max(...sizes.map(({ bytes }) => bytes))).toBeLessThanOrEqual(8 << 20)
      expect(Math.max(...sizes.slice(-20).map(({ count }) => count))).toBeGreaterThan(100)
    } finally {
      open()
      await subscription.stop()
      await admin().deleteQueue(queue)
    }
  })

  describe('fuzz', () => {
    const bytes = (maxLength = 255): fc.Arbitrary<Uint8Array> =>
      fc.oneof(
        anyText(maxLength).map((value) => Buffer.from(value)),
        fc.uint8Array({ maxLength }),
      )
    const finite = fc.double({ noNaN: true, noDefaultInfinity: true }).map((value) => {
      const field = Buffer.alloc(8)
      field.writeDoubleBE(value)
      return field
    })
    const { field } = fc.letrec<{ field: Field }>((tie) => ({
      field: fc.oneof(
        { depthSize: 'small', withCrossShrink: false },
        anyText().map(text),
        bytes().map((value): Field => ['x', long(value)]),
        bytes().map((value): Field => ['S', long(value)]),
        ...'bBtsuIilTLDV'.split('').map((type) => {
          const size = { b: 1, B: 1, t: 1, s: 2, u: 2, I: 4, i: 4, l: 8, T: 8, L: 8, D: 5, V: 0 }[type]!
          return fc
            .uint8Array({ minLength: size, maxLength: size })
            .map((value): Field => [type, Buffer.from(value)])
        }),
        finite.map((value): Field => ['d', value]),
        fc.array(tie('field'), { maxLength: 4 }).map(list),
        fc.array(fc.tuple(bytes(), tie('field')), { maxLength: 4 }).map(table),
        fc.oneof({ weight: 9, arbitrary: fc.nat(90) }, fc.constant(1500)).map(nested),
      ),
    }))
    // These two are not the message's: RabbitMQ routes by them, and closes the channel if they are no lists.
    const name = bytes().filter((value) => !['CC', 'BCC'].includes(Buffer.from(value).toString()))
    const attribute = fc.tuple(
      fc.constantFrom('ce_', 'cloudEvents:', 'cloudEvents_'),
      fc.constantFrom(
        'id',
        'specversion',
        'source',
        'type',
        'time',
        'expirytime',
        'partitionkey',
        'traceparent',
      ),
    )
    const headers = fc
      .tuple(
        fc.array(
          fc.tuple(
            attribute.map((parts) => Buffer.from(parts.join(''))),
            field,
          ),
          { maxLength: 6 },
        ),
        fc.array(fc.tuple(name, field), { maxLength: 6 }),
        fc.boolean(),
      )
      .map(([attributes, others, isEvent]) =>
        table([
          ...(isEvent
            ? [
                [Buffer.from('ce_specversion'), text('1.0')] as const,
                [Buffer.from('ce_id'), text(randomUUID())] as const,
              ]
            : []),
          ...attributes,
          ...others,
        ]),
      )
      // What does not fit into a frame no client can publish.
      .filter(([, value]) => value.length < 100_000)
    const some = <Value>(value: fc.Arbitrary<Value>): fc.Arbitrary<Value | undefined> =>
      fc.option(value, { nil: undefined })
    const delivery = fc.record({
      routingKey: bytes(),
      body: anyBody,
      properties: fc.record({
        contentType: some(
          fc.oneof(
            bytes(),
            fc
              .constantFrom('application/json', 'application/json; charset=latin1', 'text/plain\0', '')
              .map((type) => Buffer.from(type)),
          ),
        ),
        contentEncoding: some(bytes()),
        headers: some(headers),
        correlationId: some(bytes()),
        replyTo: some(bytes()),
        messageId: some(bytes()),
        timestamp: some(fc.uint8Array({ minLength: 8, maxLength: 8 }).map((value) => Buffer.from(value))),
        type: some(bytes()),
        appId: some(bytes()),
      }),
    })

    test(
      `${fuzzDeliveries} deliveries of any bytes, each before a sound one: all are counted, none costs much (seed ${fuzzSeed})`,
      { timeout: 60_000 + fuzzDeliveries * 30 },
      async () => {
        await start()
        const cpu: number[] = []
        let sent = 0
        for (const deliveries of fuzzed(delivery, 100)) {
          const before = process.cpuUsage()
          for (const { routingKey, properties, body } of deliveries) {
            publishBytes(admin(), { exchange, routingKey }, properties, body)
            sound()
            sent += 2
          }
          const { fresh, duplicates, refused } = await taken(sent)
          expect(fresh + duplicates + refused, `seed ${fuzzSeed}`).toBe(sent)
          const { user, system } = process.cpuUsage(before)
          cpu.push((user + system) / 1000)
        }
        expect([...events.of('broker_down'), ...events.of('trouble')], `seed ${fuzzSeed}`).toEqual([])
        const [counted] = await database.query(
          `select (select count(*) from twinbox.inbox where consumer = $1 and topic = 'good')::int as good,
        (select count(*) from twinbox.dead_letter where consumer = $1)::int as refused`,
          [consumer],
        )
        expect(counted, `seed ${fuzzSeed}`).toEqual({
          good: fuzzDeliveries,
          refused: events.of('refused').length,
        })
        const median = cpu.toSorted((a, b) => a - b)[Math.floor(cpu.length / 2)]!
        expect(Math.max(...cpu), `seed ${fuzzSeed}`).toBeLessThan(Math.max(10 * median, 1500))
      },
    )
  })
})
