import { randomUUID } from 'node:crypto'
import { once } from 'node:events'
import { connect } from 'node:net'
import fc from 'fast-check'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import type { Dealer } from 'zeromq'
import type { ZeromqOptions } from '../../../src/brokers/zeromq/zeromq.ts'
import { createReceiver, type Worker } from '../../../src/index.ts'
import { recordEvents, type Recorder } from '../../support/events.ts'
import { anyBody, anyText, fuzzDeliveries, fuzzed, fuzzSeed } from '../../support/fuzz.ts'
import { createTestDatabase, type TestDatabase } from '../../support/postgres.ts'
import { newAddress, useFixture } from './fixture.ts'

/** What any program that reaches a receiver may send, frame by frame, and that a sound message behind it arrives. */
describe('What comes off the wire', () => {
  const { make, dealer } = useFixture()
  let database: TestDatabase
  beforeAll(async () => {
    database = await createTestDatabase()
  })
  afterAll(() => database.drop())

  let address: string
  let consumer: string
  let events: Recorder
  let receiver: Worker | null = null
  beforeEach(async () => {
    address = await newAddress()
    consumer = `w${randomUUID().slice(0, 8)}`
    events = recordEvents()
  })
  afterEach(async () => {
    await receiver?.stop()
    receiver = null
  })
  async function start(options: ZeromqOptions = {}): Promise<void> {
    receiver = createReceiver({
      ...{ database: database.url, consumer, topics: ['good', 'bad.#'], onEvent: events.onEvent },
      broker: make({ bind: address, ...options }),
    })
    await receiver.start()
  }

  type Frames = (string | Uint8Array)[]
  const headers = (more: object = {}): string =>
    JSON.stringify({ ce_specversion: '1.0', ce_type: 'good', ...more })
  const sound = (id: string = randomUUID()): Frames => [
    id,
    headers({ ce_id: id, ce_source: 'x', 'content-type': 'application/json' }),
    '{"n":1}',
  ]
  const ask = async (peer: Dealer, frames: Frames): Promise<string[]> => {
    await peer.send(frames)
    return (await peer.receive()).map((frame) => frame.toString())
  }

  const refused: Record<string, [Frames, RegExp]> = {
    'an empty message': [[''], /first frame/],
    'an id that is no UTF-8': [[Buffer.from([0xff]), '{}', ''], /first frame/],
    'an id of 256 bytes': [['x'.repeat(256), '{}', ''], /first frame/],
    'an id alone': [['1'], /3 frames: id, headers, body. There are 1/],
    'no body': [['1', headers()], /There are 2/],
    'a frame too many': [['1', headers(), '', ''], /There are 4/],
    '5,000 frames': [['1', ...Array.from({ length: 4999 }, () => 'x')], /There are 5000/],
    'headers that are no JSON': [['1', '{"a":', ''], /JSON object of texts/],
    'headers that are no UTF-8': [['1', Buffer.from([0x22, 0xff, 0x22]), ''], /JSON object of texts/],
    'headers that are a list': [['1', '["a"]', ''], /JSON object of texts/],
    'headers that are null': [['1', 'null', ''], /JSON object of texts/],
    'a header that is a number': [['1', '{"ce_type":"good","n":1}', ''], /JSON object of texts/],
    'headers nested 100,000 deep': [['1', '['.repeat(100_000), ''], /JSON object of texts/],
    'headers of 1 MiB': [['1', headers({ x: 'y'.repeat(1 << 20) }), ''], /bytes at most/],
    '1,025 headers': [
      ['1', headers(Object.fromEntries(Array.from({ length: 1024 }, (_, index) => [`h${index}`, '']))), ''],
      /1024 headers at most/,
    ],
    'another id in the headers': [['1', headers({ ce_id: '2' }), ''], /ce_id of the headers/],
    'no topic': [['1', '{}', ''], /ce_type of the headers/],
    'a topic that nobody here takes': [['1', headers({ ce_type: 'better' }), ''], /takes the topic "better"/],
    'a topic of 400,000 words': [
      ['1', headers({ ce_type: 'bad.'.repeat(100_000) }), ''],
      /ce_type of the headers/,
    ],
  }
  test('what is no message is refused with the reason, alone, and what is behind it goes on', async () => {
    await start()
    const peer = dealer(address)
    for (const [name, [frames, reason]] of Object.entries(refused)) {
      const [id, verdict, why] = await ask(peer, frames)
      const named = /first frame/.test(reason.source) ? '' : '1'
      expect([name, id, verdict, why]).toEqual([name, named, 'no', expect.stringMatching(reason)])
      const good = sound()
      expect(await ask(peer, good)).toEqual([good[0], 'ok'])
    }
    expect(await database.query('select 1 from twinbox.inbox where consumer = $1', [consumer])).toHaveLength(
      Object.keys(refused).length,
    )
    expect([...events.of('refused'), ...events.of('broker_down')]).toEqual([])
  })

  test('a connection that looks for another consumer gets nothing in', async () => {
    await start()
    const peer = dealer(address, { routingId: 'twinbox/other/1' })
    expect(await ask(peer, sound())).toEqual(['', 'no', `This is consumer ${consumer}, and not other.`])
    const own = dealer(address, { routingId: `twinbox/${consumer}/1` })
    expect(await ask(own, sound('of-my-own'))).toEqual(['of-my-own', 'ok'])
    expect(await database.query('select 1 from twinbox.inbox where consumer = $1', [consumer])).toHaveLength(
      1,
    )
  })

  test('headers called __proto__ or as methods are, arrive like any other', async () => {
    await start()
    const peer = dealer(address)
    const text = '{"ce_type":"bad.x","__proto__":"a","constructor":"b","toString":"c","hasOwnProperty":"d"}'
    expect(await ask(peer, ['1', text, 'body'])).toEqual(['1', 'ok'])
    const [row] = await database.query<{ headers: string }>(
      'select headers::text from twinbox.inbox where consumer = $1',
      [consumer],
    )
    for (const part of ['"__proto__":"a"', '"constructor":"b"', '"toString":"c"', '"hasOwnProperty":"d"'])
      expect(row!.headers).toContain(part)
  })

  test('a frame that is too large ends its connection, and bytes that are no ZeroMQ theirs; others go on', async () => {
    await start({ maxMessageBytes: 10_000 })
    const peer = dealer(address)
    const large = dealer(address, { reconnectInterval: -1 })
    const cut = (async () => {
      for await (const { type } of large.events) if (type === 'disconnect') return
    })()
    await large.send(['1', headers(), Buffer.alloc(10_001)])
    await cut
    for (const bytes of [
      'GET / HTTP/1.1\r\n\r\n',
      '\xff\0\0\0\0\0\0\0\x01\x7f\x03NOPE',
      'x'.repeat(100_000),
    ]) {
      const socket = connect(Number(address.split(':')[2]), '127.0.0.1')
      socket.on('error', () => {})
      const closed = once(socket, 'close')
      socket.resume()
      socket.end(Buffer.from(bytes, 'latin1'))
      await closed
    }
    const good = sound()
    expect(await ask(peer, good)).toEqual([good[0], 'ok'])
    expect(events.of('broker_down')).toEqual([])
  })

  test('who does not read the answers keeps nobody else from theirs', async () => {
    await start()
    const deaf = dealer(address, { receiveHighWaterMark: 1 })
    for (let count = 0; count < 3000; count++) await deaf.send(['1', 'nothing', ''])
    const good = sound()
    expect(await ask(dealer(address), good)).toEqual([good[0], 'ok'])
  })

  describe('fuzz', () => {
    const bytes = (maxLength = 300): fc.Arbitrary<Uint8Array> =>
      fc.oneof(
        anyText(maxLength).map((value) => Buffer.from(value)),
        fc.uint8Array({ maxLength }),
      )
    const attribute = fc
      .tuple(
        fc.constantFrom('ce_', 'cloudEvents:', 'cloudEvents_', ''),
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
      .map((parts) => parts.join(''))
    const value = fc.oneof({ weight: 9, arbitrary: anyText() }, fc.jsonValue({ maxDepth: 3 }))
    const object = fc
      .tuple(
        fc.array(fc.tuple(fc.oneof(attribute, anyText(), fc.constant('content-type')), value), {
          maxLength: 8,
        }),
        fc.constantFrom('bad', 'bad.x', 'bad.\0', undefined),
      )
      .map(([entries, topic]) =>
        JSON.stringify({
          ...Object.fromEntries(entries),
          ...(topic !== undefined && { ce_specversion: '1.0', ce_type: topic }),
        }),
      )
    const frames = fc.oneof(
      {
        weight: 6,
        arbitrary: fc.tuple(
          bytes(),
          object.map((text) => Buffer.from(text)),
          anyBody,
        ),
      },
      { weight: 2, arbitrary: fc.tuple(bytes(), bytes(), anyBody) },
      { weight: 1, arbitrary: fc.array(bytes(), { minLength: 1, maxLength: 6 }) },
    )

    test(
      `${fuzzDeliveries} messages of any frames, each before a sound one: all are answered, none costs much (seed ${fuzzSeed})`,
      { timeout: 60_000 + fuzzDeliveries * 30 },
      async () => {
        await start()
        const peer = dealer(address)
        const cpu: number[] = []
        let taken = 0
        for (const some of fuzzed(frames, 100)) {
          const before = process.cpuUsage()
          const good = new Set<string>()
          for (const each of some) {
            await peer.send([...each])
            const [id, ...rest] = sound()
            good.add(id as string)
            await peer.send([id!, ...rest])
          }
          for (let answers = 0; answers < 2 * some.length; answers++) {
            const [id, verdict, reason] = (await peer.receive()).map((frame) => frame.toString())
            if (verdict === 'ok' && !good.delete(id!)) taken++
            else if (verdict === 'no') expect(reason, `seed ${fuzzSeed}`).toMatch(/\.$/)
          }
          expect([...good], `seed ${fuzzSeed}`).toEqual([])
          const { user, system } = process.cpuUsage(before)
          cpu.push((user + system) / 1000)
        }
        expect([...events.of('broker_down'), ...events.of('trouble')], `seed ${fuzzSeed}`).toEqual([])
        expect(taken, `seed ${fuzzSeed}`).toBeGreaterThan(fuzzDeliveries / 10)
        const [counted] = await database.query(
          `select count(*)::int as good from twinbox.inbox where consumer = $1 and topic = 'good'`,
          [consumer],
        )
        expect(counted, `seed ${fuzzSeed}`).toEqual({ good: fuzzDeliveries })
        const median = cpu.toSorted((a, b) => a - b)[Math.floor(cpu.length / 2)]!
        expect(Math.max(...cpu), `seed ${fuzzSeed}`).toBeLessThan(Math.max(10 * median, 1500))
      },
    )
  })
})
