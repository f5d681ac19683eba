import kafkajs from 'kafkajs'
import { describe, expect, it } from 'vitest'
import type { BrokerError } from '../../../src/base/errors.ts'
import { collector, subscribe } from '../contract.ts'
import { packers } from './bytes.ts'
import type { Fixture } from './fixture.ts'

const { CompressionTypes } = kafkajs
const codecs: Record<number, (() => unknown) | undefined> = kafkajs.CompressionCodecs

/** What others send, and what kafkajs alone would not survive. */
export function kafkaFromOthers(fixture: Fixture): void {
  const { make, createTopic, admin, producer } = fixture
  const text = (body: Uint8Array): string => Buffer.from(body).toString()

  describe('what others send', () => {
    // What is registered at kafkajs is for kafkajs.
    it.skipIf(fixture.client !== undefined)(
      'goes on with the other topics where a codec gives nothing, says so, and takes its own when that is gone',
      async () => {
        const names = ['snappy', 'lz4', 'zstd'] as const
        const types = {
          snappy: CompressionTypes.Snappy,
          lz4: CompressionTypes.LZ4,
          zstd: CompressionTypes.ZSTD,
        }
        const registered = { ...codecs }
        const topics = { plain: await createTopic(), snappy: '', lz4: '', zstd: '' }
        for (const name of names) {
          const compression = types[name]
          codecs[compression] = () => ({
            compress: async ({ buffer }: { readonly buffer: Buffer }) => packers[name](buffer),
            decompress: () => undefined,
          })
          topics[name] = await createTopic({ numPartitions: 1 })
          await producer().send({ topic: topics[name], compression, messages: [{ value: name }] })
        }
        const troubles: BrokerError[] = []
        const inbox = collector()
        const all = [topics.plain, topics.snappy, topics.lz4, topics.zstd]
        await subscribe(make(), 'billing', all, inbox.onBatch, 500, (error) => troubles.push(error))
        for (let round = 1; round <= 20; round++) {
          await producer().send({ topic: topics.plain, messages: [{ value: String(round) }] })
          await inbox.until((received) => received.length === round)
        }
        await expect.poll(() => troubles.length).toBe(3)
        for (const name of names) {
          const trouble = troubles.find(({ message }) => message.includes(topics[name]))
          expect(trouble).toMatchObject({ kind: 'config' })
          expect(trouble!.message).toContain('waits at offset 0')
          expect(trouble!.message).toContain(`the codec for ${name} that is registered`)
        }

        Object.assign(codecs, registered)
        await inbox.until((received) => received.length === 23)
        expect(
          inbox.received
            .slice(20)
            .map(({ body }) => text(body))
            .toSorted(),
        ).toEqual(['lz4', 'snappy', 'zstd'])
        expect(inbox.received.every(({ refused }) => refused === undefined)).toBe(true)
      },
    )

    it('sets aside what is too much of it, and goes on', async () => {
      const topic = await createTopic({ numPartitions: 1 })
      const headers = (count: number): Record<string, string> =>
        Object.fromEntries(Array.from({ length: count }, (_, index) => [`h${index}`, 'v']))
      await producer().send({ topic, messages: [{ value: 'many', headers: headers(1024) }] })
      await producer().send({ topic, messages: [{ value: 'too many', headers: headers(5000) }] })
      const large = { value: Buffer.alloc(600_000) }
      await producer().send({ topic, compression: CompressionTypes.GZIP, messages: [large] })
      await producer().send({ topic, compression: CompressionTypes.GZIP, messages: [{ value: 'good' }] })
      const inbox = collector()
      // 8 times as much may a batch unpack to.
      const options = { consumer: topic, topics: [topic], batchSize: 500, batchBytes: 70_000 }
      await make().subscribe(options, inbox.onBatch)
      await inbox.until((received) => received.length === 4)

      expect(inbox.received.map(({ position }) => position!.split('@')[0])).toEqual(
        [0, 1, 2, 3].map((offset) => `${topic}/0/${offset}`),
      )
      const [many, tooMany, tooLarge, good] = inbox.received
      expect(Object.keys(many!.headers)).toHaveLength(1024)
      expect(tooMany!.refused).toContain('5000 headers')
      expect(text(tooMany!.body)).toBe('too many')
      expect(tooLarge!.refused).toContain('unpacks to more than 560000 bytes')
      expect(tooLarge!.body.length).toBeLessThan(2000)
      expect([many!.refused, good!.refused]).toEqual([undefined, undefined])
      expect(text(good!.body)).toBe('good')
    })

    it('hands over no more bytes at once than asked, and what has more alone', async () => {
      const topic = await createTopic({ numPartitions: 1 })
      const sizes = [3000, 3000, 3000, 50_000, 100, 100, 9000, 1900]
      await producer().send({ topic, messages: sizes.map((size) => ({ value: Buffer.alloc(size) })) })
      const batches: number[][] = []
      const inbox = collector(async (batch) => void batches.push(batch.map(({ body }) => body.length)))
      const options = { consumer: topic, topics: [topic], batchSize: 500, batchBytes: 10_500 }
      await make().subscribe(options, inbox.onBatch)
      await inbox.until((received) => received.length === sizes.length)
      expect(batches).toEqual([[3000, 3000, 3000], [50_000], [100, 100, 9000], [1900]])
    })

    it('tells when a record was put there, each time the same', async () => {
      const topic = await createTopic({ numPartitions: 1 })
      const timestamp = '1764400000123'
      await producer().send({ topic, messages: [{ value: 'a', timestamp }, { value: 'b' }] })
      for (const consumer of [`${topic}-1`, `${topic}-2`]) {
        const inbox = collector()
        await subscribe(make(), consumer, [topic], inbox.onBatch)
        await inbox.until((received) => received.length === 2)
        const times = inbox.received.map(({ placedAt }) => placedAt)
        expect(times[0]).toBe(timestamp)
        expect(Number(times[1])).toBeGreaterThan(Date.now() - 60_000)
      }
    })

    it('reads a partition that was added', async () => {
      const topic = await createTopic({ numPartitions: 1 })
      const inbox = collector()
      await subscribe(make({ topicRefreshMs: 200 }), 'billing', [topic], inbox.onBatch)
      await producer().send({ topic, messages: [{ value: 'before' }] })
      await inbox.until((received) => received.length === 1)
      await admin().createPartitions({ topicPartitions: [{ topic, count: 2 }] })
      // kafkajs's producer learns of it by itself as late as its consumer does; a new one knows.
      const other = fixture.transactional()
      await other.connect()
      const send = async (): Promise<void> => {
        await other.send({ topic, messages: [{ value: 'behind', partition: 1 }] })
      }
      await expect
        .poll(() =>
          send().then(
            () => true,
            () => false,
          ),
        )
        .toBe(true)
      await other.disconnect()
      await inbox.until((received) => received.some(({ position }) => position!.startsWith(`${topic}/1/0@`)))
    })
  })
}
