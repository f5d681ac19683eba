import { open, readFile } from 'node:fs/promises'
import { join } from 'node:path'
import fc from 'fast-check'
import kafkajs from 'kafkajs'
import { describe, expect, it } from 'vitest'
import type { OnBatch } from '../../../src/brokers/broker.ts'
import { fuzzDeliveries, fuzzed, fuzzSeed } from '../../support/fuzz.ts'
import { useReceiver, type Fixture } from './fixture.ts'

const { CompressionTypes } = kafkajs

/** How many are sent before the last good one of them is waited for. */
const groupSize = 20

interface Delivery {
  readonly key: Buffer | null
  readonly value: Buffer | null
  readonly headers: Record<string, Buffer | Buffer[]>
}

const bytes = (maxLength: number): fc.Arbitrary<Buffer> =>
  fc.uint8Array({ maxLength }).map((array) => Buffer.from(array))
const utf8 = (arbitrary: fc.Arbitrary<string>): fc.Arbitrary<Buffer> =>
  arbitrary.map((string) => Buffer.from(string))
const nested = (depth: number): string => '['.repeat(depth) + ']'.repeat(depth)

/** Texts that somebody has choked on, among any others. */
const nasty = fc.oneof(
  utf8(fc.string({ unit: 'binary', maxLength: 40 })),
  bytes(40),
  utf8(
    fc.constantFrom(
      '',
      '\0',
      'text/plain\0',
      'application/json',
      'application/json; charset=utf-16',
      'x'.repeat(20_000),
      '1.0',
      '-005000-01-01T00:00:00Z',
      '+275760-09-13T00:00:00.000Z',
      '0000-01-01T00:00:00Z',
      '9999-12-31T23:59:59+14:00',
      'infinity',
      'NaN',
      '-0',
    ),
  ),
)
const names = fc.oneof(
  fc.constantFrom(
    ...['ce_specversion', 'ce_id', 'ce_source', 'ce_type', 'ce_time', 'ce_expirytime', 'ce_partitionkey'],
    ...['ce_traceparent', 'content-type', 'message-id', '__proto__', 'constructor', 'toString', '', '\0'],
  ),
  fc.string({ unit: 'binary', maxLength: 30 }),
)
const fewHeaders = fc
  .array(fc.tuple(names, fc.oneof(nasty, fc.array(nasty, { minLength: 2, maxLength: 3 }))), { maxLength: 12 })
  .map((entries) => Object.fromEntries(entries))
const event = fewHeaders.map((headers) => ({
  ...headers,
  ce_specversion: Buffer.from('1.0'),
  ce_id: headers['ce_id'] ?? Buffer.from('any'),
}))
const manyHeaders = fc
  .integer({ min: 50, max: 3000 })
  .map((count) =>
    Object.fromEntries(Array.from({ length: count }, (_, index) => [`h${index}`, Buffer.from('v')])),
  )

const delivery: fc.Arbitrary<Delivery> = fc.record({
  key: fc.oneof(
    fc.constant(null),
    nasty,
    fc.constantFrom(Buffer.alloc(10_000, 'k'), Buffer.from([0, 0, 0, 0]), Buffer.alloc(8)),
  ),
  value: fc.oneof(
    fc.constant(null),
    bytes(300),
    utf8(fc.json()),
    utf8(fc.constantFrom(nested(20_000), '"\\u0000"', '"\\ud800"', '9'.repeat(200_000), '{', '1e999')),
  ),
  headers: fc.oneof(
    { weight: 4, arbitrary: fewHeaders },
    { weight: 4, arbitrary: event },
    { arbitrary: manyHeaders, weight: 1 },
  ),
})

/** Any bytes in any field of a record, and any bytes in place of a batch of them, through a whole receiver. */
export function kafkaFuzz(fixture: Fixture): void {
  const { make, createTopic, producer } = fixture

  describe('a receiver', () => {
    const receiving = useReceiver()
    let seen: { received: number; refused: number; causes: string[]; positions: Set<string | null> }

    async function receive(topic: string): Promise<void> {
      seen = { received: 0, refused: 0, causes: [], positions: new Set() }
      const broker = make()
      await receiving.receive(
        topic,
        { ...broker, subscribe: (options, onBatch) => broker.subscribe(options, noting(onBatch)) },
        (happened) => {
          if (happened.type === 'received') seen.received += happened.fresh + happened.duplicates
          if (happened.type === 'refused') seen.refused++
          if (happened.type === 'trouble') seen.causes.push(String(happened.error))
        },
      )
    }

    const noting =
      (onBatch: OnBatch): OnBatch =>
      async (batch) => {
        await onBatch(batch)
        for (const { position } of batch) seen.positions.add(position)
      }

    /** Each was taken or set aside. A group that rebalances may bring some of them once more. */
    async function expectAll(topic: string, count: number): Promise<void> {
      await expect.poll(() => seen.positions.size, { timeout: 20_000 }).toBe(count)
      const again = seen.received + seen.refused - count
      expect(again).toBeGreaterThanOrEqual(0)
      const letters = await dead(topic)
      expect(letters).toBeLessThanOrEqual(seen.refused)
      expect(letters).toBeGreaterThanOrEqual(seen.refused - again)
    }

    const countOf = async (sql: string, topic: string): Promise<number> =>
      (
        await receiving
          .database()
          .query<{ count: number }>(`select count(*)::int as count from ${sql}`, [topic])
      )[0]!.count
    const arrived = (topic: string): Promise<number> =>
      countOf(`twinbox.inbox where consumer = $1 and key = 'good'`, topic)
    const dead = (topic: string): Promise<number> => countOf('twinbox.dead_letter where consumer = $1', topic)
    const good = (id: string) => ({
      key: 'good',
      value: JSON.stringify({ good: id }),
      headers: {
        ce_specversion: '1.0',
        ce_id: `good ${id}`,
        ce_source: 'fuzz',
        'content-type': 'application/json',
      },
    })

    it(
      'takes or sets aside whatever comes, and what is behind it arrives',
      async () => {
        const topic = await createTopic({ numPartitions: 1 })
        await receive(topic)
        let sent = 0
        const cpuOf = async (group: readonly Delivery[]): Promise<number> => {
          const compression = sent % (2 * groupSize) === 0 ? CompressionTypes.GZIP : CompressionTypes.None
          for (const pairs of halved(group.map((message, index) => [message, good(String(sent + index))])))
            await producer().send({ topic, compression, messages: pairs.flat() })
          const before = process.cpuUsage()
          await expect
            .poll(() => arrived(topic), {
              interval: 5,
              timeout: 20_000,
              message: `behind the deliveries ${sent} to ${sent + groupSize}, seed ${fuzzSeed}; ${seen.causes.at(-1)}`,
            })
            .toBe(sent + group.length)
          sent += group.length
          const { user, system } = process.cpuUsage(before)
          return (user + system) / 1000
        }
        const groups: [cpu: number, group: readonly Delivery[]][] = []
        for (const group of fuzzed(delivery, groupSize)) groups.push([await cpuOf(group), group])
        groups.splice(0, 5)
        groups.sort(([one], [other]) => one - other)
        const limit = Math.max(10 * groups[groups.length >> 1]![0], 200)
        // What costs much by its content costs it again. A collection of garbage comes once.
        for (const [cpu, group] of groups.filter((each) => each[0] >= limit)) {
          const again = Math.min(await cpuOf(group), await cpuOf(group))
          expect(again, `CPU of a group in ms, ${cpu} at first, seed ${fuzzSeed}`).toBeLessThan(limit)
        }
        await expectAll(topic, 2 * sent)
        expect(seen.refused).toBeGreaterThan(0)
      },
      60_000 + fuzzDeliveries * 50,
    )

    it.skipIf(!fixture.ours)(
      'sets aside batches that are damaged on the disk of the broker, each alone',
      async () => {
        const topic = await createTopic({ numPartitions: 1 })
        const count = 100
        for (let index = 0; index < count; index++) {
          await producer().send({ topic, messages: [{ value: 'x'.repeat(50), headers: { h: 'v' } }] })
          await producer().send({ topic, messages: [good(String(index))] })
        }
        const changes = fc.array(fc.tuple(fc.nat(), fc.nat(255)), { minLength: 1, maxLength: 6 })
        const log = join(fixture.service().nodes[0]!.logs, `${topic}-0`, `${'0'.repeat(20)}.log`)
        await damage(log, fc.sample(changes, { numRuns: count, seed: fuzzSeed }))
        await receive(topic)
        await expect
          .poll(() => arrived(topic), {
            timeout: 20_000,
            message: `seed ${fuzzSeed}; ${seen.causes.at(-1)}`,
          })
          .toBe(count)
        await expectAll(topic, 2 * count)
        expect(seen.refused).toBeGreaterThan(count / 2)
      },
    )
  })
}

/** In as many parts as Kafka needs to take each: a batch of more than 1 MB is refused. */
function halved<Item>(items: readonly Item[]): (readonly Item[])[] {
  if (items.length <= 1 || JSON.stringify(items).length < 2_000_000) return [items]
  const half = items.length >> 1
  return [...halved(items.slice(0, half)), ...halved(items.slice(half))]
}

/** Changes bytes of every second batch of a log: any but its offset and its length, without which nothing is found. */
async function damage(
  log: string,
  changes: readonly (readonly (readonly [number, number])[])[],
): Promise<void> {
  const content = await readFile(log)
  const file = await open(log, 'r+')
  let place = 0
  for (let batch = 0; place < content.length; batch++) {
    const size = 12 + content.readInt32BE(place + 8)
    if (batch % 2 === 0) {
      for (const [at, byte] of changes[batch / 2] ?? []) {
        const where = 16 + (at % (size - 16))
        // Of a batch that ends before it begins nobody hears, if a fetch begins there: the broker looks for the first
        // one that ends behind that.
        await file.write(Buffer.from([where === 23 ? byte & 0x7f : byte]), 0, 1, place + where)
      }
    }
    place += size
  }
  await file.close()
}
